"""Texts as arrays of numbers, one sequence a text."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rnn_jax.data.splitting import split_words, word_pieces
from rnn_jax.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """Turns texts into what a `rnn_jax.models.Classifier` reads.

    Attributes:
        vocabulary: of words as `split_words` cuts them, or of characters; it needs a symbol for the unknown.
        max_length: symbols of a longer text are left out in its middle.
        pieces: rows of the table of `word_pieces`; 0: words have none.
    """

    vocabulary: Vocabulary
    max_length: int = 512
    pieces: int = 0

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
    ) -> "TextEncoder":
        """The encoder of the training texts.

        Args:
            texts: the training texts.
            level: "word" or "char".
            min_count: a rarer symbol is the unknown one.
            max_size: the most symbols there may be.
            max_length: see `TextEncoder`.
            pieces: see `TextEncoder`.
        """
        joined = " ".join(" ".join(_symbols(text, level)) if level == "word" else _one_line(text) for text in texts)
        # With a limit, however wide, characters get a symbol for the unknown too.
        size = len(joined) + 2 if max_size is None else max_size
        return cls(Vocabulary.from_text(joined, level, size, min_count), max_length, pieces)

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
            tokens, N arrays int32 [T_n]; with pieces also pieces, N arrays int32 [T_n, G].
        """
        index, unknown = self.vocabulary.index, self.vocabulary.index[str(self.vocabulary.unknown)]
        rows: dict[str, int] = {}
        tokens, words = [], []
        for text in texts:
            symbols = self.symbols(text)
            tokens.append(np.array([index.get(symbol, unknown) for symbol in symbols], np.int32))
            if self.pieces:
                words.append(np.array([rows.setdefault(symbol, len(rows)) for symbol in symbols], np.int32))
        if not self.pieces:
            return {"tokens": tokens}
        table = [word_pieces(word, self.pieces) for word in rows]
        return {"tokens": tokens, "pieces": _Looked(np.stack(table), words) if table else []}


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
