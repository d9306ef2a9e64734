"""Contiguous streams of symbols for truncated backpropagation through time, and their like for evaluation."""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rnn_jax.data.errors import DataError


class StreamBatch(NamedTuple):
    """One batch of T steps of B streams, time-major; a block of K batches has a leading axis K in every field.

    Attributes:
        inputs: int32 [T, B].
        targets: int32 [T, B], the symbol after each input.
        mask: bool [T, B], False = padding; None: there is no padding.
        first: True where the carry must be fresh; False where it continues the batch before. A bool, bool [K] in a
            block.
    """

    inputs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray | None
    first: bool | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """The training batches of a text: B parallel streams, read T symbols at a time.

    With N symbols, T = `bptt`, B = `batch_size` and S = `steps_per_epoch`, stream b of an epoch that begins at symbol
    o holds the inputs ids[o + b S T : o + (b + 1) S T], each with its successor as the target. Batch s shows
    positions s T to (s + 1) T of every stream, so it continues batch s - 1, until an epoch ends and `first` says so.

    Every batch has the same shape and none needs a mask (which would cost every step of every batch a select): fewer
    than B T symbols at the end of the text are left out of an epoch. With `shuffle_offset` the epochs begin at
    offsets o that differ, drawn from `seed` and the number of the epoch, so that the windows, the stream's ends and
    the symbols left out differ too; S then leaves room for at least T offsets where the text is long enough, and
    fewer than B T + T symbols are left out.

    A batch depends on nothing but its step: a run that resumes needs no other state.

    Attributes:
        ids: integers [N]; any integer type, batches are int32.
        batch_size: B.
        bptt: T, the number of steps through which gradients flow.
        shuffle_offset: whether epochs begin at different offsets.
        seed: any integer; used by `shuffle_offset` alone.
        name: what the text is called in an error.

    Raises:
        DataError: a size below 1; N < B T + 1 (which sizes would fit).
    """

    ids: np.ndarray
    batch_size: int
    bptt: int
    shuffle_offset: bool = False
    seed: int = 0
    name: str = "corpus"

    def __post_init__(self):
        _check_sizes(batch_size=self.batch_size, bptt=self.bptt)
        pairs = _pairs(self.ids, self.name)
        if pairs < self.batch_size * self.bptt:
            fits = []
            if pairs >= self.bptt:
                fits.append(f"batch_size={pairs // self.bptt}")
            if pairs >= self.batch_size:
                fits.append(f"bptt={pairs // self.batch_size}")
            raise DataError(
                f"{self.name}: expected at least {self.batch_size * self.bptt + 1} symbols for one batch "
                f"(batch_size={self.batch_size}, bptt={self.bptt}), found {pairs + 1}; "
                f"{' or '.join(fits) or f'batch_size=1 with bptt={pairs}'} would fit"
            )

    @property
    def steps_per_epoch(self) -> int:
        """S, the number of batches in an epoch."""
        pairs = len(self.ids) - 1
        room = self.bptt - 1 if self.shuffle_offset else 0
        return max(1, (pairs - room) // (self.batch_size * self.bptt))

    def offset(self, epoch: int) -> int:
        """o, the symbol at which an epoch begins."""
        if not self.shuffle_offset:
            return 0
        spare = len(self.ids) - 1 - self.steps_per_epoch * self.batch_size * self.bptt
        return _draw(self.seed, epoch, spare)

    def at(self, step: int) -> StreamBatch:
        """Batch number `step`, counted from the start of the training, not of the epoch."""
        inputs, targets, _, first = self.block(step, 1)
        return StreamBatch(inputs[0], targets[0], None, bool(np.ravel(first)[0]))

    def block(self, step: int, count: int) -> StreamBatch:
        """The batches `step` to `step + count - 1`, stacked: inputs and targets [K, T, B], first [K]."""
        _check_block(step, count)
        per_epoch = self.steps_per_epoch
        shape = (count, self.bptt, self.batch_size)
        inputs, targets = np.empty(shape, np.int32), np.empty(shape, np.int32)
        done = 0
        while done < count:
            epoch, start = divmod(step + done, per_epoch)
            taken = min(count - done, per_epoch - start)
            for output, shift in ((inputs, 0), (targets, 1)):
                begin = self.offset(epoch) + shift
                used = self.ids[begin : begin + self.batch_size * per_epoch * self.bptt]
                windows = used.reshape(self.batch_size, per_epoch, self.bptt)[:, start : start + taken]
                output[done : done + taken] = windows.transpose(1, 2, 0)
            done += taken
        return StreamBatch(inputs, targets, None, np.arange(step, step + count) % per_epoch == 0)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationBatches:
    """Batches that show every target of a text exactly once; padding is masked and all have one shape.

    Of the N - 1 pairs of a symbol and its successor, numbered 0 to N - 2, the batch s of T = `window` steps shows, in
    column b at time t, pair number starts[b] + s * advance + t, if that is below ends[b], else padding.

    Attributes:
        ids: integers [N].
        window: T.
        starts: [B], the pair each column begins with.
        ends: [B], where each column ends.
        advance: how many pairs a column moves on from one batch to the next.
        steps: the number of batches.
        carried: whether a batch continues the one before; otherwise each starts afresh.
    """

    ids: np.ndarray
    window: int
    starts: np.ndarray
    ends: np.ndarray
    advance: int
    steps: int
    carried: bool

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[StreamBatch]:
        return map(self.at, range(self.steps))

    def at(self, step: int) -> StreamBatch:
        """Batch number `step`, from 0 to `steps` - 1."""
        inputs, targets, mask, first = self.block(step, 1)
        assert mask is not None
        return StreamBatch(inputs[0], targets[0], mask[0], bool(np.ravel(first)[0]))

    def block(self, step: int, count: int) -> StreamBatch:
        """The batches `step` to `step + count - 1`, stacked; beyond the last there is only padding."""
        _check_block(step, count)
        numbers = np.arange(step, step + count)
        pair = self.starts + self.advance * numbers[:, None, None] + np.arange(self.window)[:, None]
        mask = pair < self.ends
        pair = np.where(mask, pair, 0)
        inputs, targets = (self.ids[pair + shift].astype(np.int32) for shift in (0, 1))
        return StreamBatch(inputs, targets, mask, (numbers == 0) | np.bool_(not self.carried))


def evaluation_streams(ids: np.ndarray, batch_size: int, window: int, name: str = "valid") -> EvaluationBatches:
    """A text as B parallel streams, the carry kept from start to end: every target once, none twice.

    The streams' lengths differ by one at most. Each but the first begins in the middle of the text with a fresh carry,
    so few streams measure best; `batch_size=1` reads the text as one.

    Args:
        ids: integers [N], N >= 2.
        batch_size: B.
        window: T, the steps in a batch; it changes the number of batches and nothing else.
        name: what the text is called in an error.

    Raises:
        DataError: a size below 1; fewer than 2 symbols.
    """
    _check_sizes(batch_size=batch_size, window=window)
    bounds = np.arange(batch_size + 1) * _pairs(ids, name) // batch_size
    longest = int(np.diff(bounds).max())
    return EvaluationBatches(ids, window, bounds[:-1], bounds[1:], window, -(-longest // window), carried=True)


def windows(ids: np.ndarray, window: int = 256, batch_size: int = 32, name: str = "valid") -> EvaluationBatches:
    """A text as windows of T targets, each read with a fresh carry, B at a time: every target once, none twice.

    The last window may be shorter than the others, and windows of padding fill up the last batch.

    Args:
        ids: integers [N], N >= 2.
        window: T, the targets in a window.
        batch_size: B; it changes the number of batches and nothing else.
        name: what the text is called in an error.

    Raises:
        DataError: a size below 1; fewer than 2 symbols.
    """
    _check_sizes(batch_size=batch_size, window=window)
    pairs = _pairs(ids, name)
    starts, ends = np.arange(batch_size) * window, np.full(batch_size, pairs)
    advance = batch_size * window
    return EvaluationBatches(ids, window, starts, ends, advance, -(-pairs // advance), carried=False)


@lru_cache(maxsize=8)
def _draw(seed: int, epoch: int, spare: int) -> int:
    # Seeds may be negative elsewhere; here they are bits.
    return int(np.random.default_rng([seed % 2**64, epoch]).integers(spare + 1))


def _pairs(ids: np.ndarray, name: str) -> int:
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"{name}: expected integers of shape [N], found {ids.dtype} {list(ids.shape)}")
    if len(ids) < 2:
        raise DataError(f"{name}: expected at least 2 symbols, an input and a target, found {len(ids)}")
    return len(ids) - 1


def _check_sizes(**sizes: int) -> None:
    for argument, size in sizes.items():
        if size < 1:
            raise DataError(f"{argument}: expected at least 1, found {size}")


def _check_block(step: int, count: int) -> None:
    if step < 0:
        raise DataError(f"step: expected at least 0, found {step}")
    _check_sizes(count=count)
