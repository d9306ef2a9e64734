"""The digits, their folds and digit images from files."""

import numpy as np
import pytest
import sklearn.datasets

from rnn_jax.data.digits import folds, load_digit_images, load_digits
from rnn_jax.data.errors import DataError


def test_the_digits_are_those_of_scikit_learn():
    digits, real = load_digits(), sklearn.datasets.load_digits()
    np.testing.assert_array_equal(digits.images, real["images"])
    np.testing.assert_array_equal(digits.labels, real["target"])
    assert len(digits) == 1797
    assert digits.images.max() == 16
    assert digits.take(np.array([3])).sha256 != digits.take(np.array([4])).sha256


@pytest.mark.parametrize("count", [2, 5])
def test_folds_part_the_examples_and_each_class_evenly(count):
    labels = load_digits().labels
    dealt = folds(labels, count)
    assert sorted(np.concatenate(dealt)) == list(range(len(labels)))
    sizes = np.array([np.bincount(labels[fold], minlength=10) for fold in dealt])
    assert np.ptp(sizes, axis=0).max() <= 1
    assert not np.array_equal(dealt[0], folds(labels, count, seed=1)[0])
    np.testing.assert_array_equal(dealt[0], folds(labels, count)[0])


@pytest.mark.parametrize("count", [1, 3])
def test_folds_refuses_what_cannot_be_dealt(count):
    with pytest.raises(DataError, match=f"folds: expected 2 to 2, .* found {count}"):
        folds(np.array([0, 0, 0, 1, 1]), count)


def test_images_come_as_any_numbers(tmp_path):
    images = load_digits().images[:4]
    np.savez(tmp_path / "digits.npz", images=images.astype(float))
    found = load_digit_images(tmp_path / "digits.npz", "predict")
    np.testing.assert_array_equal(found, images)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 28, 28)), r"expected images, numbers \[N, 8, 8\], in .*bad.npz', found float64 \[3, 28, 28\]"),
        (np.zeros((8, 8)), r"found float64 \[8, 8\]"),
        (np.zeros((0, 8, 8)), r"found float64 \[0, 8, 8\]"),
        (np.full((2, 8, 8), "x"), "found <U1"),
        (np.full((2, 8, 8), 255), r"from 0 to 16 in .*, found 255 at images\[0, 0, 0\]"),
        (np.full((2, 8, 8), np.nan), "found nan"),
        (np.concatenate([np.zeros((1, 8, 8)), np.full((1, 8, 8), 0.5)]), r"found 0.5 at images\[1, 0, 0\]"),
    ],
)
def test_bad_images_are_named(tmp_path, images, message):
    np.savez(tmp_path / "bad.npz", images=images)
    with pytest.raises(DataError, match=f"^predict: .*{message}"):
        load_digit_images(tmp_path / "bad.npz", "predict")
