"""Tagging: a label for every character of source code, or for every word of sentences in CoNLL columns.

python -m experiments.tagging
python -m experiments.tagging --train=train.txt.gz --feature_columns=2
"""

import dataclasses
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from experiments.config import TrainingConfig
from experiments.evaluation import compiled
from experiments.flags import FlagError, checked, flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    import numpy as np

    from rnn_jax.data import TagEncoder, TaggedSequence
    from rnn_jax.data.source_code import SourceFile
    from rnn_jax.models import Tagger
    from rnn_jax.training.run import Run

BUILTIN = "builtin"
# Held out without --dev, of what --test leaves: enough to tell when to stop.
DEV_FRACTION = 0.05
# Source code is read in longer pieces than it is learned in: fewer begin in the middle of a string.
READ_LENGTH = 8192
# How many sequences are read at a time.
READ_BATCH = {"char": 4, "word": 16}
# Each bucket is compiled for itself, which pieces of source code, nearly all of one length, do not repay.
DEFAULTS: dict[str, dict[str, Any]] = {
    "char": {"crf": False, "embedding_size": 32, "dropout": 0.1, "buckets": 2},
    "word": {"crf": True, "embedding_size": 64, "dropout": 0.33, "buckets": 6},
}
# The file whose page is shown is about so long.
PAGE_LENGTH = 10_000
SPAN = re.compile(r"O|[BIESLU]-.+")


@dataclasses.dataclass(frozen=True)
class Tagging(TrainingConfig):
    """Train a bidirectional recurrent tagger, with or without a linear-chain CRF, evaluate it, tag with it.

    The built-in task colours Python source as a syntax highlighter does, character by character; a page of it is
    written to highlighted.html. Files have one word a line, in columns, and a blank line between sentences. Without
    --test or --dev a tenth of the sentences, chosen by hash, is held out for testing; without --dev a twentieth of the
    others tells which checkpoint is best. Labels such as B-NP, I-NP and O are scored as spans (test_f1) too.
    """

    traced: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")

    train: str = flag(
        BUILTIN,
        "builtin (Python's standard library) or a file of CoNLL columns, plain or .gz",
        placeholder="PATH",
    )
    dev: str | None = flag(None, "file that tells the best checkpoint, in the same columns", placeholder="PATH")
    test: str | None = flag(None, "file to test on; without it that of --dev", placeholder="PATH")
    token_column: int = flag(1, "column of the words, from 1; -1 is the last")
    label_column: int = flag(-1, "column of the labels")
    feature_columns: tuple[int, ...] | None = flag(None, "further columns to read, such as part-of-speech tags")
    min_count: int = flag(2, "rarer words count as unknown", minimum=1)
    buckets: int | None = flag(
        None,
        "groups of like length that training batches are drawn from, each compiled once (default: 2 for source code, "
        "6 for words)",
        minimum=1,
    )
    window: int = flag(400, "characters of source code in a training example", minimum=8)
    predict: str | None = flag(None, "text to tag with the run in --workdir", mode=True, stored=False)
    predict_file: str | None = flag(
        None,
        "file to tag with it: columns, or source code; - for each line of standard input",
        mode=True,
        stored=False,
        placeholder="PATH",
    )
    html: str | None = flag(
        None, "with --predict_file, where to write the page of its source", stored=False, placeholder="PATH"
    )

    crf: bool | None = flag(
        None, "score label sequences by a linear-chain CRF (default: for words, not for source code)", group="model"
    )
    cell: str = "lstm"
    hidden_size: int = 96
    num_layers: int = 1
    embedding_size: int | None = flag(
        None, "width of the embedding of a character (default: 32) or word (64)", group="model", minimum=1
    )
    character_filters: int = flag(
        50, "filters over the characters of a word; 0 reads words whole", group="model", minimum=0
    )
    dropout: float | None = flag(
        None,
        "share of the activations dropped (default: 0.1 for source code, 0.33 for words)",
        group="model",
        minimum=0,
        maximum=0.99,
    )
    word_dropout: float = flag(0.05, "share of words read as unknown", group="model", minimum=0, maximum=0.9)
    dtype: str = "float32"

    batch_size: int = 16
    learning_rate: float = 5e-3
    clip_norm: float | None = 5.0
    ema_decay: float | None = 0.99
    max_seconds: float | None = 330.0
    eval_every: int | None = 500

    @property
    def level(self) -> str:
        """What is labelled."""
        return "char" if self.train == BUILTIN else "word"

    @property
    def defaults(self) -> dict[str, Any]:
        """Those of characters or of words."""
        return DEFAULTS[self.level]

    @property
    def columns(self) -> dict[str, Any]:
        """How files are read."""
        return {
            "token_column": self.token_column,
            "label_column": self.label_column,
            "feature_columns": self.feature_columns or (),
        }


