"""Vocabulary: the symbols of a text and their numbers."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from rnn_jax.data.errors import DataError

LEVELS = ("char", "word")
UNKNOWN_WORD = "<unk>"
UNKNOWN_CHARACTER = "\ufffd"
END_OF_LINE = "<eos>"

# Texts are worked through in pieces, so that a text of 100 MB needs little more memory than its own ids.
_PIECE = 1 << 22
_WHITESPACE = re.compile(r"\s")
_CODE_POINTS = 0x110000


def check_level(level: str) -> None:
    """Raise DataError unless `level` is one of LEVELS."""
    if level not in LEVELS:
        raise DataError(f"level: expected one of {', '.join(LEVELS)}, found {level!r}")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A numbered set of symbols, characters or words: symbol i is `symbols[i]`.

    Words are what whitespace separates, and every newline is the word `<eos>`, as in Mikolov's preparation of the
    Penn Treebank: one end mark a line. A last line without a newline gets none, so a prompt is not ended by force.

    `decode(encode(text)) == text` for characters, unless some were unknown. For words it holds up to whitespace: runs
    of blanks become one, blanks at the ends of lines go, unknown words become `<unk>`, a written `<eos>` becomes a
    newline. `encode(decode(ids))` gives `ids` back at both levels.

    Attributes:
        symbols: V distinct symbols, each one character long at the level "char".
        level: "char" or "word".
        unknown: the symbol (one of `symbols`) that stands for all others; None: others are an error.
    """

    symbols: tuple[str, ...]
    level: str
    unknown: str | None = None

    def __post_init__(self):
        check_level(self.level)
        if not self.symbols:
            raise DataError("symbols: expected at least one, found none")
        if len(set(self.symbols)) != len(self.symbols):
            twice = next(symbol for symbol, count in Counter(self.symbols).items() if count > 1)
            raise DataError(f"symbols: expected each once, found {twice!r} twice")
        for symbol in self.symbols:
            if len(symbol) != 1 if self.level == "char" else symbol.split() != [symbol]:
                raise DataError(f"symbols: expected one {self.level} each, found {symbol!r}")
        if self.unknown is not None and self.unknown not in self.symbols:
            raise DataError(f"unknown: expected one of the {len(self.symbols)} symbols, found {self.unknown!r}")

    @classmethod
    def from_text(cls, text: str, level: str = "char", max_size: int | None = None, min_count: int = 1) -> "Vocabulary":
        """The vocabulary of a text.

        Characters are in the order of their code points. Without limits they are all kept and no other is known; with
        `max_size` or `min_count` the character U+FFFD takes those left out and all others.
        Words are in the order of falling counts, equal counts in alphabetical order. `<unk>` is always there (a text
        that brings its own keeps one) and is counted with the words it takes; `<eos>` is never left out.

        Args:
            text: the training text.
            level: "char" or "word".
            max_size: keep only the most frequent symbols, at most this many, `<unk>` or U+FFFD and `<eos>` included.
            min_count: leave out symbols that occur less often than this.

        Raises:
            DataError: empty text, unknown level, max_size < 2, min_count < 1.
        """
        check_level(level)
        if max_size is not None and max_size < 2:
            raise DataError(f"max_size: expected at least 2, found {max_size}")
        if min_count < 1:
            raise DataError(f"min_count: expected at least 1, found {min_count}")
        counts = _character_counts(text) if level == "char" else _word_counts(text)
        if not counts:
            raise DataError(f"text: expected at least one {level}, found none")

        if level == "word":
            unknown, kept_always = UNKNOWN_WORD, {UNKNOWN_WORD} | ({END_OF_LINE} if END_OF_LINE in counts else set())
        elif max_size is not None or min_count > 1:
            unknown, kept_always = UNKNOWN_CHARACTER, {UNKNOWN_CHARACTER}
        else:
            return cls(tuple(sorted(counts)), level)

        ranked = sorted(counts.keys() - kept_always, key=lambda symbol: (-counts[symbol], symbol))
        room = len(ranked) if max_size is None else max_size - len(kept_always)
        kept = [symbol for symbol in ranked[:room] if counts[symbol] >= min_count]
        counts[unknown] += sum(counts[symbol] for symbol in ranked) - sum(counts[symbol] for symbol in kept)
        kept += kept_always
        order = sorted(kept) if level == "char" else sorted(kept, key=lambda symbol: (-counts[symbol], symbol))
        return cls(tuple(order), level, unknown)

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each symbol."""
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def encode(self, text: str, argument: str = "text") -> np.ndarray:
        """The ids, int32 [N], of the characters or words of `text`.

        Args:
            text: any text.
            argument: what the text is called in an error, such as "prompt".

        Raises:
            DataError: symbols outside the vocabulary, if it has no symbol for the unknown.
        """
        pieces = [self._encode_piece(piece, argument, text) for piece in _pieces(text, self.level)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int32)

    def decode(self, ids) -> str:
        """The text of ids (array or sequence of integers): characters joined, words joined by blanks and newlines.

        Raises:
            DataError: an id outside [0, V).
        """
        ids = np.asarray(ids)
        if ids.size == 0:
            return ""
        if ids.min() < 0 or ids.max() >= len(self.symbols):
            found = int(ids.min() if ids.min() < 0 else ids.max())
            raise DataError(f"ids: expected numbers from 0 to {len(self.symbols) - 1}, found {found}")
        if self.level == "char":
            return self._code_points[ids.ravel()].tobytes().decode("utf-32-le", "surrogatepass")
        words = (self.symbols[number] for number in ids.ravel().tolist())
        text = " ".join("\n" if word == END_OF_LINE else word for word in words)
        return re.sub(" ?\n ?", "\n", text)

    def to_json(self) -> str:
        """The vocabulary as JSON text."""
        return json.dumps({"level": self.level, "unknown": self.unknown, "symbols": self.symbols})

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """The vocabulary that `to_json` wrote.

        Raises:
            DataError: not JSON, or not a vocabulary.
        """
        try:
            fields = json.loads(text)
            return cls(tuple(map(str, fields["symbols"])), fields["level"], fields["unknown"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"vocabulary: expected JSON with level, unknown and symbols, found {text[:40]!r} ({error})"
            ) from None

    @cached_property
    def _code_points(self) -> np.ndarray:
        return _code_points("".join(self.symbols))

    @cached_property
    def _number_of_code_point(self) -> np.ndarray:
        """int32 [0x110000]: the id of each code point; the unknown symbol's, or -1, for all others."""
        table = np.full(_CODE_POINTS, -1 if self.unknown is None else self.index[self.unknown], np.int32)
        table[self._code_points] = np.arange(len(self.symbols), dtype=np.int32)
        return table

    def _encode_piece(self, piece: str, argument: str, text: str) -> np.ndarray:
        if self.level == "char":
            ids = self._number_of_code_point[_code_points(piece)]
        else:
            other = -1 if self.unknown is None else self.index[self.unknown]
            ids = np.array([self.index.get(word, other) for word in _words(piece)], np.int32)
        if ids.size and ids.min() < 0:
            raise DataError(self._unknown_message(argument, text))
        return ids

    def _unknown_message(self, argument: str, text: str) -> str:
        counts = _character_counts(text) if self.level == "char" else _word_counts(text)
        strange = {symbol: count for symbol, count in counts.items() if symbol not in self.index}
        first = ", ".join(map(repr, list(strange)[:5]))
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        noun = "characters" if self.level == "char" else "words"
        return (
            f"{argument}: expected only the {len(self.symbols)} {noun} of the vocabulary, "
            f"found {sum(strange.values())} others: {first}{more}"
        )


def _pieces(text: str, level: str) -> Iterator[str]:
    """Cut a text into pieces of about _PIECE characters, for words only at whitespace."""
    start = 0
    while start < len(text):
        end = start + _PIECE
        if level == "word" and end < len(text):
            blank = _WHITESPACE.search(text, end)
            end = blank.start() if blank else len(text)
        yield text[start:end]
        start = end


def _code_points(text: str) -> np.ndarray:
    # surrogatepass: a command line that is not UTF-8 reaches us with lone surrogates, which are merely unknown.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _words(text: str) -> list[str]:
    return text.replace("\n", f" {END_OF_LINE} ").split()


def _character_counts(text: str) -> Counter[str]:
    totals = np.zeros(_CODE_POINTS, np.int64)
    for piece in _pieces(text, "char"):
        totals += np.bincount(_code_points(piece), minlength=_CODE_POINTS)
    return Counter({chr(code): int(totals[code]) for code in np.flatnonzero(totals)})


def _word_counts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for piece in _pieces(text, "word"):
        counts.update(_words(piece))
    return counts
