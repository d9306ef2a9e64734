"""Plots of a run, made from its metrics.jsonl."""

from pathlib import Path

import numpy as np

from rnn_jax.training.figures import drawn
from rnn_jax.training.metrics import TRAIN, VALID, curve, read_metrics


def plot_loss(
    metrics: Path | str, image: Path | str, *, title: str, unit: str = "nats per symbol", monitor: str = "val_loss"
) -> None:
    """Draw the training loss, as logged and smoothed, and the validation loss over the steps, as a PNG.

    Nothing is drawn where nothing has been logged.

    Args:
        metrics: a metrics.jsonl.
        image: the file to write.
        title: above the plot.
        unit: of the loss.
        monitor: the name of the validation loss.
    """
    lines = read_metrics(metrics)
    train, valid = curve(lines, TRAIN, "loss"), curve(lines, VALID, monitor)
    if not train and not valid:
        return
    # Every run of a sweep has this plot.
    with drawn(image, (8, 5), fitted=False) as figure:
        axes = figure.subplots()
        shown = []
        if train:
            steps, losses = (np.array(column, float) for column in zip(*train, strict=True))
            smooth = _smooth(losses)
            axes.plot(steps, losses, color="tab:blue", alpha=0.2, linewidth=0.8)
            axes.plot(steps, smooth, color="tab:blue", label="training (smoothed)")
            shown.append(smooth)
        if valid:
            steps, losses = (np.array(column, float) for column in zip(*valid, strict=True))
            axes.plot(steps, losses, "o-", color="tab:orange", markersize=4, label="validation")
            best = int(np.argmin(losses))
            axes.annotate(
                f"{losses[best]:.3f}", (steps[best], losses[best]), (0, 8), textcoords="offset points", ha="center"
            )
            shown.append(losses)
        values = np.concatenate(shown)
        low, high = float(values.min()), float(values.max())
        margin = 0.05 * (high - low) or 0.1
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlabel("training step")
        axes.set_ylabel(f"loss ({unit})")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()


def _smooth(losses: np.ndarray, share: float = 0.02) -> np.ndarray:
    """A running mean over about this share of the points, without a bias towards the first."""
    keep = 1 - 1 / max(1.0, share * len(losses))
    smooth, mean, weight = np.empty_like(losses), 0.0, 0.0
    for index, loss in enumerate(losses):
        mean, weight = keep * mean + (1 - keep) * loss, keep * weight + (1 - keep)
        smooth[index] = mean / weight
    return smooth
