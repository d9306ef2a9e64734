"""Image captions: from one image to a sentence.

python -m experiments.captioning --context=both
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from experiments.config import TrainingConfig
from experiments.evaluation import compiled, totals
from experiments.flags import checked, flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    import numpy as np

    from rnn_jax.data import Vocabulary
    from rnn_jax.data.captioned_images import CaptionedImages
    from rnn_jax.models import Captioner
    from rnn_jax.training.run import Run

SCENES = "scenes"
SHOWN = 24


@dataclasses.dataclass(frozen=True)
class Captioning(TrainingConfig):
    """Train a network that looks at an image and writes a sentence, a word at a time.

    test_exact_match is the share of captions that are right to the last word. The built-in data are drawn scenes of
    coloured shapes; no caption of their test scenes occurs in training, and there is a second, harder test: scenes with
    objects (a size, a colour and a shape together) that occur in no training scene, test_new_objects_exact_match.
    An .npz file of one's own: numpy.savez(PATH, images=uint8 [N, height, width, channels], captions=text [N]).
    """

    traced: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")

    train: str = flag(SCENES, "what to learn from: scenes, or PATH of an .npz of images and captions")
    dev: str | None = flag(None, "PATH of an .npz to validate on, in place of a tenth of --train")
    test: str | None = flag(None, "PATH of an .npz to evaluate at the end, in place of scenes with new captions")
    scenes: int = flag(20000, "training scenes to draw, and a tenth as many for each other set", minimum=20)
    predict: str | None = flag(
        None, "PATH of an .npz of images to describe with the run in --workdir", stored=False, mode=True
    )

    context: Literal["input", "state", "both"] = flag(
        "both", "where the image enters the decoder: its input at each step, its initial state, or both", group="model"
    )
    channels: tuple[int, ...] = flag((24, 48, 64), "channels of the convolutions", group="model", minimum=1)
    heads: int = flag(4, "places that the encoder looks at", group="model", minimum=1)
    features: int = flag(128, "width of the vector that the image becomes", group="model", minimum=1)
    embedding_size: int = flag(32, "width of the embedding of a word", group="model", minimum=1)
    word_dropout: float = flag(
        0.5, "share of the words before that the decoder must do without", group="model", minimum=0, maximum=1
    )
    # Gates that keep for the length of a caption: with gates half open the image, where it is only the initial state,
    # is gone by the second object.
    cell: str = "gru(chrono=12)"
    hidden_size: int = 128
    num_layers: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup: int = 50
    # While shapes are still hard to tell, a network learns which of them never occur with which colours and sizes. Only
    # decay makes it forget that again; otherwise it takes an object that it has never seen for one that it has.
    weight_decay: float | None = 0.3
    ema_decay: float | None = 0.998
    steps: int | None = 6000
    max_seconds: float | None = 330.0
    eval_every: int | None = 1000
    sample_every: int | None = 2000


def main(config: Captioning, run: "Run") -> None:
    """Train and evaluate; or describe images with a trained run."""
    if config.predict is not None:
        predict(config, run)
    else:
        train_model(config, run)


def train_model(config: Captioning, run: "Run") -> None:
    """From the images to result.json."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.train import describe_parameters, initial_params, train
    from rnn_jax import losses
    from rnn_jax.data import END_OF_LINE, UNKNOWN_WORD, PaddedBatches, Vocabulary
    from rnn_jax.models import Captioner
    from rnn_jax.training.contact_sheet import contact_sheet
    from rnn_jax.training.state import parameter_count

    splits = load_splits(config)
    train_set, dev_set = splits["train"], splits["dev"]
    vocabulary = Vocabulary.from_text("".join(f"{caption}\n" for caption in train_set.captions), "word")
    # The first input is what ended the caption before: one symbol serves as both.
    texts = {
        split: [vocabulary.encode(f"\n{caption}\n", argument=split) for caption in images.captions]
        for split, images in splits.items()
    }
    batches = PaddedBatches(
        {"tokens": texts["train"]}, {"image": train_set.images}, config.batch_size, buckets=1, seed=config.seed
    )
    dev_batches = PaddedBatches(
        {"tokens": texts["dev"]}, {"image": dev_set.images}, config.batch_size, buckets=1, shuffle=False
    )
    with checked():
        model = Captioner(
            len(vocabulary),
            image_shape=tuple(train_set.images.shape[1:]),
            end=vocabulary.index[END_OF_LINE],
            unknown=vocabulary.index[UNKNOWN_WORD],
            # Two more than any caption has, so that one that does not end is seen to be wrong.
            max_length=max(map(len, texts["train"])),
            context=config.context,
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            embedding_size=config.embedding_size,
            channels=config.channels,
            heads=config.heads,
            features=config.features,
            dropout=config.dropout,
            word_dropout=config.word_dropout,
            dtype=config.dtype,
        )
        params = initial_params(model, jax.random.key(config.seed), train_set.images[:1], jnp.zeros((1, 1), jnp.int32))
    run.begin(
        model=model,
        vocabulary=vocabulary,
        data={
            "name": train_set.name,
            "sha256": {split: images.sha256 for split, images in splits.items()},
            "sizes": {split: len(images) for split, images in splits.items()},
        },
    )
    print(
        f"{train_set.name}: {', '.join(f'{len(images):,} images to {split}' for split, images in splits.items())}; "
        f"vocabulary {len(vocabulary)}; run in {run.path}"
    )
    print(describe_parameters(params))

    def loss(params: Any, carry: Any, batch: Any, key: jax.Array, **rates: Any) -> Any:
        tokens, mask = batch["tokens"], batch["tokens_mask"]
        logits: Any = model.clone(**rates).apply(
            {"params": params},
            batch["image"],
            tokens[:-1],
            mask=mask[1:],
            deterministic=config.dropout == config.word_dropout == 0,
            rngs={"dropout": key},
        )
        return losses.cross_entropy(logits, tokens[1:], mask[1:]), carry

    def evaluate(params: Any) -> dict[str, float]:
        # The same program whatever is dropped in training.
        whole = model.clone(dropout=0.0, word_dropout=0.0)
        total, count = totals(evaluation_step(whole, params, batch) for batch in dev_batches)
        return {"val_loss": total / count}

    def sample(params: Any, step: int) -> str:
        shown = dev_set.take(np.arange(min(3, len(dev_set))))
        written = captions(model, params, vocabulary, shown.images)
        lines = [f"{text}  [{truth}]" for text, truth in zip(written, shown.captions, strict=True)]
        return "\n".join([f"--- captions [and truth] after {step} steps ---", *lines, "---"])

    trained = train(
        config,
        run,
        params=params,
        loss=loss,
        batches=batches,
        evaluate=evaluate,
        sample=sample,
        batch_axis=batches.batch_axes,
        unit="words",
        loss_unit="nats per word",
    )

    metrics = dict(trained.metrics)
    for split, name in (("dev", "val"), ("test", "test"), ("new_objects", "test_new_objects")):
        if split in splits:
            found = captions(model, trained.params, vocabulary, splits[split].images)
            right = np.array([a == b for a, b in zip(found, splits[split].captions, strict=True)])
            metrics[f"{name}_exact_match"] = float(right.mean())
            print(f"{name}_exact_match  {right.mean():.4f}  ({(~right).sum()} of {len(right):,} wrong)")
            # The wrong ones first, then the others in their order.
            shown = np.argsort(right, kind="stable")[:SHOWN]
            contact_sheet(
                splits[split].images[shown],
                [found[number] for number in shown],
                run.path / f"{name}_captions.png",
                title=f"{run.label}: {name} captions, {(~right).sum()} of {len(right):,} wrong (red, first)",
                wrong=[not right[number] for number in shown],
            )
    run.write_result(
        metrics=metrics, steps=trained.steps, seconds=trained.seconds, parameters=parameter_count(trained.params)
    )
    print(f"results, curves and contact sheets in {run.path}")


