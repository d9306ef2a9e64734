"""Handwritten digits as sequences: read row by row or pixel by pixel, and drawn pixel by pixel.

python -m experiments.digits --task=both
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from experiments.config import TrainingConfig
from experiments.evaluation import compiled, totals
from experiments.flags import FlagError, check_temperature, checked, flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    import numpy as np

    from experiments.train import Trained
    from rnn_jax.data.digits import Digits
    from rnn_jax.models import Drawer, VectorClassifier
    from rnn_jax.training.run import Run

READ_SHOWN = 32
DRAWN_PER_CLASS = 40
DRAWN_SHOWN = 8
REAL_SHOWN = 2
INK = " .:-=+*#%@"


@dataclasses.dataclass(frozen=True)
class DigitsConfig(TrainingConfig):
    """Read handwritten digits (an image of fixed size comes in as a sequence) and draw them (one goes out).

    Reading is measured by cross-validation: test_accuracy is the mean over the folds, each read by a network that
    was trained on the others. The run's folder holds the network of the first fold, fold_2, fold_3, ... those of the
    others, and draw the one that draws (with --task=draw the folder itself does). They share --max_seconds; other
    limits hold for each.
    """

    traced: ClassVar[tuple[str, ...]] = ("dropout",)
    unused: ClassVar[frozenset[str]] = frozenset({"sample_every"})

    task: Literal["read", "draw", "both"] = flag("both", "what to learn")
    read: Literal["rows", "pixels"] = flag("rows", "what the reading network sees at each step")
    folds: int = flag(5, "folds of the cross-validation of reading", minimum=2)
    predict: str | None = flag(
        None, "PATH of an .npz with images [N, 8, 8] of levels 0 to 16, to read with --workdir", stored=False, mode=True
    )
    sample: str | None = flag(None, "digits to draw with --workdir, such as 2048", stored=False, mode=True)
    temperature: float = flag(1.0, "of sampling", above=0, check=check_temperature, free=True)

    cell: str = "gru"
    hidden_size: int = 128
    num_layers: int = 1
    bidirectional: bool = flag(False, "read both ways", group="model")
    pooling: Literal["last", "mean", "max", "attention"] = flag(
        "last", "how the outputs of the reading network become one vector", group="model"
    )
    context: Literal["input", "state", "both"] = flag(
        "both",
        "where the class enters the drawing network: its input at each step, its initial state, or both",
        group="model",
    )
    dropout: float = 0.3
    dtype: str = "float32"

    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: int = 50
    epochs: float | None = 60
    max_seconds: float | None = 240.0
    eval_every: int | None = 200


def main(config: DigitsConfig, run: "Run") -> None:
    """Train and evaluate; or read or draw with a trained run."""
    if config.predict is not None:
        predict(config, run)
    elif config.sample is not None:
        sample(config, run)
    else:
        train_models(config, run)


def train_models(config: DigitsConfig, run: "Run") -> None:
    """From the digits to result.json."""
    from experiments.train import check_initial
    from rnn_jax.data.digits import load_digits
    from rnn_jax.training.state import parameter_count

    if config.init_from is not None:
        parts = [part(config, run, folder) for folder in folders(config)]
        check_initial(str(of_part.init_from) for of_part, of_run in parts if not of_run.is_saved())
    digits = load_digits()
    metrics: dict[str, float] = {}
    trained: list[Trained] = []
    half = 0.5 if config.task == "both" else 1.0
    if config.task != "draw":
        metrics |= cross_validate(share(config, half), run, digits, trained)
    if config.task != "read":
        metrics |= train_drawer(*part(share(config, half), run, drawer_folder(config)), run, digits, trained)
    for name, value in metrics.items():
        print(f"{name:20} {value:.4f}")
    run.write_result(
        metrics=metrics,
        steps=sum(one.steps for one in trained),
        seconds=sum(one.seconds for one in trained),
        parameters=sum(parameter_count(one.params) for one in trained),
    )
    print(f"results, curves and pictures in {run.path}")


def share(config: DigitsConfig, fraction: float) -> DigitsConfig:
    """The configuration with a share of the time, of which several networks must be trained."""
    seconds = config.max_seconds
    return dataclasses.replace(config, max_seconds=None if seconds is None else seconds * fraction)


def folders(config: DigitsConfig) -> list[str]:
    """The folders of all networks, see `part`."""
    reading = [fold_folder(number) for number in range(1, config.folds + 1)] if config.task != "draw" else []
    return reading + ([drawer_folder(config)] if config.task != "read" else [])


def drawer_folder(config: DigitsConfig) -> str:
    """The folder of the drawing network: one of its own where there are reading ones, too."""
    return "draw" if config.task == "both" else ""


def fold_folder(number: int) -> str:
    """The folder of the reading network of a fold, counted from 1."""
    return f"fold_{number}" if number > 1 else ""


def part(config: DigitsConfig, run: "Run", folder: str) -> "tuple[DigitsConfig, Run]":
    """The configuration and the run of one network in a folder of its own; "" is the run itself."""
    if not folder:
        return config, run
    source = None if config.init_from is None else os.path.join(config.init_from, folder)
    return dataclasses.replace(config, init_from=source), run.part(folder)


def cross_validate(config: DigitsConfig, run: "Run", digits: "Digits", trained: "list[Trained]") -> dict[str, float]:
    """Train a reading network on all folds but one, for each one; draw what was misread."""
    import jax
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from experiments.train import describe_parameters, initial_params
    from rnn_jax.data.digits import CLASSES, folds
    from rnn_jax.models import VectorClassifier

    with checked():
        model = VectorClassifier(
            CLASSES,
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            bidirectional=config.bidirectional,
            pooling=config.pooling,
            dropout=config.dropout,
            dtype=config.dtype,
        )
        params = initial_params(model, jax.random.key(config.seed), as_sequence(digits.images[:1], config.read))

    probabilities = np.zeros((len(digits), CLASSES))
    accuracies, baselines = [], []
    dealt = folds(digits.labels, config.folds, config.seed)
    for number, tested in enumerate(dealt, 1):
        rest = np.setdiff1d(np.arange(len(digits)), tested)
        train_set, valid_set = (digits.take(side) for side in hold_out(rest, config.seed))
        fold_config, fold_run = part(share(config, 1 / config.folds), run, fold_folder(number))
        begin(fold_run, model, train=train_set, valid=valid_set, test=digits.take(tested))
        if number == 1:
            print(f"{len(digits):,} digits in {config.folds} folds, read by {config.read}; run in {run.path}")
            print(describe_parameters(params))
        loss = reading_loss(config.read)
        result = fit(fold_config, fold_run, model, params, train_set, valid_set, loss, "digits", "nats per digit")
        trained.append(result)
        probabilities[tested] = read(model, result.params, digits.images[tested], config.read)
        right = probabilities[tested].argmax(axis=1) == digits.labels[tested]
        accuracies.append(right.mean())
        flat = digits.images.reshape(len(digits), -1) / 16
        baseline = LogisticRegression(max_iter=5000).fit(flat[rest], digits.labels[rest])
        baselines.append(baseline.score(flat[tested], digits.labels[tested]))
        print(f"fold {number} of {config.folds}: {right.mean():.4f} read right, {(~right).sum()} wrong")
    show_read(digits, probabilities, run)
    return {
        "test_accuracy": float(np.mean(accuracies)),
        "test_accuracy_std": float(np.std(accuracies)),
        "baseline_accuracy": float(np.mean(baselines)),
    }


def train_drawer(
    config: DigitsConfig, run: "Run", main_run: "Run", digits: "Digits", trained: "list[Trained]"
) -> dict[str, float]:
    """Train the drawing network; draw some of each digit beside real ones."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from sklearn.svm import SVC

    from experiments.train import describe_parameters, initial_params
    from rnn_jax.data.digits import CLASSES, LEVELS, SIDE
    from rnn_jax.models import Drawer
    from rnn_jax.training.contact_sheet import image_table

    with checked():
        model = Drawer(
            CLASSES,
            LEVELS,
            image_shape=(SIDE, SIDE),
            context=config.context,
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            dropout=config.dropout,
            dtype=config.dtype,
        )
        params = initial_params(
            model, jax.random.key(config.seed), jnp.zeros(1, jnp.int32), as_pixels(digits.images[:1])
        )

    train_set, valid_set = (digits.take(side) for side in hold_out(np.arange(len(digits)), config.seed))
    begin(run, model, train=train_set, valid=valid_set)
    print(f"{len(train_set):,} digits to learn to draw; run in {run.path}")
    print(describe_parameters(params))
    result = fit(config, run, model, params, train_set, valid_set, drawing_loss, "pixels", "nats per pixel")
    trained.append(result)

    asked = np.tile(np.arange(CLASSES, dtype=np.int32), DRAWN_PER_CLASS)
    drawn = draw_digits(model, result.params, asked, config)
    rows = [digits.images[digits.labels == digit][:REAL_SHOWN] for digit in range(CLASSES)]
    real = np.stack(rows, axis=1)
    shown = drawn.reshape(DRAWN_PER_CLASS, CLASSES, SIDE, SIDE)[:DRAWN_SHOWN]
    image_table(
        np.concatenate([real, shown]),
        main_run.path / "drawn.png",
        title=f"{main_run.label}: digits drawn pixel by pixel",
        rows=["real"] * REAL_SHOWN + ["drawn"] * DRAWN_SHOWN,
        columns=[str(digit) for digit in range(CLASSES)],
    )
    # Another kind of reader, and one that has seen every real digit.
    judge = SVC(gamma=cast(Any, 0.001)).fit(digits.images.reshape(len(digits), -1), digits.labels)
    return {
        "draw_val_loss": result.metrics["val_loss"],
        "draw_baseline_loss": independent_pixels_loss(train_set, valid_set),
        "drawn_recognised": float(judge.score(drawn.reshape(len(drawn), -1), asked)),
    }


