"""Sentiment, or any other label of a whole text: a recurrent classifier beside a bag of words.

python -m experiments.sentiment --train=reviews.tsv --bidirectional
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from experiments.config import TrainingConfig
from experiments.evaluation import compiled
from experiments.flags import FlagError, checked, flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    import numpy as np

    from rnn_jax.data import LabelledTexts, TextEncoder
    from rnn_jax.models import Classifier
    from rnn_jax.training.run import LoadedRun, Run

BUILTIN = "builtin"
# Sentences of the generated grammar in each split.
GENERATED = {"train": 16_000, "dev": 1_000, "test": 2_000}
EMBEDDING_SIZE = 64
# Examples that are evaluated or predicted at once.
AT_ONCE = 128
# Sentences of a grammar leave nothing to chance, and each word counts.
GRAMMAR_DEFAULTS = {"members": 1, "dropout": 0.2, "word_dropout": 0.0, "learning_rate": 3e-3}
TEXT_DEFAULTS = {"members": 6, "dropout": 0.5, "word_dropout": 0.3, "learning_rate": 1e-3}


def _check_pieces(rows: int) -> None:
    if rows < 0 or rows == 1:
        raise ValueError(f"pieces: expected 0 or at least 2, found {rows}")


@dataclasses.dataclass(frozen=True)
class Sentiment(TrainingConfig):
    """Train a classifier of texts, compare it with a bag of words, label more texts.

    Results are those of --test; where there is none, those of the dev set, which has also chosen the checkpoint.
    """

    traced: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")
    unused: ClassVar[frozenset[str]] = frozenset({"sample_every"})

    train: str = flag(
        BUILTIN,
        "labelled texts: builtin, sst2, imdb, or a PATH: lines 'label<TAB>text', a .csv with a header, or a folder of "
        "texts for each class",
    )
    dev: str | None = flag(None, "PATH of texts that choose the checkpoint; by default a fixed tenth of --train")
    test: str | None = flag(None, "PATH of texts to evaluate at the end")
    text_column: str | None = flag(None, "column of the texts in a CSV file (default: text)", placeholder="NAME")
    label_column: str | None = flag(None, "column of the labels (default: label)", placeholder="NAME")
    class_weight: Literal["balanced", "root"] | None = flag(
        "root",
        "what an example weighs: balanced: rare classes weigh as much as frequent ones in all; root: half-way to that; "
        "none: each the same",
    )
    level: Literal["word", "char"] = flag("word", "what a symbol is")
    min_count: int = flag(2, "rarer symbols are unknown", minimum=1)
    vocab_size: int | None = flag(None, "keep that many of the most frequent symbols", minimum=2)
    max_length: int = flag(400, "symbols of a longer text are left out in its middle", minimum=1)
    class_ratios: bool = flag(
        True, "let the vectors of words and of their pieces know at the start in which classes they occur"
    )
    embeddings: str | None = flag(None, "PATH of trained word vectors to start from, in word2vec's text or .bin format")
    predict: str | None = flag(None, "TEXT to label by the run in --workdir", stored=False, mode=True)
    predict_file: str | None = flag(
        None, "PATH whose lines to label; - for those of standard input", stored=False, mode=True
    )

    cell: str = "lstm"
    hidden_size: int = 64
    num_layers: int = 1
    members: int | None = flag(
        None,
        "networks trained side by side, whose probabilities are averaged (default: 1 for builtin, else 6)",
        group="model",
        minimum=1,
    )
    bidirectional: bool = flag(False, "read the text from both ends", group="model")
    pooling: Literal["last", "mean", "max", "attention"] = flag("max", "how outputs become one vector", group="model")
    embedding_size: int | None = flag(
        None, "width of the embedding (default: that of --embeddings, else 64)", group="model", minimum=1
    )
    pieces: int = flag(
        30_000,
        "rows of the table of pieces of words, by which rare words are known; 0: none",
        group="model",
        check=_check_pieces,
    )
    dropout: float | None = flag(
        None,
        "share of the activations dropped (default: 0.2 for builtin, else 0.5)",
        group="model",
        minimum=0,
        maximum=0.99,
    )
    word_dropout: float | None = flag(
        None,
        "share of the words that training makes unknown (default: 0 for builtin, else 0.3)",
        group="model",
        minimum=0,
        maximum=0.99,
    )
    dtype: str = "float32"

    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float | None = flag(  # pyright: ignore[reportIncompatibleVariableOverride]
        None, "learning rate, at its highest (default: 3e-3 for builtin, else 1e-3)", group="training", above=0
    )
    weight_decay: float | None = 0.01
    clip_norm: float | None = 1.0
    ema_decay: float | None = 0.98
    epochs: float | None = 4
    max_seconds: float | None = 420.0
    eval_every: int | None = 25

    @property
    def defaults(self) -> dict[str, Any]:
        """Those of the grammar or of one's own texts."""
        return GRAMMAR_DEFAULTS if self.train == BUILTIN else TEXT_DEFAULTS


