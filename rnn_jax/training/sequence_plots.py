"""Plots of what a sequence model does: where it looks, and how long a sequence it manages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rnn_jax.training.figures import drawn


def plot_attention(weights: np.ndarray, source: Sequence[str], target: Sequence[str], image: Path | str) -> None:
    """Draw attention weights as a map, as a PNG: a row for each target symbol, darker where it looked.

    Args:
        weights: [T, S].
        source: S symbols.
        target: T symbols.
        image: the file to write.

    Raises:
        ValueError: not as many symbols as weights.
    """
    if weights.shape != (len(target), len(source)):
        raise ValueError(f"weights: expected {[len(target), len(source)]}, found {list(weights.shape)}")
    size = (1.6 + 0.32 * len(source), 1.3 + 0.32 * len(target))
    with drawn(image, size) as figure:
        axes = figure.subplots()
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="equal")
        axes.set_xticks(range(len(source)), list(source), rotation=90)
        axes.set_yticks(range(len(target)), list(target))
        axes.xaxis.tick_top()
        axes.set_xlabel("source")
        axes.xaxis.set_label_position("top")
        axes.set_ylabel("written")


def plot_by_length(shares: Mapping[int, float], image: Path | str, *, title: str, label: str = "exact match") -> None:
    """Draw a share against the length of the sequence, as a PNG.

    Args:
        shares: length -> share from 0 to 1.
        image: the file to write.
        title: above the plot.
        label: what the share is of.
    """
    with drawn(image, (8, 4)) as figure:
        axes = figure.subplots()
        lengths = sorted(shares)
        axes.plot(lengths, [shares[length] for length in lengths], "o-", markersize=4)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("symbols in the source")
        axes.set_ylabel(label)
        axes.set_title(title)
        axes.grid(alpha=0.3)
