"""Texts as arrays of numbers, one sequence a text."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rnn_jax.data.splitting import split_words, word_pairs, word_pieces
from rnn_jax.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """Turns texts into what a `rnn_jax.models.Classifier` reads.

    Attributes:
        vocabulary: of words as `split_words` cuts them, or of characters; it needs a symbol for the unknown.
        max_length: symbols of a longer text are left out in its middle.
        pieces: rows of the table of `word_pieces`; 0: words have none.
        pairs: whether symbols of the vocabulary are pairs of neighbouring words, see `word_pairs`.
    """

    vocabulary: Vocabulary
    max_length: int = 512
    pieces: int = 0
    pairs: bool = False

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        level: str = "word",
        *,
        min_count: int = 1,
        max_size: int | None = None,
        max_length: int = 512,
        pieces: int = 0,
        pairs: int = 0,
    ) -> "TextEncoder":
        """The encoder of the training texts.

        Args:
            texts: the training texts.
            level: "word" or "char".
            min_count: a rarer symbol is the unknown one.
            max_size: the most symbols there may be.
            max_length: see `TextEncoder`.
            pieces: see `TextEncoder`.
            pairs: so many pairs of neighbouring words at most become symbols too, those in the most texts, each in two
                at least.
        """
        joined = " ".join(" ".join(_symbols(text, level)) if level == "word" else _one_line(text) for text in texts)
        # With a limit, however wide, characters get a symbol for the unknown too.
        size = len(joined) + 2 if max_size is None else max_size
        encoder = cls(Vocabulary.from_text(joined, level, size, min_count), max_length, pieces)
        return encoder._with_pairs(texts, pairs) if pairs else encoder

    def _with_pairs(self, texts: Sequence[str], number: int) -> "TextEncoder":
        counts = Counter(pair for text in texts for pair in set(word_pairs(self.symbols(text))))
        ranked = sorted((pair for pair, count in counts.items() if count > 1), key=lambda pair: (-counts[pair], pair))
        found = [pair for pair in ranked if pair not in self.vocabulary.index][:number]
        symbols = (*self.vocabulary.symbols, *found)
        return dataclasses.replace(self, vocabulary=dataclasses.replace(self.vocabulary, symbols=symbols), pairs=True)

    def symbols(self, text: str) -> list[str]:
        """The words or characters that the numbers stand for; one unknown symbol for a text without any."""
        found = _symbols(text, self.vocabulary.level) or [str(self.vocabulary.unknown)]
        if len(found) > self.max_length:
            # Both the opening and the verdict of a long text are kept. (Sun et al. 2019, arXiv 1905.05583.)
            head = (self.max_length + 1) // 2
            found = found[:head] + found[len(found) - (self.max_length - head) :]
        return found

    def encode(self, texts: Sequence[str]) -> dict[str, Sequence[np.ndarray]]:
        """The sequences of N texts, fields of `rnn_jax.data.PaddedBatches`.

        Returns:
            tokens, N arrays int32 [T_n]; with pieces also pieces, N arrays int32 [T_n, G]; with pairs also pairs, N
            arrays int32 [T_n]: that of each word and the one before, the unknown symbol where it is none.
        """
        index, unknown = self.vocabulary.index, self.vocabulary.index[str(self.vocabulary.unknown)]
        rows: dict[str, int] = {}
        tokens, pairs, words = [], [], []
        for text in texts:
            symbols = self.symbols(text)
            tokens.append(np.array([index.get(symbol, unknown) for symbol in symbols], np.int32))
            if self.pairs:
                known = [index.get(pair, unknown) for pair in word_pairs(symbols)]
                pairs.append(np.array([unknown, *known], np.int32))
            if self.pieces:
                words.append(np.array([rows.setdefault(symbol, len(rows)) for symbol in symbols], np.int32))
        fields: dict[str, Sequence[np.ndarray]] = {"tokens": tokens}
        if self.pairs:
            fields["pairs"] = pairs
        if self.pieces:
            fields["pieces"] = _Looked(np.stack([word_pieces(word, self.pieces) for word in rows]), words)
        return fields


class _Looked(Sequence):
    """Rows of one table, looked up when asked for: those of all texts at once would be twenty times the text."""

    def __init__(self, table: np.ndarray, rows: Sequence[np.ndarray]):
        self._table, self._rows = table, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: Any) -> Any:
        return self._table[self._rows[number]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._table[rows] for rows in self._rows)


def _symbols(text: str, level: str) -> list[str]:
    return split_words(text) if level == "word" else list(_one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
