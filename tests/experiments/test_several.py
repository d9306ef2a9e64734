"""Several devices and several processes: the runs they make are those of one device in one process."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from in_process import call, read

from experiments.charlm import CharLM, main
from rnn_jax.training.metrics import TRAIN, VALID, read_metrics

ROOT = Path(__file__).parents[2]
SMALL = ("--cell=gru", "--hidden_size=8", "--embedding_size=8", "--bptt=8", "--batch_size=8", "--sample_every=none")
SHORT = ("--steps=24", "--eval_every=12", "--sample_length=5")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    draw = random.Random(0)
    path.write_text(" ".join(draw.choice(("to", "be", "or", "not", "that")) for _ in range(3000)))
    return path


def start(*arguments, devices=1, scratch=None):
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    if scratch is not None:
        environment["TMPDIR"] = str(scratch)
    # JAX, in this process, has set it.
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, "-m", "experiments.charlm", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def finish(*processes, timeout=240):
    """The (exit code, standard output, standard error) of each."""
    results = []
    try:
        for process in processes:
            output, errors = process.communicate(timeout=timeout)
            results.append((process.returncode, output, errors))
    finally:
        for process in processes:
            process.kill()
    return results


def one(*arguments, devices=1):
    ((code, output, errors),) = finish(start(*arguments, devices=devices))
    assert code == 0, errors
    return output


def start_two(*arguments, **options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = (f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *arguments)
    return [start(*common, f"--process_id={number}", **options) for number in range(2)]


def two(*arguments, **options):
    results = finish(*start_two(*arguments, **options))
    assert [code for code, *_ in results] == [0, 0], results
    return results


def losses(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [(line["split"], line["step"], line.get("loss", line.get("val_loss"))) for line in lines]


def same(found, wanted):
    assert [entry[:2] for entry in found] == [entry[:2] for entry in wanted]
    assert [entry[2] for entry in found] == pytest.approx([entry[2] for entry in wanted], rel=1e-5)


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    """The losses of one device in one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    flags = (f"--corpus={corpus}", *SMALL, *SHORT, "--devices=1", f"--workdir={folder}")
    code, _, errors = call("charlm", CharLM, main, *flags)
    assert code == 0, errors
    found = losses(folder)
    assert {split for split, *_ in found} == {TRAIN, VALID}
    return found


def test_two_processes_are_one_run(corpus, alone, tmp_path):
    """The second says nothing and leaves nothing; either's devices hold a part of each batch."""
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    first, second = two(f"--corpus={corpus}", *SMALL, *SHORT, f"--workdir={folder}", devices=2, scratch=scratch)
    same(losses(folder), alone)
    assert "val_loss_window" in first[1]
    assert "val_loss" not in second[1] + second[2]
    assert not list(scratch.iterdir())
    assert read(folder)["device"].startswith("4 x ")


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--shard_params", "--embedding_size=2048")], ids=["whole", "sharded"])
def test_eight_devices_are_one(corpus, tmp_path, extra):
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        one(f"--corpus={corpus}", *SMALL, *SHORT, *extra, f"--workdir={folder}", devices=devices)
    same(losses(tmp_path / "8"), losses(tmp_path / "1"))


@pytest.mark.slow
def test_sharded_parameters_in_two_processes(corpus, tmp_path):
    arguments = (f"--corpus={corpus}", *SMALL, *SHORT, "--embedding_size=2048")
    one(*arguments, f"--workdir={tmp_path / 'one'}")
    two(*arguments, "--shard_params", f"--workdir={tmp_path / 'two'}", devices=2)
    same(losses(tmp_path / "two"), losses(tmp_path / "one"))
    # The parameters were saved in parts and are whole again.
    one(f"--workdir={tmp_path / 'two'}", "--sample")


