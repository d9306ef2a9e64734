"""--sweep: runs trained together are the runs alone."""

import csv
import importlib
import json
import math
import os
import shlex
import threading
import time

import jax
import numpy as np
import pytest
from in_process import call, read
from test_runner import finish, run, start

from experiments import joint, sweep
from experiments.charlm import CharLM
from experiments.config import TrainingConfig
from experiments.flags import FlagError, assign, command, parse
from experiments.joint import Joint, halve
from rnn_jax.sweep import Space
from rnn_jax.training.metrics import read_metrics


@pytest.fixture
def programs(monkeypatch):
    """The joint programs that sweeps compile: (runs, ) of each."""
    made = []
    together = joint._together

    def counted(function):
        made.append(function)
        return together(function)

    monkeypatch.setattr(joint, "_together", counted)
    return made


def table(folder):
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def losses(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return {(line["step"], line["split"]): line.get("loss", line.get("val_loss")) for line in lines}


def on_threads(function, count):
    """`function(0)` to `function(count - 1)`, each on a thread of its own."""
    threads = [threading.Thread(target=function, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


FLAGS = ("--steps=40", "--eval_every=20", "--clip_norm=0.5")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Two of the runs of a sweep, each started by itself: the losses by the number of the run."""
    folder = tmp_path_factory.mktemp("alone")
    chosen = {0: ("--learning_rate=0.001", "--seed=0"), 3: ("--learning_rate=0.03", "--seed=1")}
    for number, flags in chosen.items():
        assert run(*FLAGS, *flags, f"--workdir={number}", folder=folder)[0] == 0
    return {number: losses(folder / str(number)) for number in chosen}


@pytest.mark.parametrize("method", ["vmap", *(pytest.param(one, marks=pytest.mark.slow) for one in ("loop", "3"))])
def test_a_sweep_gives_the_losses_of_its_runs(method, alone, tmp_path, programs):
    settings = "learning_rate=log(0.001,0.03,2);seed=0..1"
    code, output, errors = run(
        *FLAGS, f"--sweep={settings}", f"--sweep_method={method}", "--workdir=s", folder=tmp_path
    )
    assert code == 0, errors
    assert len(programs) == (method != "loop")
    rows = table(tmp_path / "s")
    assert [row["status"] for row in rows] == ["done"] * 4
    for number, expected in alone.items():
        found = losses(tmp_path / "s" / "runs" / f"00{number}")
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5)
    result = read(tmp_path / "s")
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert result["best_run"] == int(best["run"])
    assert result["metrics"]["val_loss"] == float(best["val_loss"])
    assert result["command"].split()[:3] == ["python", "-m", "experiments.toy"]
    assert f"--learning_rate={float(best['learning_rate'])}" in result["command"]
    plots = {"sweep_loss.png", "sweep_learning_rate.png", "sweep_seed.png"}
    assert plots <= {path.name for path in (tmp_path / "s").iterdir()}
    assert "share of the variance explained: learning_rate" in output


SPREAD = """
import sys
from experiments import joint
found, shapes = set(), joint._shapes
def noted(tree):
    shaped = shapes(tree)
    found.update(device for _, _, *devices in shaped for device in devices)
    return shaped
joint._shapes = noted
import toy_experiment
try:
    toy_experiment.run_experiment("toy", toy_experiment.Config, toy_experiment.main)
finally:
    print(f"{len(found)} devices", file=sys.stderr)
"""


@pytest.mark.parametrize(("method", "devices"), [("auto", 4), pytest.param("loop", 1, marks=pytest.mark.slow)])
def test_runs_are_spread_over_all_devices(method, devices, alone, tmp_path):
    process = start(
        *FLAGS, "--sweep=learning_rate=log(0.001,0.03,2);seed=0..1", f"--sweep_method={method}", "--workdir=s",
        folder=tmp_path, program=("-c", SPREAD),
        XLA_FLAGS=os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4",
    )  # fmt: skip
    code, _, errors = finish(process)
    assert (code, errors.splitlines()[-1]) == (0, f"{devices} devices"), errors
    for number, expected in alone.items():
        found = losses(tmp_path / "s" / "runs" / f"00{number}")
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5)
    assert "--devices=1" in read(tmp_path / "s")["command"]


BLOCKS = """
import sys
from rnn_jax.training import dispatch
counts, issue = set(), dispatch.Dispatcher._issue
def noted(self, step, rates):
    counts.add(len(rates))
    return issue(self, step, rates)
dispatch.Dispatcher._issue = noted
dispatch.Dispatcher._suggest_block_size = lambda self, begin, step: 4
dispatch._FIRST_LOOK = 0.0
import toy_experiment
try:
    toy_experiment.run_experiment("toy", toy_experiment.Config, toy_experiment.main)
finally:
    print(f"dispatches of {sorted(counts)} steps", file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vmap", "loop"])
def test_runs_that_take_several_steps_at_once_have_the_losses_of_one_alone(method, alone, tmp_path):
    process = start(
        *FLAGS, "--sweep=learning_rate=log(0.001,0.03,2);seed=0..1", f"--sweep_method={method}", "--workdir=s",
        folder=tmp_path, program=("-c", BLOCKS),
    )  # fmt: skip
    code, _, errors = finish(process)
    assert code == 0, errors
    assert "dispatches of [1, 4] steps" in errors
    for number, expected in alone.items():
        found = losses(tmp_path / "s" / "runs" / f"00{number}")
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5)


def test_a_run_that_diverges_is_reported_and_the_others_go_on(tmp_path, programs):
    code, output, errors = run(
        "--sweep=bad_step=none,7;seed=0,1", "--sweep_method=vmap", "--steps=10", "--workdir=s", folder=tmp_path
    )
    assert code == 0, errors
    assert [row["status"] for row in table(tmp_path / "s")] == ["done", "done", "diverged", "diverged"]
    assert "diverged: runs 2, 3" in output
    # What decides the program is compared field by field, so the two kinds were two groups.
    assert len(programs) == 2


def test_halving_keeps_the_better_half(tmp_path):
    arguments = ("--sweep=learning_rate=1e-5,1e-4,1e-3,0.1", "--halving", "--steps=40", "--eval_every=10")
    code, _, errors = run(*arguments, "--workdir=s", folder=tmp_path)
    assert code == 0, errors
    rows = table(tmp_path / "s")
    assert [row["status"] for row in rows] == ["halved", "halved", "halved", "done"]
    steps = [max(step for step, _ in losses(tmp_path / "s" / "runs" / f"00{number}")) for number in range(4)]
    assert steps == [10, 10, 20, 40]


def test_a_sweep_whose_runs_all_diverge(tmp_path):
    arguments = ("--sweep=learning_rate=0.1,0.2", "--eval_every=5", "--steps=10", "--workdir=s")
    code, output, errors = run(*arguments, "--bad_step=7", folder=tmp_path)
    assert code == 1
    assert errors.splitlines()[-1].startswith("toy: every run of the sweep diverged; what they were is in s; a smaller")
    assert "diverged: runs 0, 1" in output
    # What was known when they ended.
    rows = table(tmp_path / "s")
    assert [row["status"] for row in rows] == ["diverged"] * 2
    assert all(math.isfinite(float(row["val_loss"])) for row in rows)


def test_the_result_of_a_run_that_was_halved(tmp_path):
    """The better half diverges: the best is one that was ended at its first evaluation."""
    arguments = ("--halving", "--steps=40", "--eval_every=10", "--bad_step=12", "--workdir=s")
    code, _, errors = run("--sweep=learning_rate=1e-5,0.1", *arguments, folder=tmp_path)
    assert code == 0, errors
    assert [row["status"] for row in table(tmp_path / "s")] == ["halved", "diverged"]
    result = read(tmp_path / "s")
    assert (result["best_run"], result["steps"]) == (0, 10)
    assert result["metrics"].keys() == {"val_loss"}
    assert {"experiment", "config", "seconds", "parameters", "device", "versions", "data"} <= result.keys()


def test_a_sweep_that_was_stopped_goes_on(tmp_path, monkeypatch):
    arguments = ("--sweep=batch_size=2,4", "--steps=10")
    assert run(*arguments, "--workdir=whole", folder=tmp_path)[0] == 0
    real, groups = sweep._train_group, []

    def first_only(*group, **named):
        groups.append(group[2])
        if len(groups) == 2:
            raise KeyboardInterrupt
        real(*group, **named)

    monkeypatch.setattr(sweep, "_train_group", first_only)
    assert run(*arguments, "--workdir=s", folder=tmp_path)[0] == 130
    assert [row["status"] for row in table(tmp_path / "s")] == ["done"]
    monkeypatch.setattr(sweep, "_train_group", lambda *group, **named: (groups.append(group[2]), real(*group, **named)))
    assert run("--workdir=s", folder=tmp_path)[0] == 0
    assert [len(group) for group in groups] == [1, 1, 1]
    assert table(tmp_path / "s") == table(tmp_path / "whole")


def test_a_sweep_at_its_end_goes_on_to_more_steps(tmp_path):
    arguments = ("--sweep=learning_rate=1e-5,1e-4,1e-3,0.1", "--halving", "--eval_every=10")
    assert run(*arguments, "--steps=15", "--workdir=s", folder=tmp_path)[0] == 0
    assert [row["status"] for row in table(tmp_path / "s")] == ["halved", "halved", "done", "done"]
    code, _, errors = run("--steps=40", "--workdir=s", folder=tmp_path)
    assert code == 0, errors
    assert [row["status"] for row in table(tmp_path / "s")] == ["halved", "halved", "halved", "done"]
    # The evaluation at step 15 was that of the end, not one of those at which runs are halved.
    steps = [max(step for step, _ in losses(tmp_path / "s" / "runs" / f"00{number}")) for number in range(4)]
    assert steps == [10, 10, 20, 40]
    assert read(tmp_path / "s")["steps"] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--sweep=learning_rate"],
            "--sweep: expected name=values at character 1 of 'learning_rate', found 'learning_rate'",
        ),
        (
            ["--sweep=lerning_rate=1,2"],
            "--sweep: expected the name of a flag, found 'lerning_rate'; did you mean learning_rate?",
        ),
        (
            ["--sweep=devices=1,2"],
            "--sweep: expected what differs between runs, found devices: a sweep places its runs",
        ),
        (["--sweep=workdir=a,b"], "--sweep: expected the name of a flag, found 'workdir'"),
        (["--sweep=batch_size=0,4"], "--batch_size: expected a whole number at least 1, found 0"),
        (["--sweep=seed=0..1", "--halving", "--eval_every=none"], "--halving: expected --eval_every too"),
        (
            ["--sweep=seed=0..1", "--sweep_method=fast"],
            "--sweep_method: expected auto, vmap, loop, devices or a positive number",
        ),
        (["--sweep=seed=0..1", "--show", "--workdir=x"], "--show: expected the folder of one run"),
        (["--sweep=seed=0..1", "--devices=9"], "--devices: expected 1 to 1, as many as are visible, found 9"),
        (["--sweep=seed=0..1", "--fail=data"], "corpus: expected a text, found nothing"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    code, _, errors = run(*arguments, folder=tmp_path)
    assert code == 2
    assert errors.splitlines()[-1].startswith(f"toy: {message}")
    assert not list(tmp_path.glob("runs/*"))


TOGETHER = {
    "charlm": (
        "--hidden_size=5 --batch_size=4 --bptt=6 --steps=100 --eval_every=50 --sample_length=5 --warmup=3",
        "learning_rate=1e-3,1e-2;dropout=0.1,0.3;weight_drop=0.1,0.2;cell=lstm,lstm(forget_bias=-1)",
    ),
    "sentiment": (
        "--hidden_size=4 --embedding_size=4 --batch_size=8 --steps=100 --eval_every=50",
        "learning_rate=1e-3,1e-2;dropout=0.1,0.3;word_dropout=0.1,0.2;seed=0,1",
    ),
    "digits": (
        "--task=draw --hidden_size=4 --batch_size=16 --steps=60 --eval_every=30",
        "learning_rate=1e-3,1e-2;dropout=0.1,0.3",
    ),
    "seq2seq": (
        "--hidden_size=4 --embedding_size=4 --batch_size=8 --steps=100 --eval_every=100 --task=copy --beam_size=1"
        " --buckets=1 --pairs=300",
        "learning_rate=1e-3,1e-2;dropout=0.1,0.3;clip_norm=0.1,1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_an_experiment_together_and_alone(name, tmp_path, programs):
    """A carry, rates of dropout, first parameters and clipping differ within one program."""
    module = importlib.import_module(f"experiments.{name}")
    config_class = next(c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__
                        and issubclass(c, TrainingConfig))  # fmt: skip
    common, space = TOGETHER[name]
    flags = common.split()
    if name == "charlm":
        corpus = tmp_path / "corpus.txt"
        corpus.write_text("the quick brown fox jumps over the lazy dog. " * 40)
        flags.append(f"--corpus={corpus}")

    def start(*more):
        code, _, errors = call(name, config_class, module.main, *flags, *more)
        assert code == 0, errors

    start(f"--sweep={space}", "--sweep_method=vmap", f"--workdir={tmp_path / 's'}")
    # One for each length of a batch, of which sentiment has four.
    assert len(programs) == (4 if name == "sentiment" else 1)
    rows = table(tmp_path / "s")
    for number in (0, len(rows) - 1):
        setting = Space.parse(space).grid()[number]
        folder = tmp_path / f"alone{number}"
        start(*(f"--{key}={value}" for key, value in setting.items()), f"--workdir={folder}")
        together = tmp_path / "s" / "runs" / f"{number:03}"
        expected, found = losses(folder), losses(together)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5)
        alone, swept = read(folder), read(together)
        assert swept["config"] == alone["config"]


def test_what_runs_may_differ_in_and_share_a_program(tmp_path):
    def groups(space):
        config = parse([f"--sweep={space}", "--dropout=0.1"], CharLM).config
        return [len(group) for group in sweep.static_groups(sweep.members_of(config, tmp_path))]

    assert groups("learning_rate=1e-3,1e-2;dropout=0.1,0.2;seed=0..1;temperature=0.5,1;eval_every=5,10") == [32]
    assert groups("cell=lstm(forget_bias=0),lstm(forget_bias=2),lstm,lstm(recurrent_init=glorot)") == [4]
    assert groups("cell=lstm,gru") == groups("hidden_size=8,16") == groups("cell=gru,gru(reset=before)") == [1, 1]
    assert groups("dropout=0,0.1,0.2") == [1, 2]
    assert groups("ema_decay=none,0.9,0.99") == [1, 2]
    assert groups("dtype=bfloat16;dropout=0.1,0.2") == [1, 1]
    assert groups("clip_norm=none,1,2;optimizer=adam,sgd") == [1, 1, 2, 2]


def test_halving_never_keeps_what_is_not_finite():
    assert halve(0.5)([(3.0,), (math.nan,), (1.0,), (math.inf,)]) == [True, False, True, False]
    assert halve(0.5)([(2.0,)]) == [True]


def test_halving_looks_further_where_runs_are_equally_good():
    assert halve(0.5)([(0.6, 1.0), (0.6, 0.7), (0.6, math.nan), (0.6, 0.9)]) == [False, True, False, True]


@pytest.mark.parametrize("slower", [1, 4])
def test_the_faster_way_is_found_by_trying(slower, monkeypatch):
    def step(state, block, rates):
        return state + block * rates, {"loss": state}

    value = (jax.numpy.ones(3), jax.numpy.ones(3), jax.numpy.ones(1))
    place, tried = Joint(4, "auto"), []
    take = place._take

    def watched(group, chunk):
        tried.append(chunk)
        if chunk == slower:
            time.sleep(0.05)
        return take(group, chunk)

    monkeypatch.setattr(place, "_take", watched)
    group = [joint._Request("step", step, jax.tree.map(jax.numpy.copy, value)) for _ in range(4)]
    for number in range(8):
        results = place._step(group)
        assert [float(state[0]) for state, _ in results] == [number + 2.0] * 4
        group = [joint._Request("step", step, (state, *value[1:])) for state, _ in results]
    assert tried == [1, 4, 1, 4, 1, 4] + [5 - slower] * 2


@pytest.mark.parametrize(("method", "single"), [("vmap", 2), ("auto", 7)])
def test_all_runs_take_several_steps_at_once_from_the_same_round_on(method, single):
    """They measure their speed one after the other; under "auto" nothing is decided before the trial of 6 is over."""

    def step(state, block, rates):
        return state + block.sum(0) * rates.sum(), {"loss": state}

    place, taken, states = Joint(4, method), {}, {}

    def take(number):
        with place.member():
            shared, state, size, counts = place.share_steps(step), jax.numpy.zeros(3), None, []
            while (done := sum(counts)) < 24:
                if size is None:
                    size = place.block_size(8 - number if done >= number else None)
                counts.append(size if size and size <= 24 - done else 1)
                state, _ = shared(state, np.ones((counts[-1], 3), np.float32), np.ones(counts[-1], np.float32))
            taken[number], states[number] = counts, state

    on_threads(take, 4)
    place.close()
    assert taken[0] == [1] * single + [8, 8] + [1] * (8 - single)
    assert all(counts == taken[0] for counts in taken.values())
    assert {float(state[0]) for state in states.values()} == {8 + 2 * 64.0}
    assert not place._trials
    if method == "vmap":
        assert [count for _, count in place.programs] == [4, 4]


def test_a_step_of_few_runs_does_not_narrow_those_of_all():
    def step(state, block, rates):
        return state + block, {"loss": state}

    place = Joint(8, "vmap")
    for count in (8, 2, 8):
        group = [joint._Request("step", step, (jax.numpy.ones(3), np.ones(3), np.ones(1))) for _ in range(count)]
        assert len(place._step(group)) == count
    place.close()
    assert {count for _, count in place.programs} == {8, 2}


def test_runs_by_themselves_share_a_compilation():
    """Each brings a program of its own, and they come in another order every time."""
    traced = []

    def make(number):
        def step(state, block, rates):
            traced.append(number)
            return state + block * rates, {"loss": state}

        return jax.jit(step)

    place, functions = Joint(5, "loop"), [make(number) for number in range(5)]
    states = [jax.numpy.full(3, number, np.float32) for number in range(5)]
    for turn in range(3):
        order = [(number + turn) % 5 for number in range(5)]
        value = np.ones(3, np.float32), np.ones(1)
        results = place._step([joint._Request("step", functions[number], (states[number], *value)) for number in order])
        for number, (state, _) in zip(order, results, strict=True):
            states[number] = state
    assert [float(state[0]) for state in states] == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert traced == [0]


def test_what_is_apart_goes_on_beside_others(monkeypatch):
    """The first of a kind is waited for; after it two are done at once, and an error is that of its run alone."""
    monkeypatch.setattr("experiments.joint.cores", lambda: 2)
    place, both, order, failed = Joint(5, "loop"), threading.Barrier(2), [], []

    def judge(number):
        order.append(number)
        if len(order) == 1:
            time.sleep(0.05)
            assert len(order) == 1
            raise ValueError("the first")
        both.wait(timeout=20)

    def run(number):
        with place.member():
            try:
                place.apart("judge", judge, number)
            except ValueError as error:
                failed.append(str(error))

    on_threads(run, 5)
    place.close()
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert failed == ["the first"]
    assert not both.broken


def test_too_little_memory_makes_chunks():
    def step(state, block, rates):
        return state + block * rates, {"loss": state}

    group = [
        joint._Request("step", step, (jax.numpy.ones(1000), jax.numpy.ones(1000), jax.numpy.ones(1))) for _ in range(4)
    ]
    roomy, tight = Joint(4, "vmap", memory=10**9), Joint(4, "vmap", memory=1)
    for place, sizes in ((roomy, [4]), (tight, [1])):
        results = place._step([joint._Request("step", step, jax.tree.map(jax.numpy.copy, r.value)) for r in group])
        assert [float(state[0]) for state, _ in results] == [2.0] * 4
        assert [count for _, count in place.programs] == sizes
    assert tight._widths == {"step": 1}


def test_a_command_gives_its_configuration_back():
    config = assign(
        CharLM(), {"cell": "gru(reset=before)", "hidden_size": 32, "steps": 7, "clip_norm": "none"}, "sweep"
    )
    line = command("experiments.charlm", config)
    assert parse(shlex.split(line)[3:], CharLM).config == config


def test_a_swept_name_is_checked_like_its_flag():
    with pytest.raises(FlagError, match="--cell: expected one of"):
        assign(CharLM(), {"cell": "gruu"}, "sweep")


@pytest.mark.slow
def test_runs_of_word_vectors_share_a_program(tmp_path):
    """They go one after the other: the same losses as alone, one compilation for all that differ in numbers."""
    from experiments.skipgram import SkipGram, main
    from rnn_jax.models.word_vector_training import compiled

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(f"the {a} {b} of the {c}" for a in "abcdef" for b in "ghijkl" for c in "mnopqr") + "\n")
    flags = [f"--corpus={corpus}", "--dimension=7", "--min_count=1", "--epochs=30", "--subsample=0"]

    def start(*more):
        code, _, errors = call("skipgram", SkipGram, main, *flags, *more)
        assert code == 0, errors

    program = compiled(jax.default_backend())
    before = program._cache_size()
    start("--sweep=learning_rate=0.01,0.03;seed=0,1", f"--workdir={tmp_path / 's'}")
    assert program._cache_size() == before + 1
    start("--learning_rate=0.03", "--seed=1", f"--workdir={tmp_path / 'alone'}")
    found, expected = (losses(folder) for folder in (tmp_path / "s" / "runs" / "003", tmp_path / "alone"))
    assert len(expected) >= 30
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-5)


def test_runs_not_evaluated_on_the_way_are_drawn_by_their_training_loss(tmp_path):
    members = [sweep.Member(number, {}, None, tmp_path / str(number)) for number in range(2)]

    def tell(number, **line):
        members[number].path.mkdir(exist_ok=True)
        with (members[number].path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    tell(0, step=1, split="train", loss=3.0)
    tell(1, step=1, split="train", loss=4.0)
    assert sweep.drawn_curves(members, "val_loss") == ("loss", [[(1, 3.0)], [(1, 4.0)]])
    tell(1, step=2, split="valid", val_loss=2.0)
    assert sweep.drawn_curves(members, "val_loss") == ("val_loss", [[], [(2, 2.0)]])


def test_a_run_of_several_networks_is_their_mean(tmp_path):
    member = sweep.Member(0, {}, None, tmp_path)
    member.trained("val_loss", {"val_loss": 1.0, "val_accuracy": 0.5})
    member.trained("val_loss", {"val_loss": 3.0})
    assert member.metrics == {"val_loss": 2.0, "val_accuracy": 0.5}
    for network, losses_by_step in (("elman", {1: 1.0, 2: 2.0}), ("gru", {1: 3.0, 2: 4.0, 3: 5.0})):
        (tmp_path / network).mkdir()
        lines = [{"step": step, "split": "valid", "val_loss": loss} for step, loss in losses_by_step.items()]
        (tmp_path / network / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sweep.drawn_curves([member], "val_loss") == ("val_loss", [[(1, 2.0), (2, 3.0)]])
