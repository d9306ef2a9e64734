"""Labelled texts: one label for each, from a file, a folder or a public set."""

import csv
import dataclasses
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rnn_jax.data.corpora import read_text
from rnn_jax.data.errors import DataError
from rnn_jax.data.padded import is_held_out, spare_rare

# The names of the columns of a CSV file where none are given.
TEXT_COLUMN, LABEL_COLUMN = "text", "label"


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels.

    Attributes:
        name: where they come from, to be shown.
        texts: N texts.
        labels: N labels.
        places: where each stands, as errors say it: "'reviews.tsv', line 3".
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> tuple[str, ...]:
        """The different labels, in alphabetical order."""
        return tuple(sorted(set(self.labels)))

    @property
    def sha256(self) -> str:
        """The digest of all labels and texts in their order."""
        lines = "".join(f"{label}\t{text}\n" for label, text in zip(self.labels, self.texts, strict=True))
        return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()

    def select(self, rows: Iterable[int]) -> "LabelledTexts":
        """The examples of these numbers."""
        rows = list(rows)
        texts, labels, places = (
            tuple(column[row] for row in rows) for column in (self.texts, self.labels, self.places)
        )
        return LabelledTexts(self.name, texts, labels, places)


def read_labelled(
    path: str | os.PathLike[str],
    argument: str = "train",
    *,
    text_column: str | None = None,
    label_column: str | None = None,
) -> LabelledTexts:
    r"""Read labelled texts, UTF-8, plain or .gz.

    - a folder: one folder a class, named after it, one file a text;
    - a file whose name ends in .csv, or any file where a column is named: comma-separated values (tab-separated, where
      the name ends in .tsv) under a header, with one column for the texts and one for the labels;
    - any other file: one example a line, `label<TAB>text`; blank lines may follow the last.

    Args:
        path: the file or folder.
        argument: what the path was given as, to name it in an error.
        text_column: the column of the texts; None: "text".
        label_column: the column of the labels; None: "label".

    Raises:
        DataError: what cannot be read, or has no examples; a line without a tab, a row of too few fields, an empty
            text or label: with the file and the line.
    """
    name = os.path.expanduser(os.fspath(path))
    named = text_column is not None or label_column is not None
    if os.path.isdir(name):
        if named:
            column = "text_column" if text_column is not None else "label_column"
            raise DataError(f"{column}: expected a CSV file as {argument}, found the folder {name!r}")
        rows = _read_folder(name, argument)
    else:
        text = read_text(name, argument)
        stem = name.removesuffix(".gz").lower()
        if named or stem.endswith(".csv"):
            delimiter = "\t" if stem.endswith(".tsv") else ","
            rows = _read_csv(text, name, argument, delimiter, text_column or TEXT_COLUMN, label_column or LABEL_COLUMN)
        else:
            rows = _read_lines(text, name, argument)
    return collect(str(path), rows, argument)


def collect(name: str, rows: Iterable[tuple[str, str, str]], argument: str) -> LabelledTexts:
    """Labelled texts of rows (label, text, place), none of which may be empty.

    Raises:
        DataError: an empty text or label (its place), or no rows.
    """
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    for label, text, place in rows:
        for part, value in (("label", label), ("text", text)):
            if not value.strip():
                raise DataError(f"{argument}: expected a {part}, found an empty one in {place}")
        for column, value in zip(columns, (text, label.strip(), place), strict=True):
            column.append(value)
    if not columns[0]:
        raise DataError(f"{argument}: expected labelled texts, found none in {name!r}")
    texts, labels, places = map(tuple, columns)
    return LabelledTexts(name, texts, labels, places)


def hold_out(examples: LabelledTexts, argument: str = "dev") -> tuple[LabelledTexts, LabelledTexts]:
    """(training part, held-out part): a fixed tenth, chosen by the hash of the text, its case and blanks apart.

    So texts that differ in those alone are on one side. What has a label that the training part would lack stays in it.

    Raises:
        DataError: too few examples for either part.
    """
    keys = [" ".join(text.lower().split()) for text in examples.texts]
    held = spare_rare([is_held_out(key) for key in keys], [(label,) for label in examples.labels])
    if all(held) or not any(held):
        raise DataError(
            f"{argument}: expected enough texts to hold out a tenth, found {len(examples)} in {examples.name!r}"
        )
    kept, dev = (examples.select(row for row, out in enumerate(held) if out == wanted) for wanted in (False, True))
    return kept, dev


def check_classes(train: LabelledTexts, others: dict[str, LabelledTexts]) -> tuple[str, ...]:
    """The classes of the training texts, which the labels of all the others must be among.

    Args:
        train: what is trained on.
        others: what it is evaluated on, by the name of the argument.

    Raises:
        DataError: one class only; a label that no training text has (its place).
    """
    classes = train.classes
    if len(classes) < 2:
        first, last = train.places[0], train.places[-1]
        raise DataError(f"train: expected at least 2 classes, found only {train.labels[0]!r}, from {first} to {last}")
    for argument, examples in others.items():
        for label, place in zip(examples.labels, examples.places, strict=True):
            if label not in classes:
                known = ", ".join(classes)
                raise DataError(
                    f"{argument}: expected a label of the training texts ({known}), found {label!r} in {place}"
                )
    return classes


def _read_lines(text: str, name: str, argument: str) -> Iterable[tuple[str, str, str]]:
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        label, tab, rest = line.partition("\t")
        place = f"{name!r}, line {number}"
        if not tab:
            shown = line if len(line) <= 40 else f"{line[:40]}..."
            raise DataError(f"{argument}: expected 'label<TAB>text', found no tab in {place}: {shown!r}")
        yield label, rest, place


def _read_csv(
    text: str, name: str, argument: str, delimiter: str, text_column: str, label_column: str
) -> Iterable[tuple[str, str, str]]:
    # Between tabs a quotation mark is one of the text's own.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    # A text may be a book.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    line = 1
    try:
        header = next(reader)
        wanted = {"text_column": text_column, "label_column": label_column}
        for flag, column in wanted.items():
            if column not in header:
                found = ", ".join(map(repr, header))
                raise DataError(f"{flag}: expected one of the columns {found} of {name!r}, line 1, found {column!r}")
            if header.count(column) > 1:
                raise DataError(
                    f"{flag}: expected one column {column!r} in {name!r}, line 1, found {header.count(column)}"
                )
        at_text, at_label = header.index(text_column), header.index(label_column)
        while True:
            line = reader.line_num + 1
            fields = next(reader, None)
            if fields is None:
                return
            if not fields:
                continue
            place = f"{name!r}, line {line}"
            if len(fields) != len(header):
                raise DataError(f"{argument}: expected {len(header)} fields, found {len(fields)} in {place}")
            yield fields[at_label], " ".join(fields[at_text].split("\n")), place
    except csv.Error as error:
        raise DataError(f"{argument}: expected CSV, found {name!r}, line {line}: {error}") from None


def _read_folder(name: str, argument: str) -> Iterable[tuple[str, str, str]]:
    def visible(folder: Path) -> Sequence[Path]:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))

    folders = [path for path in visible(Path(name)) if path.is_dir()]
    if not folders:
        raise DataError(f"{argument}: expected a folder for each class in the folder {name!r}, found none")
    for folder in folders:
        for path in visible(folder):
            place = f"{str(path)!r}, line 1"
            if path.is_file() and path.stat().st_size == 0:
                raise DataError(f"{argument}: expected a text, found an empty one in {place}")
            text = read_text(path, argument)
            # A text of many lines is one example: its line breaks are blanks like others.
            yield folder.name, " ".join(text.split("\n")), place
