"""Scenes: every picture shows what its caption says, and the parts are kept apart."""

import itertools

import numpy as np
import pytest

from rnn_jax.data.scenes import COLOURS, HELD_OUT, SHAPES, SIZES, draw_scenes


def objects(caption):
    """The (size, colour, shape) that a caption names."""
    words = caption.split()
    return [tuple(words[i + 1 : i + 4]) for i, word in enumerate(words) if word == "a"]


@pytest.fixture(scope="module")
def scenes():
    return {part: draw_scenes(300, part) for part in ("train", "valid", "test", "new_objects")}


def test_held_out_objects_occur_in_a_test_of_their_own_and_in_each_of_its_scenes(scenes):
    held = {tuple(name.split()) for name in HELD_OUT}
    for part in ("train", "valid", "test"):
        assert not held & {one for caption in scenes[part].captions for one in objects(caption)}
    assert all(held & set(objects(caption)) for caption in scenes["new_objects"].captions)
    assert held == {one for caption in scenes["new_objects"].captions for one in objects(caption)} & held


def test_no_caption_of_the_test_occurs_in_training(scenes):
    assert not set(scenes["test"].captions) & {*scenes["train"].captions, *scenes["valid"].captions}
    assert len(set(scenes["test"].captions)) > 120
    # Of a caption in ten the training set lacks all scenes; it has scenes of most others.
    more = draw_scenes(1500, "train")
    assert len(set(more.captions)) > 850


def test_every_two_attributes_of_a_held_out_object_occur_together_in_training(scenes):
    trained = {one for caption in scenes["train"].captions for one in objects(caption)}
    assert len(trained) == len(SIZES) * len(COLOURS) * len(SHAPES) - len(HELD_OUT)
    for name in HELD_OUT:
        held = tuple(name.split())
        for two in itertools.combinations(range(3), 2):
            assert any(all(one[i] == held[i] for i in two) for one in trained)


def test_parts_and_seeds_differ_and_are_reproducible(scenes):
    assert draw_scenes(300, "train").sha256 == scenes["train"].sha256
    digests = {part.sha256 for part in scenes.values()} | {draw_scenes(300, "train", 1).sha256}
    assert len(digests) == 5


def of_colour(image, colour):
    """Where the picture has this colour, as a viewer would judge: nearest of the six, and far from grey ground."""
    pixels = image / 255
    far = np.linalg.norm(pixels[:, :, None] - np.array([*COLOURS.values()]), axis=-1)
    ground = pixels.max(axis=-1) < 0.45
    return (far.argmin(axis=-1) == [*COLOURS].index(colour)) & (far.min(axis=-1) < 0.3) & ~ground


def described(mask):
    """(size, shape) of a blob, told from its bounding box and how it fills it; None if too few pixels remain."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = "small" if max(height, width) <= 9 else "large"
    if box.mean() > 0.85:
        return size, "square"
    if box[-(height // 3) :].mean() > 1.5 * box[: height // 3].mean():
        return size, "triangle"
    return size, "cross" if box[height // 2, width // 2] else "ring"


def test_pictures_show_what_their_captions_say(scenes):
    right = checked = 0
    for part in scenes.values():
        for image, caption in zip(part.images, part.captions, strict=True):
            named = objects(caption)
            if len({colour for _, colour, _ in named}) < len(named):
                continue
            masks = [of_colour(image, colour) for _, colour, _ in named]
            found = [described(mask) if mask.sum() > 4 else None for mask in masks]
            good = found == [(size, shape) for size, _, shape in named]
            if len(named) == 2 and good:
                (y0, x0), (y1, x1) = (np.argwhere(mask).mean(axis=0) for mask in masks)
                horizontal = abs(x1 - x0) > abs(y1 - y0)
                good = (x1 > x0 and "left of" in caption) if horizontal else (y1 > y0 and "above" in caption)
            right += good
            checked += 1
    assert checked > 800
    # The judge is crude: smooth edges and noise deceive it now and then.
    assert right / checked > 0.96
