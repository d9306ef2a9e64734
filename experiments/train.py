"""The common way from a configuration to trained parameters."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.config import TrainingConfig
from experiments.flags import FlagError, checked
from experiments.joint import SURROUNDINGS, apart
from rnn_jax.layers.dropout import TracedRate
from rnn_jax.sweep import device_memory
from rnn_jax.training.checkpoint import Checkpoints, Progress
from rnn_jax.training.dispatch import Batches
from rnn_jax.training.loop import NonFinite, fit
from rnn_jax.training.metrics import MetricsWriter
from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training.plots import plot_loss
from rnn_jax.training.run import Run, RunError, load, read_config, vocabulary_of
from rnn_jax.training.schedules import make_schedule
from rnn_jax.training.sharding import BatchSharding, batch_sharding
from rnn_jax.training.state import TrainState
from rnn_jax.training.step import Loss, make_train_step
from rnn_jax.training.stop import StopRule


class Trained(NamedTuple):
    """What training gave.

    Attributes:
        params: those that were best on the validation set.
        metrics: what `evaluate` said of them.
        steps: the number of steps done.
        seconds: the training time used.
        units_per_second: what the loss counts, per second; nan: too short to tell, as in a run already at its end.
    """

    params: Any
    metrics: dict[str, float]
    steps: int
    seconds: float
    units_per_second: float


def train(
    config: TrainingConfig,
    run: Run,
    *,
    params: Any,
    loss: Loss,
    batches: Batches,
    evaluate: Callable[[Any], Mapping[str, float]],
    carry: Any = (),
    sample: Callable[[Any, int], str] | None = None,
    batch_axis: Any = 1,
    carry_axis: Any = 0,
    monitor: str = "val_loss",
    drawn: str | None = None,
    target: float | None = None,
    unit: str = "tokens",
    loss_unit: str = "nats per token",
) -> Trained:
    """Train as the configuration says, in the folder of the run, which has begun; plot the losses.

    Args:
        config: optimiser, schedule, limits and intervals.
        run: see `Run.begin`.
        params: the initial parameters; `config.init_from` or a checkpoint takes their place.
        loss: see `rnn_jax.training.step.Loss`. It may be given some of `config.traced` besides, as keyword arguments:
            each a `TracedRate`, to be used in place of the configuration's number.
        batches: see `rnn_jax.training.dispatch.Batches`.
        evaluate: params -> metrics, `monitor` among them.
        carry: the first carry of the loss.
        sample: (params, step) -> a text to show.
        batch_axis: the batch axis of each leaf of a batch, see `rnn_jax.training.sharding.BatchSharding`.
        carry_axis: that of the carry.
        monitor: the metric whose smallest value is best.
        drawn: the metric to draw beside the training loss; None: `monitor`.
        target: training ends when `monitor` is at this value or below; None: it does not matter.
        unit: what the loss counts.
        loss_unit: for the plot.

    Raises:
        FlagError: devices or batch_size that do not fit; parameters of `init_from` that do not; fewer steps or epochs
            than a resumed run has done.
        CheckpointError: a resumed run's checkpoint that cannot be used.
        Interrupted, NonFinite: see `fit`.
    """
    around = SURROUNDINGS.get()
    rates_given = {name: getattr(config, name) for name in config.traced if name in around.traced}
    if rates_given:
        loss, batches = _with_rates(loss), _Rated(batches, rates_given)
    with checked():
        sharding = batch_sharding(
            config.batch_size,
            devices=around.devices or config.devices,
            batch_axis=batch_axis,
            carry_axis=carry_axis,
            shard_params=config.shard_params,
        )
        rates = make_schedule(
            config.schedule,
            config.learning_rate,
            warmup_steps=config.warmup,
            steps_per_epoch=batches.steps_per_epoch,
            decay=config.decay,
            decay_after=config.decay_after,
        )
    optimizer = make_optimizer(
        config.optimizer,
        learning_rate=config.learning_rate,
        clip_value=config.clip_value,
        clip_norm=config.clip_norm,
        weight_decay=config.weight_decay,
        ema_decay=config.ema_decay,
        **({"beta2": config.beta2} if config.optimizer in ("adam", "adamw") else {}),
    )
    if config.init_from is not None and not run.is_saved():
        params = _initial(config.init_from, params, run)
    state = TrainState.create(params, optimizer, carry=carry, key=jax.random.key(config.seed))
    if around.device is not None:
        state = jax.device_put(state, around.device)
    if sharding is not None:
        state = sharding.place(state)
        # An evaluation is each process's own affair.
        evaluate = _of_whole(evaluate, sharding)
        sample = None if sample is None else _of_whole(sample, sharding)
    evaluate = functools.partial(apart, "evaluate", evaluate)
    sample = None if sample is None else functools.partial(apart, "sample", sample)
    checkpoints = Checkpoints(run.checkpoints)
    train_step = make_train_step(loss, optimizer, sharding=sharding)
    seconds = None if config.max_seconds is None else config.max_seconds * around.sharing_clock
    stop = StopRule(config.steps, config.epochs, seconds)
    try:
        _check_done(config, run, stop.last_step(batches.steps_per_epoch), checkpoints.progress)
        display = around.make_display(unit)
        if checkpoints.progress is None:
            display.message(f"training in {run.path}")
        else:
            display.message(f"resuming {run.path} after step {checkpoints.progress.step}")
        result = fit(
            state,
            around.share_steps(train_step),
            batches,
            schedule=rates,
            stop=stop,
            evaluate=evaluate,
            eval_every=config.eval_every,
            on_evaluation=around.on_evaluation and functools.partial(around.on_evaluation, monitor),
            monitor=monitor,
            patience=config.patience,
            target=target,
            sample=sample,
            sample_every=config.sample_every,
            checkpoints=checkpoints,
            checkpoint_every=config.checkpoint_every,
            writer=MetricsWriter(run.path),
            display=display,
            runs=around.runs,
            block_size=around.block_size,
        )
        # Read back only where training went on after it.
        at_its_best = result.progress.best_step in (None, result.progress.step)
        best = result.state if at_its_best else checkpoints.restore(result.state, best=True)
    except NonFinite:
        if around.on_trained is not None and checkpoints.progress is not None:
            around.on_trained(monitor, checkpoints.progress.best_values)
        raise
    finally:
        checkpoints.close()
    title = f"{run.experiment}: {run.label}"
    draw = functools.partial(plot_loss, title=title, unit=loss_unit, monitor=drawn or monitor)
    apart("draw", draw, run.path / "metrics.jsonl", run.path / "loss.png")
    progress = result.progress
    if around.on_trained is not None:
        around.on_trained(monitor, progress.best_values)
    params = best.evaluated
    if sharding is not None:
        params = sharding.whole(params)
    return Trained(params, progress.best_values, progress.step, progress.seconds, result.units_per_second)


def _check_done(config: TrainingConfig, run: Run, last_step: int | None, progress: Progress | None) -> None:
    """A run that goes on cannot end before where it is."""
    if last_step is not None and progress is not None and progress.step > last_step:
        by_steps = config.steps == last_step
        found = f"{last_step:,}" if by_steps else f"{config.epochs:g}, which are {last_step:,}"
        raise FlagError(
            f"--{'steps' if by_steps else 'epochs'}: expected at least the {progress.step:,} steps that "
            f"{run.shared or run.path} has done, found {found}"
        )


class _Rated:
    """Batches, each with the rates of dropout of this run beside it."""

    def __init__(self, batches: Batches, rates: Mapping[str, float]):
        self._batches = batches
        self._rates = rates

    @property
    def steps_per_epoch(self) -> int:
        return self._batches.steps_per_epoch

    def block(self, step: int, count: int) -> Any:
        rates = {name: np.full(count, rate, np.float32) for name, rate in self._rates.items()}
        return self._batches.block(step, count), rates


def _with_rates(loss: Any) -> Loss:
    def rated(params: Any, carry: Any, batch: Any, key: jax.Array) -> Any:
        batch, rates = batch
        return loss(params, carry, batch, key, **{name: TracedRate(rate) for name, rate in rates.items()})

    return rated


def _of_whole(function: Callable[..., Any], sharding: BatchSharding) -> Callable[..., Any]:
    """`function(params, ...)`, given parameters that this process can use alone."""
    return lambda params, *rest: function(sharding.whole(params), *rest)


def check_initial(sources: Iterable[str]) -> None:
    """Look for the runs that networks are to start from, before the first of these is trained.

    Raises:
        FlagError: one is none.
    """
    with naming_init_from():
        for source in sources:
            read_config(source)


@contextlib.contextmanager
def naming_init_from() -> Iterator[None]:
    """Take what is wrong with a run in this block for what is wrong with --init_from."""
    try:
        yield
    except RunError as error:
        raise FlagError(f"--init_from: {str(error).removeprefix('workdir: ')}") from None


def _initial(source: str, params: Any, run: Run) -> Any:
    with naming_init_from():
        loaded = load(source).params
        one, other = (vocabulary_of(path) for path in (source, run.shared or run.path))
    if one != other:
        raise FlagError(f"--init_from: expected a run of the same symbols as this one's, found others: {source}")
    wanted, found = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (params, loaded))
    if wanted != found:
        raise FlagError(
            f"--init_from: expected parameters of the same names and shapes as this model's, found others: {source}"
        )
    return loaded


@functools.partial(jax.jit, static_argnums=0)
def initial_params(model: Any, key: jax.Array, *inputs: Any, **named: Any) -> Any:
    """The parameters of a Flax module, drawn by one program for all runs of equal models.

    Raises:
        MemoryError: the device could not hold them; XLA itself would end the process.
    """
    params = model.init(key, *inputs, **named)["params"]
    needed, memory = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)), device_memory()
    if memory is not None and needed > memory.total:
        raise MemoryError(f"the parameters alone take {needed / 2**30:,.0f} GiB of {memory.total / 2**30:,.0f} GiB")
    return params


def describe_parameters(params: Any) -> str:
    """A table of the parameters: name, shape, number."""
    rows = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), "x".join(map(str, leaf.shape)), leaf.size)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]
    rows.append(("all", "", sum(size for *_, size in rows)))
    width, shape_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:{width}}  {shape:>{shape_width}}  {size:>12,}" for name, shape, size in rows)
