"""The adding and copying problems: sequences whose end cannot be told without a memory of what came long before."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rnn_jax.data.errors import DataError

# Of the copying problem: how many different symbols, and how many of them are to be remembered.
SYMBOLS, COPIED = 8, 10

# Batches that are called an epoch: the examples are drawn, and there is no end of them.
_EPOCH = 100


class MemoryBatch(NamedTuple):
    """Examples of a memory problem; a block of K batches has a leading axis K in both fields.

    Attributes:
        inputs: float32 [T, B, D].
        targets: [R, B], what the last R steps are to say: float32 numbers, or int32 symbols.
    """

    inputs: np.ndarray
    targets: np.ndarray


def adding(random: np.random.Generator, lag: int, count: int) -> MemoryBatch:
    """The adding problem.

        x_t = (u_t, m_t),   u_t ~ U(0, 1);   target = Σ_t m_t u_t,   t = 1..T

    m_t is 1 at two steps, one drawn from the first half of the sequence and one from the rest, and 0 elsewhere. Always
    saying 1, the mean, leaves a squared error of 1/6, the variance.

    Args:
        random: the source of the numbers.
        lag: T, at least 2.
        count: B.

    Returns:
        inputs [T, B, 2], targets [1, B].

    Source: Hochreiter & Schmidhuber 1997, with the marks as in Arjovsky, Shah & Bengio 2016 (arXiv 1511.06464).
    """
    values = random.random((lag, count), np.float32)
    marks = np.zeros((lag, count), np.float32)
    columns = np.arange(count)
    first, second = random.integers(0, lag // 2, count), random.integers(lag // 2, lag, count)
    marks[first, columns] = marks[second, columns] = 1
    return MemoryBatch(np.stack([values, marks], axis=-1), (values[first, columns] + values[second, columns])[None])


def copying(random: np.random.Generator, lag: int, count: int) -> MemoryBatch:
    """The copying problem.

    10 symbols, each one of 8; `lag` steps without a symbol, the last of them with the sign to begin; 10 more steps, at
    which the symbols are to be said again in their order. Inputs are one-hot: 8 symbols, blank, sign. Whoever has
    forgotten says 1 symbol in 8 right.

    Args:
        random: the source of the symbols.
        lag: at least 1.
        count: B.

    Returns:
        inputs [10 + lag + 10, B, 10], targets [10, B].

    Source: Hochreiter & Schmidhuber 1997, as in Arjovsky, Shah & Bengio 2016 (arXiv 1511.06464). Differs: targets at
    the last ten steps only, where the paper also asks for a blank at all steps before.
    """
    symbols = random.integers(0, SYMBOLS, (COPIED, count))
    tokens = np.full((2 * COPIED + lag, count), SYMBOLS)
    tokens[:COPIED] = symbols
    tokens[COPIED + lag - 1] = SYMBOLS + 1
    return MemoryBatch(np.eye(SYMBOLS + 2, dtype=np.float32)[tokens], symbols.astype(np.int32))


TASKS: dict[str, Callable[[np.random.Generator, int, int], MemoryBatch]] = {"adding": adding, "copying": copying}


@dataclasses.dataclass(frozen=True)
class MemoryBatches:
    """Fresh examples at every step; a batch depends on nothing but its step and the seed.

    Attributes:
        task: "adding" or "copying".
        lag: the steps over which something is to be remembered; at least 2.
        batch_size: B.
        seed: any integer that is not negative.

    Raises:
        DataError: an unknown task; a number too small.
    """

    task: str
    lag: int
    batch_size: int
    seed: int = 0

    def __post_init__(self):
        if self.task not in TASKS:
            raise DataError(f"task: expected one of {', '.join(TASKS)}, found {self.task!r}")
        for name, least in (("lag", 2), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name}: expected at least {least}, found {getattr(self, name)}")

    @property
    def steps_per_epoch(self) -> int:
        """100, for schedules and limits that count epochs."""
        return _EPOCH

    def at(self, step: int) -> MemoryBatch:
        """Batch number `step`."""
        return TASKS[self.task](np.random.default_rng([0, self.seed, step]), self.lag, self.batch_size)

    def block(self, step: int, count: int) -> MemoryBatch:
        """The batches `step` to `step + count - 1`, stacked along a leading axis."""
        inputs, targets = zip(*map(self.at, range(step, step + count)), strict=True)
        return MemoryBatch(np.stack(inputs), np.stack(targets))

    def held_out(self, number: int, count: int) -> MemoryBatch:
        """Held-out set number 1, 2, ...: `count` examples, the same whatever the seed, none of which is trained on."""
        return TASKS[self.task](np.random.default_rng([number]), self.lag, count)
