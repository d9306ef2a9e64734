"""Figures saved as PNG."""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from rnn_jax.training.files import replaced

# matplotlib's settings belong to the whole process.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def drawn(
    image: Path | str, size: tuple[float | int, float | int], *, dpi: int = 120, fitted: bool = True
) -> Iterator[Figure]:
    """A figure to draw on, saved as a PNG when the block ends without an error.

    All text is drawn as it stands: words, columns and classes may hold `$`, which begins no formula.

    Args:
        image: the file to write.
        size: width and height in inches.
        dpi: pixels in an inch.
        fitted: fit the margins to the labels, which takes longer than the drawing; False: matplotlib's usual margins.
    """
    with _ONE_AT_A_TIME, rc_context({"text.parse_math": False}):
        # A Figure of its own: pyplot keeps global state and may look for a screen.
        figure = Figure(figsize=size, layout="constrained" if fitted else None)
        yield figure
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() == "log":
                    # The usual labels are formulas.
                    axis.set_major_formatter(lambda value, _: f"{value:g}")
                    axis.set_minor_formatter(LogFormatter())
        with replaced(image) as temporary, warnings.catch_warnings():
            # Of each character that the font lacks: the picture shows a box for it.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
            figure.savefig(temporary, dpi=dpi, format="png")
