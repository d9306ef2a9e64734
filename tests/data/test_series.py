"""Generated series beside SciPy; CSV files, good and bad."""

import gzip

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from rnn_jax.data.errors import DataError
from rnn_jax.data.series import SeriesBatches, generated_table, mackey_glass, read_table

GOOD = "time, load,temperature\n1,2.5,-3\n2,1e-3, 4\n\n"


def test_mackey_glass_solves_its_equation():
    """By the method of steps: within one delay the delayed value is a known function of time."""
    tau, pieces = 17.0, []

    def delayed(time):
        piece = int(time // tau) - 1
        return 1.2 if piece < 0 else pieces[min(piece, len(pieces) - 1)](time - tau * (piece + 1))[0]

    start = [1.2]
    for index in range(4):

        def slope(time, x, index=index):
            late = delayed(time + index * tau) if index else 1.2
            return 0.2 * late / (1 + late**10) - 0.1 * x

        solution = solve_ivp(slope, (0, tau), start, method="DOP853", dense_output=True, rtol=1e-10, atol=1e-12)
        pieces.append(solution.sol)
        start = solution.y[:, -1]
    times = np.arange(1, 67)
    expected = [pieces[int(time // tau)](time % tau)[0] for time in times]
    found = mackey_glass(66, tau=tau, interval=1.0, discard=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(found[5::6], mackey_glass(11, tau=tau, discard=0.0))


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ({"interval": 0.04}, "interval: expected a multiple of the step, 0.1, found 0.04"),
        ({"tau": 0.0}, "tau: expected a multiple of the step, 0.1, found 0.0"),
        ({"tau": 17.05}, "tau: expected a multiple of the step, 0.1, found 17.05"),
        ({"discard": -1.0}, "discard: expected 0 or a multiple of the step, 0.1, found -1.0"),
        ({"step": 0.0}, "step: expected a positive number, found 0.0"),
    ],
)
def test_mackey_glass_refuses_times_between_its_steps(time, message):
    with pytest.raises(ValueError, match=message):
        mackey_glass(3, **time)


def test_the_built_in_table():
    table = generated_table(300)
    assert table.columns == ("mackey_glass", "seasonal")
    assert table.values.shape == (300, 2)
    assert table.sha256 == generated_table(300).sha256 != generated_table(299).sha256
    level, seasonal = table.values.T
    assert 0.2 < level.min() < 0.6
    assert 1.1 < level.max() < 1.4
    noise = seasonal - level * (1 + 0.8 * np.sin(2 * np.pi * np.arange(300) / 12))
    assert noise.std() == pytest.approx(0.01, rel=0.2)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write series.csv in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(content):
        (tmp_path / "series.csv").write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def test_a_table_is_read(file, tmp_path, stdin):
    file(GOOD)
    table = read_table("series.csv")
    assert (table.name, table.columns, len(table)) == ("series.csv", ("time", "load", "temperature"), 2)
    np.testing.assert_array_equal(table.values, [[1, 2.5, -3], [2, 1e-3, 4]])
    chosen = read_table("series.csv", columns=("temperature", "load"))
    assert chosen.columns == ("temperature", "load")
    np.testing.assert_array_equal(chosen.values, table.values[:, [2, 1]])
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(GOOD.encode()))
    np.testing.assert_array_equal(read_table("packed.csv.gz").values, table.values)
    stdin(GOOD)
    np.testing.assert_array_equal(read_table("-").values, table.values)


def test_columns_that_are_not_taken_may_hold_anything(file):
    file('day,"load, kW"\r\nMonday,1\r\n,2\r\n')
    np.testing.assert_array_equal(read_table("series.csv", columns=["load, kW"]).values, [[1], [2]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3,x\n", "line 3: expected a finite number in column 'b', found 'x'; --columns chooses others"),
        ("a,b\n1,2\n3,\n", "line 3: expected a finite number in column 'b', found nothing"),
        ("a\n1\nnan\n", "line 3: expected a finite number in column 'a', found 'nan'"),
        ("a\n1\n-inf\n", "line 3: expected a finite number in column 'a', found '-inf'"),
        ("a,b\n1,2\n3\n4,5\n", "line 3: expected 2 fields as in the header, found 1"),
        ("a,b\n1,2,3\n", "line 2: expected 2 fields as in the header, found 3"),
        ("a\n1\n\n2\n", "line 3: expected 1 fields as in the header, found 0"),
        ("1,2\n3,4\n", "line 1: expected a header with the names of the columns, found the number '1'"),
        ("a,a\n1,2\n", "line 1: expected a column 'a', found it 2 times"),
        ("a,\n1,2\n", "line 1: expected a name for every column, found an empty one"),
        ("a,b\n1,2\n", "line 2: expected at least 2 rows below the header, found the end after 1"),
        ("a,b\n", "line 1: expected at least 2 rows below the header, found the end after 0"),
        ("", "found nothing in 'series.csv'"),
        (b"a\n\xff\xfe\n", "expected UTF-8"),
    ],
)
def test_bad_files_are_named_with_their_line(file, content, message):
    file(content)
    with pytest.raises(DataError) as caught:
        read_table("series.csv", rows=2)
    assert str(caught.value).startswith("train: ")
    assert "series.csv" in str(caught.value)
    assert message in str(caught.value)


def test_a_column_is_taken_once(file):
    file(GOOD)
    with pytest.raises(DataError, match="expected column 'load' once, found it 2 times"):
        read_table("series.csv", columns=["load", "load"])


def test_a_trained_model_has_its_columns(file):
    file("a,b\n1,2\n3,\n")
    with pytest.raises(DataError, match=r"column 'b', found nothing$"):
        read_table("series.csv", columns=["a", "b"], argument="predict_file")


def test_an_unknown_column_is_named_beside_those_there_are(file):
    file(GOOD)
    with pytest.raises(DataError, match=r"test: series\.csv, line 1: expected a column .wind., found time, load"):
        read_table("series.csv", columns=["load", "wind"], argument="test")


def test_windows_are_pieces_of_the_series():
    series = np.arange(40, dtype=np.float32).reshape(20, 2)
    batches = SeriesBatches(series, 5, 3, seed=4)
    block = batches.block(6, 50)
    assert block.shape == (50, 5, 3, 2)
    np.testing.assert_array_equal(block[1:3], batches.block(7, 2))
    starts = block[:, 0, :, 0] // 2
    np.testing.assert_array_equal(block, series[(starts[:, None] + np.arange(5)[:, None]).astype(int)])
    assert (starts.min(), starts.max()) == (0, 15)
    assert batches.steps_per_epoch == 2


def test_a_window_must_fit():
    with pytest.raises(DataError, match="expected at least 21 rows, a window, found 20"):
        SeriesBatches(np.zeros((20, 2), np.float32), 21, 3)