def begin(run: "Run", model: Any, **parts: "Digits") -> None:
    """Write what a run is made of."""
    run.begin(
        model=model,
        data={
            "name": "sklearn.datasets.load_digits",
            "sha256": {name: digits.sha256 for name, digits in parts.items()},
            "sizes": {name: len(digits) for name, digits in parts.items()},
        },
    )


def fit(
    config: DigitsConfig,
    run: "Run",
    model: Any,
    params: Any,
    train_set: "Digits",
    valid_set: "Digits",
    loss_of: Callable[..., Any],
    unit: str,
    loss_unit: str,
) -> "Trained":
    """Train one network; `loss_of(apply, images, labels, mask)` is (sum, count)."""
    import jax

    from experiments.train import train
    from rnn_jax.data import PaddedBatches

    def batches(digits: "Digits", shuffle: bool) -> PaddedBatches:
        values = {"image": digits.images, "label": digits.labels}
        return PaddedBatches({}, values, config.batch_size, buckets=1, shuffle=shuffle, seed=config.seed)

    def loss(params: Any, carry: Any, batch: Any, key: jax.Array, **rates: Any) -> Any:
        options = {"deterministic": config.dropout == 0, "rngs": {"dropout": key}}
        return batch_loss(model.clone(**rates), loss_of, params, batch, **options), carry

    def evaluate(params: Any) -> dict[str, float]:
        # The same program whatever is dropped in training.
        whole = model.clone(dropout=0.0)
        shown = batches(valid_set, shuffle=False)
        total, count = totals(evaluation_step(whole, loss_of, params, batch) for batch in shown)
        return {"val_loss": total / count}

    shuffled = batches(train_set, shuffle=True)
    return train(
        config,
        run,
        params=params,
        loss=loss,
        batches=shuffled,
        evaluate=evaluate,
        batch_axis=shuffled.batch_axes,
        unit=unit,
        loss_unit=loss_unit,
    )


