"""The loop around a training step: when to evaluate, to save, to show a sample and to stop."""

import contextlib
import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rnn_jax.training import processes
from rnn_jax.training.checkpoint import Checkpoints, Progress
from rnn_jax.training.dispatch import Batches, Block, Dispatcher
from rnn_jax.training.display import Display
from rnn_jax.training.metrics import TRAIN, VALID, MetricsWriter
from rnn_jax.training.schedules import Schedule
from rnn_jax.training.signals import SignalCatcher
from rnn_jax.training.state import TrainState
from rnn_jax.training.step import TrainStep
from rnn_jax.training.stop import StopRule


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; the state after `step` steps is saved, where there are checkpoints."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}")
        self.signal_number = signal_number
        self.step = step


class Diverged(Exception):
    """Training led to numbers that are not finite."""


class NonFinite(Diverged):
    """A loss or gradient was infinite or not a number.

    Args:
        step: of that loss.
        loss, grad_norm: what they were.
        saved: the step after which a state is saved; None: nothing is.
    """

    def __init__(self, step: int, loss: float, grad_norm: float, *, saved: int | None):
        what = f"the norm of the gradient is {grad_norm}" if math.isfinite(loss) else f"the loss is {loss}"
        if saved is None:
            kept = "nothing"
        else:
            kept = "the state before it" if saved == step - 1 else f"the state after step {saved}"
        super().__init__(f"step {step}: {what}; {kept} is saved")
        self.step = step


