"""Similarity and analogy files: scores by hand, coverage, malformed lines."""

import numpy as np
import pytest

from rnn_jax.data.errors import DataError
from rnn_jax.data.keyed_vectors import KeyedVectors
from rnn_jax.data.word_evaluation import evaluate_analogies, evaluate_similarity, spearman


@pytest.fixture
def royal():
    """Two directions, sex and rank, and a word apart."""
    words = ("man", "woman", "king", "queen", "stone")
    vectors = np.array([[1, 0, 1], [-1, 0, 1], [1, 2, 1], [-1, 2, 1], [0, 0, -3]], np.float32)
    return KeyedVectors(words, vectors)


def test_spearman_with_ties():
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4.
    assert spearman(np.array([1.0, 2, 2, 9]), np.array([0.0, 5, 3, 7])) == pytest.approx(0.9486833)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert np.isnan(spearman(np.array([1.0, 2]), np.array([3.0, 3])))


def test_similarity_with_coverage(royal, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("# words\nKing\tqueen\t9\nman woman 5\nking stone 1\nking dragon 7\n")
    result = evaluate_similarity(royal, path)
    assert (result.covered, result.total) == (3, 4)
    assert result.spearman == pytest.approx(1.0)


@pytest.mark.parametrize("line", ["king queen", "king queen much", "king queen 1 2", "king queen nan"])
def test_malformed_similarity_line(royal, tmp_path, line):
    path = tmp_path / "pairs.txt"
    path.write_text(f"man woman 5\n\n{line}\n")
    with pytest.raises(DataError, match="line 3"):
        evaluate_similarity(royal, path)


def test_analogy_sections_and_limit(royal, tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(
        ": sex\nMan king woman queen\nman king woman stone\n: rank\nking queen man woman\n: none\na b c d\n"
    )
    sections = evaluate_analogies(royal, path)
    assert [tuple(section) for section in sections] == [("sex", 1, 2), ("rank", 1, 1)]
    assert [tuple(section) for section in evaluate_analogies(royal, path, limit=4)] == [("sex", 1, 1), ("rank", 1, 1)]
    path.write_text("\ufeff: sex\nman king woman queen\n", encoding="utf-8")
    assert [tuple(section) for section in evaluate_analogies(royal, path)] == [("sex", 1, 1)]
    path.write_text(": sex\nman king woman\n")
    with pytest.raises(DataError, match="line 2"):
        evaluate_analogies(royal, path)
