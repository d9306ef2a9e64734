"""Files of the CoNLL shared tasks: a token a line with its columns, a blank line between sentences."""

import os
from collections.abc import Sequence

from rnn_jax.data.corpora import read_text
from rnn_jax.data.errors import DataError
from rnn_jax.data.tagged import TaggedSequence

DOCUMENT_START = "-DOCSTART-"


def read_columns(
    path: str | os.PathLike[str],
    argument: str = "train",
    *,
    token_column: int = 1,
    label_column: int | None = -1,
    feature_columns: Sequence[int] = (),
) -> list[TaggedSequence]:
    """Read the sentences of a file, plain or .gz.

    Columns are separated by tabs if the file has any, else by blanks; in a file with tabs, lines that begin with # and
    have none are comments. Every line has as many columns as the first. Sentences that say -DOCSTART- are left out.

    Args:
        path: a UTF-8 file.
        argument: what it was given as, to name it in an error.
        token_column: where the tokens are, counted from 1; a negative number counts from the end, -1 is the last.
        label_column: where the labels are; None: they are not wanted.
        feature_columns: further columns wanted.

    Raises:
        DataError: a column that is not there, a line with another number of columns than the first (file and line are
            named), a label among the features, no sentences.
    """
    check_columns(token_column, label_column, feature_columns)
    name = os.fspath(path)
    text = read_text(path, argument)
    tabs = "\t" in text
    sentences: list[TaggedSequence] = []
    rows: list[list[str]] = []
    expected, first_line = 0, 0

    def end(line: int) -> None:
        if rows:
            first = line - len(rows)
            sentences.append(_sentence(rows, name, first, token_column, label_column, feature_columns))
        rows.clear()

    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if not line.strip():
            end(number)
            continue
        if tabs and line.startswith("#") and "\t" not in line:
            continue
        row = line.split("\t") if tabs else line.split(" ")
        row = row if tabs else [part for part in row if part]
        if not expected:
            expected, first_line = len(row), number
            _check_width(expected, f"line {number} of {name!r}", argument, token_column, label_column, feature_columns)
        if len(row) != expected or not all(row):
            found = len([part for part in row if part])
            raise DataError(
                f"{argument}: expected {expected} columns as in line {first_line}, found {found} "
                f"in line {number} of {name!r}"
            )
        if row[token_column - (token_column > 0)] == DOCUMENT_START:
            end(number)
            continue
        rows.append(row)
    if not sentences:
        raise DataError(f"{argument}: expected at least one sentence, found none in {name!r}")
    return sentences


def check_columns(token_column: int, label_column: int | None, feature_columns: Sequence[int]) -> None:
    """Check what can be known of column numbers without a file.

    Raises:
        DataError: a column 0.
    """
    named = [("token_column", token_column), ("label_column", label_column)]
    for argument, column in [*named, *(("feature_columns", column) for column in feature_columns)]:
        if column == 0:
            raise DataError(f"{argument}: expected a number from 1 on, or below 0 to count from the end, found 0")


def _check_width(
    width: int, where: str, argument: str, token_column: int, label_column: int | None, feature_columns: Sequence[int]
) -> None:
    wanted = [token_column, *feature_columns, *([] if label_column is None else [label_column])]
    needed = max(map(abs, wanted))
    if width < needed:
        raise DataError(f"{argument}: expected at least {needed} columns, found {width} in {where}")
    places = [column if column > 0 else width + 1 + column for column in wanted]
    if label_column is not None and places[-1] in places[:-1]:
        raise DataError(f"label_column: expected a column that is not read as input too, found {label_column}")


def _sentence(
    rows: list[list[str]],
    origin: str,
    line: int,
    token_column: int,
    label_column: int | None,
    feature_columns: Sequence[int],
) -> TaggedSequence:
    def column(number: int) -> tuple[str, ...]:
        return tuple(row[number - 1 if number > 0 else number] for row in rows)

    return TaggedSequence(
        tokens=column(token_column),
        labels=() if label_column is None else column(label_column),
        features=tuple(zip(*map(column, feature_columns), strict=True)),
        origin=origin,
        line=line,
    )
