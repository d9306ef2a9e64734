"""The adding and copying problems from the command line, on lags of a few steps."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call, read

import rnn_jax
from experiments import memory
from experiments.memory import Memory, cell_label, main, split_cells
from rnn_jax.data import MemoryBatches

run_memory = functools.partial(call, "memory", Memory, main)

CELLS = "elman(activation=relu),elman"
SMALL = ["--lag=4", "--hidden_size=4", "--batch_size=8", "--steps=6", "--eval_every=6", "--schedule=constant"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run of two cells, for tests that only read it, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    code, out, err = run_memory(f"--cells={CELLS}", f"--workdir={run}", *SMALL)
    assert code == 0, err
    return run, out


def test_cells_are_cut_at_commas_outside_parentheses():
    assert split_cells("elman, gru(reset=before,dtype=float32) ,lstm") == (
        "elman",
        "gru(reset=before,dtype=float32)",
        "lstm",
    )
    assert [cell_label(cell) for cell in ("lstm", "elman(activation=relu)", "lstm(forget_bias=-0.5,chrono=9)")] == [
        "lstm",
        "elman_activation_relu",
        "lstm_forget_bias_-0.5_chrono_9",
    ]


def test_a_run_leaves_a_run_for_every_cell(trained):
    run, out = trained
    result = read(run)
    assert list(result["metrics"]) == ["adding_mse_elman_activation_relu", "adding_mse_elman"]
    assert (result["experiment"], result["steps"]) == ("memory", 12)
    assert result["data"]["name"] == "adding"
    for name in ("config.json", "gradients.png", "gradients.json"):
        assert (run / name).exists()
    parameters = 0
    for label in ("elman_activation_relu", "elman"):
        part = read(run / label)
        name = f"adding_mse_{label}"
        assert part["metrics"] == {name: result["metrics"][name]}
        assert part["config"] == result["config"] | {"cells": {"elman": "elman"}.get(label, "elman(activation=relu)")}
        assert {path.name for path in (run / label).iterdir()} >= {"metrics.jsonl", "loss.png", "checkpoints"}
        parameters += part["parameters"]
    assert result["parameters"] == parameters == 2 * (2 * 4 + 16 + 4 + 5)
    assert "without a memory: a squared error of 0.1667" in out


def test_the_metric_is_that_of_the_model_that_is_loaded(trained):
    run, _ = trained
    whole = rnn_jax.load(run)
    assert whole.model.keys() == whole.params.keys() == {"elman_activation_relu", "elman"}
    test = MemoryBatches("adding", 4, 8).held_out(2, 2048)
    for label, model in whole.model.items():
        part = rnn_jax.load(run / label)
        jax.tree.map(np.testing.assert_array_equal, part.params, whole.params[label])
        _, outputs = model.apply({"params": part.params}, jnp.asarray(test.inputs))
        error = np.mean((np.asarray(outputs)[-1, :, 0] - test.targets[0]) ** 2)
        assert read(run)["metrics"][f"adding_mse_{label}"] == pytest.approx(error, rel=1e-4)


def test_the_gradients_are_those_of_the_rest_of_the_sequence(trained):
    run, _ = trained
    loaded = rnn_jax.load(run / "elman_activation_relu")
    test = MemoryBatches("adding", 4, 8).held_out(2, 2048)
    inputs, targets = jnp.asarray(test.inputs[:, :64]), jnp.asarray(test.targets[0, :64])

    def error(carry, start):
        _, outputs = loaded.model.apply({"params": loaded.params}, inputs[start:], carry)
        return jnp.square(outputs[-1, :, 0] - targets).sum()

    norms = []
    for lag in (1, 3):
        carry, _ = loaded.model.apply({"params": loaded.params}, inputs[: 4 - lag])
        norms.append(np.linalg.norm(jax.grad(error)(carry, 4 - lag)[0].hidden, axis=-1))
    share = np.mean(norms[1] / np.maximum(norms[0], np.finfo(np.float32).tiny))
    stages = read(run, "gradients.json")
    assert list(stages) == ["at initialisation", "after training"]
    assert stages["after training"]["elman(activation=relu)"][2] == pytest.approx(share, rel=1e-4)
    assert stages["at initialisation"] != stages["after training"]


def test_a_finished_run_of_several_says_the_same_again(trained):
    run, out = trained
    before = read(run)["metrics"]
    code, again, err = run_memory(f"--workdir={run}")
    assert code == 0, err
    assert again == out
    assert read(run)["metrics"] == before


def test_what_has_solved_the_problem_is_not_trained_on(trained, monkeypatch):
    monkeypatch.setitem(memory.SOLVED, "adding", 10.0)
    run = shutil.copytree(trained[0] / "elman", trained[0].parent / "copy")
    assert run_memory(f"--workdir={run}", "--steps=100")[0] == 0
    assert read(run)["steps"] == 6


def test_one_cell_alone_is_a_run_of_its_own(tmp_path):
    run = tmp_path / "run"
    arguments = [*SMALL, "--lag=2", "--cells=elman(activation=sigmoid)", "--task=copying"]
    code, out, err = run_memory(f"--workdir={run}", *arguments)
    assert code == 0, err
    loaded = rnn_jax.load(run)
    test = MemoryBatches("copying", 2, 8).held_out(2, 2048)
    outputs = np.asarray(loaded.model.apply({"params": loaded.params}, jnp.asarray(test.inputs))[1])
    right = np.mean(outputs[-10:].argmax(-1) == test.targets)
    assert read(run)["metrics"] == {"copying_accuracy_elman_activation_sigmoid": pytest.approx(right, abs=1e-4)}
    assert "1 symbol in 8" in out


def test_a_cell_that_diverges_does_not_stop_the_others(tmp_path):
    run = tmp_path / "run"
    wild = ["--optimizer=sgd", "--learning_rate=1e6", "--clip_norm=none", "--steps=40"]
    code, out, err = run_memory(f"--cells={CELLS}", f"--workdir={run}", *SMALL, *wild)
    assert code == 0, err
    assert "elman(activation=relu): step " in out
    assert "measured as it was at its best" in out
    assert read(run)["metrics"].keys() == {"adding_mse_elman_activation_relu", "adding_mse_elman"}
    code, _, err = run_memory(f"--workdir={run}/elman_activation_relu")
    assert code == 1
    assert "is saved" in err


def test_where_all_cells_start_from_is_known_before_the_first_is_trained(trained, tmp_path):
    code, out, err = run_memory(
        "--cells=elman,gru", f"--init_from={trained[0]}", f"--workdir={tmp_path / 'run'}", *SMALL
    )
    assert (code, out) == (2, "")
    assert err == f"memory: --init_from: expected a run, found no config.json in {trained[0]}/gru\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells=elman,lstn"], "--cells: 'lstn': expected one of"),
        (["--cells=elman,gru(reset=never)"], "--cells: 'gru(reset=never)': reset: expected 'after' or 'before'"),
        (["--cells=elman,,lstm"], "--cells: '': expected NAME"),
        (["--cells=lstm(chrono=2)"], "--cells: 'lstm(chrono=2)': chrono: expected a whole number at least 3"),
        (["--cells=lstm,gru,lstm"], "--cells: expected every cell once, found 'lstm' twice"),
        (["--task=sorting"], "--task: expected one of adding, copying, found 'sorting'"),
        (["--lag=1"], "--lag: expected a whole number at least 2, found '1'"),
        (["--devices=3", "--cells=elman,lstm"], "--devices: expected 1 to"),
        (["--init_from=nowhere", "--cells=elman,lstm"], "--init_from: expected a run"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_memory(*SMALL, *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("runs/*"))
