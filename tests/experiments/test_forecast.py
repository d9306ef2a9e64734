"""Forecasts from the command line, on a short series."""

import csv
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call, read

import rnn_jax
from experiments.forecast import Forecast, main, split
from rnn_jax.data import LinearAutoregression, Table, read_table
from rnn_jax.models.forecaster import free_run

run_forecast = functools.partial(call, "forecast", Forecast, main)

SMALL = [
    "--context=4",
    "--bptt=6",
    "--hidden_size=5",
    "--batch_size=8",
    "--steps=20",
    "--eval_every=10",
    "--schedule=constant",
    "--horizon=7",
]
ROWS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with series.csv: a day's name, a wave, a second wave of another height, a constant."""
    path = tmp_path_factory.mktemp("series")
    time = np.arange(ROWS)
    wave, other = np.sin(time / 3), 1000 + 50 * np.sin(time / 3) * np.cos(time / 5)
    with (path / "series.csv").open("w") as file:
        file.write("day,wave,other,constant\n")
        file.writelines(f"d{t},{wave[t]:.9f},{other[t]:.9f},0.1\n" for t in time)
    return path


@pytest.fixture(scope="module")
def trained(folder):
    run = folder / "run"
    columns = "--columns=other,wave,constant"
    code, out, err = run_forecast(f"--train={folder}/series.csv", columns, f"--workdir={run}", *SMALL)
    assert code == 0, err
    return run, out


def standardised(folder):
    values = read_table(folder / "series.csv", columns=("other", "wave", "constant")).values
    rows = values[:84]
    scale = rows.std(axis=0)
    # The mean of the constant, and so its deviation, has a rounding error.
    assert 0 < scale[2] < 1e-12
    return (values - rows.mean(axis=0)) / np.array([scale[0], scale[1], 1])


def test_a_run_leaves_all_that_was_promised(trained):
    run, out = trained
    result = read(run)
    assert set(result["metrics"]) == {
        "test_mse",
        "baseline_mse",
        "persistence_mse",
        "free_running_mse",
        "baseline_free_running_mse",
    }
    assert result["data"]["sizes"] == {"train": 84, "valid": 18, "test": 18}
    for name in ("metrics.jsonl", "loss.png", "forecast.png", "checkpoints"):
        assert (run / name).exists()
    assert "persistence" in out
    assert "linear, order " in out


def test_the_errors_are_those_of_the_forecasts(trained, folder):
    run, _ = trained
    metrics = read(run)["metrics"]
    values = standardised(folder)
    model, params, *_ = rnn_jax.load(run)
    assert model.columns == ("other", "wave", "constant")
    raw = read_table(folder / "series.csv", columns=model.columns).values
    np.testing.assert_allclose(model.standardise(raw), values, atol=1e-5)
    test = values[-18 - 4 :]
    forecasts = np.asarray(model.apply({"params": params}, jnp.asarray(test[:, None], jnp.float32))[1])
    assert metrics["test_mse"] == pytest.approx(np.mean((forecasts[3:-1, 0] - test[4:]) ** 2), rel=1e-4)
    assert metrics["persistence_mse"] == pytest.approx(np.mean((test[3:-1] - test[4:]) ** 2), rel=1e-4)
    errors = []
    for order in (1, 2, 4):
        linear = LinearAutoregression.fit(values[:84], order)
        valid = np.mean((linear.one_step(values[84 - order : 102]) - values[84:102]) ** 2)
        errors.append((valid, np.mean((linear.one_step(test[4 - order :]) - test[4:]) ** 2)))
    assert metrics["baseline_mse"] == pytest.approx(min(errors)[1], rel=1e-2)


def test_a_csv_is_continued(trained, folder, stdin):
    run, _ = trained
    before = read(run)
    code, out, err = run_forecast(f"--workdir={run}", f"--predict_file={folder}/series.csv", "--horizon=3")
    assert (code, err) == (0, "")
    header, *rows = csv.reader(out.splitlines())
    assert header == ["other", "wave", "constant"]
    model, params, *_ = rnn_jax.load(run)
    series = jnp.asarray(standardised(folder)[:, None], jnp.float32)
    _, expected = free_run(model, {"params": params}, series, 3)
    np.testing.assert_allclose(np.array(rows, float), model.restore(expected[:, 0]), rtol=1e-4)
    stdin((folder / "series.csv").read_text())
    assert run_forecast(f"--workdir={run}", "--predict_file=-", "--horizon=3")[1] == out
    assert read(run) == before