@pytest.mark.slow
def test_stopped_on_eight_devices_resumed_on_one_and_on_two_processes(corpus, alone, tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        one(f"--corpus={corpus}", *SMALL, "--steps=12", "--eval_every=12", "--schedule=constant",
            f"--workdir={folder}", devices=8)  # fmt: skip
        resumed = (f"--workdir={folder}", f"--corpus={corpus}", "--steps=24")
        one(*resumed) if name == "one" else two(*resumed)
    reference = tmp_path / "reference"
    one(f"--corpus={corpus}", *SMALL, *SHORT, "--schedule=constant", f"--workdir={reference}")
    same(losses(tmp_path / "one"), losses(reference))
    same(losses(tmp_path / "two"), losses(reference))


def wait_for(condition, timeout=200):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_resumes(corpus, tmp_path, victim):
    """Checkpoints follow one another closely, so that the blow falls within a save as often as not."""
    folder = tmp_path / "run"
    endless = (f"--corpus={corpus}", *SMALL, "--steps=1000000", "--checkpoint_every=2", "--eval_every=1000000")
    processes = start_two(*endless, f"--workdir={folder}")
    wait_for(lambda: len(read_metrics(folder / "metrics.jsonl")) > 5)
    processes[victim].kill()
    killed = time.monotonic()
    code, _, errors = finish(processes[1 - victim], timeout=60)[0]
    assert time.monotonic() - killed < 60
    processes[victim].communicate()
    assert code == 1
    message = errors.strip().splitlines()[-1]
    assert message.startswith("charlm: lost another process; what was saved last is whole: start all of them again")
    assert f"--workdir={folder}" in message
    assert "Traceback" not in errors
    assert "stack trace" not in errors
    saved = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
    results = two(f"--workdir={folder}", f"--corpus={corpus}", f"--steps={2 * max(saved) + 10}")
    assert "resuming" in results[0][2]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(corpus, tmp_path, chosen):
    folder = tmp_path / "run"
    processes = start_two(f"--corpus={corpus}", *SMALL, "--steps=1000000", f"--workdir={folder}")
    wait_for(lambda: len(read_metrics(folder / "metrics.jsonl")) > 2)
    processes[chosen].send_signal(signal.SIGTERM)
    results = finish(*processes)
    assert [code for code, *_ in results] == [143, 143], results
    assert len({errors.strip().splitlines()[-1] for *_, errors in results}) == 1
    assert "stopped by SIGTERM after step" in results[0][2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--num_processes=2",), "--coordinator: expected HOST:PORT or auto, found None"),
        (("--coordinator=here",), "--coordinator: expected HOST:PORT or auto, found 'here'"),
        (("--coordinator=here:1",), "--num_processes: expected their number beside --coordinator, found none"),
        (
            ("--coordinator=here:1", "--num_processes=2"),
            "--process_id: expected 0 to 1 beside --coordinator, found None",
        ),
        (
            ("--coordinator=here:1", "--num_processes=2", "--process_id=2"),
            "--process_id: expected 0 to 1 beside --coordinator, found 2",
        ),
        (
            ("--coordinator=here:1", "--sweep=seed=0..1"),
            "--coordinator: expected one process, which --sweep needs, found several",
        ),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together(arguments, message):
    code, _, errors = call("charlm", CharLM, main, *arguments)
    assert (code, errors) == (2, f"charlm: {message}\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_coordinator_that_does_not_answer(number, tmp_path):
    flags = ("--coordinator=127.0.0.1:1" if number else "--coordinator=127.0.0.1:30999", "--num_processes=2")
    process = start(*flags, f"--process_id={number}", "--connect_timeout=2", f"--workdir={tmp_path / 'run'}")
    ((code, _, errors),) = finish(process, timeout=60)
    address = flags[0].partition("=")[2]
    missing = "its answer" if number else "the other processes"
    assert errors == f"charlm: --coordinator: waited 2 s for {missing} at {address}: none came\n"
    assert code == 2
    assert not (tmp_path / "run").exists()
