"""Words for word vectors: a corpus of documents as numbers, and the distributions that word2vec draws from."""

import codecs
import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from rnn_jax.data.errors import DataError
from rnn_jax.data.opening import open_data
from rnn_jax.data.vocabulary import Vocabulary

# Stands between documents in the ids of a corpus; no window reaches across it.
DOCUMENT_END = -1


class Lexicon(NamedTuple):
    """The words that get a vector, the most frequent first.

    Attributes:
        vocabulary: V words.
        counts: [V] int64, how often each occurs in the corpus.
        corpus_words: the number of all words of the corpus, the rare ones too.
    """

    vocabulary: Vocabulary
    counts: np.ndarray
    corpus_words: int


def read_documents(path: str | os.PathLike[str], argument: str = "corpus") -> Iterator[list[str]]:
    """The words of each line of a UTF-8 file, plain or .gz: one document a line, words between white space.

    The file is read line by line, so that a large one takes no more memory than its longest line. Empty lines are left
    out.

    Args:
        path: the file; a leading ~ is the home folder.
        argument: what the path was given as, to name it in an error.

    Raises:
        DataError: the file is missing, a folder, unreadable, a broken .gz, or not UTF-8.
    """
    name = os.path.expanduser(os.fspath(path))
    number = 0
    with open_data(path, argument) as file:
        for line in file:
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                words = line.decode("utf-8").split()
            except UnicodeDecodeError:
                raise DataError(f"{argument}: expected UTF-8, found other bytes in line {number} of {name!r}") from None
            if words:
                yield words


def count_words(documents: Iterable[list[str]]) -> Counter[str]:
    """How often each word occurs."""
    counts: Counter[str] = Counter()
    for words in documents:
        counts.update(words)
    return counts


def make_lexicon(counts: Counter[str], min_count: int = 5) -> Lexicon:
    """The words that occur at least `min_count` times; equal counts in alphabetical order.

    Raises:
        DataError: there are no words, or none is that frequent.
    """
    if not counts:
        raise DataError("corpus: expected words, found none")
    kept = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    if not kept:
        word, largest = max(counts.items(), key=lambda item: (item[1], item[0]))
        raise DataError(
            f"min_count: expected a word that occurs at least {min_count} times, found none; "
            f"the largest count is {largest} ({word!r})"
        )
    vocabulary = Vocabulary(tuple(word for _, word in kept), "word")
    return Lexicon(vocabulary, np.array([-count for count, _ in kept], np.int64), sum(counts.values()))


def encode_documents(documents: Iterable[list[str]], vocabulary: Vocabulary) -> np.ndarray:
    """The corpus as one array [N] int32: the ids of the known words, DOCUMENT_END after each document."""
    numbers = {word: number for number, word in enumerate(vocabulary.symbols)}
    pieces = []
    for words in documents:
        ids = [number for number in map(numbers.get, words) if number is not None]
        if ids:
            pieces.append(np.array([*ids, DOCUMENT_END], np.int32))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)


def keep_probabilities(counts: np.ndarray, threshold: float) -> np.ndarray:
    """With which probability an occurrence of each word stays in the corpus: float32 [V].

    min(1, √(t / f) + t / f), f the share of the word among all, t the threshold; 0 keeps all. It is the formula of
    word2vec's code; the paper (Mikolov et al. 2013, arXiv 1310.4546) has √(t / f) alone.
    """
    if threshold <= 0:
        return np.ones(len(counts), np.float32)
    ratio = threshold * counts.sum() / counts
    return np.minimum(1.0, np.sqrt(ratio) + ratio).astype(np.float32)


def noise_distribution(counts: np.ndarray, power: float = 0.75) -> np.ndarray:
    """The distribution of negative words, ∝ count^power: float64 [V]."""
    weights = counts.astype(np.float64) ** power
    return weights / weights.sum()


def cumulative_bits(distribution: np.ndarray) -> np.ndarray:
    """[V] uint32, such that searchsorted(table, 32 random bits, side="right") has the distribution to within 2⁻³²."""
    table = np.round(np.cumsum(distribution) * 2.0**32)
    # The last bound is 2³² itself, which has no place; only the one draw of all ones would miss.
    table[-1] = 2.0**32 - 1
    return np.minimum(table, 2.0**32 - 1).astype(np.uint32)


def find_phrases(
    documents: Iterable[list[str]], counts: Counter[str], min_count: int = 5, threshold: float = 100.0
) -> frozenset[tuple[str, str]]:
    """The pairs of neighbouring words that are one notion, such as ("new", "york").

        score(a, b) = (count(a b) - min_count) · N / (count(a) · count(b)) > threshold

    N is the number of words of the corpus. (Mikolov et al. 2013, arXiv 1310.4546, with the scale of their code.)
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for words in documents:
        pairs.update(itertools.pairwise(words))
    total = sum(counts.values())
    return frozenset(
        (first, second)
        for (first, second), count in pairs.items()
        if count > min_count and (count - min_count) * total > threshold * counts[first] * counts[second]
    )


def join_phrases(documents: Iterable[list[str]], phrases: frozenset[tuple[str, str]]) -> Iterator[list[str]]:
    """The documents with each phrase, taken from the left, as one word: new_york."""
    for words in documents:
        joined, position = [], 0
        while position < len(words):
            if tuple(words[position : position + 2]) in phrases:
                joined.append("_".join(words[position : position + 2]))
                position += 2
            else:
                joined.append(words[position])
                position += 1
        yield joined


def check_writable(path: str | os.PathLike[str], argument: str = "export") -> None:
    """Raise DataError unless a file can be written at `path`; a file already there keeps its contents."""
    name = os.path.expanduser(os.fspath(path))
    existed = os.path.exists(name)
    try:
        with open(name, "ab"):
            pass
    except OSError as error:
        raise DataError(f"{argument}: cannot write {name!r}: {error.strerror}") from None
    if not existed:
        with contextlib.suppress(OSError):
            os.unlink(name)