def batch_loss(model: Any, loss_of: Callable[..., Any], params: Any, batch: Any, **options: Any) -> Any:
    """`loss_of` a batch: (sum, count)."""
    apply = functools.partial(model.apply, {"params": params}, **options)
    return loss_of(apply, batch["image"], batch["label"], batch["index"] >= 0)


evaluation_step = compiled(0, 1)(batch_loss)


@functools.cache
def reading_loss(order: str) -> Callable[..., Any]:
    """The loss of a network that reads images in an order, see `as_sequence`."""
    from rnn_jax import losses

    def loss(apply: Callable[..., Any], images: Any, labels: Any, mask: Any) -> Any:
        return losses.cross_entropy(apply(as_sequence(images, order)), labels, mask)

    return loss


def drawing_loss(apply: Callable[..., Any], images: Any, labels: Any, mask: Any) -> Any:
    """The loss of a network that draws images."""
    import jax.numpy as jnp

    from rnn_jax import losses

    pixels = as_pixels(images)
    return losses.cross_entropy(apply(labels, pixels), pixels, jnp.broadcast_to(mask, pixels.shape))


def hold_out(numbers: "np.ndarray", seed: int) -> "tuple[np.ndarray, np.ndarray]":
    """(nine tenths, one tenth) of the examples, at random."""
    import numpy as np

    shuffled = np.random.default_rng(seed).permutation(numbers)
    cut = len(numbers) // 10
    return shuffled[cut:], shuffled[:cut]


