"""When a run ends, and how much of it is done."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class StopRule:
    """A run ends at the first of its limits.

    Attributes:
        steps: the number of steps.
        epochs: the number of epochs.
        max_seconds: seconds of compilation and training; evaluating, sampling and saving do not count.

    Raises:
        ValueError: no limit at all.
    """

    steps: int | None = None
    epochs: float | int | None = None
    max_seconds: float | int | None = None

    def __post_init__(self):
        if self.steps is None and self.epochs is None and self.max_seconds is None:
            raise ValueError("steps, epochs, max_seconds: expected at least one, found none")

    def last_step(self, steps_per_epoch: int) -> int | None:
        """The number of steps after which the run ends; None: only time limits it."""
        limits = [] if self.steps is None else [self.steps]
        if self.epochs is not None:
            # 1.1 epochs of 100 steps are 110, whatever their product is in binary.
            limits.append(max(int(self.epochs > 0), math.ceil(self.epochs * steps_per_epoch - 1e-9)))
        return min(limits, default=None)

    def fraction(self, step: int, seconds: float | int, steps_per_epoch: int) -> float | int:
        """The share of the run, from 0 to 1, that is done after `step` steps and `seconds` seconds."""
        last = self.last_step(steps_per_epoch)
        by_steps = 0.0 if last is None else step / max(1, last)
        by_time = 0.0 if self.max_seconds is None else seconds / self.max_seconds
        return min(1.0, max(by_steps, by_time))