@dataclasses.dataclass(frozen=True)
class Splits:
    """What is learned, what tells when to stop, what is tested; and for the page a file of the last."""

    train: "list[TaggedSequence]"
    dev: "list[TaggedSequence]"
    test: "list[TaggedSequence]"
    shown: "SourceFile | None" = None

    @property
    def named(self) -> "dict[str, list[TaggedSequence]]":
        """By name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


def main(config: Tagging, run: "Run") -> None:
    """Train and evaluate; or use a trained run."""
    if config.html is not None and config.predict_file is None:
        raise FlagError("--html: expected --predict_file=PATH with it, found none")
    if config.predict is not None or config.predict_file is not None:
        predict(config, run)
    else:
        train_model(config, run)


def train_model(config: Tagging, run: "Run") -> None:
    """From the data to result.json."""
    import jax
    import jax.numpy as jnp

    from experiments.train import describe_parameters, initial_params, train
    from rnn_jax.data import PaddedBatches, TagEncoder
    from rnn_jax.models import Tagger
    from rnn_jax.training.state import parameter_count

    config = config.settled()
    splits = load_splits(config)
    encoder = TagEncoder.from_sequences(
        splits.train, config.level, min_count=config.min_count, spelled=config.character_filters > 0
    )
    arrays = {split: encoder.arrays(sequences, argument(config, split)) for split, sequences in splits.named.items()}
    chosen: dict[str, Any] = {name: getattr(config, name) for name in config.defaults}
    buckets = chosen.pop("buckets")
    batches = PaddedBatches(arrays["train"], {}, config.batch_size, buckets=buckets, seed=config.seed)
    vocabularies = encoder.vocabularies
    with checked():
        model = Tagger(
            len(vocabularies["labels"]),
            len(vocabularies["tokens"]),
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            characters=len(vocabularies["characters"]) if "characters" in vocabularies else 0,
            character_filters=config.character_filters,
            features=tuple(map(len, encoder.feature_vocabularies)),
            word_dropout=config.word_dropout,
            dtype=config.dtype,
            **chosen,
        )
        first = jax.tree.map(jnp.asarray, batches.at(0))
        params = initial_params(model, jax.random.key(config.seed), first["tokens"], **model_inputs(first))
    run.begin(
        model=model,
        vocabulary=dict(vocabularies),
        data={
            "name": config.train,
            "sha256": {split: digest(sequences) for split, sequences in splits.named.items()},
            "sizes": {split: sum(map(len, sequences)) for split, sequences in splits.named.items()},
        },
    )
    noun = "characters" if config.level == "char" else "words"
    for split, sequences in splits.named.items():
        print(f"{split:5}  {len(sequences):7,} sequences  {sum(map(len, sequences)):9,} {noun}")
    print(f"{len(encoder.label_names)} labels: {', '.join(encoder.label_names)}; run in {run.path}")
    print(describe_parameters(params))

    def loss(params: Any, carry: Any, batch: Mapping[str, Any], key: jax.Array, **rates: Any) -> Any:
        found = model.clone(**rates).apply(
            {"params": params},
            batch["tokens"],
            batch["labels"],
            **model_inputs(batch),
            deterministic=False,
            rngs={"dropout": key},
            method="learn",
        )
        return found, carry

    known = {label for sequences in splits.named.values() for one in sequences for label in one.labels}
    spans = all(SPAN.fullmatch(label) for label in known)

    def evaluate(params: Any, split: str) -> tuple[dict[str, float], list[list[str]]]:
        loss, predicted = tag(model, params, encoder, arrays[split], READ_BATCH[config.level])
        return {"loss": loss, **scores(splits.named[split], predicted, spans)}, predicted

    def sample(params: Any, step: int) -> str:
        shown = splits.dev[0]
        _, (labels,) = tag(model, params, encoder, encoder.arrays([shown], "dev"), 1)
        return f"--- after {step} steps ---\n{rendered(config, shown.tokens, labels)}\n---"

    trained = train(
        config,
        run,
        params=params,
        loss=loss,
        batches=batches,
        evaluate=lambda params: {f"val_{name}": value for name, value in evaluate(params, "dev")[0].items()},
        sample=sample,
        batch_axis=batches.batch_axes,
        monitor="val_error",
        drawn="val_loss",
        unit=noun,
        loss_unit="nats per label",
    )
    found, predicted = evaluate(trained.params, "test")
    metrics = trained.metrics | {f"test_{name}": value for name, value in found.items() if name != "error"}
    metrics |= {f"{noun}_per_second": trained.units_per_second}
    if splits.shown is not None:
        labels = tag_text(model, trained.params, encoder, splits.shown.text)
        title = f"{splits.shown.name}, coloured by a recurrent network"
        write_page(run.path / "highlighted.html", title, splits.shown.text, labels, splits.shown.labels)
    metrics = run.write_result(
        metrics=metrics, steps=trained.steps, seconds=trained.seconds, parameters=parameter_count(trained.params)
    )
    if "f1" in found:
        print(report(splits.test, predicted))
    for name, value in metrics.items():
        print(f"{name:21} {value:,.4f}")
    print(f"results and curves in {run.path}")


def load_splits(config: Tagging) -> Splits:
    """The training, development and test sequences; what is held out is chosen by the hash of its text."""
    from rnn_jax.data import DataError, is_held_out, read_columns

    if config.level == "char":
        for name in ("dev", "test"):
            if getattr(config, name) is not None:
                raise FlagError(f"--{name}: expected a file of its own in --train too, found --train={BUILTIN}")
        return builtin_splits(config.window)

    train = read_columns(config.train, "train", **config.columns)
    dev, test = (
        None if path is None else read_columns(path, name, **config.columns)
        for name, path in (("dev", config.dev), ("test", config.test))
    )
    count = len(train)
    if dev is None and test is None:
        train, test = hold_out(train, lambda one: is_held_out(one.key))
    if dev is None:
        train, dev = hold_out(train, lambda one: is_held_out(f"dev {one.key}", DEV_FRACTION))
    test = dev if test is None else test
    if not (train and dev and test):
        raise DataError(f"train: expected enough sentences to hold some out, found {count} in {config.train!r}")
    return Splits(train, dev, test)


def hold_out(
    sentences: "list[TaggedSequence]", chosen: "Callable[[TaggedSequence], bool]"
) -> "tuple[list[TaggedSequence], list[TaggedSequence]]":
    """(the others, the chosen) in their order; a chosen one with a label that the others lack stays among them."""
    from rnn_jax.data import spare_rare

    out = spare_rare([chosen(one) for one in sentences], [one.labels for one in sentences])
    sides = [[one for one, held in zip(sentences, out, strict=True) if held == side] for side in (False, True)]
    return sides[0], sides[1]


def builtin_splits(window: int) -> Splits:
    """Modules of the standard library; a tenth of them, chosen by the hash of their names, for testing."""
    from rnn_jax.data import is_held_out
    from rnn_jax.data.source_code import standard_library

    files = standard_library()
    tested = [file for file in files if is_held_out(file.name)]
    others = [file for file in files if not is_held_out(file.name)]
    judged = [file for file in others if is_held_out(f"dev {file.name}", DEV_FRACTION)]
    learned = [file for file in others if file not in judged]
    return Splits(
        [piece for file in learned for piece in file.pieces(window)],
        [piece for file in judged for piece in file.pieces(READ_LENGTH)],
        [piece for file in tested for piece in file.pieces(READ_LENGTH)],
        min(tested, key=lambda file: abs(len(file.text) - PAGE_LENGTH)),
    )


def argument(config: Tagging, split: str) -> str:
    """The flag that a split was given by: held-out parts are of --train."""
    return split if getattr(config, split) is not None else "train"


def digest(sequences: "Sequence[TaggedSequence]") -> str:
    """The sha256 of tokens, further columns and labels."""
    sha256 = hashlib.sha256()
    for one in sequences:
        for part in (one.tokens, chain.from_iterable(one.features), one.labels):
            sha256.update(("\0".join(part) + "\n").encode("utf-8", "surrogatepass"))
    return sha256.hexdigest()


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Tagger`, but for the tokens, from a batch of `TagEncoder.arrays`."""
    return {"mask": batch["tokens_mask"], "characters": batch.get("characters"), "features": batch.get("features")}


