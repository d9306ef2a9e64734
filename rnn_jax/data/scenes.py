"""Rendered scenes of one or two shapes, and the sentences that describe them.

    scene    = object | object relation object
    object   = "a" size colour shape
    size     = "small" | "large"
    colour   = "red" | "green" | "blue" | "yellow" | "purple" | "white"
    shape    = "ring" | "square" | "triangle" | "cross"
    relation = "left of" | "above"

Of two objects the sentence names the left one first, or the upper one, according to the axis on which they lie farther
apart; so every scene has exactly one caption, and a caption is the combination of all attributes of its scene. Two
things never occur in training: a tenth of the captions, chosen by hash, and six of the 48 objects (each of their sizes,
colours and shapes, and every two of the three together, do occur; all three together never).
"""

from typing import Literal

import numpy as np

from rnn_jax.data.captioned_images import CaptionedImages
from rnn_jax.data.padded import is_held_out

SIZES = ("small", "large")
COLOURS = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.70, 0.25),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.65, 0.25, 0.85),
    "white": (0.95, 0.95, 0.95),
}
SHAPES = ("ring", "square", "triangle", "cross")
HELD_OUT = (
    "small red ring",
    "large green square",
    "small blue triangle",
    "large yellow cross",
    "large purple ring",
    "small white square",
)
RELATIONS = ("left of", "above")

SIDE = 32
# Radii in pixels: the gap between the sizes is wider than either.
_RADII = ((3.4, 4.2), (5.8, 6.8))
_PAIRS = 0.75
# Farther apart on one axis by this factor, so that the relation is never a matter of taste.
_MARGIN = 1.5
_GAP = 1.0
_CHUNK = 1000

Part = Literal["train", "valid", "test", "new_objects"]
_PARTS: tuple[Part, ...] = ("train", "valid", "test", "new_objects")


def draw_scenes(count: int, part: Part, seed: int = 0) -> CaptionedImages:
    """Draw random scenes: their images and their captions.

    Position, radius, tint, background and noise are random, so that no image occurs twice.

    Args:
        count: N.
        part: "train" and "valid" share their captions and objects. In "test" every caption is one that they never hold,
            made of the objects that they do; in "new_objects" every scene has one of the objects of `HELD_OUT`.
        seed: any integer; the parts differ for one seed.

    Returns:
        N scenes [N, 32, 32, 3], about three quarters of them of two objects.
    """
    random = np.random.default_rng([seed % 2**64, _PARTS.index(part)])
    layouts: list[tuple[np.ndarray, ...]] = []
    captions: list[str] = []
    while len(captions) < count:
        layout = _lay_out(random, _CHUNK, part)
        texts = [_caption(*scene) for scene in zip(*(array.tolist() for array in layout[:3]), strict=True)]
        kept = np.array([part == "new_objects" or is_held_out(text) == (part == "test") for text in texts])
        layouts.append(tuple(array[kept] for array in layout))
        captions += [text for text, keep in zip(texts, kept, strict=True) if keep]
    numbers, _, objects, radii, centres = (np.concatenate(arrays)[:count] for arrays in zip(*layouts, strict=True))
    images = np.concatenate(
        [
            _render(random, *(array[start : start + _CHUNK] for array in (numbers, objects, radii, centres)))
            for start in range(0, count, _CHUNK)
        ]
    )
    return CaptionedImages("scenes", images, tuple(captions[:count]))


def _lay_out(random: np.random.Generator, count: int, part: Part) -> tuple[np.ndarray, ...]:
    """(number of objects, axis of their relation, (size, colour, shape) [N, 2, 3], radii, centres) of N scenes."""
    every = [(size, colour, shape) for size in range(2) for colour in range(6) for shape in range(4)]
    held = np.array([one for one in every if _name(*one) in HELD_OUT])
    seen = np.array([one for one in every if _name(*one) not in HELD_OUT])

    numbers = np.where(random.random(count) < _PAIRS, 2, 1)
    objects = seen[random.integers(len(seen), size=(count, 2))]
    if part == "new_objects":
        new = held[random.integers(len(held), size=count)]
        objects[np.arange(count), random.integers(numbers)] = new
    low, high = np.array(_RADII).T[:, objects[..., 0]]
    radii = random.uniform(low, high)
    centres = _place(random, radii)

    apart = centres[:, 1] - centres[:, 0]
    axis = np.abs(apart).argmax(axis=1)
    swap = (numbers == 2) & (apart[np.arange(count), axis] < 0)
    for array in (objects, radii, centres):
        array[swap] = array[swap, ::-1]
    return numbers, axis, objects, radii, centres


def _caption(number: int, axis: int, objects: list[list[int]]) -> str:
    first, second = (f"a {_name(*one)}" for one in objects)
    return first if number == 1 else f"{first} {RELATIONS[axis]} {second}"


def _name(size: int, colour: int, shape: int) -> str:
    return f"{SIZES[size]} {tuple(COLOURS)[colour]} {SHAPES[shape]}"


def _place(random: np.random.Generator, radii: np.ndarray) -> np.ndarray:
    """Centres [N, 2, (x, y)] of two objects inside the frame that neither touch nor lie diagonally; drawn until so."""
    centres = np.zeros((*radii.shape, 2))
    left = np.arange(len(radii))
    while len(left):
        edge = radii[left, :, None] + 0.5
        centres[left] = random.uniform(edge, SIDE - 1 - edge, (len(left), 2, 2))
        apart = np.sort(np.abs(centres[left, 1] - centres[left, 0]), axis=1)
        near = (apart[:, 1] < radii[left].sum(axis=1) + _GAP) | (apart[:, 1] < _MARGIN * apart[:, 0])
        left = left[near]
    return centres


def _render(
    random: np.random.Generator, numbers: np.ndarray, objects: np.ndarray, radii: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    """Images uint8 [N, 32, 32, 3]: grey ground, then the objects with smooth edges, then noise."""
    count = len(numbers)
    images = np.broadcast_to(random.uniform(0.05, 0.3, (count, 1, 1, 1)), (count, SIDE, SIDE, 3))
    axis = np.arange(SIDE)
    for which in range(2):
        x = axis[None, None, :] - centres[:, which, 0, None, None]
        y = axis[None, :, None] - centres[:, which, 1, None, None]
        distance = _distance(objects[:, which, 2], x, y, radii[:, which, None, None])
        cover = np.clip(0.5 - distance, 0, 1) * (which < numbers)[:, None, None]
        colour = np.array([*COLOURS.values()])[objects[:, which, 1]] + random.uniform(-0.05, 0.05, (count, 3))
        images = images + cover[..., None] * (colour[:, None, None, :] - images)
    images = images + random.normal(0, 0.02, images.shape)
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _distance(shapes: np.ndarray, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How far each pixel [N, y, x] lies outside of its shape, in pixels; negative inside. y points down."""
    across, down = np.abs(x), np.abs(y)
    arm = 0.34 * radius
    height, width = 1.75 * radius, radius
    side = (across * height - (y + radius) * width) / np.hypot(height, width)
    distances = {
        "ring": np.abs(np.hypot(x, y) - 0.7 * radius) - 0.3 * radius,
        "square": np.maximum(across, down) - 0.88 * radius,
        "triangle": np.maximum(y - 0.75 * radius, side),
        "cross": np.minimum(np.maximum(across - radius, down - arm), np.maximum(across - arm, down - radius)),
    }
    return np.choose(shapes[:, None, None], [distances[shape] for shape in SHAPES])
