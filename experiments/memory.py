"""The adding and copying problems: which cells remember over how long a lag, and what becomes of their gradients.

python -m experiments.memory --lag=200 --cells=lstm,gru
"""

import dataclasses
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from experiments.config import TrainingConfig
from experiments.evaluation import compiled, totals
from experiments.flags import flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    from rnn_jax.data import MemoryBatch
    from rnn_jax.models import RecurrentReadout
    from rnn_jax.training.run import Run

# The validation loss below which a problem counts as solved: half the squared error that is asked of the adding
# problem, and about one wrong symbol in a thousand.
SOLVED = {"adding": 5e-4, "copying": 5e-3}
VALIDATED, TESTED, DRAWN = 512, 2048, 64
# Sequences of an evaluation at once: more would take hundreds of megabytes at long lags.
EVALUATED_AT_ONCE = 128


def split_cells(text: str) -> tuple[str, ...]:
    """Cut a list of cells at the commas outside parentheses, blanks removed."""
    from rnn_jax.sweep import split_outside_parentheses

    return tuple(re.sub(r"\s", "", part) for _, part in split_outside_parentheses(text, ","))


def cell_label(cell: str) -> str:
    """A cell as a part of the name of a metric or folder: elman(activation=relu) is elman_activation_relu."""
    return re.sub(r"[^\w.-]+", "_", cell).strip("_")


def _check_cells(text: str) -> None:
    # Imported here: see experiments.flags.
    from rnn_jax.cells import check

    seen = set()
    for cell in split_cells(text):
        try:
            check(cell)
        except ValueError as error:
            message = str(error).removeprefix("cell: ")
            raise ValueError(f"cells: {cell!r}: {message}") from None
        if cell_label(cell) in seen:
            raise ValueError(f"cells: expected every cell once, found {cell!r} twice")
        seen.add(cell_label(cell))


@dataclasses.dataclass(frozen=True)
class Memory(TrainingConfig):
    """Train each of some cells on a problem that needs a memory; draw the gradients that reach back over the lag.

    Adding: the sum of two marked numbers of a long sequence; copying: ten symbols, to be said again after a lag.
    A cell stops as soon as it has solved the problem. The limits of training hold for each cell.
    """

    unused: ClassVar[frozenset[str]] = frozenset({"sample_every"})

    task: Literal["adding", "copying"] = flag("adding", "what is to be remembered")
    lag: int = flag(100, "adding: steps of a sequence; copying: steps between reading and saying", minimum=2)
    cells: str = flag(
        "elman,elman(activation=relu),elman(activation=sigmoid),lstm,gru",
        "cells to compare, between commas, options in parentheses",
        check=_check_cells,
    )

    hidden_size: int = 64
    num_layers: int = 1
    dtype: str = "float32"

    batch_size: int = 64
    learning_rate: float = 5e-3
    steps: int | None = 4000
    eval_every: int | None = 100


class Outcome(NamedTuple):
    """What came of one cell.

    Attributes:
        score: the metric.
        steps, seconds: of training.
        parameters: their number.
        gradients: stage -> [T], see `gradient_shares`.
    """

    score: float
    steps: int
    seconds: float
    parameters: int
    gradients: dict[str, Any]


def main(config: Memory, run: "Run") -> None:
    """Train and measure one cell after the other; each of several has a run of its own in a folder of this one."""
    from experiments.train import check_initial
    from rnn_jax.data import MemoryBatches
    from rnn_jax.training.files import write_json
    from rnn_jax.training.gradient_plot import plot_gradients
    from rnn_jax.training.loop import NonFinite

    cells = split_cells(config.cells)
    batches = MemoryBatches(config.task, config.lag, config.batch_size, config.seed)

    def report(run: "Run", outcomes: dict[str, Outcome]) -> None:
        stages = next(iter(outcomes.values())).gradients
        panels = {stage: {cell: outcome.gradients[stage] for cell, outcome in outcomes.items()} for stage in stages}
        title = f"{config.task}, lag {config.lag}: the gradient that reaches back"
        plot_gradients(panels, run.path / "gradients.png", title=title)
        write_json(
            run.path / "gradients.json",
            {stage: {cell: norms.tolist() for cell, norms in curves.items()} for stage, curves in panels.items()},
        )
        run.write_result(
            metrics={f"{metric_name(config.task)}_{cell_label(cell)}": one.score for cell, one in outcomes.items()},
            steps=sum(one.steps for one in outcomes.values()),
            seconds=sum(one.seconds for one in outcomes.values()),
            parameters=sum(one.parameters for one in outcomes.values()),
        )

    if len(cells) == 1:
        outcomes = {cells[0]: train_cell(config, run, cells[0], batches)}
    else:
        models = {cell_label(cell): make_model(config, cell) for cell in cells}
        sources = {cell: config.init_from and f"{config.init_from}/{cell_label(cell)}" for cell in cells}
        parts = {cell: run.part(cell_label(cell), cells=cell, init_from=source) for cell, source in sources.items()}
        check_initial(source for cell, source in sources.items() if source and not parts[cell].is_saved())
        run.begin(model=models, data=describe_data(batches))
        outcomes = {}
        for cell, part in parts.items():
            part_config = dataclasses.replace(config, cells=cell, init_from=sources[cell])
            try:
                outcomes[cell] = train_cell(part_config, part, cell, batches)
            except NonFinite as error:
                # An unbounded activation may diverge; the comparison goes on.
                if error.step == 1:
                    raise
                outcomes[cell] = diverged(part_config, part, cell, batches, error)
            finally:
                part.discard()
            report(part, {cell: outcomes[cell]})
    report(run, outcomes)
    print_table(config, outcomes)
    print(f"results and curves in {run.path}")


