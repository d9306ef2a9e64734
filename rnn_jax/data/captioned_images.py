"""Images with a caption each, in memory and as .npz files."""

import dataclasses
import hashlib
import os

import numpy as np

from rnn_jax.data.arrays import read_npz
from rnn_jax.data.errors import DataError
from rnn_jax.data.padded import is_held_out


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionedImages:
    """N images of one size, each with a caption.

    Attributes:
        name: of the set, or the path it was read from.
        images: uint8 [N, height, width, channels].
        captions: N texts without line breaks, words separated by single blanks.
    """

    name: str
    images: np.ndarray
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def sha256(self) -> str:
        """Of the images and the captions."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update("\n".join(self.captions).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def take(self, numbers: np.ndarray) -> "CaptionedImages":
        """The examples of these numbers (or where a mask [N] is True)."""
        chosen = np.arange(len(self))[numbers]
        return dataclasses.replace(
            self, images=self.images[chosen], captions=tuple(self.captions[number] for number in chosen)
        )

    def hold_out(self) -> tuple["CaptionedImages", "CaptionedImages"]:
        """(nine tenths, one tenth): chosen by a hash of the image, so that equal images stay on one side.

        Raises:
            DataError: nothing falls on one of the sides.
        """
        held = np.array([is_held_out(hashlib.sha256(image.tobytes()).hexdigest()) for image in self.images])
        if held.all() or not held.any():
            raise DataError(
                f"train: expected enough images to hold out a tenth, found {len(self)} in {self.name!r}; pass a "
                "validation set of your own"
            )
        return self.take(~held), self.take(held)


def load_images(path: str | os.PathLike[str], argument: str, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """The array `images` of an .npz file: uint8 [N, height, width, channels].

    Args:
        path: the file.
        argument: what it was given as, to name it in an error.
        shape: (height, width, channels) that the images must have; None: any.

    Raises:
        DataError: see `read_npz`; another dtype or shape; no images.
    """
    return _checked_images(read_npz(path, ["images"], argument)["images"], path, argument, shape)


def load_captioned_images(
    path: str | os.PathLike[str], argument: str, shape: tuple[int, int, int] | None = None
) -> CaptionedImages:
    """Images and captions from an .npz file: `images` as for `load_images`, and `captions`, an array [N] of text.

    Runs of whitespace in a caption become one blank.

    Raises:
        DataError: see `load_images`; captions that are no text, not one an image, or empty (and which).
    """
    arrays = read_npz(path, ["images", "captions"], argument)
    images = _checked_images(arrays["images"], path, argument, shape)
    captions = arrays["captions"]
    where = f"in {os.fspath(path)!r}"
    if captions.dtype.kind != "U" or captions.shape != (len(images),):
        raise DataError(
            f"{argument}: expected captions text [{len(images)}], one an image, {where}, found {_described(captions)}"
        )
    texts = tuple(" ".join(str(caption).split()) for caption in captions)
    if "" in texts:
        raise DataError(
            f"{argument}: expected a caption for every image {where}, found an empty one, captions[{texts.index('')}]"
        )
    return CaptionedImages(os.fspath(path), images, texts)


def _checked_images(
    images: np.ndarray, path: str | os.PathLike[str], argument: str, shape: tuple[int, int, int] | None
) -> np.ndarray:
    where = f"in {os.fspath(path)!r}"
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"{argument}: expected images uint8 [N, height, width, channels] {where}, found {_described(images)}"
        )
    if shape is not None and images.shape[1:] != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise DataError(f"{argument}: expected images uint8 [N, {wanted}] {where}, found {_described(images)}")
    return images


def _described(array: np.ndarray) -> str:
    kind = "text" if array.dtype.kind == "U" else str(array.dtype)
    return f"{kind} [{', '.join(map(str, array.shape))}]"