def main(config: Sentiment, run: "Run") -> None:
    """Train and evaluate; or label texts by a trained run."""
    if config.predict is not None or config.predict_file is not None:
        predict(config, run)
    else:
        train_model(config, run)


def train_model(config: Sentiment, run: "Run") -> None:
    """From the texts to result.json."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from experiments.train import describe_parameters, initial_params, train
    from rnn_jax.data import PaddedBatches, TextEncoder
    from rnn_jax.data.labelled import check_classes
    from rnn_jax.data.representations import class_ratios
    from rnn_jax.models import ClassifierEnsemble
    from rnn_jax.training.confusion import accuracy, confusion_matrix, f1_scores, macro_f1, plot_confusion
    from rnn_jax.training.state import parameter_count

    if config.embeddings is not None and config.level == "char":
        raise FlagError("--embeddings: expected --level=word, found --level=char")
    config = config.settled()
    splits = read_splits(config)
    classes = check_classes(splits["train"], {name: split for name, split in splits.items() if name != "train"})
    labels = {
        name: np.array([classes.index(label) for label in split.labels], np.int32) for name, split in splits.items()
    }
    encoder = TextEncoder.from_texts(
        splits["train"].texts,
        config.level,
        min_count=config.min_count,
        max_size=config.vocab_size,
        max_length=config.max_length,
        pieces=config.pieces if config.level == "word" else 0,
    )
    encoded = {name: encoder.encode(split.texts) for name, split in splits.items()}
    batches = {
        name: PaddedBatches(
            sequences,
            {"label": labels[name]},
            config.batch_size if name == "train" else AT_ONCE,
            buckets=4 if name == "train" else 2,
            shuffle=name == "train",
            seed=config.seed,
        )
        for name, sequences in encoded.items()
    }
    vectors = trained_vectors(config, encoder)

    regularisation: dict[str, Any] = {name: getattr(config, name) for name in ("members", "dropout", "word_dropout")}
    with checked():
        model = ClassifierEnsemble(
            len(encoder.vocabulary),
            classes,
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            bidirectional=config.bidirectional,
            pooling=config.pooling,
            embedding_size=embedding_size(config, vectors),
            pieces=encoder.pieces,
            unknown=encoder.vocabulary.index[str(encoder.vocabulary.unknown)],
            dtype=config.dtype,
            **regularisation,
        )
        first = batches["train"].at(0)
        example = inputs_of({name: jnp.asarray(value[:1, :1]) for name, value in first.items() if value.ndim > 1})
        params = initial_params(model, jax.random.key(config.seed), *example)
    member = params["member"]
    # Of each table, what of the texts it is asked for.
    fields = {"words": "tokens", "pieces": "pieces"}
    tables = {name: member[name]["embedding"] for name in fields if name in member}
    if vectors is not None:
        tables["words"] = start_from(tables["words"], vectors)
    if config.class_ratios:
        for name, table in tables.items():
            ratios = class_ratios(encoded["train"][fields[name]], labels["train"], table.shape[1], len(classes))
            # By the same key: a word and its pieces have a class in the same direction.
            tables[name] = add_ratios(table, ratios, jax.random.key(config.seed))
    params = {**params, "member": {**member, **{name: {"embedding": table} for name, table in tables.items()}}}
    sizes = {name: len(split) for name, split in splits.items()}
    digests = {name: split.sha256 for name, split in splits.items()}
    run.begin(
        model=model,
        vocabulary=encoder.vocabulary,
        data={"name": splits["train"].name, "sha256": digests, "sizes": sizes},
    )
    print(
        f"{splits['train'].name}: {', '.join(f'{size:,} {name}' for name, size in sizes.items())} texts, "
        f"classes {', '.join(classes)}, vocabulary {len(encoder.vocabulary):,}; run in {run.path}"
    )
    print(describe_parameters(params))

    weights = jnp.asarray(class_weights(labels["train"], len(classes), config.class_weight))

    def loss(params: Any, carry: Any, batch: Any, key: jax.Array, **rates: Any) -> Any:
        logits: Any = model.clone(**rates).apply(
            {"params": params},
            *inputs_of(batch),
            deterministic=False,
            rngs={"dropout": key},
            method="member_logits",
        )
        wanted = jnp.broadcast_to(batch["label"], logits.shape[:-1])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean(0)
        weight = jnp.where(batch["index"] >= 0, weights[batch["label"]], 0)
        return ((each * weight).sum(), weight.sum()), carry

    def evaluate(params: Any) -> dict[str, float]:
        log_probabilities = predict_batches(model, params, batches["dev"])
        matrix = confusion_matrix(labels["dev"], log_probabilities.argmax(1), len(classes))
        right = np.take_along_axis(log_probabilities, labels["dev"][:, None], axis=1)
        scores = {"val_accuracy": accuracy(matrix), "val_macro_f1": macro_f1(matrix)}
        # Accuracy alone would forget rare classes, macro F1 alone the frequent ones.
        return {"val_loss": -float(right.mean()), **scores, "val_error": 1 - sum(scores.values()) / 2}

    trained = train(
        config,
        run,
        params=params,
        loss=loss,
        batches=batches["train"],
        evaluate=evaluate,
        batch_axis=batches["train"].batch_axes,
        # The loss turns upwards, for overconfidence, long before the answers get worse.
        monitor="val_error",
        drawn="val_loss",
        unit="texts",
        loss_unit="nats per text",
    )

    judged = "test" if "test" in splits else "dev"
    predictions = predict_batches(model, trained.params, batches[judged]).argmax(1)
    matrix = confusion_matrix(labels[judged], predictions, len(classes))
    plot_confusion(matrix, classes, run.path / "confusion.png", title=f"{run.label}: {judged} texts")
    metrics = {
        "test_accuracy": accuracy(matrix),
        "test_macro_f1": macro_f1(matrix),
        "baseline_accuracy": bag_of_words_accuracy(
            splits["train"], splits[judged], dict(zip(classes, weights.tolist(), strict=True))
        ),
        **trained.metrics,
    }
    for name, score in zip(classes, f1_scores(matrix), strict=True):
        print(f"F1 of {name:13} {score:.4f}")
    for name, value in metrics.items():
        print(f"{name:19} {value:.4f}")
    run.write_result(
        metrics=metrics, steps=trained.steps, seconds=trained.seconds, parameters=parameter_count(trained.params)
    )
    print(f"results on the {judged} texts, confusion matrix and curves in {run.path}")


def read_splits(config: Sentiment) -> dict[str, "LabelledTexts"]:
    """The texts by split: train, dev and, where there is one, test."""
    from rnn_jax.data import LABELLED_SETS, grammar_texts, load_labelled_set, read_labelled
    from rnn_jax.data.labelled import hold_out

    def read(path: str, argument: str) -> "LabelledTexts":
        return read_labelled(path, argument, text_column=config.text_column, label_column=config.label_column)

    splits: dict[str, LabelledTexts] = {}
    if config.train == BUILTIN:
        splits = cut(grammar_texts(sum(GENERATED.values())), GENERATED)
    elif config.train in LABELLED_SETS:
        named = load_labelled_set(config.train)
        splits = {name: split for name, split in named._asdict().items() if split is not None}
    else:
        splits = {"train": read(config.train, "train")}
    if config.dev is not None:
        splits["dev"] = read(config.dev, "dev")
    if config.test is not None:
        splits["test"] = read(config.test, "test")
    if "dev" not in splits:
        splits["train"], splits["dev"] = hold_out(splits["train"])
    return splits


def cut(examples: "LabelledTexts", sizes: dict[str, int]) -> dict[str, "LabelledTexts"]:
    """The examples in splits of the given sizes, in their order."""
    splits, start = {}, 0
    for name, size in sizes.items():
        splits[name] = examples.select(range(start, start + size))
        start += size
    return splits


def trained_vectors(config: Sentiment, encoder: "TextEncoder") -> "dict[int, np.ndarray] | None":
    """The vectors of --embeddings by the number of their word, what they cover printed; None without the flag."""
    from rnn_jax.data import DataError, load_word2vec

    if config.embeddings is None:
        return None
    try:
        loaded = load_word2vec(config.embeddings, "embeddings")
    except DataError as error:
        where = "" if config.embeddings in str(error) else f" in {config.embeddings!r}"
        raise DataError(f"{error}{where}") from None
    width = loaded.vectors.shape[1]
    if config.embedding_size not in (None, width):
        raise FlagError(
            f"--embeddings: expected vectors of --embedding_size={config.embedding_size} numbers, "
            f"found {width} in {config.embeddings!r}, line 1"
        )
    words = encoder.vocabulary.symbols
    found = {number: loaded.vectors[loaded.index[word]] for number, word in enumerate(words) if word in loaded.index}
    if not found:
        raise FlagError(f"--embeddings: expected words of the training texts, found none in {config.embeddings!r}")
    print(f"{config.embeddings}: vectors of {len(found):,} of {len(words):,} words, {len(found) / len(words):.1%}")
    return found


def embedding_size(config: Sentiment, vectors: "dict[int, np.ndarray] | None") -> int:
    """The width of the embedding."""
    if vectors is not None:
        return len(next(iter(vectors.values())))
    return config.embedding_size or EMBEDDING_SIZE


def start_from(table: Any, vectors: "dict[int, np.ndarray]") -> Any:
    """The tables of words [K, V, D] with trained vectors in them, on their own scale."""
    import jax.numpy as jnp
    import numpy as np

    rows, found = np.array(list(vectors)), np.stack(list(vectors.values()))
    deviation = found.std()
    if not deviation > 0:
        raise FlagError("--embeddings: expected vectors that differ, found the same number throughout")
    scaled = found * (np.asarray(table).std() / deviation)
    return table.at[:, rows].set(jnp.asarray(scaled, table.dtype))


def add_ratios(table: Any, ratios: "np.ndarray", key: Any) -> Any:
    """The tables of words or pieces [K, V, D] and what each says of the classes [V, C], E_k + r U_k.

    The directions U_k [C, D] are random, as long as the vectors are at first. So training begins at about the level of
    naive Bayes and is left to learn what order adds, before it knows its few texts by heart.
    """
    import jax
    import jax.numpy as jnp

    members, _, width = table.shape
    directions = table.std() * jax.random.normal(key, (members, ratios.shape[1], width))
    return table + jnp.einsum("vc,kcd->kvd", ratios, directions).astype(table.dtype)


def inputs_of(batch: Any) -> tuple[Any, ...]:
    """The arguments of the model in a batch: tokens, mask and pieces."""
    return batch["tokens"], batch["tokens_mask"], batch.get("pieces")


def predict_batches(model: "Classifier", params: Any, batches: Any) -> "np.ndarray":
    """Log-probabilities [N, C] of all examples, in their order."""
    import numpy as np

    found = np.zeros((len(batches), len(model.classes)), np.float32)
    for batch in batches:
        log_probabilities = np.asarray(prediction(model, params, *inputs_of(batch)))
        shown = batch["index"] >= 0
        found[batch["index"][shown]] = log_probabilities[shown]
    return found


@compiled(0)
def prediction(model: Any, params: Any, tokens: Any, mask: Any, pieces: Any) -> Any:
    """Log-probabilities [B, C] of a batch."""
    return model.apply({"params": params}, tokens, mask, pieces)


def class_weights(labels: "np.ndarray", classes: int, kind: str | None) -> "np.ndarray":
    """[C] float32, what an example of each class weighs: (N / (C n_c))^p, of n_c among N examples.

    p is 1 for "balanced", so that every class weighs the same in all; 1/2 for "root", which leaves frequent classes an
    advantage; 0 for None.
    """
    import numpy as np

    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    power = {None: 0.0, "root": 0.5, "balanced": 1.0}[kind]
    return ((len(labels) / (classes * counts)) ** power).astype(np.float32)


def bag_of_words_accuracy(train: "LabelledTexts", test: "LabelledTexts", class_weight: dict[str, float]) -> float:
    """Accuracy of logistic regression on the counts of the same words, with scikit-learn's defaults.

    Args:
        train: what it learns.
        test: what it is judged by.
        class_weight: what an example of each class weighs.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from rnn_jax.data import split_words

    # A function for the analyzer: the vectorizer has rules of its own for what a word is.
    analyzer: Any = split_words
    regression = LogisticRegression(max_iter=1000, class_weight=class_weight)
    pipeline = make_pipeline(CountVectorizer(analyzer=analyzer), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            pipeline.fit(train.texts, train.labels)
        except ValueError:
            if any(map(split_words, train.texts)):
                raise
            # Without any word there is no bag.
            return float("nan")
    return float(pipeline.score(test.texts, test.labels))


def predict(config: Sentiment, run: "Run") -> None:
    """Print the likeliest class of each text, the probabilities of all, and the text."""
    from rnn_jax.data import TextEncoder, read_text, stdin_lines
    from rnn_jax.training.run import load

    loaded = load(run.path)
    encoder = TextEncoder(loaded.vocabulary, config.max_length, loaded.model.pieces)
    if config.predict is not None:
        label(checked_texts([("--predict", config.predict)]), loaded, encoder)
    elif config.predict_file == "-":
        # Line by line: whoever writes them may be waiting for the answer.
        for number, line in enumerate(stdin_lines("predict_file"), start=1):
            named = [(f"--predict_file: standard input, line {number}", line.rstrip("\n"))]
            label(checked_texts(named), loaded, encoder)
    else:
        lines = read_text(str(config.predict_file), "predict_file").removesuffix("\n").split("\n")
        named = [
            (f"--predict_file: {config.predict_file!r}, line {number}", line) for number, line in enumerate(lines, 1)
        ]
        # All are checked before the first answer.
        texts = checked_texts(named)
        for start in range(0, len(texts), AT_ONCE):
            label(texts[start : start + AT_ONCE], loaded, encoder)


def checked_texts(named: Sequence[tuple[str, str]]) -> list[str]:
    """The texts of (place, text), none of which may be empty."""
    for place, text in named:
        if not text.strip():
            raise FlagError(f"{place}: expected a text, found an empty one")
    return [text for _, text in named]


def label(texts: Sequence[str], loaded: "LoadedRun", encoder: "TextEncoder") -> None:
    """Print a line for each text: class, probabilities, text, tabs between them."""
    import numpy as np

    from rnn_jax.data import pad

    sequences = encoder.encode(texts)
    # Few different lengths, because each costs a compilation.
    length = max(8, 1 << (max(map(len, sequences["tokens"])) - 1).bit_length())
    padded = {name: pad(list(field), length) for name, field in sequences.items()}
    batch = {name: values for name, (values, _) in padded.items()} | {"tokens_mask": padded["tokens"][1]}
    probabilities = np.exp(prediction(loaded.model, loaded.params, *inputs_of(batch)))
    classes = loaded.model.classes
    for text, row in zip(texts, probabilities, strict=True):
        shown = " ".join(f"{name}={value:.4f}" for name, value in zip(classes, row, strict=True))
        print(f"{classes[int(row.argmax())]}\t{shown}\t{text}", flush=True)


if __name__ == "__main__":
    run_experiment("sentiment", Sentiment, main)