def metric_name(task: str) -> str:
    """What is reported of a task: adding_mse or copying_accuracy."""
    return {"adding": "adding_mse", "copying": "copying_accuracy"}[task]


def make_model(config: Memory, cell: str) -> "RecurrentReadout":
    """The network that the problem asks for: one number, or one of the symbols, at each step."""
    from rnn_jax.data.memory_tasks import SYMBOLS
    from rnn_jax.models import RecurrentReadout

    features = 1 if config.task == "adding" else SYMBOLS
    return RecurrentReadout(
        features, cell=cell, hidden_size=config.hidden_size, num_layers=config.num_layers, dtype=config.dtype
    )


def describe_data(batches: Any) -> dict[str, Any]:
    """What is trained on, by the examples it is tested on."""
    import hashlib

    test = batches.held_out(2, TESTED)
    digest = hashlib.sha256(test.inputs.tobytes() + test.targets.tobytes()).hexdigest()
    return {"name": batches.task, "sha256": digest, "sizes": {"valid": VALIDATED, "test": TESTED}}


def train_cell(config: Memory, run: "Run", cell: str, batches: Any) -> Outcome:
    """Train one cell in a run of its own, and measure it."""
    import jax
    import jax.numpy as jnp

    from experiments.train import train
    from rnn_jax.training.state import parameter_count

    valid = batches.held_out(1, VALIDATED)
    model = make_model(config, cell)
    params = first_params(config, model, batches)
    run.begin(model=model, data=describe_data(batches))
    print(f"{cell}: {parameter_count(params):,} parameters; run in {run.path}")

    def loss(params: Any, carry: Any, batch: "MemoryBatch", key: jax.Array) -> Any:
        result: Any = model.apply({"params": params}, batch.inputs)
        return task_loss(config.task, result[1], jnp.asarray(batch.targets)), carry

    trained = train(
        config,
        run,
        params=params,
        loss=loss,
        batches=batches,
        evaluate=lambda params: {"val_loss": evaluate(model, params, config.task, valid)["loss"]},
        target=SOLVED[config.task],
        unit="sequences" if config.task == "adding" else "symbols",
        loss_unit="squared error" if config.task == "adding" else "nats per symbol",
    )
    return measure(config, cell, batches, trained.params, trained.steps, trained.seconds)


def diverged(config: Memory, run: "Run", cell: str, batches: Any, error: Exception) -> Outcome:
    """What a cell had learned at its best before its loss was not finite any more."""
    from rnn_jax.training.checkpoint import Checkpoints
    from rnn_jax.training.run import load

    print(f"{cell}: {error}; it is measured as it was at its best before")
    best = load(run.path).params
    checkpoints = Checkpoints(run.checkpoints, create=False)
    assert checkpoints.progress is not None
    checkpoints.close()
    return measure(config, cell, batches, best, checkpoints.progress.step, checkpoints.progress.seconds)


def measure(config: Memory, cell: str, batches: Any, best: Any, steps: int, seconds: float) -> Outcome:
    """The metric of the best parameters, and the gradients under them and under those at the start."""
    from rnn_jax.training.state import parameter_count

    test = batches.held_out(2, TESTED)
    model = make_model(config, cell)
    score = evaluate(model, best, config.task, test)[metric_name(config.task)]
    print(f"{cell}: {metric_name(config.task)} {score:.6f} after {steps} steps, {seconds:.0f} s")
    stages = {"at initialisation": first_params(config, model, batches), "after training": best}
    shares = {stage: gradient_shares(model, params, config.task, test) for stage, params in stages.items()}
    return Outcome(score, steps, seconds, parameter_count(best), shares)


