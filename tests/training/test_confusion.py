"""The numbers of a confusion matrix, beside scikit-learn's."""

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn import metrics

from rnn_jax.training.confusion import accuracy, confusion_matrix, f1_scores, macro_f1, plot_confusion


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn_has_them(seed):
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, 4, 60), random.integers(0, 4, 60)
    matrix = confusion_matrix(labels, predictions, 4)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(labels, predictions))
    assert accuracy(matrix) == pytest.approx(metrics.accuracy_score(labels, predictions))
    np.testing.assert_allclose(f1_scores(matrix), metrics.f1_score(labels, predictions, average=None))
    assert macro_f1(matrix) == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))


def test_a_class_that_occurs_nowhere_does_not_count():
    matrix = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert macro_f1(matrix) == pytest.approx(metrics.f1_score([0, 0, 1], [0, 1, 1], average="macro"))
    # A class that is predicted though no label has it counts with 0.
    matrix = confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 3)
    expected = metrics.f1_score([0, 0, 1], [0, 2, 1], average="macro", zero_division=0.0)
    assert macro_f1(matrix) == pytest.approx(expected)


def test_the_picture_is_a_png(tmp_path):
    plot_confusion(np.array([[3, 1], [0, 0]]), ("no", "yes"), tmp_path / "c.png", title="dev")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_many_classes_has_a_size_that_fits(tmp_path):
    plot_confusion(np.eye(300, dtype=int), [f"$_{i}" for i in range(300)], tmp_path / "c.png", title="$_$")
    assert max(imread(tmp_path / "c.png").shape) < 4000