def tag(
    model: "Tagger",
    params: Any,
    encoder: "TagEncoder",
    arrays: "Mapping[str, Sequence[np.ndarray]]",
    batch_size: int,
) -> tuple[float, list[list[str]]]:
    """The labels of sequences, and the loss in nats per label where right ones are given (else nan)."""
    import numpy as np

    from rnn_jax.data import PaddedBatches

    batches = PaddedBatches(arrays, {}, batch_size, buckets=8, shuffle=False)
    found: list[list[str]] = [[] for _ in range(len(batches))]
    total = count = 0.0
    for batch in batches:
        labels, loss, number = (np.asarray(part) for part in tagging_step(model, params, _lengthened(batch)))
        total, count = total + float(loss), count + float(number)
        for column, index in enumerate(batch["index"]):
            if index >= 0:
                length = int(batch["tokens_mask"][:, column].sum())
                found[index] = [encoder.label_names[label] for label in labels[:length, column]]
    return total / count if count else float("nan"), found


@compiled(0)
def tagging_step(model: Any, params: Any, batch: Any) -> Any:
    """The labels [T, B] of a batch and its loss, as (sum, count): zeros where the right labels are not known."""
    emissions = model.apply({"params": params}, batch["tokens"], **model_inputs(batch))
    labels = model.apply({"params": params}, emissions, batch["tokens_mask"], method="decode")
    if "labels" not in batch:
        return labels, 0.0, 0.0
    loss, count = model.apply({"params": params}, emissions, batch["labels"], batch["tokens_mask"], method="loss")
    return labels, loss, count


