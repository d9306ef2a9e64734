"""Keeping the device busy: the next block of steps is sent off before the results of the last one are read."""

import collections
import math
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from rnn_jax.training import processes
from rnn_jax.training.step import TrainStep

# Below this many seconds a step, the host's work for a dispatch (a few tenths of a millisecond) is worth sharing.
_SHORT_STEP = 0.01
# The work of one dispatch in seconds: far above the host's share, and short enough to stop or report in time.
_DISPATCH = 0.15
# The same of several runs together: each has a host's share of its own.
_JOINT_DISPATCH = 0.5
# The time over which speed is measured: the first decision needs the short one, an estimate averages over the long.
_FIRST_LOOK, _MEMORY = 0.1, 2.0


@runtime_checkable
class Batches(Protocol):
    """Training data as a pure function of the step, so that a resumed run needs nothing but its step."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        ...

    def block(self, step: int, count: int) -> Any:
        """The batches `step` to `step + count - 1`, stacked along a leading axis in every leaf (NumPy)."""
        ...


class Block(NamedTuple):
    """What K finished steps measured.

    Attributes:
        first: the number of the first step, from 1.
        rates: K learning rates.
        metrics: NumPy arrays [K] by name.
        seconds: the training time used when they were read.
    """

    first: int
    rates: list[float | int]
    metrics: dict[str, np.ndarray]
    seconds: float

    @property
    def last(self) -> int:
        """The number of the last step."""
        return self.first + len(self.rates) - 1


class Dispatcher:
    """Runs training steps and keeps the training clock.

    There are at most two compiled programs for each shape of a batch: one step, and, where steps are short, a power of
    two of them that takes about 0.15 s (half a second for several runs), if the rest of the run is long enough to pay
    for its compilation.

    Attributes:
        state: the newest training state.
        seconds_per_step: measured over the last two seconds without compilation; nan at first.
        units_per_second: what the loss counts, measured alike.
    """

    def __init__(
        self,
        state: Any,
        train_step: TrainStep,
        batches: Batches,
        rate: Callable[[int, float], float | int],
        *,
        last_step: int | None,
        max_seconds: float | int | None,
        interval: int | None,
        seconds: float = 0.0,
        runs: int = 1,
        block_size: Callable[[int | None], int | None] = lambda size: size,
    ):
        """Prepare; nothing runs yet.

        Args:
            state: where to start (a `TrainState`, or several stacked); its buffers are donated.
            train_step: from `make_train_step`.
            batches: see `Batches`.
            rate: (steps done, seconds used) -> learning rate.
            last_step: the number of steps after which training ends, or None.
            max_seconds: the training time after which it ends, or None.
            interval: the smallest number of steps from one interruption by the caller to the next, or None.
            seconds: the training time used before.
            runs: how many runs take their steps together with those of this one, by one clock.
            block_size: what speed suggests (None: not measured yet) -> how many steps go off together, where there are
                so many, from then on; None: one, and it is asked again.
        """
        self.state = state
        self.seconds_per_step = math.nan
        self.units_per_second = math.nan
        self._train_step = train_step
        self._batches = batches
        self._rate = rate
        self._last_step = last_step
        self._max_seconds = max_seconds
        self._longest = None if interval is None else max(1, interval // 8)
        self._used = seconds
        self._started: float | None = None
        self._compiled: set[Any] = set()
        self._compile_seconds = 0.0
        self._block_size: int | None = None
        self._decide_block_size = block_size
        self._runs = runs
        # Rows of (steps, units, seconds): in all, and of late.
        self._total, self._window = np.zeros(3), np.zeros(3)
        self._recent: collections.deque[np.ndarray] = collections.deque()

    @property
    def seconds(self) -> float:
        """The training time used."""
        return self._used + (0.0 if self._started is None else time.perf_counter() - self._started)

    @property
    def out_of_time(self) -> bool:
        """Whether another step would overrun the time by more than half of its own."""
        return self._steps_left(self.seconds) < 1

    @property
    def mean_units_per_second(self) -> float:
        """The mean speed since the start, without compilation; nan if nothing has been measured."""
        _, units, seconds = self._total
        return units / seconds if seconds else math.nan

    def run(self, step: int, end: float | int, interrupted: Callable[[], bool]) -> Generator[Block, None, None]:
        """Run from `step` steps to `end` steps, the end of time or an interruption, whichever comes first.

        Yields each block while the next one runs. When the iterator ends, the device is idle and the clock stands.
        """
        pending: _Pending | None = None
        self._started, last_done = time.perf_counter(), self.seconds
        free_at = last_done
        try:
            while True:
                begin = max(free_at, self.seconds)
                count = 0 if interrupted() else self._count(end - step, begin, step)
                rates = processes.agree(self._rates(step, count, begin))
                issued = None
                if rates:
                    issued = self._issue(step, rates)
                    step += len(rates)
                    free_at = max(free_at, self.seconds) + issued.expected
                if pending is not None:
                    metrics = jax.device_get(pending.metrics)
                    now = self.seconds
                    # While the host compiled the next program, this one may have finished unnoticed.
                    if not pending.compiled and not (issued and issued.compiled):
                        self._measure(pending, metrics, now - max(last_done, pending.issued))
                    last_done = now
                    free_at = now + (issued.expected if issued else 0.0)
                    yield Block(pending.first, pending.rates, metrics, now)
                pending = issued
                if pending is None:
                    return
        finally:
            self._used, self._started = self.seconds, None

    @property
    def _pace(self) -> float:
        return 0.0 if math.isnan(self.seconds_per_step) else self.seconds_per_step

    def _rates(self, step: int, count: int, begin: float) -> list[float | int]:
        return [self._rate(step + index, begin + index * self._pace) for index in range(count)]

    def _issue(self, step: int, rates: list[float | int]) -> "_Pending":
        block = self._batches.block(step, len(rates))
        issued = self.seconds
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(block))
        compiled = shapes not in self._compiled
        self.state, metrics = self._train_step(self.state, block, np.array(rates))
        if compiled:
            self._compiled.add(shapes)
            self._compile_seconds = max(self._compile_seconds, self.seconds - issued)
        return _Pending(step + 1, rates, metrics, issued, compiled, len(rates) * self._pace)

    def _measure(self, pending: "_Pending", metrics: dict[str, np.ndarray], elapsed: float) -> None:
        sample = np.array([len(pending.rates), float(np.sum(metrics["count"])), elapsed])
        self._total += sample
        self._recent.append(sample)
        self._window += sample
        while len(self._recent) > 1 and self._window[2] - self._recent[0][2] > _MEMORY:
            self._window -= self._recent.popleft()
        steps, units, seconds = self._window
        self.seconds_per_step = seconds / steps
        self.units_per_second = units / seconds

    def _steps_left(self, now: float) -> float | int:
        """How many steps fit in the time left, to the nearest."""
        if self._max_seconds is None:
            return math.inf
        left = self._max_seconds - now
        if math.isnan(self.seconds_per_step):
            return math.inf if left > 0 else 0
        return math.floor(left / self.seconds_per_step + 0.5)

    def _count(self, wanted: float | int, begin: float, step: int) -> int:
        """The number of steps of a dispatch that begins at the time `begin`."""
        possible = min(wanted, self._steps_left(begin))
        if possible < 1:
            return 0
        if self._block_size is None:
            measured = self._total[2] > _FIRST_LOOK
            self._block_size = self._decide_block_size(self._suggest_block_size(begin, step) if measured else None)
        size = self._block_size or 1
        return size if size <= possible else 1

    def _suggest_block_size(self, begin: float, step: int) -> int:
        pace = self.seconds_per_step
        if pace > _SHORT_STEP * self._runs:
            return 1
        rest = math.inf if self._last_step is None else (self._last_step - step) * pace
        if self._max_seconds is not None:
            rest = min(rest, self._max_seconds - begin)
        if rest < 10 * self._compile_seconds:
            return 1
        size = (_DISPATCH if self._runs == 1 else _JOINT_DISPATCH) / pace
        if self._longest is not None:
            size = min(self._longest, size)
        return 2 ** int(math.log2(max(1.0, size)))


class _Pending(NamedTuple):
    first: int
    rates: list[float | int]
    metrics: dict[str, jax.Array]
    issued: float
    compiled: bool
    expected: float
