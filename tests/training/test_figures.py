"""Figures: text as it stands, axes without formulas, no file where drawing failed."""

import pytest
from matplotlib.image import imread

from rnn_jax.training.figures import drawn


@pytest.mark.parametrize("text", ["cost_$_per_$", r"$\foo$", "5 $ to 10 $", "$"])
def test_text_is_drawn_as_it_stands(text, tmp_path):
    with drawn(tmp_path / "a.png", (3, 2)) as figure:
        axes = figure.subplots()
        axes.plot([0.001, 100.0], [1.0, 2.0], label=text)
        axes.set_xscale("log")
        axes.set_xlabel(text)
        axes.legend(title=text)
    assert imread(tmp_path / "a.png").shape == (240, 360, 4)
    assert axes.xaxis.get_label().get_window_extent().width > 0
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert {"0.01", "100"} <= set(labels)
    assert not any("$" in label for label in labels)


def test_characters_that_the_font_lacks_are_no_warnings(tmp_path):
    with drawn(tmp_path / "a.png", (3, 2)) as figure:
        figure.subplots().set_xlabel("日本")
    assert imread(tmp_path / "a.png").shape == (240, 360, 4)


def test_nothing_is_left_of_a_drawing_that_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), drawn(tmp_path / "a.png", (3, 2)):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
