"""The next values of a real-valued multivariate series, one step ahead and running free.

python -m experiments.forecast --train=measurements.csv --columns=load,temperature
"""

import csv
import dataclasses
import math
import sys
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from experiments.config import TrainingConfig
from experiments.evaluation import compiled
from experiments.flags import FlagError, checked, flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    from rnn_jax.data import LinearAutoregression, Table
    from rnn_jax.models import Forecaster
    from rnn_jax.training.run import Run

BUILTIN = "builtin"
# Places of the test rows at which free runs begin, at most.
FREE_RUNS = 32
# The least number of rows that a validation or test split forecasts.
SHORTEST_SPLIT = 2


@dataclasses.dataclass(frozen=True)
class Forecast(TrainingConfig):
    """Learn the next rows of a series of numbers; draw forecasts one row ahead and running free.

    Every error is a mean square in units of the column's variance over the training rows, so that columns of different
    units count alike. Beside it stand persistence (the last row again) and a linear autoregression by least squares,
    whose order is the one that validates best.
    """

    traced: ClassVar[tuple[str, ...]] = ("dropout",)
    unused: ClassVar[frozenset[str]] = frozenset({"sample_every"})

    train: str = flag(
        BUILTIN, "CSV with a header, one row a time step; builtin: Mackey-Glass and a season", placeholder="PATH"
    )
    test: str | None = flag(None, "CSV of rows to test on, in place of the end of --train", placeholder="PATH")
    columns: tuple[str, ...] | None = flag(None, "names of the columns to read and to forecast; by default all")
    valid_fraction: float = flag(0.15, "share of the training file, near its end, to validate on", above=0, maximum=0.4)
    test_fraction: float = flag(0.15, "share of it, at its end, to test on", above=0, maximum=0.4)
    context: int = flag(64, "rows that are read before a forecast counts; longest order of the baseline", minimum=1)
    bptt: int = flag(64, "forecasts of a training window that count", minimum=1)
    horizon: int = flag(100, "rows to forecast running free", minimum=1, free=True)
    predict_file: str | None = flag(
        None,
        "CSV to continue with the run in --workdir, by --horizon rows; - for standard input",
        placeholder="PATH",
        stored=False,
        mode=True,
    )

    cell: str = "gru"
    hidden_size: int = 64
    num_layers: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    batch_size: int = 32
    learning_rate: float = 5e-3
    warmup: int = 50
    steps: int | None = 4000
    max_seconds: float | None = 100.0
    eval_every: int | None = 200


class Splits(NamedTuple):
    """A series in parts, float64. `valid` and `test` begin with the `context` rows before the first to be forecast."""

    train: Any
    valid: Any
    test: Any


def main(config: Forecast, run: "Run") -> None:
    """Train and measure, or continue a series with a trained run."""
    if config.predict_file is not None:
        predict(config, run)
    else:
        train_model(config, run)


