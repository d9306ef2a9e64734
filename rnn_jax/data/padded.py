"""Examples of different lengths as batches: those of like length together, padded at the end, the padding masked."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from rnn_jax.data.errors import DataError

Batch = dict[str, np.ndarray]


def pad(sequences: Sequence[np.ndarray], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lay sequences side by side, zeros after the end of each.

    Args:
        sequences: B arrays [T_b, ...] of one dtype.
        length: T; None for the longest.

    Returns:
        (values [T, B, ...], mask [T, B]), the mask False where there is padding.

    Raises:
        DataError: no sequences; one longer than `length`.
    """
    if not sequences:
        raise DataError("sequences: expected at least one, found none")
    longest = max(map(len, sequences))
    length = longest if length is None else length
    if longest > length:
        raise DataError(f"length: expected at least {longest}, the longest sequence, found {length}")
    values = np.zeros((length, len(sequences), *sequences[0].shape[1:]), sequences[0].dtype)
    for column, sequence in enumerate(sequences):
        values[: len(sequence), column] = sequence
    return values, np.arange(length)[:, None] < np.array([len(sequence) for sequence in sequences])


@dataclasses.dataclass(frozen=True, eq=False)
class PaddedBatches:
    """Batches of B examples, each with sequences of its own length and with values of fixed shape.

    Examples are sorted by length into buckets of about equal numbers; a batch holds examples of one bucket and is
    padded to the longest of it, so there are no more shapes than buckets. With `shuffle` each epoch deals the examples
    of a bucket anew into batches and mixes the order of the batches. A batch is a dict:

        name        [T, B, ...] for every field of `sequences`, zeros behind the end of each
        name_mask   [T, B] bool, False = padding
        name        [B, ...] for every field of `values`
        index       [B] int32, the number of the example; -1: this column is padding throughout

    Only the last batch of a bucket has columns of padding: every example occurs once in an epoch. A batch depends on
    nothing but its step, so a run that resumes needs no other state.

    Attributes:
        sequences: name -> N arrays [T_n, ...]; the fields may differ in length.
        values: name -> array [N, ...].
        batch_size: B.
        buckets: the most shapes there may be; each costs a compilation.
        shuffle: whether to shuffle; else examples come in the order of their length.
        seed: any integer; used by `shuffle` alone.

    Raises:
        DataError: no examples, fields of different numbers of examples, a size below 1, lists in the place of arrays.
    """

    sequences: Mapping[str, Sequence[np.ndarray]]
    values: Mapping[str, np.ndarray]
    batch_size: int
    buckets: int = 4
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self):
        if self.batch_size < 1 or self.buckets < 1:
            name = "batch_size" if self.batch_size < 1 else "buckets"
            raise DataError(f"{name}: expected at least 1, found {getattr(self, name)}")
        sizes = {name: len(field) for name, field in (*self.sequences.items(), *self.values.items())}
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise DataError(f"examples: expected fields of one number of examples, at least 1, found {sizes}")
        for name, array in (*((name, field[0]) for name, field in self.sequences.items()), *self.values.items()):
            if not hasattr(array, "shape"):
                raise DataError(f"{name}: expected arrays, found a {type(array).__name__}")

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(next(iter((*self.sequences.values(), *self.values.values()))))

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return sum(-(-len(members) // self.batch_size) for members, _ in self._buckets)

    @property
    def batch_axes(self) -> dict[str, int]:
        """The batch axis of every field of a batch, as `rnn_jax.training.sharding.BatchSharding` wants it."""
        axes = {axis: 1 for name in self.sequences for axis in (name, f"{name}_mask")}
        return axes | dict.fromkeys((*self.values, "index"), 0)

    def block(self, step: int, count: int) -> Batch:
        """The batches `step` to `step + count - 1`, stacked along a leading axis; padded to the longest among them."""
        plans = [self._plan(*divmod(number, self.steps_per_epoch)) for number in range(step, step + count)]
        lengths = {name: max(lengths[name] for _, lengths in plans) for name in self.sequences}
        batches = [self._batch(members, lengths) for members, _ in plans]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    def at(self, step: int) -> Batch:
        """Batch number `step`, counted from the start of the training."""
        return self._batch(*self._plan(*divmod(step, self.steps_per_epoch)))

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch: every example once."""
        return map(self.at, range(self.steps_per_epoch))

    @cached_property
    def _buckets(self) -> list[tuple[np.ndarray, dict[str, int]]]:
        """The numbers of the examples of each bucket, and the length of each of its fields."""
        lengths = {name: np.array([len(one) for one in field], int) for name, field in self.sequences.items()}
        order = np.argsort(np.sum([*lengths.values()], axis=0), kind="stable") if lengths else np.arange(len(self))
        # Whole batches to every bucket but the last, or the columns of padding would be many.
        batches = -(-len(order) // self.batch_size)
        bounds = np.arange(1, self.buckets) * batches // self.buckets * self.batch_size
        parts = [part for part in np.split(order, bounds) if len(part)]
        return [(part, {name: max(1, int(found[part].max())) for name, found in lengths.items()}) for part in parts]

    def _plan(self, epoch: int, step: int) -> tuple[np.ndarray, dict[str, int]]:
        return self._epoch(epoch if self.shuffle else 0)[step]

    @cached_property
    def _epoch(self) -> Any:
        @lru_cache(maxsize=2)
        def plan(epoch: int) -> list[tuple[np.ndarray, dict[str, int]]]:
            random = np.random.default_rng([self.seed % 2**64, epoch])
            batches = []
            for members, lengths in self._buckets:
                dealt = random.permutation(members) if self.shuffle else members
                batches += [
                    (part, lengths) for part in np.split(dealt, range(self.batch_size, len(dealt), self.batch_size))
                ]
            return [batches[number] for number in random.permutation(len(batches))] if self.shuffle else batches

        return plan

    def _batch(self, members: np.ndarray, lengths: Mapping[str, int]) -> Batch:
        missing = self.batch_size - len(members)
        batch: Batch = {}
        for name, field in self.sequences.items():
            shown = [field[number] for number in members]
            batch[name], batch[f"{name}_mask"] = pad(shown + [field[0][:0]] * missing, lengths[name])
        for name, field in self.values.items():
            batch[name] = np.concatenate([field[members], np.zeros((missing, *field.shape[1:]), field.dtype)])
        batch["index"] = np.concatenate([members, np.full(missing, -1)]).astype(np.int32)
        return batch


def split_by_key(key: str) -> int:
    """0, 1 or 2: for training (nine in ten), for validation or for testing, told from the key alone."""
    if not is_held_out(key, 0.1):
        return 0
    return 1 if is_held_out(key, 0.05) else 2


def is_held_out(key: str, fraction: float = 0.1) -> bool:
    """Whether an example belongs to the held-out part: told from its text alone, so that no order or seed moves it.

    Args:
        key: the example as text; equal texts fall on the same side.
        fraction: the share that is held out.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def spare_rare(chosen: Sequence[bool], labels: Sequence[Iterable[str]]) -> list[bool]:
    """Which of the chosen examples can be held out: not one with a label that none of the others has.

    Args:
        chosen: [N].
        labels: the labels of each of the N examples.
    """
    known = {label for of_one, out in zip(labels, chosen, strict=True) if not out for label in of_one}
    return [out and known.issuperset(of_one) for of_one, out in zip(labels, chosen, strict=True)]
