"""Words on a plane."""

import matplotlib.image
import numpy as np
import pytest

from rnn_jax.data import DataError
from rnn_jax.data.keyed_vectors import KeyedVectors
from rnn_jax.training.word_plots import plot_words, principal_components


def test_components_are_those_of_the_singular_value_decomposition():
    vectors = np.random.default_rng(0).normal(size=(20, 5)) * [5, 1, 3, 0.1, 0.2]
    centred = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(principal_components(vectors)), np.abs(left * sizes)[:, :2], atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (4, 1)])
def test_what_is_missing_is_0(shape):
    assert principal_components(np.arange(np.prod(shape), dtype=float).reshape(shape)).shape == (shape[0], 2)


def test_words_and_those_that_belong_to_them(tmp_path):
    words = ("king", "queen", "$dog", "cat")
    vectors = KeyedVectors(words, np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    plot_words(vectors, {"king": ["queen"], "$dog": ["cat", "king"]}, tmp_path / "words.png", title="some words")
    assert matplotlib.image.imread(tmp_path / "words.png").std() > 0
    plot_words(vectors, {"king": []}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    with pytest.raises(DataError, match="groups: "):
        plot_words(vectors, {"king": ["quen"]}, tmp_path / "bad.png")
