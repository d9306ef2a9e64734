"""Pairs of sentences: read from parallel files or from one file of two columns, split, cut to length."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rnn_jax.data.corpora import read_text
from rnn_jax.data.errors import DataError
from rnn_jax.data.padded import is_held_out

LONG = ("drop", "cut")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and their counterparts.

    Attributes:
        source: N sentences, each one line without its end.
        target: N sentences.
        skipped: how many pairs were left out because a side of them was empty.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.source)

    @property
    def sha256(self) -> str:
        """The digest of the pairs as lines `source<TAB>target`."""
        digest = hashlib.sha256()
        for source, target in zip(self.source, self.target, strict=True):
            digest.update(f"{source}\t{target}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def map(self, change: Callable[[str], str]) -> "Pairs":
        """The pairs with both sides of each changed."""
        return dataclasses.replace(self, source=tuple(map(change, self.source)), target=tuple(map(change, self.target)))

    def swapped(self) -> "Pairs":
        """The pairs the other way round."""
        return dataclasses.replace(self, source=self.target, target=self.source)


def make_pairs(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """Pairs, without those of which a side is empty, which are counted; blanks at both ends of a side are taken off."""
    stripped = [(source.strip(), target.strip()) for source, target in pairs]
    kept = [pair for pair in stripped if all(pair)]
    source, target = zip(*kept, strict=True) if kept else ((), ())
    return Pairs(source, target, len(stripped) - len(kept))


def read_parallel(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    arguments: tuple[str, str] = ("train_source", "train_target"),
) -> Pairs:
    """Two files whose lines belong together, plain or .gz.

    Args:
        source, target: the files, UTF-8, one sentence a line.
        arguments: what they were given as, to name them in an error.

    Raises:
        DataError: a file that cannot be read (see `read_text`); files of different numbers of lines (how many each);
            nothing but empty lines.
    """
    first, second = (_lines(path, argument) for path, argument in zip((source, target), arguments, strict=True))
    if len(first) != len(second):
        raise DataError(
            f"{', '.join(arguments)}: expected files of equally many lines, found {len(first):,} in "
            f"{os.fspath(source)!r} and {len(second):,} in {os.fspath(target)!r}"
        )
    return _some(make_pairs(zip(first, second, strict=True)), arguments[0], source)


def read_tsv(path: str | os.PathLike[str], argument: str = "train") -> Pairs:
    """A file of lines `source<TAB>target`, plain or .gz; further columns are ignored, empty lines skipped and counted.

    Raises:
        DataError: a file that cannot be read; a line of one column (its number); nothing but empty lines.
    """
    pairs = []
    for number, line in enumerate(_lines(path, argument), 1):
        columns = line.split("\t")
        if line.strip() and len(columns) < 2:
            raise DataError(
                f"{argument}: expected source<TAB>target, found one column in line {number:,} of {os.fspath(path)!r}"
            )
        pairs.append((columns[0], columns[1]) if len(columns) > 1 else ("", ""))
    return _some(make_pairs(pairs), argument, path)


def hold_out(
    pairs: Pairs, share: float, *, validation: bool = True, testing: bool = True
) -> tuple[Pairs, Pairs | None, Pairs | None]:
    """Cut pairs into those for training, for validation and for testing, told from the target sentences alone.

    All pairs of one target sentence fall on the same side. A training pair whose source is also that of a held-out
    pair is left out, so that neither side of a held-out pair is seen in training.

    Args:
        pairs: all of them.
        share: the share of validation and of testing, each.
        validation, testing: which of the two are wanted; None stands for the other, whose pairs are trained on.

    Raises:
        DataError: one of the parts is empty.
    """
    first = [is_held_out(target, share) for target in pairs.target]
    second = [is_held_out(target, 2 * share) and not out for target, out in zip(pairs.target, first, strict=True)]
    held = [(one and validation) or (other and testing) for one, other in zip(first, second, strict=True)]
    seen = {source for source, out in zip(pairs.source, held, strict=True) if out}
    kept = [not out and source not in seen for out, source in zip(held, pairs.source, strict=True)]

    def part(name: str, chosen: list[bool]) -> Pairs:
        found = _choose(pairs, chosen)
        if not len(found):
            raise DataError(f"held_out: expected some pairs for {name}, found none of {len(pairs):,} at {share:g}")
        return found

    return (
        part("training", kept),
        part("validation", first) if validation else None,
        part("testing", second) if testing else None,
    )


def limit_length(
    source: Sequence[np.ndarray],
    target: Sequence[np.ndarray],
    max_length: int,
    long: str = "drop",
    *,
    source_reversed: bool = False,
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Sequences of at most `max_length` symbols besides their end mark, which stays the last.

    Args:
        source, target: N sequences of ids each, every one with an end mark.
        max_length: for either side.
        long: "drop" a pair with a side too long, or "cut" that side: the beginning of the sentence is kept.
        source_reversed: whether sources stand in reversed order before their end mark.

    Returns:
        (source, target, how many pairs were too long).

    Raises:
        DataError: nothing is left; an unknown `long`.
    """
    if long not in LONG:
        raise DataError(f"long: expected one of {', '.join(LONG)}, found {long!r}")
    pairs = list(zip(source, target, strict=True))
    fits = [max(len(first), len(second)) <= max_length + 1 for first, second in pairs]
    if long == "drop":
        pairs = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    if not pairs:
        raise DataError(f"max_length: expected some pairs of at most {max_length} symbols, found none of {len(fits):,}")

    def cut(ids: np.ndarray, backwards: bool) -> np.ndarray:
        if len(ids) <= max_length + 1:
            return ids
        return ids[-max_length - 1 :] if backwards else np.append(ids[:max_length], ids[-1])

    sources = [cut(first, source_reversed) for first, _ in pairs]
    return sources, [cut(second, False) for _, second in pairs], fits.count(False)


def _lines(path: str | os.PathLike[str], argument: str) -> list[str]:
    # Not splitlines(), which also ends a line at characters that a sentence may hold.
    lines = read_text(path, argument).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _some(pairs: Pairs, argument: str, path: str | os.PathLike[str]) -> Pairs:
    if not len(pairs):
        raise DataError(f"{argument}: expected at least one pair of sentences, found none in {os.fspath(path)!r}")
    return pairs


def _choose(pairs: Pairs, wanted: Sequence[bool]) -> Pairs:
    chosen = [pair for pair, want in zip(zip(pairs.source, pairs.target, strict=True), wanted, strict=True) if want]
    return make_pairs(chosen)