def as_sequence(images: Any, read: str) -> Any:
    """Images [B, 8, 8] of levels 0..16 as the reading network sees them: [8, B, 8] or [64, B, 1], from -1 to 1."""
    import jax.numpy as jnp

    values = jnp.asarray(images).astype(jnp.float32) / 8 - 1
    return values.swapaxes(0, 1) if read == "rows" else values.reshape(len(images), -1).T[..., None]


def as_pixels(images: Any) -> Any:
    """Images [B, 8, 8] as sequences of levels [64, B]."""
    import jax.numpy as jnp

    return jnp.asarray(images).astype(jnp.int32).reshape(len(images), -1).T


def read(model: "VectorClassifier", params: Any, images: "np.ndarray", how: str) -> "np.ndarray":
    """The probabilities [N, 10] that the model gives the classes of each image."""
    import numpy as np

    return np.asarray(class_probabilities(model, params, as_sequence(images, how)))


@compiled(0)
def class_probabilities(model: Any, params: Any, inputs: Any) -> Any:
    """Of each sequence [T, B, D]: [B, 10]."""
    import jax

    return jax.nn.softmax(model.apply({"params": params}, inputs))


def draw_digits(model: "Drawer", params: Any, digits: "np.ndarray", config: DigitsConfig) -> "np.ndarray":
    """Images [N, 8, 8] of these digits."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rnn_jax.models.drawer import draw

    key = jax.random.key(config.seed)
    return np.asarray(draw(model, {"params": params}, jnp.asarray(digits), key, config.temperature))


def show_read(digits: "Digits", probabilities: "np.ndarray", run: "Run") -> None:
    """Draw some of the digits that were misread, the worst first, then others as they come."""
    import numpy as np

    from rnn_jax.training.contact_sheet import contact_sheet

    answers = probabilities.argmax(axis=1)
    wrong = answers != digits.labels
    sure = probabilities[np.arange(len(digits)), digits.labels]
    worst = np.flatnonzero(wrong)[np.argsort(sure[wrong])][: READ_SHOWN // 2]
    shown = np.concatenate([worst, np.flatnonzero(~wrong)[: READ_SHOWN - len(worst)]])
    contact_sheet(
        digits.images[shown],
        [f"{digits.labels[n]} read as {answers[n]} ({probabilities[n, answers[n]]:.2f})" for n in shown],
        run.path / "read.png",
        title=f"{run.label}: {wrong.sum()} of {len(digits):,} digits misread (red: the worst of them)",
        wrong=[bool(wrong[n]) for n in shown],
        columns=8,
    )


def independent_pixels_loss(train_set: "Digits", valid_set: "Digits") -> float:
    """Nats per pixel of a model without any sequence: each pixel drawn for itself, given the class and the place."""
    import numpy as np

    from rnn_jax.data.digits import CLASSES, LEVELS

    counts = np.full((CLASSES, *train_set.images.shape[1:], LEVELS), 1.0 / LEVELS)
    for level in range(LEVELS):
        np.add.at(counts[..., level], train_set.labels, train_set.images == level)
    chances = counts / counts.sum(axis=-1, keepdims=True)
    found = np.take_along_axis(chances[valid_set.labels], valid_set.images[..., None].astype(int), axis=-1)
    return float(-np.log(found).mean())


def predict(config: DigitsConfig, run: "Run") -> None:
    """Print the digit that each image of a file shows, and its probability."""
    from rnn_jax.data.digits import load_digit_images
    from rnn_jax.training.run import load

    if config.task == "draw":
        raise FlagError("--predict: expected a run that learned to read, found one of --task=draw")
    images = load_digit_images(str(config.predict), "predict")
    loaded = load(run.path)
    for probabilities in read(loaded.model, loaded.params, images, config.read):
        print(f"{probabilities.argmax()}  {probabilities.max():.3f}")


def sample(config: DigitsConfig, run: "Run") -> None:
    """Draw digits on the terminal, side by side."""
    import numpy as np

    from rnn_jax.training.run import load

    text = str(config.sample)
    if not (text.isascii() and text.isdigit()):
        raise FlagError(f"--sample: expected digits, such as 2048, found {text!r}")
    if config.task == "read":
        raise FlagError("--sample: expected a run that learned to draw, found one of --task=read")
    loaded = load(run.path / drawer_folder(config))
    images = draw_digits(loaded.model, loaded.params, np.array([int(digit) for digit in text], np.int32), config)
    for line in np.concatenate([*images], axis=1):
        # Twice each: a character is about half as wide as it is high.
        print("".join(INK[int(level) * (len(INK) - 1) // 16] * 2 for level in line).rstrip())


if __name__ == "__main__":
    run_experiment("digits", DigitsConfig, main)
