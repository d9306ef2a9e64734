"""One-hot vectors, bags of words, counts of neighbours; and the built-in corpus."""

import numpy as np
import pytest

from rnn_jax.data.docstrings import docstrings
from rnn_jax.data.errors import DataError
from rnn_jax.data.representations import bag_of_words, context_counts, cosine, mean_embedding, one_hot


def test_a_bag_is_the_sum_of_one_hot_vectors():
    ids = np.array([2, 0, 2, 1])
    assert one_hot(ids, 4).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    np.testing.assert_array_equal(bag_of_words(ids, 4), one_hot(ids, 4).sum(0))
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.testing.assert_allclose(mean_embedding(ids, vectors), bag_of_words(ids, 4) @ vectors / 4)
    assert mean_embedding(np.array([-1]), vectors).tolist() == [0, 0]


def test_context_counts_stay_within_the_document():
    ids = np.array([0, 1, 2, -1, 1, 3, 0, -1])
    assert context_counts(ids, 1, 4, window=1).tolist() == [1, 0, 1, 1]
    assert context_counts(ids, 1, 4, window=2).tolist() == [2, 0, 1, 1]


def test_cosine():
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(0.5**0.5)
    assert cosine(np.zeros(2), np.ones(2)) == 0


def test_docstrings_of_a_package(tmp_path, monkeypatch):
    package = tmp_path / "toy_package"
    (package / "tests").mkdir(parents=True)
    long = "text " * 30
    (package / "__init__.py").write_text('"""A Toy."""\nx = "no docstring"\nclass A:\n    """Class_of things 2."""\n')
    (package / "docs.py").write_text(f'add_newdoc("m", "f", """{long}""")\nadd_newdoc("m", "g", """short""")\n')
    (package / "tests" / "test.py").write_text('"""Left out."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    found = list(docstrings(("toy_package",)))
    assert found == [["a", "toy"], ["class_of", "things"], ["text"] * 30]
    with pytest.raises(DataError, match="no_such_package"):
        list(docstrings(("no_such_package",)))
