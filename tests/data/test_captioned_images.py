"""Images and captions from .npz files, and how bad ones are named."""

import io
import zipfile

import numpy as np
import pytest

from rnn_jax.data.captioned_images import CaptionedImages, load_captioned_images, load_images
from rnn_jax.data.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3)).astype(np.uint8)
CAPTIONS = np.array([f"a  picture\nnumber {number}" for number in range(40)])


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=IMAGES, captions=CAPTIONS, other=np.arange(3))
    found = load_captioned_images(path, "train")
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.captions[7] == "a picture number 7"
    assert found.name == str(path)
    np.testing.assert_array_equal(load_images(path, "predict", (6, 5, 3)), IMAGES)


def test_a_tenth_is_held_out_by_the_image_in_any_order():
    images = np.random.default_rng(1).integers(0, 256, (1000, 4, 4, 1)).astype(np.uint8)
    whole = CaptionedImages("set", images, tuple(map(str, range(1000))))
    rest, held = whole.hold_out()
    assert len(rest) + len(held) == 1000
    assert 60 < len(held) < 140
    assert set(whole.take(np.arange(1000)[::-1]).hold_out()[1].captions) == set(held.captions)
    np.testing.assert_array_equal(held.images, images[[int(caption) for caption in held.captions]])


def test_too_few_to_hold_any_out():
    with pytest.raises(DataError, match="enough images to hold out a tenth, found 1 in 'set'"):
        CaptionedImages("set", IMAGES[:1], ("one",)).hold_out()


def test_the_digest_depends_on_images_captions_and_shape():
    whole = CaptionedImages("set", IMAGES, tuple(CAPTIONS))
    others = (
        CaptionedImages("set", IMAGES[::-1], tuple(CAPTIONS)),
        CaptionedImages("set", IMAGES, tuple(CAPTIONS[::-1])),
        CaptionedImages("set", IMAGES.swapaxes(1, 2), tuple(CAPTIONS)),
    )
    assert whole.sha256 not in {other.sha256 for other in others}
    assert whole.sha256 == CaptionedImages("other name", IMAGES, tuple(CAPTIONS)).sha256


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "expected the arrays images and captions in .*bad.npz', found images"),
        ({"images": IMAGES / 255, "captions": CAPTIONS}, r"uint8 \[N, height, width, channels\] .*float64 \[40, 6, 5"),
        ({"images": IMAGES[0], "captions": CAPTIONS}, r"found uint8 \[6, 5, 3\]"),
        ({"images": IMAGES[:0], "captions": CAPTIONS[:0]}, r"found uint8 \[0, 6, 5, 3\]"),
        (
            {"images": IMAGES.swapaxes(1, 2), "captions": CAPTIONS},
            r"images uint8 \[N, 6, 5, 3\] in .*\[40, 5, 6",
        ),
        ({"images": IMAGES, "captions": CAPTIONS[:39]}, r"captions text \[40\], one an image, .* found text \[39\]"),
        ({"images": IMAGES, "captions": np.arange(40)}, r"found int64 \[40\]"),
        ({"images": IMAGES, "captions": np.array([*CAPTIONS[:3], " ", *CAPTIONS[4:]])}, r"empty one, captions\[3\]"),
        ({"images": IMAGES, "captions": CAPTIONS.astype(object)}, "found Python objects"),
    ],
)
def test_bad_arrays_are_named(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=f"^test: .*{message}") as error:
        load_captioned_images(path, "test", (6, 5, 3))
    assert "bad.npz" in str(error.value)


def test_damaged_files_are_named(tmp_path):
    """An archive that is encrypted, and an array that claims a size beyond any memory."""
    path = tmp_path / "bad.npz"
    np.savez(path, images=IMAGES)
    whole = path.read_bytes()
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(DataError, match=r"predict: cannot read .*bad.npz': .*encrypted"):
        load_images(path, "predict")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 4, 4, 3)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(DataError, match=r"predict: cannot read .*bad.npz': Unable to allocate"):
        load_images(path, "predict")


def test_bad_files_are_named(tmp_path):
    (tmp_path / "text.npz").write_text("images")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", IMAGES)
    np.savez(tmp_path / "whole.npz", images=IMAGES)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npz", "empty.npz", "one.npy", "cut.npz"):
        with pytest.raises(DataError, match=f"train: expected an .npz file, .*{name}'"):
            load_images(tmp_path / name, "train")
    (tmp_path / "damaged.npz").write_bytes(whole.replace(IMAGES.tobytes()[:50], bytes(50)))
    with pytest.raises(DataError, match=r"train: cannot read .*damaged.npz': "):
        load_images(tmp_path / "damaged.npz", "train")
    with pytest.raises(DataError, match=r"found none at .*missing"):
        load_images(tmp_path / "missing.npz", "train")
    with pytest.raises(DataError, match="found a folder"):
        load_images(tmp_path, "train")
