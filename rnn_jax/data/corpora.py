"""Corpora: a text, read, decoded and split for training, validation and testing."""

import dataclasses
import difflib
import hashlib
import math
import os
import re
import sys
from collections.abc import Iterator

from rnn_jax.data.errors import DataError
from rnn_jax.data.fetch import content, fetch
from rnn_jax.data.named_sets import NAMED_SETS, NamedSet, Part
from rnn_jax.data.opening import open_data
from rnn_jax.data.vocabulary import check_level

BUILTIN = "builtin"

# A split must hold an input and its target.
_SHORTEST_SPLIT = 2


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text in its splits.

    Attributes:
        name: "builtin", the name of a public set, or the path as it was given.
        train: the training text.
        valid: the validation text.
        test: the test text, or None.
        sha256: of the UTF-8 bytes of each split, by its name.
    """

    name: str
    train: str
    valid: str
    test: str | None
    sha256: dict[str, str]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of characters of each split."""
        return {split: len(text) for split, text in _splits(self.train, self.valid, self.test).items()}


def load_corpus(
    spec: str | os.PathLike[str],
    *,
    valid: str | os.PathLike[str] | None = None,
    valid_fraction: float = 0.1,
    test: str | os.PathLike[str] | None = None,
    level: str = "char",
    cache: str | os.PathLike[str] | None = None,
    timeout: float = 20.0,
) -> Corpus:
    """Load a text and split it.

    The built-in text is the Python documentation of the standard library, `pydoc_data.topics`: the topics in
    alphabetical order, newlines at their ends taken off, joined by an empty line. It differs a little from one
    version of Python to the next.

    A name always means the public set, so that one command means the same in every folder; write ./ptb for a file of
    that name. Sets with published splits (enwik8, ptb, text8, wikitext2) come in those; every other text is cut so
    that the last `valid_fraction` of its characters validates. `valid` and `test` override either.

    Args:
        spec: "builtin", a name of `NAMED_SETS`, or the path of a UTF-8 text, plain or .gz.
        valid: path of a validation text; a text without splits of its own is then not cut but trained on whole.
        valid_fraction: the share of the characters, in (0, 1), that validates.
        test: path of a test text.
        level: "char", or "word" to move every cut to the next whitespace, so that no word is torn.
        cache: the folder of fetched files; None: see `rnn_jax.data.cache_folder`.
        timeout: seconds of silence after which a fetch is given up.

    Raises:
        DataError: no such name or file, a file that cannot be read or fetched, a text too short to split,
            `valid_fraction` out of range, unknown `level`.
    """
    check_level(level)
    if not 0 < valid_fraction < 1:
        raise DataError(f"valid_fraction: expected a number between 0 and 1, both excluded, found {valid_fraction}")
    name = os.fspath(spec)
    valid_text = None if valid is None else read_text(valid, "valid")
    test_text = None if test is None else read_text(test, "test")

    own_valid = own_test = None
    if name in NAMED_SETS:
        text, own_valid, own_test = _named_texts(NAMED_SETS[name], level, cache, timeout)
    elif name == BUILTIN:
        text = builtin_text()
    else:
        _check_name(name)
        text = read_text(name, "corpus")

    valid_text = valid_text if valid_text is not None else own_valid
    test_text = test_text if test_text is not None else own_test
    if valid_text is None:
        # The small number outweighs rounding: a tenth of 100 characters is 10 and never 11.
        cut = _cut(text, math.floor(len(text) * (1 - valid_fraction) + 1e-6), level)
        if min(cut, len(text) - cut) < _SHORTEST_SPLIT:
            raise DataError(
                f"corpus: expected enough text for {_SHORTEST_SPLIT} characters on both sides of a split at "
                f"valid_fraction={valid_fraction:g}, found {len(text)} characters in {name!r}"
            )
        text, valid_text = text[:cut], text[cut:]
    digests = {split: _sha256(part) for split, part in _splits(text, valid_text, test_text).items()}
    return Corpus(name, text, valid_text, test_text, digests)


def read_text(path: str | os.PathLike[str], argument: str = "corpus") -> str:
    r"""The text of a UTF-8 file, plain or .gz, with "\r\n" read as "\n" and a byte order mark left out.

    Args:
        path: the file; a leading ~ is the home folder.
        argument: what the path was given as, to name it in an error.

    Raises:
        DataError: the file is missing, a folder, unreadable, empty, a broken .gz, or not UTF-8 (and at which byte).
    """
    name = os.path.expanduser(os.fspath(path))
    where = f"in {name!r}"
    with open_data(path, argument) as file:
        data = file.read()
    text = _decode(data, argument, where)
    if not text:
        raise DataError(f"{argument}: expected a text, found nothing {where}")
    return text


def stdin_lines(argument: str) -> Iterator[str]:
    r"""The lines of standard input, in UTF-8, each as soon as it is there and with its "\n".

    Args:
        argument: what asked for them, to name it in an error.

    Raises:
        DataError: a line is not UTF-8 (which, and at which byte).
    """
    for number, line in enumerate(sys.stdin.buffer, start=1):
        yield _decode(line, argument, f"in line {number} of standard input")


def builtin_text() -> str:
    """The documentation texts of the standard library (see `load_corpus`).

    Raises:
        DataError: this installation of Python has none.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "corpus: expected Python's documentation texts (pydoc_data.topics) for 'builtin', found none in this "
            "installation of Python; pass --corpus=PATH"
        ) from None
    return "\n\n".join(topics[topic].strip("\n") for topic in sorted(topics)) + "\n"


def _decode(data: bytes, argument: str, where: str) -> str:
    mark = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    try:
        return data[mark:].decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        at = error.start + mark
        raise DataError(f"{argument}: expected UTF-8, found byte 0x{data[at]:02x} at offset {at} {where}") from None


def _named_texts(
    named: NamedSet, level: str, cache: str | os.PathLike[str] | None, timeout: float
) -> tuple[str, str | None, str | None]:
    def text_of(part: Part) -> str:
        data = content(fetch(part.file, cache, timeout), part.member)
        if named.encoding == "latin-1":  # one byte, one character, to the letter: no newline is translated
            return data.decode("latin-1")
        return _decode(data, "corpus", f"in {part.file.path}")

    text = text_of(named.train)
    if named.cuts is not None:
        first, second = (_cut(text, position, level) for position in named.cuts)
        return text[:first], text[first:second], text[second:]
    return text, named.valid and text_of(named.valid), named.test and text_of(named.test)


def _cut(text: str, position: int, level: str) -> int:
    """Where to cut near `position`: there, or for words after the next whitespace."""
    if level == "char" or position == 0 or text[position - 1].isspace():
        return position
    blank = re.compile(r"\s").search(text, position)
    return blank.end() if blank else len(text)


def _check_name(name: str) -> None:
    """Raise DataError for what looks like a name, is none, and is no file either."""
    known = [BUILTIN, *sorted(NAMED_SETS)]
    looks_like_a_name = not os.path.dirname(name) and not os.path.splitext(name)[1]
    if not looks_like_a_name or os.path.exists(name):
        return
    close = difflib.get_close_matches(name.lower(), known, n=2)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise DataError(f"corpus: expected a file or one of {', '.join(known)}, found {name!r}{hint}")


def _splits(train: str, valid: str, test: str | None) -> dict[str, str]:
    return {"train": train, "valid": valid} | ({} if test is None else {"test": test})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
