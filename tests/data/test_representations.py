"""One-hot vectors, bags of words, counts of neighbours; and the built-in corpus."""

import numpy as np
import pytest
from sklearn.naive_bayes import MultinomialNB

from rnn_jax.data.docstrings import docstrings
from rnn_jax.data.errors import DataError
from rnn_jax.data.representations import bag_of_words, class_ratios, context_counts, cosine, mean_embedding, one_hot


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


def test_class_ratios_are_the_weights_of_naive_bayes():
    """Scikit-learn's multinomial naive Bayes on the same sets of words says the same of unseen texts."""
    random = np.random.default_rng(0)
    texts = [random.integers(0, 9, random.integers(1, 8)) for _ in range(40)]
    labels = np.arange(40) % 3
    ratios = class_ratios(texts, labels, 12, 3, smoothing=0.7)
    assert ratios.shape == (12, 3)
    np.testing.assert_allclose(ratios.sum(1), 0, atol=1e-6)
    sets = np.stack([np.isin(np.arange(12), text) for text in texts])
    fitted = MultinomialNB(alpha=0.7, fit_prior=False).fit(sets, labels)
    unseen = random.integers(0, 2, (20, 12))
    ours = unseen @ ratios
    ours -= np.log(np.exp(ours).sum(1, keepdims=True))
    np.testing.assert_allclose(ours, fitted.predict_log_proba(unseen), rtol=1e-5, atol=1e-5)
