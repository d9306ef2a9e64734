"""A whole experiment: exit codes, signals, sudden death, and what a run leaves behind."""

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import toy_experiment
from in_process import call, read

from experiments import several
from experiments.runner import run_experiment
from rnn_jax.training import processes
from rnn_jax.training.metrics import read_metrics
from rnn_jax.training.run import Run

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "training"))
# A short pause after each step, so that signals find the run at work.
SLOW = ("--pause=0.01", "--eval_every=10", "--checkpoint_every=3")


def start(*arguments, folder, program=("-m", "toy_experiment"), **variables):
    paths = [str(path) for path in (HERE, HERE.parent / "training", HERE.parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "error"} | variables
    command = [sys.executable, *program, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(process):
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def run(*arguments, folder):
    """The same in this process: exit code, output, errors."""
    with contextlib.chdir(folder):
        return call("toy", toy_experiment.Config, toy_experiment.main, *arguments)


def wait_for(condition, process):
    for _ in range(6000):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.02)
    raise AssertionError("nothing happened for two minutes")


def steps_logged(folder):
    lines = read_metrics(folder / "run" / "metrics.jsonl")
    return max((line["step"] for line in lines), default=0)


def without_times(folder):
    return [{**line, "seconds": None} for line in read_metrics(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 120 steps."""
    folder = tmp_path_factory.mktemp("whole")
    code, output, errors = run("--steps=120", "--workdir=run", *SLOW, folder=folder)
    assert code == 0, errors
    return folder / "run", output, errors


def test_a_run_leaves_all_that_was_promised(whole):
    folder, output, errors = whole
    assert {path.name for path in folder.iterdir() if not path.name.startswith("events.out")} == {
        "checkpoints", "config.json", "data.json", "loss.png", "metrics.jsonl", "model.json", "result.json",
        "vocabulary.json",
    }  # fmt: skip
    assert any(path.name.startswith("events.out.tfevents") for path in folder.iterdir())
    result = read(folder)
    assert list(result) == [
        "experiment", "config", "metrics", "steps", "seconds", "parameters", "device", "versions", "data",
    ]  # fmt: skip
    assert (result["experiment"], result["steps"], result["parameters"]) == ("toy", 120, 64)
    assert result["data"] == {"name": "rule", "sha256": "", "sizes": {"train": 10}}
    assert result["config"]["steps"] == 120
    assert result["config"]["epochs"] is None
    best = min(line["val_loss"] for line in read_metrics(folder / "metrics.jsonl") if line["split"] == "valid")
    assert result["metrics"]["val_loss"] == best
    assert output == f"val_loss {best:.4f}\n"
    assert errors.startswith("training in run\n")


def test_a_trained_run_is_used_without_training(whole):
    folder, _, _ = whole
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    assert run("--workdir=run", "--show", folder=folder.parent) == (0, "[1, 2, 3, 4, 5, 6, 7, 0]\n", "")
    assert before == sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_init_from_starts_where_another_run_ended(whole, tmp_path):
    folder, output, _ = whole
    code, _, errors = run(f"--init_from={folder}", "--steps=1", "--learning_rate=1e-6", folder=tmp_path)
    assert code == 0, errors
    (path,) = (tmp_path / "runs").iterdir()
    assert read(path)["metrics"]["val_loss"] == pytest.approx(float(output.split()[1]), abs=1e-3)


def test_a_signal_ends_a_run_that_can_be_resumed(whole, tmp_path):
    arguments = ("--steps=120", *SLOW)
    for number, code, reached in ((signal.SIGINT, 130, 20), (signal.SIGTERM, 143, 60)):
        process = start("--workdir=run", *arguments, folder=tmp_path)
        wait_for(lambda reached=reached: steps_logged(tmp_path) >= reached, process)
        process.send_signal(number)
        found, output, errors = finish(process)
        assert (found, output) == (code, "")
        assert f"stopped by {number.name} after step" in errors.splitlines()[-1]
        assert errors.endswith("resume: python -m experiments.toy --workdir=run\n")
        assert not (tmp_path / "run" / "result.json").exists()
        # What was not asked for is not to be forgotten.
        arguments = ()
    code, output, errors = run("--workdir=run", folder=tmp_path)
    assert code == 0, errors
    assert output == whole[1]
    assert errors.startswith("resuming run after step ")
    assert without_times(tmp_path / "run") == without_times(whole[0])


def test_a_folder_that_another_process_trains_in_is_let_alone(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    # The system tells one opening of the folder from another, be it by one process or two.
    other = Run(tmp_path / "run", "toy", {})
    other.claim()
    code, output, errors = run("--workdir=run", "--steps=130", folder=tmp_path)
    expected = "toy: --workdir: expected a run that no other process trains, found one that another does: run\n"
    assert (code, output, errors) == (2, "", expected)
    assert run("--workdir=run", "--show", folder=tmp_path)[0] == 0
    other.release()
    assert run("--workdir=run", "--steps=130", folder=tmp_path)[0] == 0


@pytest.mark.parametrize(("name", "expected"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_after_training_says_how_to_go_on(tmp_path, name, expected):
    # What a shell runs in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output, errors = run("--steps=2", "--workdir=run", f"--late_signal={name}", folder=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, output) == (expected, "")
    assert errors.splitlines()[-1] == f"toy: stopped by {name}; resume: python -m experiments.toy --workdir=run"
    assert run("--workdir=run", folder=tmp_path)[0] == 0
    assert (tmp_path / "run" / "result.json").exists()


def die_and_resume(folder, deaths, seed):
    """Kill a run at random moments; each time it must go on from where it had got, or further."""
    chance = random.Random(seed)
    reached = 0
    for death in range(deaths):
        process = start("--steps=120", "--workdir=run", *SLOW, folder=folder)
        goal = reached + chance.randint(5, max(6, 100 // deaths))
        wait_for(lambda goal=goal: steps_logged(folder) >= goal, process)
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        code, _, errors = finish(process)
        if code == 0 and death >= deaths // 2:
            # On a busy machine it may come to its end before it is killed so many times.
            break
        assert code == -signal.SIGKILL, errors
        first = errors.splitlines()[0]
        if first.startswith("resuming"):
            resumed = int(first.split()[-1])
            # Everything but the last two saves (each third step, one may be under way) must be there.
            assert resumed >= reached - 10, f"step {reached} had been reached, but {first}"
        else:
            assert reached < 10, f"step {reached} had been reached, but {first}"
        reached = steps_logged(folder)
    code, output, errors = run("--workdir=run", folder=folder)
    assert code == 0, errors
    return output


def test_kill_9_never_leaves_a_run_that_cannot_resume(whole, tmp_path):
    assert die_and_resume(tmp_path, 2, seed=0) == whole[1]
    assert without_times(tmp_path / "run") == without_times(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_kill_9_many_times(whole, tmp_path, seed):
    assert die_and_resume(tmp_path, 15, seed) == whole[1]
    assert without_times(tmp_path / "run") == without_times(whole[0])


def test_a_loss_that_is_not_a_number_ends_the_run_in_one_line(tmp_path):
    code, output, errors = run("--workdir=run", "--bad_step=33", *SLOW, folder=tmp_path)
    assert (code, output) == (1, "")
    assert errors.splitlines()[-1] == (
        "toy: step 33: the loss is nan; the state before it is saved; a smaller --learning_rate or --clip_norm may help"
    )
    code, _, errors = run("--workdir=run", "--bad_step=none", folder=tmp_path)
    assert code == 0
    assert errors.startswith("resuming run after step 32\n")


def test_a_run_that_died_before_its_first_checkpoint_starts_again_where_it_was_to(whole, tmp_path):
    folder, arguments = whole[0], ("--steps=20", "--learning_rate=0.01")
    assert run(f"--init_from={folder}", *arguments, "--workdir=undisturbed", folder=tmp_path)[0] == 0
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "run")
    for name in ("result.json", "metrics.jsonl"):
        (tmp_path / "run" / name).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    code, _, errors = run("--workdir=run", folder=tmp_path)
    assert code == 0, errors
    assert without_times(tmp_path / "run") == without_times(tmp_path / "undisturbed")


def test_a_run_of_other_symbols_is_no_start(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "other")
    vocabulary = tmp_path / "other" / "vocabulary.json"
    stored = json.loads(vocabulary.read_text())
    vocabulary.write_text(json.dumps(stored | {"symbols": [symbol.upper() for symbol in stored["symbols"]]}))
    code, _, errors = run("--init_from=other", folder=tmp_path)
    assert (code, errors) == (
        2, "toy: --init_from: expected a run of the same symbols as this one's, found others: other\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"experiment": "toy", "config": []}'),
        ("vocabulary.json", "[]"),
        ("model.json", '{"class": "LanguageModel"}'),
    ],
)
def test_a_damaged_folder_is_one_line(whole, tmp_path, name, text):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / name).write_text(text)
    code, _, errors = run("--workdir=run", "--show", folder=tmp_path)
    assert (code, errors.count("\n")) == (2, 1)
    assert re.match(rf"toy: --workdir: (cannot read \S*{name}: damaged|expected a run, found another {name})", errors)


def test_a_damaged_line_of_metrics_is_left_out(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("".join([lines[0], lines[1][:20] + "\n", *lines[2:]]))
    code, _, errors = run("--workdir=run", "--steps=125", folder=tmp_path)
    assert code == 0, errors
    assert steps_logged(tmp_path) >= 120


def test_standard_streams_that_are_closed_or_full(whole, tmp_path):
    for redirected, expected in ((">&-", (0, "")), (">/dev/full", (1, "toy: cannot write: No space left on device\n"))):
        command = f"{sys.executable} -m toy_experiment --help {redirected}"
        paths = os.pathsep.join(str(path) for path in (HERE, HERE.parent.parent))
        environment = os.environ | {"PYTHONPATH": paths}
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == expected


def test_resuming_with_other_settings(whole, tmp_path):
    folder = whole[0].parent

    def error(*arguments):
        code, output, errors = run(*arguments, folder=folder)
        assert (code, output) == (2, "")
        return errors

    assert error("--workdir=run", "--learning_rate=0.5", "--seed=0", "--batch_size=4") == (
        "toy: --workdir: run holds a run with another configuration: "
        "batch_size (2 in the run, 4 now), learning_rate (0.1 in the run, 0.5 now)\n"
    )


def test_what_is_refused_is_not_remembered(whole, tmp_path):
    """Settings that may change, but not to that, are not in the way of the next command."""
    shutil.copytree(whole[0], tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    assert run("--workdir=run", "--devices=9", "--steps=150", folder=tmp_path)[0] == 2
    assert (tmp_path / "run" / "config.json").read_text() == before
    code, _, errors = run("--workdir=run", folder=tmp_path)
    assert code == 0, errors
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_resuming_what_another_version_began(whole, tmp_path):
    """Its configuration says, or lacks, what changes the arrays of the state."""
    shutil.copytree(whole[0], tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    stored = json.loads(config.read_text())
    stored["config"]["ema_decay"] = 0.9
    config.write_text(json.dumps(stored))
    code, output, errors = run("--workdir=run", folder=tmp_path)
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1] == (
        "toy: --workdir: expected the arrays of this model and optimizer, found others in "
        f"{tmp_path}/run/checkpoints; another version may have begun the run"
    )


def test_a_damaged_checkpoint_is_one_line(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/params/manifest.ocdbt"):
        path.write_text("")
    for arguments in (("--workdir=run", "--steps=130"), ("--init_from=run",)):
        code, output, errors = run(*arguments, folder=tmp_path)
        assert (code, output) == (2, "")
        assert re.fullmatch(
            rf"toy: {arguments[0].split('=')[0]}: cannot read \S*run/checkpoints/\d+: damaged", errors.splitlines()[-1]
        )


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    for arguments, message in {
        ("--hiden=3",): "toy: unknown flag --hiden (--help lists the flags)\n",
        ("--batch_size=0",): "toy: --batch_size: expected a whole number at least 1, found '0'\n",
        ("--fail=data",): "toy: corpus: expected a text, found nothing\n",
        ("--fail=flag",): "toy: --fail: expected anything else, found flag\n",
        ("--show",): "toy: --show: expected a trained run as --workdir, found none\n",
        ("--show", "--workdir=none"): "toy: --workdir: expected a trained run, found none in none\n",
        ("--halving",): "toy: --halving: expected --sweep too, found none\n",
        ("--devices=9",): "toy: --devices: expected 1 to 1, as many as are visible, found 9\n",
        ("--init_from=none", "--workdir=new"): ("toy: --init_from: expected a run, found no config.json in none\n"),
    }.items():
        assert run(*arguments, folder=tmp_path) == (2, "", message)
        assert not (tmp_path / "new").exists()
        assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_wrong_environment_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_JAX_LOOPS", "fast")
    code, _, errors = run("--workdir=run", folder=tmp_path)
    assert (code, errors) == (2, "toy: RNN_JAX_LOOPS: expected one of auto, fused, packed, xla, found 'fast'\n")
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_line(tmp_path, monkeypatch):
    def too_much(config, run):
        raise MemoryError("Unable to allocate 8.00 EiB for an array")

    monkeypatch.setattr(toy_experiment, "main", too_much)
    code, _, errors = run("--workdir=run", folder=tmp_path)
    expected = "toy: not enough memory for what is asked for: Unable to allocate 8.00 EiB for an array\n"
    assert (code, errors) == (1, expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            jax.errors.JaxRuntimeError("UNKNOWN: Gloo is gone\nand more"),
            r"lost another .*; .* \(UNKNOWN: Gloo is gone\)",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "file"), "cannot write file: No space left on device"),
    ],
)
def test_how_one_of_several_processes_ends_is_one_line(tmp_path, monkeypatch, error, expected):
    def fail(config, run):
        monkeypatch.setattr(processes, "count", lambda: 2)
        raise error

    monkeypatch.setattr(toy_experiment, "main", fail)
    monkeypatch.setattr(several, "joined", lambda: True)
    monkeypatch.setattr(processes, "_farewell", processes._farewell)
    left = []
    monkeypatch.setattr(several, "leave", left.append)
    code, _, errors = run("--workdir=run", folder=tmp_path)
    assert (code, left) == (1, [1])
    assert re.fullmatch(f"toy: {expected}\n", errors)


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a bug"):
        run_experiment("toy", toy_experiment.Config, toy_experiment.main, ["--fail=bug"])


def test_a_pipe_that_closes_is_no_error(tmp_path):
    process = start("--fail=pipe", folder=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_help_and_wrong_flags_do_not_wait_for_jax(tmp_path):
    program = (
        "import sys, toy_experiment as toy\n"
        "try: toy.run_experiment('toy', toy.Config, toy.main, [sys.argv[1]])\n"
        "except SystemExit as end: print(end.code, 'jax' in sys.modules)\n"
    )
    paths = os.pathsep.join(str(path) for path in (HERE, HERE.parent.parent))
    for argument, code in (("--help", 0), ("--hiden_size=3", 2)):
        command = [sys.executable, "-c", program, argument]
        environment = os.environ | {"PYTHONPATH": paths}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"{code} False"


@pytest.mark.slow  # tests/training/test_sharding.py has the law; this is the whole experiment
def test_all_devices_are_used_and_give_what_one_gives(tmp_path):
    two = start(
        "--steps=40",
        "--workdir=run",
        folder=tmp_path,
        XLA_FLAGS=os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2",
    )
    code, output, errors = finish(two)
    assert code == 0, errors
    assert read(tmp_path / "run")["device"].startswith("2 x ")
    code, alone, errors = run("--steps=40", "--workdir=alone", folder=tmp_path)
    assert code == 0, errors
    assert float(output.split()[1]) == pytest.approx(float(alone.split()[1]), abs=2e-4)
