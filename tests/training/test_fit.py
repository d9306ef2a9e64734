"""The loop: when it evaluates, saves and stops, and that an interruption leaves no trace."""

import dataclasses
import json
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from rnn_jax.training import dispatch
from rnn_jax.training.checkpoint import Checkpoints
from rnn_jax.training.dispatch import Dispatcher
from rnn_jax.training.loop import Interrupted, NonFinite, fit
from rnn_jax.training.metrics import MetricsWriter, read_metrics
from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training.schedules import make_schedule
from rnn_jax.training.state import TrainState
from rnn_jax.training.step import make_train_step
from rnn_jax.training.stop import StopRule


@pytest.fixture(scope="module")
def train_step(optimized):
    """One for all: its compiled programs are shared."""
    return optimized(make_train_step(toy.loss, toy.optimizer()), donate_argnums=0)


@pytest.fixture
def run(train_step, tmp_path):
    """Train in a folder; what is not given is as in this test's other runs."""

    def train(folder="run", batches=None, **options):
        folder = tmp_path / folder
        folder.mkdir(exist_ok=True)
        checkpoints = Checkpoints(folder / "checkpoints")
        defaults = {
            "schedule": make_schedule("cosine", 0.1),
            "stop": StopRule(steps=60),
            "evaluate": toy.evaluate,
            "eval_every": 20,
            "checkpoint_every": 15,
            "writer": MetricsWriter(folder),
            "log_every": 7,
        }
        batches = batches or toy.Batches()
        try:
            return fit(toy.new_state(), train_step, batches, checkpoints=checkpoints, **(defaults | options))
        finally:
            checkpoints.close()

    return train


def lines(folder):
    """metrics.jsonl without the times."""
    return [{**line, "seconds": None} for line in read_metrics(folder / "metrics.jsonl")]


def strike(*steps, number=signal.SIGINT):
    """Batches during which a signal arrives, once at each of these steps."""
    left = list(steps)

    def on_block(step, count):
        if left and step >= left[0]:
            left.pop(0)
            signal.raise_signal(number)

    return toy.Batches(on_block=on_block)


def test_evaluates_logs_and_improves(run, tmp_path):
    result = run()
    assert result.reason == "steps"
    assert int(result.state.step) == result.progress.step == 60
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found if line["split"] == "valid"] == [20, 40, 60]
    assert [line["step"] for line in found if line["split"] == "train"] == [1, 7, 14, 21, 28, 35, 42, 49, 56]
    assert result.progress.best_step == 60
    assert result.progress.best_values["val_loss"] < 1 < np.log(toy.SYMBOLS)
    train = next(line for line in found if line["step"] == 7)
    assert set(train) >= {"loss", "learning_rate", "grad_norm", "param_norm", "update_norm"}
    assert train["learning_rate"] == pytest.approx(make_schedule("cosine", 0.1)(6, 6 / 60))


@pytest.mark.parametrize("stop", [StopRule(steps=60), StopRule(max_seconds=1e-9)])
def test_every_evaluation_but_the_last_is_told(run, tmp_path, stop):
    told = []
    run(on_evaluation=told.append, stop=stop)
    found = [line["val_loss"] for line in lines(tmp_path / "run") if line["split"] == "valid"]
    assert [values["val_loss"] for values in told] == found[:-1]
    assert len(found) == (3 if stop.steps else 1)


def test_what_an_evaluation_sets_off_ends_the_run_at_its_last_checkpoint(run, tmp_path):
    class Enough(Exception):
        pass

    def enough(values):
        raise Enough

    with pytest.raises(Enough):
        run(on_evaluation=enough)
    assert Checkpoints(tmp_path / "run" / "checkpoints").progress.step == 15
    assert toy.identical(run("run").state, run("whole").state)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_and_resumed_is_the_same_bits(run, tmp_path, number):
    """Interrupted at once, off every boundary, at one, and between the best evaluation and the end."""
    whole = run("whole")
    batches = strike(0, 10, 19, 39, 44, 58, number=number)
    steps = []
    for _ in range(6):
        with pytest.raises(Interrupted) as interrupted:
            run("parts", batches)
        assert interrupted.value.signal_number == number
        steps.append(interrupted.value.step)
    assert steps == sorted(steps)
    parts = run("parts", batches)
    assert toy.identical(whole.state, parts.state)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    same = {"seconds": 0.0, "best_save": 0}
    assert dataclasses.replace(whole.progress, **same) == dataclasses.replace(parts.progress, **same)
    assert parts.progress.seconds > 0


