"""Handwritten digits of 8 x 8 pixels, their folds for cross-validation, and such images from .npz files."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from rnn_jax.data.arrays import read_npz
from rnn_jax.data.errors import DataError

SIDE = 8
LEVELS = 17
CLASSES = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
    """N digits.

    Attributes:
        images: uint8 [N, 8, 8], 0 = paper to 16 = ink.
        labels: int32 [N], the digits 0..9.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Of the images and the labels."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()

    def take(self, numbers: np.ndarray) -> "Digits":
        """The digits of these numbers."""
        return Digits(self.images[numbers], self.labels[numbers])


def load_digits() -> Digits:
    """The 1,797 digits that come with scikit-learn.

    Source: the test set of Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository.
    """
    from sklearn.datasets import load_digits as load

    found: Any = load()
    return Digits(found["images"].astype(np.uint8), found["target"].astype(np.int32))


def folds(labels: np.ndarray, count: int, seed: int = 0) -> list[np.ndarray]:
    """Deal the examples into folds at random, each class evenly.

    Args:
        labels: [N] the class of each.
        count: the number of folds.
        seed: of the shuffling.

    Returns:
        `count` arrays of the numbers of examples, each example in one of them.

    Raises:
        DataError: fewer than 2 folds, or more than the rarest class has examples.
    """
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    if not 2 <= count <= rarest:
        raise DataError(f"folds: expected 2 to {rarest}, as many as the rarest class has examples, found {count}")
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # Dealt like cards, class after class.
    return [ordered[start::count] for start in range(count)]


def load_digit_images(path: str | os.PathLike[str], argument: str) -> np.ndarray:
    """The array `images` of an .npz file: uint8 [N, 8, 8] of levels 0..16.

    Raises:
        DataError: see `read_npz`; another shape; values that are not whole numbers from 0 to 16.
    """
    images = read_npz(path, ["images"], argument)["images"]
    where = f"in {os.fspath(path)!r}"
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or not len(images) or images.dtype.kind not in "uif":
        shape = f"{images.dtype} [{', '.join(map(str, images.shape))}]"
        raise DataError(f"{argument}: expected images, numbers [N, {SIDE}, {SIDE}], {where}, found {shape}")
    good = (images >= 0) & (images < LEVELS) & (images == np.floor(images))
    if not good.all():
        number, row, column = np.argwhere(~good)[0]
        raise DataError(
            f"{argument}: expected whole numbers from 0 to {LEVELS - 1} {where}, found {images[number, row, column]} "
            f"at images[{number}, {row}, {column}]"
        )
    return images.astype(np.uint8)
