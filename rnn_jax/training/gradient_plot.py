"""The gradient that arrives at earlier states, drawn against their distance from the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rnn_jax.training.figures import drawn

# Below this share of the gradient at the end nothing is learned: where the axis ends at the latest.
_SMALLEST = 1e-12


def plot_gradients(
    panels: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]], image: Path | str, *, title: str
) -> None:
    """Draw one panel for each stage of training, in it one curve a cell, as a PNG.

    Args:
        panels: title of the panel -> name of the cell -> [T], the norm of the gradient at the state k + 1 steps before
            the end, relative to that one step before it.
        image: the file to write.
        title: above the plot.
    """
    with drawn(image, (11, 4.8)) as figure:
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        smallest, largest = 1.0, 1.0
        for axis, (stage, curves) in zip(axes, panels.items(), strict=True):
            for index, (cell, norms) in enumerate(curves.items()):
                norms = np.asarray(norms, float)
                seen = np.isfinite(norms) & (norms > 0)
                lags = np.arange(1, len(norms) + 1)
                # Every other curve is dashed, so that one that lies upon another does not hide it.
                dashes = "-" if index % 2 == 0 else (0, (4, 2))
                axis.plot(lags[seen], norms[seen], color=f"C{index}", linestyle=dashes, linewidth=1.8, label=cell)
                smallest, largest = min([smallest, *norms[seen]]), max([largest, *norms[seen]])
            axis.set_title(stage)
            axis.set_xlabel("lag k (steps before the end)")
            axis.grid(alpha=0.3)
        axes[0].set_yscale("log")
        axes[0].set_ylim(max(smallest / 3, _SMALLEST), largest * 3)
        axes[0].set_ylabel("‖∂ loss / ∂ state, k steps back‖, relative to k = 1")
        axes[0].legend(fontsize=9)
        figure.suptitle(title)
