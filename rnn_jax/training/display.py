"""What a training run shows on the terminal."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

# Seconds from one line, or one picture of the bar, to the next.
_LINE_INTERVAL, _BAR_INTERVAL = 10.0, 0.1


class Display:
    """Shows a run: a progress bar where the stream is a terminal, else a plain line every ten seconds."""

    def __init__(self, *, unit: str = "tokens", stream: Any = None):
        """Args: unit: what the loss counts, for the speed; stream: standard error unless given."""
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._bar = None
        self._shown = -math.inf
        if self._stream.isatty():
            layout = "{percentage:3.0f}%|{bar:20}| {desc}"
            self._bar = tqdm(total=1.0, file=self._stream, bar_format=layout, dynamic_ncols=True, leave=False)
        self._validation = ""

    def train(
        self, step: int, fraction: float | int, loss: float, units_per_second: float, seconds_left: float | int
    ) -> None:
        """Show how training stands.

        Args:
            step: the number of steps done.
            fraction: the share of the run that is done, from 0 to 1.
            loss: the smoothed training loss.
            units_per_second: the speed; nan: not known yet.
            seconds_left: until the end; nan: not known yet.
        """
        now = time.monotonic()
        if now - self._shown < (_LINE_INTERVAL if self._bar is None else _BAR_INTERVAL):
            return
        self._shown = now
        parts = [f"step {step}", f"loss {loss:.4f}", self._validation]
        if math.isfinite(units_per_second):
            parts.append(f"{_short(units_per_second)} {self._unit}/s")
        if math.isfinite(seconds_left):
            parts.append(f"{_minutes(seconds_left)} left")
        text = "  ".join(part for part in parts if part)
        if self._bar is None:
            print(f"{fraction:4.0%}  {text}", file=self._stream, flush=True)
        else:
            self._bar.n = min(1.0, fraction)
            self._bar.set_description_str(text)

    def evaluation(self, step: int, values: Mapping[str, float | int], best: bool) -> None:
        """Show the metrics of an evaluation."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._validation = text.split("  ")[0]
        self.message(f"step {step}  {text}{'  (best)' if best else ''}")

    def message(self, text: str, stream: Any = None) -> None:
        """Print above the bar, on the display's stream or another one."""
        if self._bar is not None:
            self._bar.clear()
        print(text, file=stream or self._stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _short(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
