"""Metrics of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO, cast

from rnn_jax.training.files import write_text

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

TRAIN = "train"
VALID = "valid"


class MetricsWriter:
    """Writes `metrics.jsonl` and TensorBoard events into a folder.

    A line is one JSON object: step, seconds (of training, as `max_seconds` counts them), split, and the values.
    """

    def __init__(self, folder: Path | str):
        self._folder = Path(folder)
        self._lines: TextIO | None = None
        self._events: SummaryWriter | None = None

    def start(self, step: int, evaluated_step: int | None) -> None:
        """Open for the steps after `step`.

        Lines that an earlier process wrote after its last checkpoint are cut, as is a line it did not finish: the
        steps they tell of are about to be done again.

        Args:
            step: the number of steps done.
            evaluated_step: the step of the last evaluation that the checkpoint knows of.
        """
        path = self._folder / "metrics.jsonl"
        last = {TRAIN: step, VALID: -1 if evaluated_step is None else evaluated_step}
        kept = [line for line in read_metrics(path) if line["step"] <= last[line["split"]]]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        # Line by line: what is written outlives this process, and can be followed while it trains.
        self._lines = path.open("a", buffering=1, encoding="utf-8")
        self._events = _summary_writer(self._folder, step + 1)

    def write(self, step: int, seconds: float, split: str, values: Mapping[str, float | int]) -> None:
        """Add one line. A value that is not finite becomes null, which JSON can hold."""
        if self._lines is None or self._events is None:
            raise RuntimeError("write: expected start() before it")
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "seconds": round(seconds, 3), "split": split, **finite}) + "\n")
        for name, value in finite.items():
            if value is not None:
                self._events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Close both files."""
        if self._lines is not None and self._events is not None:
            self._lines.close()
            self._events.close()


def _summary_writer(folder: Path, purge_step: int) -> "SummaryWriter":
    # Where torch is installed, tensorboardX imports it, for seconds, to recognise tensors that it is never given here.
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = cast(ModuleType, None)
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=purge_step)


def read_metrics(path: Path | str) -> list[dict]:
    """The lines of a metrics.jsonl; without those that a sudden death cut off, [] where there is no file."""
    lines = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return lines
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
    return lines


def curve(lines: Sequence[Mapping[str, Any]], split: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of one metric of one split, where it is known and finite; `lines` as `read_metrics` gives them."""
    return [(line["step"], line[name]) for line in lines if line["split"] == split and line.get(name) is not None]
