"""Forecasts drawn over the series."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rnn_jax.training.figures import drawn

# More columns than these would make a plot that nobody reads.
_SHOWN = 6


def plot_forecast(
    columns: Sequence[str],
    truth: np.ndarray,
    one_step: np.ndarray,
    free_running: np.ndarray,
    errors: Mapping[str, np.ndarray],
    image: Path | str,
    *,
    title: str,
) -> None:
    """Draw the first columns, one below the other, and the error of free running by the distance, as a PNG.

    Args:
        columns: the names of the D columns.
        truth: [C + N, D], C rows that were read, then those to be forecast.
        one_step: [N, D], each row forecast from the true rows before it.
        free_running: [N, D], forecast from the C rows alone.
        errors: name of a forecaster -> [N], its mean squared error 1 to N rows ahead, running free.
        image: the file to write.
        title: above the plot.
    """
    shown = min(len(columns), _SHOWN)
    with drawn(image, (10, 2.6 * shown + 2.6)) as figure:
        axes = figure.subplots(shown + 1, 1)
        horizon = len(one_step)
        ahead = np.arange(1, horizon + 1)
        before = np.arange(horizon - len(truth) + 1, 1)
        for index, axis in enumerate(axes[:-1]):
            axis.plot(np.concatenate([before, ahead]), truth[:, index], color="0.55", linewidth=3, label="truth")
            axis.plot(ahead, one_step[:, index], color="tab:blue", linewidth=1, label="one step ahead")
            axis.plot(ahead, free_running[:, index], color="tab:red", linestyle="--", label="free running")
            axis.axvline(0.5, color="black", linewidth=0.8)
            axis.set_ylabel(columns[index])
            axis.grid(alpha=0.3)
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, ncols=3, frameon=False)
        for name, error in errors.items():
            axes[-1].plot(ahead, error, label=name)
        axes[-1].set_yscale("log")
        axes[-1].set_ylabel("mean squared error")
        axes[-1].set_xlabel("rows ahead, running free")
        axes[-1].grid(alpha=0.3)
        axes[-1].legend(fontsize=9)
        figure.suptitle(title if shown == len(columns) else f"{title} (the first {shown} of {len(columns)} columns)")
