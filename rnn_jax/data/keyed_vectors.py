"""Keyed vectors: words with a vector each; neighbours, analogies and the word2vec formats."""

import dataclasses
import difflib
import gzip
import io
import itertools
import os
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rnn_jax.data.errors import DataError
from rnn_jax.data.opening import open_data

# A file in another format may hold no line break for long.
_LONGEST_HEAD = 64


class Neighbour(NamedTuple):
    """A word and how well it fits: a cosine, or the score of an analogy."""

    word: str
    score: float


@dataclasses.dataclass(frozen=True, eq=False)
class KeyedVectors:
    """Words and their vectors, the most frequent word first.

    Attributes:
        words: V words; of a word that is there twice, the first counts.
        vectors: [V, dimension] float32.
    """

    words: tuple[str, ...]
    vectors: np.ndarray

    def __post_init__(self):
        if self.vectors.ndim != 2 or len(self.words) != len(self.vectors):
            raise DataError(
                f"vectors: expected one row for each of {len(self.words)} words, found shape {self.vectors.shape}"
            )

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each word."""
        return {word: row for row, word in reversed([*enumerate(self.words)])}

    @cached_property
    def unit_vectors(self) -> np.ndarray:
        """The vectors at length 1; a vector of zeros stays."""
        norms = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return (self.vectors / np.where(norms > 0, norms, 1)).astype(np.float32)

    def row(self, word: str, argument: str = "word") -> int:
        """The row of a word.

        Raises:
            DataError: unknown word; the message suggests close ones.
        """
        if word not in self.index:
            close = difflib.get_close_matches(word, self.words, n=3)
            hint = f"; close ones: {', '.join(close)}" if close else ""
            raise DataError(f"{argument}: expected one of the {len(self.words):,} words, found {word!r}{hint}")
        return self.index[word]

    def nearest(self, word: str, count: int = 10, limit: int | None = None) -> list[Neighbour]:
        """The words of the largest cosine with `word`, without itself, among the `limit` most frequent ones."""
        row = self.row(word)
        scores = self.unit_vectors[:limit] @ self.unit_vectors[row]
        scores[row : row + 1] = -np.inf
        return self._best(scores, min(count, len(scores) - (row < len(scores))))

    def odd_one_out(self, words: list[str]) -> str:
        """The word of the smallest cosine with the mean of them all (each at length 1).

        Raises:
            DataError: fewer than three words; one that has no vector.
        """
        if len(words) < 3:
            raise DataError(f"words: expected at least 3, found {len(words)}")
        units = self.unit_vectors[[self.row(word) for word in words]]
        return words[int(np.argmin(units @ units.mean(0)))]

    def analogy(self, a: str, b: str, c: str, count: int = 10, method: str = "add") -> list[Neighbour]:
        """Words d such that a is to b as c is to d, without a, b and c themselves.

        add: cos(d, b) - cos(d, a) + cos(d, c); multiply: cos⁺(d, b) cos⁺(d, c) / (cos⁺(d, a) + 0.001) with
        cos⁺ = (1 + cos) / 2. (Levy and Goldberg 2014: 3CosAdd and 3CosMul.)
        """
        question = np.array([[self.row(word) for word in (a, b, c)]])
        scores = analogy_scores(self.unit_vectors, question, method)[0]
        return self._best(scores, min(count, len(self.words) - len({a, b, c})))

    def _best(self, scores: np.ndarray, count: int) -> list[Neighbour]:
        rows = np.argsort(-scores, kind="stable")[:count]
        return [Neighbour(self.words[row], float(scores[row])) for row in rows]


def analogy_scores(units: np.ndarray, questions: np.ndarray, method: str) -> np.ndarray:
    """How well each word answers each question, as `KeyedVectors.analogy` has it: [Q, V] from rows a, b, c [Q, 3].

    The words of a question get -inf. `units` are vectors [V, dimension] at length 1.

    Raises:
        DataError: a method that is neither add nor multiply.
    """
    a, b, c = (units[questions[:, column]] for column in range(3))
    if method == "add":
        scores = (b - a + c) @ units.T
    elif method == "multiply":
        near_a, near_b, near_c = ((1 + side @ units.T) / 2 for side in (a, b, c))
        scores = near_b * near_c / (near_a + 1e-3)
    else:
        raise DataError(f"method: expected add or multiply, found {method!r}")
    np.put_along_axis(scores, questions, -np.inf, axis=1)
    return scores


def save_word2vec(vectors: KeyedVectors, path: str | os.PathLike[str]) -> None:
    """Write word2vec's format: binary where the name ends in .bin or .bin.gz, else text; compressed where in .gz.

    A line "V dimension", then each word, a blank, and its numbers: decimal with blanks between, or float32 in little
    endian; a line break after each.

    Raises:
        DataError: the file cannot be written.
    """
    name = os.path.expanduser(os.fspath(path))
    numbers = np.ascontiguousarray(vectors.vectors, "<f4")
    binary = name.removesuffix(".gz").endswith(".bin")
    try:
        with (gzip.open if name.endswith(".gz") else open)(name, "wb") as file:
            file.write(f"{numbers.shape[0]} {numbers.shape[1]}\n".encode())
            for word, row in zip(vectors.words, numbers, strict=True):
                # repr of a float32 is the shortest text that reads back as the same number.
                values = row.tobytes() if binary else " ".join(map(str, row)).encode()
                file.write(word.encode() + b" " + values + b"\n")
    except OSError as error:
        raise DataError(f"export: cannot write {name!r}: {error.strerror}") from None


def load_word2vec(path: str | os.PathLike[str], argument: str = "vectors") -> KeyedVectors:
    """Read word2vec's format: binary where the name ends in .bin or .bin.gz, else text.

    Args:
        path: the file, plain or .gz; a leading ~ is the home folder.
        argument: what the path was given as, to name it in an error.

    Raises:
        DataError: the file cannot be read or is malformed (which word).
    """
    name = os.path.expanduser(os.fspath(path))
    with open_data(path, argument) as file:
        head = file.readline(_LONGEST_HEAD)
        if len(parts := head.split()) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise DataError(f"{argument}: expected 'words dimension' in the first line of {name!r}, found {head!r}")
        number, dimension = map(int, parts)
        read = _read_binary if name.removesuffix(".gz").endswith(".bin") else _read_text
        words, rows = [], []
        for word, row in read(file, number, dimension, f"{argument}: {name!r}"):
            words.append(word)
            rows.append(row)
        # The last word's line break may be left.
        if file.read(2).strip():
            raise DataError(f"{argument}: expected {number} words, found more in {name!r}")
    if len(words) != number:
        raise DataError(f"{argument}: expected {number} words, found {len(words)} in {name!r}")
    vectors = np.stack(rows)
    if not (finite := np.isfinite(vectors).all(1)).all():
        word = words[int(np.argmin(finite))]
        raise DataError(f"{argument}: expected finite numbers, found others for {word!r} in {name!r}")
    return KeyedVectors(tuple(words), vectors)


def _read_text(file: io.BufferedIOBase, number: int, dimension: int, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    for line, row in enumerate(itertools.islice(file, number), start=2):
        # Only ASCII white space separates: a word may hold another blank.
        word, *values = row.split() or [b""]
        if len(values) != dimension:
            raise DataError(f"{argument}: expected a word and {dimension} numbers in line {line}, found {row[:60]!r}")
        try:
            yield _text(word), np.array(list(map(float, values)), np.float32)
        except ValueError:
            raise DataError(f"{argument}: expected numbers after the word in line {line}, found {row[:60]!r}") from None


def _read_binary(
    file: io.BufferedIOBase, number: int, dimension: int, argument: str
) -> Iterator[tuple[str, np.ndarray]]:
    for count in range(1, number + 1):
        word = bytearray()
        while (byte := file.read(1)) not in (b" ", b""):
            word += byte
        if not byte and not word.strip():
            return
        values = file.read(4 * dimension)
        if len(values) < 4 * dimension:
            raise DataError(f"{argument}: expected {4 * dimension} bytes for word {count}, found {len(values)}")
        # Some writers end a word's numbers with a line break, some do not.
        yield _text(bytes(word).lstrip(b"\n")), np.frombuffer(values, "<f4").astype(np.float32)


def _text(word: bytes) -> str:
    # Published files hold words that were cut off within a character.
    return word.decode("utf-8", "replace")
