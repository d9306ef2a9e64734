"""How predictions and labels agree: the confusion matrix, what it says in numbers, and its picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnn_jax.training.figures import drawn

# Of more classes than these neither names nor counts could be read.
_LEGIBLE = 24


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts, int64 [C, C]: row = label, column = prediction.

    Args:
        labels: [N], integers in 0..C-1.
        predictions: [N], likewise.
        classes: C.
    """
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (np.asarray(labels), np.asarray(predictions)), 1)
    return matrix


def accuracy(matrix: np.ndarray) -> float:
    """The share of the examples that are predicted as labelled."""
    return float(np.trace(matrix) / matrix.sum())


def f1_scores(matrix: np.ndarray) -> np.ndarray:
    """F1 of each class, [C]: 2 n_cc / (row sum + column sum); 0 where a class occurs on neither side."""
    both = matrix.sum(0) + matrix.sum(1)
    return 2 * np.diagonal(matrix) / np.maximum(both, 1)


def macro_f1(matrix: np.ndarray) -> float:
    """The mean of `f1_scores` over the classes that are labels or predictions of some example."""
    present = matrix.sum(0) + matrix.sum(1) > 0
    return float(f1_scores(matrix)[present].mean())


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], image: Path | str, *, title: str) -> None:
    """Draw a confusion matrix as a PNG: the counts, coloured by their share of the row; of many classes the colours.

    Args:
        matrix: [C, C], row = label.
        classes: the names of the C classes.
        image: the file to write.
        title: above the picture.
    """
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    legible = len(classes) <= _LEGIBLE
    size = 2.2 + 0.9 * min(len(classes), _LEGIBLE)
    with drawn(image, (size + 1, size)) as figure:
        axes = figure.subplots()
        shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*matrix.shape) if legible else ():
            axes.text(
                column,
                row,
                f"{matrix[row, column]:,}\n{share[row, column]:.0%}",
                ha="center",
                va="center",
                color="white" if share[row, column] > 0.5 else "black",
            )
        if legible:
            axes.set_xticks(range(len(classes)), labels=list(classes), rotation=30, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(classes)), labels=list(classes))
        axes.set_xlabel("prediction")
        axes.set_ylabel("label")
        axes.set_title(title, fontsize="medium")
        figure.colorbar(shown, ax=axes, label="share of the label")