def train_model(config: Forecast, run: "Run") -> None:
    """From the table to result.json."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.train import describe_parameters, initial_params, train
    from rnn_jax import losses
    from rnn_jax.data import DataError, LinearAutoregression, SeriesBatches, generated_table, read_table
    from rnn_jax.models import Forecaster
    from rnn_jax.training.state import parameter_count

    if config.train == BUILTIN and config.columns is not None:
        raise FlagError("--columns: expected a file as --train to choose from, found the built-in series")
    table = generated_table() if config.train == BUILTIN else read_table(config.train, columns=config.columns)
    test = None
    if config.test is not None:
        rows = config.context + SHORTEST_SPLIT
        test = read_table(config.test, columns=table.columns, argument="test", rows=rows)
    splits = split(config, table, test)

    # A column that stands still has no unit; whatever it does later is taken as it is.
    with np.errstate(over="ignore", invalid="ignore"):
        scale = splits.train.std(axis=0)
    for column in np.flatnonzero(~np.isfinite(scale)):
        raise DataError(
            f"train: {table.name}: expected values of a finite variance in column {table.columns[column]!r}, "
            f"found some as large as {np.abs(splits.train[:, column]).max():.3g}"
        )
    # Its deviation may be of the size of rounding errors, not 0.
    scale = np.where(np.ptp(splits.train, axis=0) > 0, scale, 1.0)
    with checked():
        model = Forecaster(
            table.columns,
            center=tuple(splits.train.mean(axis=0).tolist()),
            scale=tuple(scale.tolist()),
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            dropout=config.dropout,
            dtype=config.dtype,
        )
        example = jnp.zeros((1, config.batch_size, len(table.columns)))
        params: Any = initial_params(model, jax.random.key(config.seed), example)
    splits = Splits(*(model.standardise(part) for part in splits))
    batches = SeriesBatches(splits.train, config.context + config.bptt + 1, config.batch_size, config.seed)
    sizes = {"train": len(splits.train)} | {
        name: len(getattr(splits, name)) - config.context for name in ("valid", "test")
    }
    digests = {"train": table.sha256} | ({} if test is None else {"test": test.sha256})
    run.begin(model=model, data={"name": table.name, "sha256": digests, "sizes": sizes})
    counts = ", ".join(f"{size:,} to {name}" for name, size in sizes.items())
    print(f"{table.name}: columns {', '.join(table.columns)}; rows {counts}; run in {run.path}")
    print(describe_parameters(params))

    def loss(params: Any, carry: Any, batch: Any, key: jax.Array, **rates: Any) -> Any:
        result: Any = model.clone(**rates).apply(
            {"params": params}, batch[:-1], deterministic=config.dropout == 0, rngs={"dropout": key}
        )
        forecasts, targets = result[1][config.context :], batch[config.context + 1 :]
        return losses.squared_error(forecasts, targets), carry

    def validate(params: Any) -> dict[str, float]:
        errors = one_step(model, params, splits.valid)[config.context - 1 :] - splits.valid[config.context :]
        return {"val_mse": float(np.mean(errors**2))}

    trained = train(
        config,
        run,
        params=params,
        loss=loss,
        batches=batches,
        evaluate=validate,
        monitor="val_mse",
        unit="values",
        loss_unit="squared error, columns of unit variance",
    )
    longest = min(config.context, len(splits.train) // 2)
    baseline = LinearAutoregression.select(splits.train, splits.valid[config.context - longest :], longest)
    metrics = evaluate(config, run, model, trained.params, baseline, splits.test)
    run.write_result(
        metrics=metrics, steps=trained.steps, seconds=trained.seconds, parameters=parameter_count(trained.params)
    )
    print(f"results and curves in {run.path}")


def split(config: Forecast, table: "Table", test: "Table | None") -> Splits:
    """The end of the series to test on unless there is a file for it, what lies before that to validate on.

    Raises:
        DataError: too few rows for it.
    """
    from rnn_jax.data import DataError

    count = len(table)
    tested = 0 if test is not None else round(config.test_fraction * count)
    validated = round(config.valid_fraction * count)
    trained = count - tested - validated
    window = config.context + config.bptt + 1
    if trained < window or validated < SHORTEST_SPLIT or (test is None and tested < SHORTEST_SPLIT):
        raise DataError(
            f"train: {table.name}: expected enough rows for a window of {window} (context + bptt + 1) to train on and "
            f"{SHORTEST_SPLIT} to validate and to test on, found {count} rows, of which {trained} to train on"
        )
    values = table.values
    before = trained - config.context
    rest = values[count - tested - config.context :] if test is None else test.values
    return Splits(values[:trained], values[before : trained + validated], rest)


def evaluate(
    config: Forecast, run: "Run", model: "Forecaster", params: Any, baseline: "LinearAutoregression", test: Any
) -> dict[str, float]:
    """The metrics on the test rows, printed and drawn."""
    import numpy as np

    from rnn_jax.training.forecast_plot import plot_forecast

    context = config.context
    truth = test[context:]
    ahead = {
        "network": one_step(model, params, test)[context - 1 :],
        f"linear, order {baseline.order}": baseline.one_step(test[context - baseline.order :]),
        "persistence": test[context - 1 : -1],
    }
    horizon = min(config.horizon, len(truth))
    last = len(truth) - horizon
    starts = np.unique(np.linspace(0, last, min(FREE_RUNS, last + 1)).astype(int))
    read = np.stack([test[start : start + context] for start in starts], axis=1)
    wanted = np.stack([truth[start : start + horizon] for start in starts], axis=1)
    free = {
        "network": free_running(model, params, read, horizon),
        f"linear, order {baseline.order}": baseline.forecast(read, horizon),
        "persistence": np.broadcast_to(read[-1], wanted.shape),
    }
    squares = {name: (found - truth) ** 2 for name, found in ahead.items()}
    errors = {name: ((found - wanted) ** 2).mean(axis=(1, 2)) for name, found in free.items()}

    width = max(map(len, ahead))
    column_width = max(10, *map(len, model.columns))
    heads = ["one step", *model.columns, f"{horizon} free"]
    print(f"{'mean squared error':{width}}" + "".join(f"  {head:>{column_width}}" for head in heads))
    for name, square in squares.items():
        numbers = [square.mean(), *square.mean(axis=0), errors[name].mean()]
        print(f"{name:{width}}" + "".join(f"  {number:{column_width}.6f}" for number in numbers))
    plot_forecast(
        model.columns,
        model.restore(test[: context + horizon]),
        model.restore(ahead["network"][:horizon]),
        model.restore(free["network"][:, 0]),
        errors,
        run.path / "forecast.png",
        title=f"{run.label}: the first {horizon} of {len(truth)} test rows",
    )
    network, linear, persistence = squares
    return {
        "test_mse": float(squares[network].mean()),
        "baseline_mse": float(squares[linear].mean()),
        "persistence_mse": float(squares[persistence].mean()),
        "free_running_mse": float(errors[network].mean()),
        "baseline_free_running_mse": float(errors[linear].mean()),
    }


@compiled(0)
def outputs_of(model: Any, params: Any, series: Any) -> Any:
    """What the model puts out after each row [T, B, D]."""
    return model.apply({"params": params}, series)[1]


def one_step(model: "Forecaster", params: Any, series: Any) -> Any:
    """The forecasts of rows 1..T-1 of a standardised series [T, D], each from all rows before it: [T - 1, D]."""
    import numpy as np

    return np.asarray(outputs_of(model, params, series[:-1, None]))[:, 0]


def free_running(model: "Forecaster", params: Any, series: Any, horizon: int) -> Any:
    """The rows after a standardised series [T, B, D], by the network's own forecasts: [N, B, D]."""
    import numpy as np

    from rnn_jax.models.forecaster import free_run

    return np.asarray(free_run(model, {"params": params}, series, horizon)[1])


def predict(config: Forecast, run: "Run") -> None:
    """Print the rows that would follow those of a CSV, as CSV."""
    from rnn_jax.data import read_table
    from rnn_jax.training.run import load

    model, params, *_ = load(run.path)
    path = str(config.predict_file)
    table = read_table(path, columns=model.columns, argument="predict_file", rows=config.context)
    series = model.standardise(table.values)[:, None]
    rows = model.restore(free_running(model, params, series, config.horizon)[:, 0])
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(model.columns)
    # As many digits as float32 knows of a column's deviations, wherever its center lies.
    places = [6 - math.floor(math.log10(scale)) for scale in model.scale]
    writer.writerows([round(float(value), place) for value, place in zip(row, places, strict=True)] for row in rows)


if __name__ == "__main__":
    run_experiment("forecast", Forecast, main)
