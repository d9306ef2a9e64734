"""Plots of what a sequence model does: where it looks, and how long a sequence it manages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rnn_jax.training.files import replaced


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
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="equal")
    # A pair of dollar signs would be read as a formula.
    labels = [[text.replace("$", r"\$") for text in side] for side in (source, target)]
    axes.set_xticks(range(len(source)), labels[0], rotation=90)
    axes.set_yticks(range(len(target)), labels[1])
    axes.xaxis.tick_top()
    axes.set_xlabel("source")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("written")
    with replaced(image) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def plot_by_length(shares: Mapping[int, float], image: Path | str, *, title: str, label: str = "exact match") -> None:
    """Draw a share against the length of the sequence, as a PNG.

    Args:
        shares: length -> share from 0 to 1.
        image: the file to write.
        title: above the plot.
        label: what the share is of.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    lengths = sorted(shares)
    axes.plot(lengths, [shares[length] for length in lengths], "o-", markersize=4)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("symbols in the source")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    with replaced(image) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