def test_a_running_mean_of_the_parameters_is_evaluated_kept_and_resumed(tmp_path):
    optimizer = make_optimizer("adam", learning_rate=0.1, ema_decay=0.95)
    train_step = make_train_step(toy.loss, optimizer)

    def train(folder, batches):
        evaluated = []
        checkpoints = Checkpoints(tmp_path / folder)
        try:
            result = fit(
                TrainState.create(toy.new_state().params, optimizer, carry=jnp.zeros(()), key=jax.random.key(3)),
                train_step,
                batches,
                schedule=make_schedule("constant", 0.1),
                stop=StopRule(steps=40),
                evaluate=lambda params: evaluated.append(np.array(params["table"])) or toy.evaluate(params),
                checkpoints=checkpoints,
            )
            kept = checkpoints.restore_params()["table"]
            best = checkpoints.restore(result.state, best=True)
        finally:
            checkpoints.close()
        assert toy.identical(best, result.state)
        np.testing.assert_array_equal(kept, evaluated[-1])
        np.testing.assert_array_equal(result.state.evaluated["table"], evaluated[-1])
        return result.state

    whole = train("whole", toy.Batches())
    assert np.abs(whole.evaluated["table"] - whole.params["table"]).max() > 1e-2
    with pytest.raises(Interrupted):
        train("parts", strike(23))
    assert toy.identical(train("parts", toy.Batches()), whole)


def test_steps_that_share_dispatches_give_the_same_bits(run, tmp_path, monkeypatch):
    one = run("one")
    monkeypatch.setattr("rnn_jax.training.dispatch._FIRST_LOOK", 0.0)
    monkeypatch.setattr(Dispatcher, "_suggest_block_size", lambda self, begin, step: 8)
    many = run("many")
    assert toy.identical(one.state, many.state)
    assert lines(tmp_path / "one") == lines(tmp_path / "many")


def test_a_finished_run_resumes_to_the_same_result_and_can_be_prolonged(run, tmp_path):
    first = run(stop=StopRule(steps=30), schedule=make_schedule("constant", 0.1))
    before = lines(tmp_path / "run")
    again = run(stop=StopRule(steps=30), schedule=make_schedule("constant", 0.1))
    assert toy.identical(first.state, again.state)
    assert lines(tmp_path / "run") == before
    longer = run(schedule=make_schedule("constant", 0.1))
    whole = run("whole", schedule=make_schedule("constant", 0.1))
    assert toy.identical(longer.state, whole.state)


def test_the_best_and_the_last_checkpoint_are_kept(run, tmp_path):
    values = iter([3.0, 1.0, 2.0])
    run(evaluate=lambda params: {"val_loss": next(values)})
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.progress is not None
    assert checkpoints.progress.best_step == 40
    assert checkpoints.progress.best_values == {"val_loss": 1.0}
    assert int(checkpoints.restore(toy.new_state(), best=True).step) == 40
    assert int(checkpoints.restore(toy.new_state()).step) == 60
    assert len([path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir()]) == 2
    checkpoints.close()


def test_patience_counts_evaluations_across_interruptions(run):
    values = {20: 3.0, 40: 1.0, 60: 2.0, 80: 1.5, 100: 1.2, 120: 0.1}
    seen = []

    def evaluate(params):
        seen.append(None)
        return {"val_loss": values[20 * len(seen)]}

    options = {"evaluate": evaluate, "stop": StopRule(steps=200), "patience": 3}
    with pytest.raises(Interrupted):
        run(batches=strike(70), **options)
    result = run(**options)
    assert result.reason == "patience"
    assert (result.progress.step, result.progress.best_step) == (100, 40)
    again = run(**options)
    assert (again.reason, again.progress.step, len(seen)) == ("patience", 100, 5)


def test_a_target_ends_the_run_for_good(run):
    values = iter([3, 2, 1, 0.5])

    def evaluate(params):
        return {"val_loss": next(values)}

    ended = run(evaluate=evaluate, target=1, stop=StopRule(steps=100))
    assert (ended.reason, ended.progress.step, ended.progress.best_values) == ("target", 60, {"val_loss": 1})
    resumed = run(evaluate=evaluate, target=1, stop=StopRule(steps=200))
    assert (resumed.reason, resumed.progress.step) == ("target", 60)
    on = run(evaluate=evaluate, stop=StopRule(steps=70))
    assert (on.reason, on.progress.step) == ("steps", 70)