class FitResult(NamedTuple):
    """How a run ended.

    Attributes:
        state: the last state, not the best (for that, see `Checkpoints.restore`).
        progress: steps, seconds, the best evaluation and its metrics.
        reason: "steps", "max_seconds", "patience" or "target".
        units_per_second: what the loss counts, per second of training without compilation; nan: too short to tell.
    """

    state: TrainState
    progress: Progress
    reason: str
    units_per_second: float


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Batches,
    *,
    schedule: Schedule,
    stop: StopRule,
    evaluate: Callable[[Any], Mapping[str, float | int]] | None = None,
    eval_every: int | None = None,
    on_evaluation: Callable[[Mapping[str, float | int]], None] | None = None,
    monitor: str = "val_loss",
    patience: int | None = None,
    target: float | int | None = None,
    sample: Callable[[Any, int], str] | None = None,
    sample_every: int | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
    writer: MetricsWriter | None = None,
    log_every: int = 10,
    display: Display | None = None,
    runs: int = 1,
    block_size: Callable[[int | None], int | None] = lambda size: size,
) -> FitResult:
    """Train until a limit is reached, from the last checkpoint if there is one.

    Steps are counted from 1. A run ends with an evaluation and a checkpoint. Where it was interrupted makes no
    difference to what it computes, except that under `max_seconds` the learning rate follows the clock. Nor does it, on
    CPU, how many steps share a dispatch, as far as we have seen (XLA compiles a loop of steps separately), but for
    parameters that are scalars.

    Args:
        state: where to start, of the structure of the checkpoint, if any. Its buffers are donated.
        train_step: from `make_train_step`.
        batches: see `Batches`.
        schedule: the learning rate.
        stop: the limits.
        evaluate: params -> metrics by name; given `TrainState.evaluated`.
        eval_every: steps from one evaluation to the next; None: only at the end.
        on_evaluation: told the values of every evaluation but the last; an exception from it ends the run, whose state
            is then that of the last checkpoint.
        monitor: the metric whose smallest value is best.
        patience: end after this many evaluations in a row that were not the best yet.
        target: end when an evaluation has found `monitor` at this value or below.
        sample: (params, step) -> a text to show on standard output.
        sample_every: steps; None: never.
        checkpoints: where to save.
        checkpoint_every: steps; None: only at the best evaluation yet, at an interruption and at the end.
        writer: where to log.
        log_every: steps from one line of training metrics to the next; the first step is logged too.
        display: what to show while it runs.
        runs, block_size: see `Dispatcher`.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; raised when the dispatch in progress is done. (A second SIGINT is a
            KeyboardInterrupt at once.)
        NonFinite: a loss or gradient was not finite.
    """
    progress = Progress()
    if checkpoints is not None and checkpoints.progress is not None:
        progress = checkpoints.progress
        state = checkpoints.restore(state)
    per_epoch = batches.steps_per_epoch
    last_step = stop.last_step(per_epoch)
    intervals = [every for every in (eval_every, sample_every, checkpoint_every) if every]
    dispatcher = Dispatcher(
        state,
        train_step,
        batches,
        lambda step, seconds: schedule(step, stop.fraction(step, seconds, per_epoch)),
        last_step=last_step,
        max_seconds=stop.max_seconds,
        interval=min(intervals, default=None),
        seconds=progress.seconds,
        runs=runs,
        block_size=block_size,
    )
    report = _Report(dispatcher, stop, per_epoch, writer, log_every, display, saves=checkpoints is not None)
    with contextlib.ExitStack() as cleanup:
        signals = cleanup.enter_context(SignalCatcher())
        if writer is not None:
            writer.start(progress.step, progress.evaluated_step)
            cleanup.callback(writer.close)
        if display is not None:
            cleanup.callback(display.close)
        if checkpoints is not None:
            cleanup.callback(checkpoints.wait)
        saved_step = progress.step

        def caught() -> int | None:
            return processes.any_signal(signals.received)

        while True:
            first = progress.step
            boundaries = [(first // every + 1) * every for every in intervals]
            end = min([*boundaries, math.inf if last_step is None else last_step])
            if _reached(target, progress, monitor) or _exhausted(patience, progress):
                # A run that is resumed after its end.
                end = first
            try:
                with contextlib.closing(dispatcher.run(first, end, lambda: caught() is not None)) as blocks:
                    for block in blocks:
                        report.training(block)
                        progress = dataclasses.replace(progress, step=block.last)
            except NonFinite as error:
                progress = dataclasses.replace(progress, step=error.step - 1, seconds=dispatcher.seconds)
                if checkpoints is not None and saved_step != progress.step:
                    checkpoints.save(dispatcher.state, progress)
                raise
            step = progress.step
            seconds, out_of_time = processes.agree((dispatcher.seconds, dispatcher.out_of_time))
            reason = None
            if last_step is not None and step >= last_step:
                reason = "steps"
            elif stop.max_seconds is not None and out_of_time:
                # Rounded up, so that a run that is resumed after its end does not squeeze in one more step.
                seconds, reason = max(seconds, stop.max_seconds), "max_seconds"
            progress = dataclasses.replace(progress, seconds=float(seconds))

            best = False
            if evaluate is not None and (reason or _due(eval_every, first, step)) and progress.evaluated_step != step:
                values = {name: float(value) for name, value in evaluate(dispatcher.state.evaluated).items()}
                values = processes.agree(values)
                best = values[monitor] < progress.best_values.get(monitor, math.inf)
                progress = progress.evaluated(values, best)
                report.evaluation(progress, values, best)
                if reason and not progress.best_values and not math.isfinite(values[monitor]):
                    raise NonFinite(step, values[monitor], math.nan, saved=saved_step or None)
                if on_evaluation is not None and reason is None:
                    on_evaluation(values)
            if _exhausted(patience, progress):
                reason = reason or "patience"
            if _reached(target, progress, monitor):
                reason = reason or "target"
            stopped = processes.agree(caught())
            leaving = reason is not None or stopped is not None
            unsaved = saved_step != step and (leaving or _due(checkpoint_every, first, step))
            if checkpoints is not None and (best or unsaved):
                progress = checkpoints.save(dispatcher.state, progress, best=best)
                saved_step = step
            if sample is not None and _due(sample_every, first, step):
                report.sample(sample(dispatcher.state.evaluated, step))
            if reason is not None and stopped is None:
                stopped = processes.agree(caught())
            if stopped is not None:
                raise Interrupted(stopped, step)
            if reason is not None:
                return FitResult(dispatcher.state, progress, reason, dispatcher.mean_units_per_second)


def _due(every: int | None, before: int, step: int) -> bool:
    return bool(every) and step > before and step % every == 0


def _reached(target: float | int | None, progress: Progress, monitor: str) -> bool:
    return target is not None and progress.best_values.get(monitor, math.inf) <= target


def _exhausted(patience: int | None, progress: Progress) -> bool:
    return patience is not None and progress.evaluations_since_best >= patience


class _Report:
    """Takes what is measured to the log and to the display."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        stop: StopRule,
        per_epoch: int,
        writer: MetricsWriter | None,
        log_every: int,
        display: Display | None,
        saves: bool,
    ):
        self._dispatcher = dispatcher
        self._saves = saves
        self._stop = stop
        self._per_epoch = per_epoch
        self._writer = writer
        self._log_every = log_every
        self._display = display
        self._smooth_loss = math.nan

    def training(self, block: Block) -> None:
        """Report the steps of a block, up to the first that was not finite: that one raises NonFinite."""
        for index, rate in enumerate(block.rates):
            step = block.first + index
            values = {name: float(block.metrics[name][index]) for name in block.metrics if name != "count"}
            if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
                raise NonFinite(
                    step, values["loss"], values["grad_norm"], saved=step - 1 if self._saves and step > 1 else None
                )
            if math.isnan(self._smooth_loss):
                self._smooth_loss = values["loss"]
            self._smooth_loss += 0.05 * (values["loss"] - self._smooth_loss)
            if self._writer is not None and (step == 1 or step % self._log_every == 0):
                self._writer.write(step, block.seconds, TRAIN, values | {"learning_rate": rate})
        if self._display is not None:
            left = []
            if self._stop.max_seconds is not None:
                left.append(self._stop.max_seconds - block.seconds)
            last_step = self._stop.last_step(self._per_epoch)
            if last_step is not None:
                left.append((last_step - block.last) * self._dispatcher.seconds_per_step)
            fraction = self._stop.fraction(block.last, block.seconds, self._per_epoch)
            speed = self._dispatcher.units_per_second
            self._display.train(block.last, fraction, self._smooth_loss, speed, min(left))

    def evaluation(self, progress: Progress, values: Mapping[str, float | int], best: bool) -> None:
        if self._writer is not None:
            self._writer.write(progress.step, progress.seconds, VALID, values)
        if self._display is not None:
            self._display.evaluation(progress.step, values, best)

    def sample(self, text: str) -> None:
        if self._display is None:
            print(text)
        else:
            self._display.message(text, sys.stdout)