def test_a_column_far_from_zero_is_continued_in_its_own_digits(tmp_path):
    path, values = tmp_path / "far.csv", 1e12 + np.arange(120) % 7
    path.write_text("\n".join(["t,small", *(f"{value:.0f},{1e-9 * (value % 7)}" for value in values)]) + "\n")
    code, _, err = run_forecast(f"--train={path}", f"--workdir={tmp_path / 'run'}", *SMALL)
    assert code == 0, err
    code, out, err = run_forecast(f"--workdir={tmp_path / 'run'}", f"--predict_file={path}", "--horizon=5")
    assert code == 0, err
    t, small = np.array(list(csv.reader(out.splitlines()))[1:], float).T
    assert (t % 1 != 0).all()
    assert np.abs(t - 1e12).max() < 20
    assert (small != 0).all()


def test_resuming_says_the_same(trained):
    run, out = trained
    code, again, err = run_forecast(f"--workdir={run}")
    assert code == 0, err
    assert again == out


def test_the_end_is_tested_on_unless_there_is_a_file_for_it():
    config = Forecast(context=4, bptt=6)
    table = Table("t", ("a",), np.arange(100.0)[:, None])
    train, valid, test = (part[:, 0].tolist() for part in split(config, table, None))
    assert (train, valid, test) == ([*range(70)], [*range(66, 85)], [*range(81, 100)])
    other = Table("o", ("a",), -np.arange(9.0)[:, None])
    train, valid, test = (part[:, 0].tolist() for part in split(config, table, other))
    assert (train, valid, test) == ([*range(85)], [*range(81, 100)], [-n for n in range(9)])


def test_a_file_to_test_on_must_have_the_columns(folder, tmp_path):
    (tmp_path / "other.csv").write_text("wind\n" + "1\n" * 9)
    code, _, err = run_forecast(f"--train={folder}/series.csv", f"--test={tmp_path}/other.csv", "--columns=wave")
    assert code == 2
    assert "test: " in err
    assert "other.csv, line 1: expected a column 'wave', found wind" in err


GOOD = "a,b\n" + "1,2\n" * 60


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("a,b\n1,2\n3,x\n", [], "bad.csv, line 3: expected a finite number in column 'b', found 'x'"),
        ("a,b\n1,2\n3,nan\n", [], "bad.csv, line 3: expected a finite number in column 'b', found 'nan'"),
        ("a,b\n1,2\n3\n", [], "bad.csv, line 3: expected 2 fields as in the header, found 1"),
        ("1,2\n3,4\n", [], "bad.csv, line 1: expected a header"),
        (GOOD, ["--columns=a,c"], "bad.csv, line 1: expected a column 'c', found a, b"),
        ("a,b\n" + "1,2\n" * 12, [], "bad.csv: expected enough rows for a window of 11"),
        ("a\n" + "1e200\n-1e200\n" * 40, [], "expected values of a finite variance in column 'a'"),
        (GOOD, ["--devices=3"], "--devices: expected 1 to"),
        (GOOD, ["--train=builtin", "--columns=a"], "--columns: expected a file as --train"),
        (GOOD, ["--train=none.csv"], "none.csv"),
        (GOOD, ["--predict_file=bad.csv"], "--predict_file: expected a trained run as --workdir, found none"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, monkeypatch, content, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text(content)
    code, out, err = run_forecast("--train=bad.csv", *SMALL, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wave,constant\n1,2\n", "line 1: expected a column 'other'"),
        ("other,wave,constant\n1,2,3\n", "expected at least 4 rows below the header, found the end after 1"),
        ("other,wave,constant\n1,2,3\n1,2\n", "line 3: expected 3 fields as in the header, found 2"),
    ],
)
def test_a_bad_file_to_continue_is_named(trained, tmp_path, content, message):
    (tmp_path / "bad.csv").write_text(content)
    code, out, err = run_forecast(f"--workdir={trained[0]}", f"--predict_file={tmp_path}/bad.csv")
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("forecast: predict_file: ")
    assert len(err.splitlines()) == 1
