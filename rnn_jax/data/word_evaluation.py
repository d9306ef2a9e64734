"""Evaluation of word vectors: cosines against people's judgement of similarity, and analogies."""

import os
from typing import NamedTuple

import numpy as np

from rnn_jax.data.corpora import read_text
from rnn_jax.data.errors import DataError
from rnn_jax.data.keyed_vectors import KeyedVectors, analogy_scores

# Questions are answered so many at a time: a matrix of their scores against all words has to fit.
_QUESTIONS = 256


class Similarity(NamedTuple):
    """How well cosines agree with people's judgement.

    Attributes:
        spearman: rank correlation over the covered pairs.
        covered: pairs both of whose words have a vector.
        total: pairs in the file.
    """

    spearman: float
    covered: int
    total: int


def evaluate_similarity(vectors: KeyedVectors, path: str | os.PathLike[str]) -> Similarity:
    """Spearman's ρ of cosines with the scores of a file of lines `word word score`.

    Words are lowered where the word as written has no vector; lines that start with # and empty ones are left out.

    Raises:
        DataError: the file cannot be read, a line is malformed (its number), or fewer than two pairs are covered.
    """
    expected, found, total = [], [], 0
    for number, line in _lines(path, "similarity"):
        if line.startswith("#"):
            continue
        parts = line.split()
        try:
            first, second, score = parts[0], parts[1], float(parts[2])
            if len(parts) != 3 or not np.isfinite(score):
                raise ValueError
        except (IndexError, ValueError):
            raise DataError(f"similarity: expected 'word word score' in line {number}, found {line!r}") from None
        total += 1
        rows = [_row_of(vectors, word) for word in (first, second)]
        if None not in rows:
            expected.append(score)
            found.append(float(vectors.unit_vectors[rows[0]] @ vectors.unit_vectors[rows[1]]))
    if len(expected) < 2:
        raise DataError(f"similarity: expected at least 2 pairs of known words, found {len(expected)} of {total}")
    return Similarity(spearman(np.array(expected), np.array(found)), len(expected), total)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of the ranks, ties at their mean rank; nan where one side is constant."""
    ranks = [_mean_ranks(values) for values in (first, second)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else float("nan")


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


class Section(NamedTuple):
    """The answers to one section of questions."""

    name: str
    correct: int
    total: int


def evaluate_analogies(
    vectors: KeyedVectors, path: str | os.PathLike[str], limit: int = 30_000, method: str = "add"
) -> list[Section]:
    """How many of the questions of a file in Mikolov's format (`: section`, then lines `a b c d`) are answered.

    Both questions and answers are restricted to the `limit` most frequent words, so that figures of different
    vocabularies compare; a question with another word is left out. Words are lowered as in `evaluate_similarity`.

    Raises:
        DataError: the file cannot be read, or a line is malformed (its number).
    """
    names, rows = [""], []
    for number, line in _lines(path, "analogies"):
        if line.startswith(":"):
            names.append(line[1:].strip())
            continue
        words = line.split()
        if len(words) != 4:
            raise DataError(f"analogies: expected four words in line {number}, found {line!r}")
        found = [row if row is not None and row < limit else None for row in (_row_of(vectors, w) for w in words)]
        if None not in found:
            rows.append([len(names) - 1, *found])
    questions = np.array(rows, np.int64).reshape(-1, 5)
    units = vectors.unit_vectors[:limit]
    correct = np.zeros(len(questions), bool)
    for start in range(0, len(questions), _QUESTIONS):
        part = questions[start : start + _QUESTIONS]
        answers = analogy_scores(units, part[:, 1:4], method).argmax(1)
        correct[start : start + _QUESTIONS] = answers == part[:, 4]
    return [
        Section(name, int(correct[questions[:, 0] == number].sum()), int((questions[:, 0] == number).sum()))
        for number, name in enumerate(names)
        if (questions[:, 0] == number).any()
    ]


def _row_of(vectors: KeyedVectors, word: str) -> int | None:
    return vectors.index.get(word, vectors.index.get(word.lower()))


def _lines(path: str | os.PathLike[str], argument: str) -> list[tuple[int, str]]:
    lines = read_text(path, argument).split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
