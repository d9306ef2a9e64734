"""Real-valued series: generated ones, and tables read from CSV files."""

import csv
import dataclasses
import hashlib
import io
import math
import os
from collections.abc import Sequence

import numpy as np

from rnn_jax.data.corpora import read_text, stdin_lines
from rnn_jax.data.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A multivariate series.

    Attributes:
        name: where it comes from.
        columns: D names.
        values: float64 [T, D], one row a time step.
    """

    name: str
    columns: tuple[str, ...]
    values: np.ndarray

    def __len__(self) -> int:
        """T, the number of rows."""
        return len(self.values)

    @property
    def sha256(self) -> str:
        """Of the values, row by row."""
        return hashlib.sha256(np.ascontiguousarray(self.values, "<f8").tobytes()).hexdigest()


def mackey_glass(
    length: int, *, tau: float = 17.0, interval: float = 6.0, step: float = 0.1, discard: float = 3000.0
) -> np.ndarray:
    """The Mackey-Glass equation, chaotic for τ above 16.8.

        dx/dt = 0.2 x(t - τ) / (1 + x(t - τ)¹⁰) - 0.1 x(t),    x(t) = 1.2 for t <= 0

    Solved by the Runge-Kutta method of order 4, the delayed value halfway between two steps by their mean.

    Args:
        length: T.
        tau: the delay, a multiple of `step`.
        interval: the time from one value to the next, a multiple of `step`; 6 is the benchmark's custom.
        step: of the solver.
        discard: the time before the first value, in which the start is forgotten; a multiple of `step`.

    Returns:
        float64 [T].

    Raises:
        ValueError: a time that is no multiple of `step`, or negative, or 0 where only `discard` may be.

    Source: Mackey & Glass 1977, Science 197.
    """

    def steps_of(name: str, time: float, least: int) -> int:
        steps = round(time / step)
        if steps < least or abs(steps * step - time) > 1e-6 * step:
            limit = "0 or a multiple" if least == 0 else "a multiple"
            raise ValueError(f"{name}: expected {limit} of the step, {step}, found {time}")
        return steps

    if not step > 0:
        raise ValueError(f"step: expected a positive number, found {step}")
    delay, between = steps_of("tau", tau, 1), steps_of("interval", interval, 1)
    transient = steps_of("discard", discard, 0)

    values = [1.2] * (delay + 1)
    for _ in range(transient + length * between):
        now, late, later = values[-1], values[-1 - delay], values[-delay]
        halfway = (late + later) / 2
        growth = 0.2 * halfway / (1 + halfway**10)
        first = 0.2 * late / (1 + late**10) - 0.1 * now
        second = growth - 0.1 * (now + step / 2 * first)
        third = growth - 0.1 * (now + step / 2 * second)
        fourth = 0.2 * later / (1 + later**10) - 0.1 * (now + step * third)
        values.append(now + step / 6 * (first + 2 * second + 2 * third + fourth))
    return np.array(values[delay + 1 + transient :])[between - 1 :: between]


def generated_table(length: int = 4000) -> Table:
    """Two series that a linear rule foresees badly: a chaotic level, and a season whose height is that level.

        mackey_glass_t = x_t                                             see `mackey_glass`
        seasonal_t     = x_t (1 + 0.8 sin(2π t / 12)) + 0.01 ε_t,        ε_t ~ N(0, 1)

    Args:
        length: T.
    """
    level = mackey_glass(length)
    season = 1 + 0.8 * np.sin(2 * np.pi * np.arange(length) / 12)
    noise = np.random.default_rng(0).normal(size=length)
    return Table("builtin", ("mackey_glass", "seasonal"), np.stack([level, level * season + 0.01 * noise], axis=1))


def read_table(
    path: str | os.PathLike[str], *, columns: Sequence[str] | None = None, argument: str = "train", rows: int = 1
) -> Table:
    """Read a CSV file: a header, then one row a time step, commas between the numbers.

    Args:
        path: a UTF-8 file, plain or .gz; "-" for standard input.
        columns: the names of the columns to take, in this order; None takes all.
        argument: what the path was given as, to name it in an error.
        rows: the least number of rows.

    Raises:
        DataError: no such file, no header, a name that the header has twice or lacks, a row of another length than the
            header's, a field that is not a finite number, too few rows; with file and line.
    """
    path = os.fspath(path)
    name = "standard input" if path == "-" else path
    text = "".join(stdin_lines(argument)) if path == "-" else read_text(path, argument)
    reader = csv.reader(io.StringIO(text.rstrip(), newline=""), skipinitialspace=True)
    try:
        header = tuple(field.strip() for field in next(reader, []))
        taken = _taken(header, columns, f"{argument}: {name}, line 1")
        # A trained model has its columns.
        hint = "; --columns chooses others" if argument != "predict_file" and len(header) > 1 else ""
        values = [_numbers(header, taken, row, f"{argument}: {name}, line {reader.line_num}", hint) for row in reader]
    except csv.Error as error:
        raise DataError(f"{argument}: {name}, line {reader.line_num}: {error}") from None
    if len(values) < rows:
        noun = "row" if rows == 1 else "rows"
        raise DataError(
            f"{argument}: {name}, line {reader.line_num}: expected at least {rows} {noun} below the header, "
            f"found the end after {len(values)}"
        )
    return Table(name, tuple(header[index] for index in taken), np.array(values))


def _taken(header: tuple[str, ...], columns: Sequence[str] | None, where: str) -> list[int]:
    """The places of the columns to take."""
    if all(_number(field) is not None for field in header):
        found = f"the number {header[0]!r}" if header else "nothing"
        raise DataError(f"{where}: expected a header with the names of the columns, found {found}")
    names = header if columns is None else tuple(columns)
    for name in names:
        if not name:
            raise DataError(f"{where}: expected a name for every column, found an empty one")
        if columns is not None and names.count(name) != 1:
            raise DataError(f"{where}: expected column {name!r} once, found it {names.count(name)} times")
        if header.count(name) != 1:
            found = f"it {header.count(name)} times" if name in header else ", ".join(header)
            raise DataError(f"{where}: expected a column {name!r}, found {found}")
    return [header.index(name) for name in names]


def _numbers(header: tuple[str, ...], taken: list[int], row: list[str], where: str, hint: str) -> list[float]:
    if len(row) != len(header):
        raise DataError(f"{where}: expected {len(header)} fields as in the header, found {len(row)}")
    values = []
    for index in taken:
        value = _number(row[index])
        if value is None or not math.isfinite(value):
            found = repr(row[index]) if row[index].strip() else "nothing"
            raise DataError(f"{where}: expected a finite number in column {header[index]!r}, found {found}{hint}")
        values.append(value)
    return values


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class SeriesBatches:
    """Windows of a series that begin anywhere in it; a batch depends on nothing but its step and the seed.

    Attributes:
        values: float32 [T, D].
        length: W, the rows of a window.
        batch_size: B.
        seed: any integer that is not negative.

    Raises:
        DataError: fewer rows than a window has.
    """

    values: np.ndarray
    length: int
    batch_size: int
    seed: int = 0

    def __post_init__(self):
        if len(self.values) < self.length:
            raise DataError(f"values: expected at least {self.length} rows, a window, found {len(self.values)}")

    @property
    def steps_per_epoch(self) -> int:
        """The batches that hold as many rows as the series has."""
        return math.ceil(len(self.values) / (self.length * self.batch_size))

    def block(self, step: int, count: int) -> np.ndarray:
        """The batches `step` to `step + count - 1`: [K, W, B, D]."""
        return np.stack([self._at(number) for number in range(step, step + count)])

    def _at(self, step: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, step])
        starts = random.integers(0, len(self.values) - self.length + 1, self.batch_size)
        return self.values[np.arange(self.length)[:, None] + starts]