@compiled(0)
def evaluation_step(model: Any, params: Any, batch: Any) -> Any:
    """The loss of a batch: (sum, count)."""
    from rnn_jax import losses

    tokens, mask = batch["tokens"], batch["tokens_mask"]
    logits: Any = model.apply({"params": params}, batch["image"], tokens[:-1], mask=mask[1:])
    return losses.cross_entropy(logits, tokens[1:], mask[1:])


def load_splits(config: Captioning) -> dict[str, "CaptionedImages"]:
    """The images and captions of `train`, `dev` and, where there is one, `test`."""
    from rnn_jax.data.captioned_images import load_captioned_images
    from rnn_jax.data.scenes import draw_scenes

    splits = {}
    if config.train == SCENES:
        splits["train"] = draw_scenes(config.scenes, "train", config.seed)
    else:
        splits["train"] = load_captioned_images(config.train, "train")
    shape = splits["train"].images.shape[1:]
    if config.dev is not None:
        splits["dev"] = load_captioned_images(config.dev, "dev", shape)
    elif config.train == SCENES:
        splits["dev"] = draw_scenes(config.scenes // 10, "valid", config.seed)
    else:
        splits["train"], splits["dev"] = splits["train"].hold_out()
    if config.test is not None:
        splits["test"] = load_captioned_images(config.test, "test", shape)
    elif config.train == SCENES:
        splits["test"] = draw_scenes(config.scenes // 10, "test", config.seed)
        splits["new_objects"] = draw_scenes(config.scenes // 10, "new_objects", config.seed)
    return splits


def captions(model: "Captioner", params: Any, vocabulary: "Vocabulary", images: "np.ndarray") -> list[str]:
    """What the model writes about each image."""
    import numpy as np

    from rnn_jax.models.captioner import describe

    written = []
    # Batches of one size, the last filled up: one compilation.
    size = min(250, len(images))
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        tokens = np.asarray(describe(model, {"params": params}, filled))
        written += [vocabulary.decode(column).split("\n")[0] for column in tokens.T[: len(part)]]
    return written


def predict(config: Captioning, run: "Run") -> None:
    """Print a caption for each image of a file, a line each."""
    from rnn_jax.data.captioned_images import load_images
    from rnn_jax.training.run import load

    loaded = load(run.path)
    images = load_images(str(config.predict), "predict", loaded.model.image_shape)
    print("\n".join(captions(loaded.model, loaded.params, loaded.vocabulary, images)))


if __name__ == "__main__":
    run_experiment("captioning", Captioning, main)