def _lengthened(batch: Mapping[str, Any], shortest: int = 16) -> dict[str, Any]:
    """A batch with its time axis padded to a power of two: few lengths, so few compilations."""
    import numpy as np

    length = len(batch["tokens"])
    missing = max(shortest, 1 << (length - 1).bit_length()) - length
    return {
        name: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1))
        for name, value in batch.items()
        if name != "index"
    }


def span_labels(sentences: Iterable[Iterable[str]]) -> list[list[str]]:
    """Labels as seqeval knows them, which has E for the last word of a span (L), S for a span of one word (U)."""
    known = {"L": "E", "U": "S"}
    return [[known.get(label[0], label[0]) + label[1:] for label in labels] for labels in sentences]


def scores(sequences: "Sequence[TaggedSequence]", predicted: Sequence[Sequence[str]], spans: bool) -> dict[str, float]:
    """`accuracy`; where labels are `spans` also `f1`; and `error`, one minus the last of them."""
    truth = [list(one.labels) for one in sequences]
    pairs = list(zip(chain.from_iterable(truth), chain.from_iterable(predicted), strict=True))
    found = {"accuracy": sum(right == label for right, label in pairs) / len(pairs)}
    if spans:
        # Any: its annotations know neither tuples nor the number that zero_division takes.
        metrics: Any = importlib.import_module("seqeval.metrics")
        # None to find, and none found, is right, which it does not know either.
        found["f1"] = 1.0
        if not set(chain(*truth, *predicted)) <= {"O"}:
            found["f1"] = float(metrics.f1_score(span_labels(truth), span_labels(predicted), zero_division=0))
    return found | {"error": 1 - list(found.values())[-1]}


def report(sequences: "Sequence[TaggedSequence]", predicted: Sequence[Sequence[str]]) -> str:
    """Precision, recall and F1 of each kind of span, as a table."""
    metrics: Any = importlib.import_module("seqeval.metrics")
    truth = span_labels(one.labels for one in sequences)
    if set(chain(*truth, *predicted)) <= {"O"}:
        return "no spans, and none found"
    return metrics.classification_report(truth, span_labels(predicted), digits=4, zero_division=0)


