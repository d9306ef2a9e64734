"""Learning-rate schedules, by name: the rate as a function of the step and of the progress of the run."""

import math
from typing import Protocol, runtime_checkable

SCHEDULES = ("constant", "cosine", "exponential", "halving")

# decay, decay_after: those of char-rnn, and of the small model of Zaremba et al. (2014).
_EPOCH_DECAY = {"exponential": (0.97, 10), "halving": (0.5, 4)}


@runtime_checkable
class Schedule(Protocol):
    """A pure function on the host: plain floats, so that it costs the device nothing."""

    def __call__(self, step: int, progress: float) -> float | int:
        """The learning rate of one step.

        Args:
            step: the number of steps done before it.
            progress: the share of the run done before it, from 0 to 1: of its steps, or of its time.
        """
        ...


def make_schedule(
    name: str,
    learning_rate: float | int,
    *,
    warmup_steps: int = 0,
    steps_per_epoch: int = 1,
    end: float | int = 0.0,
    decay: float | int | None = None,
    decay_after: int | None = None,
) -> Schedule:
    """Build a schedule η(step, progress), with e = step // steps_per_epoch the number of epochs done.

        constant      η₀
        cosine        η₀ (end + (1 - end) (1 + cos π progress) / 2)
        exponential   η₀ decay^max(0, e + 1 - decay_after)        by default 0.97 after 10 epochs
        halving       the same                                    by default 0.5 after 4 epochs

    Warm-up multiplies it by (step + 1) / warmup_steps while that is below 1.

    Args:
        name: one of `SCHEDULES`.
        learning_rate: η₀.
        warmup_steps: the number of steps of a linear warm-up.
        steps_per_epoch: the number of steps in an epoch.
        end: for cosine, the rate at the end as a share of η₀.
        decay: for exponential and halving, the factor of each epoch after the first `decay_after`.
        decay_after: the number of epochs at the full rate.

    Raises:
        ValueError: an unknown name; a `decay` or `decay_after` for a schedule that has none.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}; found {name!r}")
    for argument, value in (("decay", decay), ("decay_after", decay_after)):
        if name not in _EPOCH_DECAY and value is not None:
            raise ValueError(f"{argument}: expected schedule {' or '.join(_EPOCH_DECAY)}, found {name!r}")
    default_decay, default_after = _EPOCH_DECAY.get(name, (1.0, 0))
    factor = default_decay if decay is None else decay
    full_epochs = default_after if decay_after is None else decay_after

    def schedule(step: int, progress: float | int) -> float | int:
        rate = learning_rate * min(1.0, (step + 1) / max(1, warmup_steps))
        if name == "cosine":
            return rate * (end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2)
        return rate * factor ** max(0, step // steps_per_epoch + 1 - full_epochs)

    return schedule