def test_an_evaluation_that_is_not_a_number_is_never_the_best(run, tmp_path):
    values = iter([np.nan, 2.0, np.nan])
    result = run(evaluate=lambda params: {"val_loss": next(values)})
    assert result.progress.best_step == 40
    assert [line["val_loss"] for line in lines(tmp_path / "run") if line["split"] == "valid"] == [None, 2.0, None]


def test_a_run_whose_only_evaluation_is_not_a_number_has_no_result(run):
    with pytest.raises(NonFinite, match="the loss is nan"):
        run(evaluate=lambda params: {"val_loss": np.nan}, eval_every=None)


def test_epochs(run):
    assert run(stop=StopRule(epochs=2.5), batches=toy.Batches(steps_per_epoch=10)).progress.step == 25


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until `clock.pass_time(seconds)`."""
    clock = SimpleNamespace(now=0.0)
    clock.pass_time = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_max_seconds_does_not_count_evaluation(run, clock):
    def evaluate(params):
        clock.pass_time(0.2)
        return toy.evaluate(params)

    batches = toy.Batches(on_block=lambda step, count: clock.pass_time(0.01 * count))
    result = run(stop=StopRule(max_seconds=1.0), batches=batches, evaluate=evaluate, eval_every=10)
    assert result.reason == "max_seconds"
    assert result.progress.seconds == pytest.approx(1.0, abs=0.011)
    assert result.progress.step == pytest.approx(100, abs=1)
    assert result.progress.evaluated_step == result.progress.step


def test_a_run_that_used_its_time_has_ended(run, clock):
    batches = toy.Batches(on_block=lambda step, count: clock.pass_time(0.01 * count))
    options = {"stop": StopRule(max_seconds=0.5), "batches": batches}
    first = run(**options)
    assert first.progress.step > 40
    assert run(**options).progress.step == first.progress.step


def test_samples_are_shown_on_standard_output(run, capsys):
    run(sample=lambda params, step: f"sample at {step}, {params['table'].shape}", sample_every=25)
    assert capsys.readouterr().out == "sample at 25, (8, 8)\nsample at 50, (8, 8)\n"


class PoisonedBatches(toy.Batches):
    def block(self, step, count):
        block = super().block(step, count)
        return np.where((np.arange(step, step + count) == 33)[:, None, None], -1, block)


def test_a_loss_that_is_not_finite_names_the_step_and_saves_the_state_before_it(run, tmp_path):
    def loss(params, carry, batch, key):
        (total, count), carry = toy.loss(params, carry, batch, key)
        bad = (batch < 0).any()
        return (jnp.where(bad, jnp.nan, total), count), carry

    step = make_train_step(loss, toy.optimizer())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(NonFinite, match="step 34: the loss is nan") as error:
        fit(
            toy.new_state(),
            step,
            PoisonedBatches(),
            schedule=make_schedule("constant", 0.1),
            stop=StopRule(steps=60),
            checkpoints=checkpoints,
            checkpoint_every=15,
        )
    assert error.value.step == 34
    good = fit(toy.new_state(), step, toy.Batches(), schedule=make_schedule("constant", 0.1), stop=StopRule(steps=33))
    assert checkpoints.progress is not None
    assert checkpoints.progress.step == 33
    assert toy.identical(checkpoints.restore(toy.new_state()), good.state)
    checkpoints.close()


def test_stop_rule():
    with pytest.raises(ValueError, match="steps, epochs, max_seconds: expected at least one, found none"):
        StopRule()
    rule = StopRule(steps=100, epochs=3.0, max_seconds=60.0)
    assert rule.last_step(10) == 30
    assert rule.last_step(50) == 100
    assert rule.fraction(15, 0.0, 10) == 0.5
    assert rule.fraction(15, 45.0, 10) == 0.75
    assert rule.fraction(40, 70.0, 10) == 1.0
    assert StopRule(max_seconds=1.0).last_step(10) is None
    assert [StopRule(epochs=epochs).last_step(100) for epochs in (1.1, 0.07, 2.2, 1.001, 0)] == [110, 7, 220, 101, 0]


def test_metrics_lines_are_json(run, tmp_path):
    run()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert all({"step", "seconds", "split"} <= set(json.loads(line)) for line in text.splitlines())
