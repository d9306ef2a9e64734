"""Subwords: byte-pair encoding learned from a text."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rnn_jax.data.errors import DataError
from rnn_jax.data.vocabulary import END_OF_LINE, UNKNOWN_WORD

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BPE = "bpe"

# What a blank becomes, so that it can be part of a subword.
_BLANK = "\u2581"


@dataclasses.dataclass(frozen=True)
class Subwords:
    """A vocabulary of subwords, with the interface of `Vocabulary`.

    A text is cut at blanks, which stay with the word behind them, and at punctuation; inside, the learned merges are
    applied in their order (Sennrich, Haddow & Birch 2016, arXiv 1508.07909). Every newline is the symbol `<eos>`.
    `decode(encode(text)) == text` up to blanks at the ends of lines and characters that were never seen, which are
    `<unk>`.

    Attributes:
        symbols: V symbols.
        merges: pairs of symbols, in the order in which they are joined.
    """

    symbols: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    def __post_init__(self):
        if len(set(self.symbols)) != len(self.symbols):
            twice = next(symbol for symbol, count in Counter(self.symbols).items() if count > 1)
            raise DataError(f"symbols: expected each once, found {twice!r} twice")
        for symbol in (UNKNOWN_WORD, END_OF_LINE, *(left + right for left, right in self.merges)):
            if symbol not in self.index:
                raise DataError(f"symbols: expected {symbol!r} among them, found it missing")

    @classmethod
    def learn(cls, lines: Sequence[str], size: int) -> "Subwords":
        """Learn merges until there are `size` symbols, or nothing left to merge.

        Args:
            lines: the training text.
            size: V, at least 3; every character of the text is a symbol, however many there are.

        Raises:
            DataError: no text, or a size below 3.
        """
        from tokenizers import Tokenizer, models, trainers

        if size < 3:
            raise DataError(f"vocab_size: expected at least 3 subwords, found {size}")
        if not any(lines):
            raise DataError("text: expected at least one word, found none")
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN_WORD))
        tokenizer.pre_tokenizer = _cut()  # pyright: ignore[reportAttributeAccessIssue]
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[UNKNOWN_WORD, END_OF_LINE], show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        model = json.loads(tokenizer.to_str())["model"]
        symbols = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(tuple(symbols), tuple((left, right) for left, right in model["merges"]))

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def level(self) -> str:
        """As for `Vocabulary`: always "bpe"."""
        return BPE

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each symbol."""
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def encode(self, text: str, argument: str = "text") -> np.ndarray:
        """The ids, int32 [N], of the subwords of `text`; `argument` is there for the interface alone."""
        lines = self._tokenizer.encode_batch(text.split("\n"), add_special_tokens=False)
        end = self.index[END_OF_LINE]
        ids: list[int] = []
        for line in lines:
            ids += [*line.ids, end]
        # No newline, no end mark, behind the last line.
        return np.array(ids[:-1], np.int32)

    def decode(self, ids: Any) -> str:
        """The text of ids (array or sequence of integers).

        Raises:
            DataError: an id outside [0, V).
        """
        numbers = np.asarray(ids).ravel().tolist()
        for number in numbers:
            if not 0 <= number < len(self.symbols):
                raise DataError(f"ids: expected numbers from 0 to {len(self.symbols) - 1}, found {number}")
        joined = "".join("\n" if self.symbols[n] == END_OF_LINE else self.symbols[n] for n in numbers)
        return "\n".join(line.replace(_BLANK, " ").strip() for line in joined.split("\n"))

    def to_json(self) -> str:
        """The vocabulary as JSON text."""
        return json.dumps({"level": BPE, "symbols": self.symbols, "merges": self.merges})

    @classmethod
    def from_json(cls, text: str) -> "Subwords":
        """The vocabulary that `to_json` wrote.

        Raises:
            DataError: not JSON, or not a vocabulary of subwords.
        """
        try:
            fields = json.loads(text)
            return cls(tuple(map(str, fields["symbols"])), tuple((str(a), str(b)) for a, b in fields["merges"]))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"vocabulary: expected JSON with symbols and merges, found {text[:40]!r} ({error})"
            ) from None

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer, models

        tokenizer = Tokenizer(models.BPE(dict(self.index), list(self.merges), unk_token=UNKNOWN_WORD))
        tokenizer.pre_tokenizer = _cut()  # pyright: ignore[reportAttributeAccessIssue]
        return tokenizer


def _cut() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(replacement=_BLANK, prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