def first_params(config: Memory, model: "RecurrentReadout", batches: Any) -> Any:
    """The parameters at the start, drawn from the seed."""
    import jax

    from experiments.flags import checked
    from experiments.train import initial_params

    with checked():
        return initial_params(model, jax.random.key(config.seed), batches.at(0).inputs[:1])


def task_loss(task: str, outputs: Any, targets: Any) -> Any:
    """(sum, count) over the last steps, which the targets [R, B] belong to."""
    from rnn_jax import losses

    asked = outputs[-targets.shape[0] :]
    return losses.squared_error(asked, targets[..., None]) if task == "adding" else losses.cross_entropy(asked, targets)


def evaluate(model: "RecurrentReadout", params: Any, task: str, examples: "MemoryBatch") -> dict[str, float]:
    """The mean loss, and the metric of the task, over held-out examples."""
    import jax

    starts = range(0, examples.inputs.shape[1], EVALUATED_AT_ONCE)
    parts = (slice(start, start + EVALUATED_AT_ONCE) for start in starts)
    # Each is fetched before the next begins: together they would fill the memory.
    loss, count, right = totals(
        jax.device_get(evaluation_step(model, task, params, examples.inputs[:, part], examples.targets[:, part]))
        for part in parts
    )
    other = {"adding_mse": loss / count} if task == "adding" else {"copying_accuracy": right / count}
    return {"loss": loss / count, **other}


@compiled(0, 1)
def evaluation_step(model: Any, task: str, params: Any, inputs: Any, targets: Any) -> Any:
    """The loss of some examples, as (sum, count), and how many of them are right."""
    import jax.numpy as jnp

    _, outputs = model.apply({"params": params}, inputs)
    loss, count = task_loss(task, outputs, targets)
    # Of the adding problem, whose targets are no classes, this counts nothing.
    right = (outputs[-targets.shape[0] :].argmax(-1) == targets).sum() if task == "copying" else jnp.zeros(())
    return loss, count, right


def gradient_shares(model: "RecurrentReadout", params: Any, task: str, examples: "MemoryBatch") -> Any:
    """How much of the gradient of the loss of the last step arrives k steps earlier: [T], k = 1..T.

    mean over examples of ‖∂L / ∂c_{T-k}‖ / ‖∂L / ∂c_{T-1}‖
    """
    import numpy as np

    inputs, targets = examples.inputs[:, :DRAWN], examples.targets[-1:, :DRAWN]
    norms = np.asarray(gradient_norms(model, task, params, inputs, targets), float)
    return (norms / np.maximum(norms[0], np.finfo(np.float32).tiny)).mean(axis=1)


@compiled(0, 1)
def gradient_norms(model: Any, task: str, params: Any, inputs: Any, targets: Any) -> Any:
    """‖∂L / ∂c_{T-k}‖ of each example, L the loss of its last step: [T, B], k = 1..T."""
    from rnn_jax.recurrence.state_gradients import norm_by_lag, state_gradients

    def step(carry: Any, inputs: Any) -> Any:
        carry, outputs = model.apply({"params": params}, inputs[None], carry)
        return carry, outputs[0]

    carry, _ = model.apply({"params": params}, inputs[:0])
    return norm_by_lag(state_gradients(step, carry, inputs, lambda last: task_loss(task, last[None], targets)[0]))


def print_table(config: Memory, outcomes: dict[str, Outcome]) -> None:
    """One line a cell."""
    width = max(map(len, outcomes))
    name = metric_name(config.task)
    print(f"{'':{width}}  {name:>16}  {'steps':>6}  {'seconds':>7}  gradient over {config.lag} steps: before, after")
    for cell, one in outcomes.items():
        shares = (norms[config.lag - 1] for norms in one.gradients.values())
        # What float32 cannot tell from nothing.
        arrives = ", ".join("< 1e-37" if share < 1e-37 else f"{share:.1e}" for share in shares)
        print(f"{cell:{width}}  {one.score:16.6f}  {one.steps:6}  {one.seconds:7.0f}  {arrives}")
    silent = "a squared error of 0.1667" if config.task == "adding" else "1 symbol in 8 right"
    print(f"without a memory: {silent}")


if __name__ == "__main__":
    run_experiment("memory", Memory, main)
