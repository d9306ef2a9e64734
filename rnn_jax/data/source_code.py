"""Python source with the kind of every character, as `tokenize` tells it."""

import builtins
import dataclasses
import io
import keyword
import sysconfig
import tokenize
from pathlib import Path

from rnn_jax.data.errors import DataError
from rnn_jax.data.tagged import TaggedSequence

KINDS = ("space", "comment", "string", "number", "keyword", "builtin", "definition", "name", "operator")

# Larger modules are mostly tables.
_LARGEST_MODULE = 64_000
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
_BY_TYPE = {tokenize.COMMENT: "comment", tokenize.STRING: "string", tokenize.NUMBER: "number", tokenize.OP: "operator"}
# Python 3.12 and later cut an f-string into tokens; before, it was one string. Here it always is one.
_STRING_STARTS = {getattr(tokenize, f"{kind}STRING_START") for kind in "FT" if hasattr(tokenize, f"{kind}STRING_START")}
_STRING_ENDS = {getattr(tokenize, f"{kind}STRING_END") for kind in "FT" if hasattr(tokenize, f"{kind}STRING_END")}


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A module of the standard library.

    Attributes:
        name: its file name.
        text: its source.
        labels: one of `KINDS` for every character.
    """

    name: str
    text: str
    labels: tuple[str, ...]

    def pieces(self, length: int) -> list[TaggedSequence]:
        """The file cut into whole lines of at most `length` characters in all; a longer line is cut."""
        ends, start = [], 0
        while start < len(self.text):
            end = start + length
            if end < len(self.text):
                end = self.text.rfind("\n", start, end) + 1 or end
            ends.append(min(end, len(self.text)))
            start = ends[-1]
        return [
            TaggedSequence(self.text[start:end], self.labels[start:end], origin=self.name)
            for start, end in zip([0, *ends], ends, strict=False)
        ]


def label_source(text: str) -> tuple[str, ...]:
    """One of `KINDS` for every character of a Python source.

    A name is a keyword, a builtin (unless it is an attribute), a definition (after `def` or `class`) or just a name.
    What belongs to no token, such as indentation, is space.

    Raises:
        DataError: not valid Python.
    """
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    labels = ["space"] * len(text)
    before, depth = "", 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            depth += token.type in _STRING_STARTS
            kind = "string" if depth else _kind(token, before)
            depth -= token.type in _STRING_ENDS
            if kind is not None:
                start, end = (starts[line - 1] + column for line, column in (token.start, token.end))
                labels[start:end] = [kind] * (end - start)
                before = token.string
    except (tokenize.TokenError, SyntaxError) as error:
        raise DataError(f"text: expected Python source, found {error}") from None
    return tuple(labels)


def _kind(token: tokenize.TokenInfo, before: str) -> str | None:
    if token.type != tokenize.NAME:
        return _BY_TYPE.get(token.type)
    if keyword.iskeyword(token.string):
        return "keyword"
    if before in ("def", "class"):
        return "definition"
    return "builtin" if token.string in _BUILTINS and before != "." else "name"


def standard_library() -> list[SourceFile]:
    """The modules at the top of this Python's standard library, up to 64 kB each, labelled, by name.

    Raises:
        DataError: this installation of Python has no sources.
    """
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            with tokenize.open(path) as file:
                text = file.read()
            if 0 < len(text) <= _LARGEST_MODULE:
                found.append(SourceFile(path.name, text, label_source(text)))
        except (OSError, SyntaxError, UnicodeDecodeError, DataError):
            continue  # a module in another encoding, or written for tests of the parser
    if len(found) < 10:
        raise DataError(
            "train: expected the sources of Python's standard library for 'builtin', "
            f"found {len(found)} in this installation; pass --train=PATH"
        )
    return found
