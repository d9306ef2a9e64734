"""Sheets of images as PNG: each with a line of text, or laid out as a table."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnn_jax.training.figures import drawn


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[str],
    path: Path | str,
    *,
    title: str,
    wrong: Sequence[bool] | None = None,
    columns: int = 6,
    wrap: int = 24,
) -> None:
    """Draw images side by side, each above its caption.

    Args:
        images: [N, height, width] grey values (dark is high) or [N, height, width, C] colours 0..255,
            of which the first three channels are drawn, of fewer the first.
        captions: N texts.
        path: the file to write.
        title: above all.
        wrong: which captions to print in red; None: none.
        columns: images in a row.
        wrap: characters in a line of a caption.
    """
    rows = -(-len(images) // columns)
    lines = max(len(textwrap.wrap(caption, wrap)) for caption in captions)
    with drawn(path, (1.9 * columns, (1.9 + 0.17 * lines) * rows + 0.4), dpi=100) as figure:
        figure.suptitle(title)
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in places:
            axes.axis("off")
        for number, (axes, image, caption) in enumerate(zip(places, images, captions, strict=False)):
            cmap, highest = "gray_r", images.max()
            if image.ndim == 3:
                image = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
                cmap, highest = "gray", 255
            axes.imshow(image, cmap=cmap, vmin=0, vmax=highest, interpolation="nearest")
            colour = "tab:red" if wrong is not None and wrong[number] else "black"
            axes.set_title("\n".join(textwrap.wrap(caption, wrap)), y=-0.06, va="top", fontsize=9, color=colour)


def image_table(
    images: np.ndarray, path: Path | str, *, title: str, rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Draw images in rows and columns that have names.

    Args:
        images: [R, C, height, width] grey values, dark is high.
        path: the file to write.
        title: above all.
        rows, columns: R and C names; an empty one is left out.
    """
    height, width = (size + 2 for size in images.shape[2:])
    framed = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    table = framed.transpose(0, 2, 1, 3).reshape(len(rows) * height, len(columns) * width)
    with drawn(path, (0.8 * len(columns) + 1.2, 0.8 * len(rows) + 0.8), dpi=100) as figure:
        axes = figure.subplots()
        axes.imshow(table, cmap="gray_r", interpolation="nearest")
        axes.set_xticks([(number + 0.5) * width - 0.5 for number in range(len(columns))], columns)
        axes.set_yticks([(number + 0.5) * height - 0.5 for number in range(len(rows))], rows)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.set_title(title)
        for side in axes.spines.values():
            side.set_visible(False)