def predict(config: Tagging, run: "Run") -> None:
    """Print the labels of a text, of a file, or of each line of standard input."""
    from rnn_jax.data import TagEncoder, read_columns, read_text, stdin_lines
    from rnn_jax.training.run import load

    if config.html is not None and (config.level != "char" or config.predict_file in (None, "-")):
        raise FlagError("--html: expected a run on source code and --predict_file=PATH with it")
    loaded = load(run.path)
    encoder = TagEncoder(loaded.vocabulary)
    if config.predict_file in (None, "-"):
        name = "predict" if config.predict_file is None else "predict_file"
        for text in [str(config.predict)] if config.predict_file is None else stdin_lines(name):
            for tokens, labels in tag_line(config, loaded, encoder, text.rstrip("\n"), name):
                print(rendered(config, tokens, labels), flush=True)
    elif config.level == "char":
        text = read_text(config.predict_file, "predict_file")
        labels = tag_text(loaded.model, loaded.params, encoder, text)
        if config.html is not None:
            write_page(Path(config.html).expanduser(), config.predict_file, text, labels)
        print(rendered(config, text, labels))
    else:
        columns: dict[str, Any] = {**config.columns, "label_column": None}
        sentences = read_columns(config.predict_file, "predict_file", **columns)
        arrays = encoder.arrays(sentences, "predict_file", labelled=False)
        _, found = tag(loaded.model, loaded.params, encoder, arrays, READ_BATCH["word"])
        for sentence, labels in zip(sentences, found, strict=True):
            print(rendered(config, sentence.tokens, labels))


def tag_line(
    config: Tagging, loaded: Any, encoder: "TagEncoder", text: str, argument: str
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """The tokens and labels of a text from the command line; nothing for an empty line of standard input."""
    from rnn_jax.data import TaggedSequence

    if config.feature_columns:
        raise FlagError(
            f"--{argument}: expected a file with the further columns that this run reads, "
            f"{','.join(map(str, config.feature_columns))}; found a text"
        )
    if not text.strip():
        if argument == "predict":
            raise FlagError("--predict: expected a text, found nothing")
        return
    if config.level == "char":
        yield text, tag_text(loaded.model, loaded.params, encoder, text)
        return
    words = TaggedSequence(text.split())
    arrays = encoder.arrays([words], argument, labelled=False)
    _, (labels,) = tag(loaded.model, loaded.params, encoder, arrays, 1)
    yield words.tokens, labels


def tag_text(model: "Tagger", params: Any, encoder: "TagEncoder", text: str) -> list[str]:
    """The labels of the characters of a source."""
    from rnn_jax.data.source_code import SourceFile

    pieces = SourceFile("", text, ()).pieces(READ_LENGTH)
    arrays = encoder.arrays(pieces, "predict", labelled=False)
    return list(chain.from_iterable(tag(model, params, encoder, arrays, min(READ_BATCH["char"], len(pieces)))[1]))


def rendered(config: Tagging, tokens: Sequence[str], labels: Sequence[str]) -> str:
    """A word and its label a line, and an empty line; of source code one run of the same label a line, as JSON text."""
    if config.level == "word":
        return "".join(f"{token} {label}\n" for token, label in zip(tokens, labels, strict=True))
    runs = groupby(zip(tokens, labels, strict=True), key=lambda pair: pair[1])
    lines = [(label, "".join(character for character, _ in run)) for label, run in runs]
    return "\n".join(f"{label}\t{json.dumps(text, ensure_ascii=False)}" for label, text in lines if label != "space")


def write_page(path: Path, title: str, text: str, labels: Sequence[str], truth: Sequence[str] | None = None) -> None:
    """Write the page of a source."""
    from experiments.source_page import source_page

    try:
        path.write_text(source_page(title, text, labels, truth), encoding="utf-8")
    except OSError as error:
        raise FlagError(f"--html: cannot write {path}: {error.strerror}") from None
    print(f"coloured source in {path}", file=sys.stderr)


if __name__ == "__main__":
    run_experiment("tagging", Tagging, main)
