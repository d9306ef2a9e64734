"""Word vectors by skip-gram or CBOW, on documents of one line each.

python -m experiments.skipgram --corpus=wiki.txt.gz --similarity=wordsim353.txt
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from experiments.flags import FlagError, checked, flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    import numpy as np

    from rnn_jax.data.keyed_vectors import KeyedVectors, Neighbour
    from rnn_jax.data.words import Lexicon
    from rnn_jax.models.word_vectors import WordVectors
    from rnn_jax.training.run import Run

BUILTIN = "builtin"
# The words whose neighbours a run on the built-in corpus shows.
PROGRAMMING = ("array", "float", "matrix", "random", "gradient", "sparse")
SHOWN = 6
NEIGHBOURS = 8
# Of a smaller vocabulary, all are asked.
FEWEST = 1_000
# How often each word occurs, in the folder of a run; and the seconds of training that sudden death may cost.
COUNTS, SAVE_EVERY = "counts.npy", 60.0
# What `Run.write_result` is given.
OUTCOME = ("metrics", "steps", "seconds", "parameters")


@dataclasses.dataclass(frozen=True)
class SkipGram:
    """Train word vectors, evaluate them, show the neighbours of some words, write them in word2vec's formats.

    words_per_second counts all words of the corpus, each epoch, over the time of training with its compilation.
    """

    corpus: str = flag(BUILTIN, "PATH, plain or .gz, one document a line; builtin: docstrings of numpy, scipy and jax")
    phrases: bool = flag(False, "join words that belong together, such as new_york")
    min_count: int = flag(5, "leave out words that occur less often", minimum=1)
    subsample: float = flag(1e-3, "thin out words whose share of the corpus is above this; 0: none", minimum=0)
    similarity: str | None = flag(None, "PATH of lines 'word word score' to compare cosines with", free=True)
    analogies: str | None = flag(None, "PATH of questions in Mikolov's format", free=True)
    analogy_limit: int = flag(30_000, "ask only about this many most frequent words", minimum=4, free=True)
    neighbours: tuple[str, ...] | None = flag(None, "words whose nearest ones to show", free=True)
    export: str | None = flag(None, "PATH to write the vectors to: word2vec's text, or binary for a .bin", free=True)

    model: Literal["skipgram", "cbow"] = flag("skipgram", "what predicts what", group="model")
    objective: Literal["negative_sampling", "nce", "softmax"] = flag(
        "negative_sampling", "loss; softmax is for small vocabularies", group="model"
    )
    dimension: int = flag(100, "numbers in a vector", group="model", minimum=1)
    window: int = flag(5, "most words on either side that count as context", group="model", minimum=1)
    negative: int = flag(5, "negative words for each pair", group="model", minimum=1)

    learning_rate: float | None = flag(
        None, "learning rate at the start (default: 0.03, cbow 0.05)", group="training", above=0
    )
    epochs: int = 10
    streams: int | None = flag(
        None,
        "copies of the tables, each trained by a thread and summed up after some blocks (default: 1; cbow 2)",
        group="training",
        minimum=1,
        maximum=4,
    )
    seed: int = 0
    workdir: str | None = None
    init_from: str | None = None
    sweep: str | None = None
    sweep_samples: int | None = None


class Corpus(NamedTuple):
    """A corpus, ready for training.

    Attributes:
        lexicon: its words and those of the run that it goes on from.
        ids: see `rnn_jax.data.words.encode_documents`.
        words: all words of the text, the rare ones too.
    """

    lexicon: "Lexicon"
    ids: "np.ndarray"
    words: int


class Trained(NamedTuple):
    """What training gave.

    Attributes:
        params: the tables by name.
        steps: rounds done.
        seconds: the training time used.
        words_per_second: words of the corpus in all epochs, over the seconds.
        loss: of the last round; nan: the run was at its end before.
    """

    params: dict[str, Any]
    steps: int
    seconds: float
    words_per_second: float
    loss: float


def main(config: SkipGram, run: "Run") -> None:
    """Train, evaluate and show; or use a trained run, which needs its corpus no more."""
    from rnn_jax.data.words import check_writable

    if config.export is not None:
        # Before training, not after.
        check_writable(config.export)
    result = result_of(config, run)
    if result is None:
        train_model(config, run)
    else:
        use(config, run, result)


def result_of(config: SkipGram, run: "Run") -> dict[str, Any] | None:
    """The result of a run that is at its end; None where there is training to do."""
    import json

    path = run.path / "result.json"
    if not run.resumed or not path.exists() or not (run.path / COUNTS).exists():
        return None
    try:
        result = json.loads(path.read_text("utf-8"))
        whole = all(name in result for name in OUTCOME)
        return result if whole and result["config"]["epochs"] == config.epochs else None
    except (ValueError, LookupError, TypeError):  # damaged: it is written again
        return None


def use(config: SkipGram, run: "Run", result: dict[str, Any]) -> None:
    """Evaluate, show and export the vectors of a trained run."""
    import numpy as np

    from rnn_jax.data.keyed_vectors import KeyedVectors
    from rnn_jax.training.run import load

    lexicon = kept_lexicon(run)
    shown = words_to_show(config, lexicon)
    vectors = KeyedVectors(lexicon.vocabulary.symbols, np.asarray(load(run.path).params["input"]))
    known = {name: float("nan") if value is None else value for name, value in result["metrics"].items()}
    kept = {name: result[name] for name in OUTCOME}
    report(config, run, vectors, shown, kept | {"metrics": known | evaluate(config, vectors)})


def train_model(config: SkipGram, run: "Run") -> None:
    """From the corpus to result.json."""
    import numpy as np

    from rnn_jax.data.keyed_vectors import KeyedVectors
    from rnn_jax.models.word_vector_training import block_shape, plan_rounds
    from rnn_jax.models.word_vectors import WordVectors
    from rnn_jax.training.files import replaced

    # A run that is saved needs the one that it started from no more.
    fresh = not run.is_saved()
    before = previous(config.init_from) if config.init_from is not None and fresh else None
    corpus = read_corpus(config, None if before is None else before[1], None if fresh else kept_lexicon(run))
    vocabulary = corpus.lexicon.vocabulary
    shown = words_to_show(config, corpus.lexicon)
    check_evaluations(config, vocabulary.symbols)
    with checked():
        model = WordVectors(
            len(vocabulary),
            dimension=config.dimension,
            model=config.model,
            objective=config.objective,
            window=config.window,
            negative=config.negative,
            **block_shape(config.model, len(corpus.ids)),
        )
        plan_rounds(model, len(corpus.ids), config.streams)
    start = None if before is None else carry_over(before[0], model, vocabulary.symbols, config.seed)
    run.begin(model=model, vocabulary=vocabulary, data=describe_data(config, corpus))
    with replaced(run.path / COUNTS) as temporary, temporary.open("wb") as file:
        np.save(file, corpus.lexicon.counts)
    print(
        f"{config.corpus}: {corpus.words:,} words, {len(vocabulary):,} of them different and frequent enough; "
        f"run in {run.path}"
    )
    trained = train(config, run, model, corpus, start)
    vectors = KeyedVectors(vocabulary.symbols, np.asarray(trained.params["input"]))
    metrics = {"train_loss": trained.loss, "words_per_second": trained.words_per_second} | evaluate(config, vectors)
    parameters = sum(table.size for table in trained.params.values())
    outcome = {"metrics": metrics, "steps": trained.steps, "seconds": trained.seconds, "parameters": parameters}
    report(config, run, vectors, shown, outcome, corpus)


def report(
    config: SkipGram,
    run: "Run",
    vectors: "KeyedVectors",
    shown: list[str],
    outcome: dict[str, Any],
    corpus: Corpus | None = None,
) -> None:
    """Neighbours, the vectors where they are wanted, metrics, result.json and the picture."""
    from rnn_jax.data.keyed_vectors import save_word2vec
    from rnn_jax.training.word_plots import plot_words

    show_neighbours(vectors, shown)
    if corpus is not None:
        compare_representations(vectors, corpus, shown, config.window)
    if config.export is not None:
        save_word2vec(vectors, config.export)
        print(f"vectors in {config.export}")
    for name, value in outcome["metrics"].items():
        print(f"{name:20} {value:,.4f}")
    groups = {word: [near.word for near in nearest(vectors, word, NEIGHBOURS)] for word in shown}
    plot_words(vectors, groups, run.path / "words.png", title=f"{run.experiment}: {run.label}")
    run.write_result(**outcome)
    print(f"results and picture in {run.path}")


def kept_lexicon(run: "Run") -> "Lexicon":
    """The lexicon in the folder of a run."""
    from rnn_jax.data.words import Lexicon
    from rnn_jax.training.run import vocabulary_of

    counts = load_counts(run.path)
    return Lexicon(vocabulary_of(run.path), counts, int(counts.sum()))


def load_counts(folder: Path) -> "np.ndarray":
    """How often each word of a run occurs."""
    import numpy as np

    from rnn_jax.training.run import RunError

    try:
        return np.load(folder / COUNTS)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"workdir: cannot read {folder / COUNTS}: {error}") from None


def read_corpus(config: SkipGram, old_counts: Counter[str] | None = None, known: "Lexicon | None" = None) -> Corpus:
    """Two passes over the documents (a third for phrases): the text itself is never held.

    `old_counts` of another run count too; of a `known` lexicon nothing is changed.
    """
    from rnn_jax.data.docstrings import docstrings
    from rnn_jax.data.words import (
        count_words,
        encode_documents,
        find_phrases,
        join_phrases,
        make_lexicon,
        read_documents,
    )

    parsed = list(docstrings()) if config.corpus == BUILTIN else []

    def documents() -> Iterator[list[str]]:
        return iter(parsed) if config.corpus == BUILTIN else read_documents(config.corpus)

    read: Callable[[], Iterator[list[str]]] = documents
    counts = count_words(documents())
    words = sum(counts.values())
    if config.phrases:
        phrases = find_phrases(documents(), counts, config.min_count)

        def joined() -> Iterator[list[str]]:
            return join_phrases(documents(), phrases)

        read, counts = joined, count_words(joined())
    lexicon = known or make_lexicon(counts + (old_counts or Counter()), config.min_count)
    ids = encode_documents(read(), lexicon.vocabulary)
    if not (ids >= 0).any():
        raise FlagError(f"--corpus: expected words of the vocabulary, found none in {config.corpus!r}")
    return Corpus(lexicon, ids, words)


def describe_data(config: SkipGram, corpus: Corpus) -> dict[str, Any]:
    """What the run keeps of its corpus, to recognise it."""
    import hashlib

    return {
        "name": config.corpus,
        "sha256": hashlib.sha256(corpus.ids.tobytes()).hexdigest(),
        "sizes": {"words": corpus.words, "vocabulary": len(corpus.lexicon.vocabulary)},
    }


def previous(workdir: str) -> tuple[dict[str, dict[str, Any]], Counter[str]]:
    """(table -> word -> row, counts) of another run of word vectors."""
    import numpy as np

    from experiments.train import naming_init_from
    from rnn_jax.training.run import load

    with naming_init_from():
        loaded = load(workdir)
        if loaded.experiment != "skipgram":
            raise FlagError(f"--init_from: expected a run of skipgram, found one of {loaded.experiment}: {workdir}")
        counts = load_counts(Path(workdir).expanduser())
    words = loaded.vocabulary.symbols
    rows = {name: dict(zip(words, np.asarray(table), strict=True)) for name, table in loaded.params.items()}
    return rows, Counter(dict(zip(words, counts.tolist(), strict=True)))


def carry_over(rows: dict[str, dict[str, Any]], model: "WordVectors", words: tuple[str, ...], seed: int) -> Any:
    """Initial tables with the rows of another run where it knows the word."""
    import jax
    import numpy as np

    dimension = len(next(iter(rows["input"].values())))
    if dimension != model.dimension:
        raise FlagError(f"--init_from: expected vectors of {model.dimension} numbers (--dimension), found {dimension}")
    tables = {name: np.array(table) for name, table in model.initial(jax.random.key(seed))._asdict().items()}
    for name, table in tables.items():
        for number, word in enumerate(words):
            if word in rows[name]:
                table[number] = rows[name][word]
    return tables


def words_to_show(config: SkipGram, lexicon: "Lexicon") -> list[str]:
    """The words of --neighbours, or some."""
    import numpy as np

    from rnn_jax.data.keyed_vectors import KeyedVectors

    words = lexicon.vocabulary.symbols
    if config.neighbours is not None:
        table = KeyedVectors(words, np.zeros((len(words), 1), np.float32))
        return [words[table.row(word, "neighbours")] for word in config.neighbours]
    known = [word for word in PROGRAMMING if word in words]
    # The most frequent words stand beside anything; the next hundreds have a meaning.
    return known if config.corpus == BUILTIN and known else list(words[100:400:50] or words)[:SHOWN]


def check_evaluations(config: SkipGram, words: tuple[str, ...]) -> None:
    """Read the evaluation files once before training, so that a bad line costs no time."""
    import numpy as np

    from rnn_jax.data.keyed_vectors import KeyedVectors

    evaluate(config, KeyedVectors(words, np.eye(1, 2, dtype=np.float32).repeat(len(words), 0)), quiet=True)


def evaluate(config: SkipGram, vectors: "KeyedVectors", quiet: bool = False) -> dict[str, float]:
    """similarity_spearman, similarity_coverage, analogy_accuracy, as far as there are files."""
    from rnn_jax.data.word_evaluation import evaluate_analogies, evaluate_similarity

    metrics = {}
    if config.similarity is not None:
        similarity = evaluate_similarity(vectors, config.similarity)
        metrics["similarity_spearman"] = similarity.spearman
        metrics["similarity_coverage"] = similarity.covered / similarity.total
    if config.analogies is not None:
        sections = evaluate_analogies(vectors, config.analogies, config.analogy_limit)
        correct, total = sum(section.correct for section in sections), sum(section.total for section in sections)
        metrics["analogy_accuracy"] = correct / total if total else float("nan")
        if not quiet:
            for section in sections:
                print(
                    f"  {section.name:30} {section.correct:5}/{section.total:<5} {section.correct / section.total:.3f}"
                )
    return metrics


def train(config: SkipGram, run: "Run", model: "WordVectors", corpus: Corpus, start: Any) -> Trained:
    """Train, or go on with training, in the folder of the run."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from rnn_jax.data.words import cumulative_bits, keep_probabilities, noise_distribution
    from rnn_jax.models.word_vector_training import LEARNING_RATES, plan_rounds
    from rnn_jax.models.word_vector_training import train as training
    from rnn_jax.models.word_vectors import Tables, distributions
    from rnn_jax.training.checkpoint import Checkpoints, Progress
    from rnn_jax.training.display import Display
    from rnn_jax.training.loop import Interrupted, NonFinite
    from rnn_jax.training.metrics import TRAIN, MetricsWriter
    from rnn_jax.training.signals import SignalCatcher
    from rnn_jax.training.state import TrainState

    began = time.perf_counter()
    counts = corpus.lexicon.counts
    noise = noise_distribution(counts)
    keep = keep_probabilities(counts, config.subsample)
    given = distributions(model, counts, keep=keep, noise=noise, noise_bits=cumulative_bits(noise))
    key = jax.random.key(config.seed)
    state = TrainState.create(start or model.initial(key)._asdict(), optax.identity(), key=key)
    checkpoints = Checkpoints(run.checkpoints)
    before = checkpoints.progress or Progress()
    if checkpoints.progress is not None:
        state = checkpoints.restore(state)
    ids, tables, step, loss = jnp.asarray(corpus.ids), Tables(**state.params), before.step, float("nan")
    epoch = plan_rounds(model, len(corpus.ids), config.streams).in_epoch
    at_begin = min(1.0, before.step / (config.epochs * epoch))
    all_words = corpus.words * config.epochs
    display, writer = Display(unit="words"), MetricsWriter(run.path)

    def spent() -> float:
        return before.seconds + time.perf_counter() - began

    def save(seconds: float, finished: bool) -> None:
        wholly = state.replace(step=jnp.int32(step), params=tables._asdict())
        told = {"train_loss": loss}
        checkpoints.save(wholly, Progress(step=step, seconds=seconds, best_values=told), best=finished)

    saved_at = before.seconds
    with SignalCatcher() as signals:
        writer.start(before.step, None)
        try:
            for progress in training(
                model,
                given,
                tables,
                ids,
                key,
                epochs=config.epochs,
                learning_rate=config.learning_rate or LEARNING_RATES[config.model],
                start=before.step,
                streams=config.streams,
            ):
                tables, step, loss = progress.tables, progress.step, float(progress.loss)
                if not np.isfinite(loss):
                    raise NonFinite(step, loss, loss, saved=checkpoints.progress.step if checkpoints.progress else None)
                speed = all_words * (progress.share - at_begin) / (time.perf_counter() - began)
                display.train(step, progress.share, loss, speed, (1 - progress.share) * all_words / max(speed, 1e-9))
                writer.write(step, spent(), TRAIN, {"loss": loss, "learning_rate": progress.learning_rate})
                if signals.received is not None and progress.share < 1:
                    save(spent(), False)
                    raise Interrupted(signals.received, step)
                if spent() - saved_at > SAVE_EVERY:
                    saved_at = spent()
                    save(saved_at, False)
            jax.block_until_ready(tables)
            seconds = spent()
            if step != before.step:
                save(seconds, True)
            else:
                seconds, loss = before.seconds, before.best_values.get("train_loss", loss)
        finally:
            display.close()
            writer.close()
            checkpoints.close()
    # It may have been trained for more epochs before than it is asked for now.
    epochs = max(config.epochs, step / epoch)
    return Trained(tables._asdict(), step, seconds, corpus.words * epochs / seconds, loss)


def nearest(vectors: "KeyedVectors", word: str, count: int) -> "list[Neighbour]":
    """The nearest of the third of the words that is most frequent: the vectors of rare words are mostly chance."""
    return vectors.nearest(word, count, limit=max(FEWEST, len(vectors.words) // 3))


def show_neighbours(vectors: "KeyedVectors", words: list[str]) -> None:
    """A line for each word."""
    for word in words:
        near = ", ".join(f"{other} {score:.2f}" for other, score in nearest(vectors, word, NEIGHBOURS))
        print(f"{word}: {near}")


def compare_representations(vectors: "KeyedVectors", corpus: Corpus, words: list[str], window: int) -> None:
    """Cosines of each word and its nearest one: one-hot, bag of the words around it, learned."""
    import numpy as np

    from rnn_jax.data.representations import context_counts, cosine, one_hot

    size = len(vectors.words)
    print(f"\n{'cosine of':40} {'one-hot':>8} {'bag':>8} {'learned':>8}")
    for word in words:
        for other, score in nearest(vectors, word, 1):
            rows = [vectors.index[word], vectors.index[other]]
            hot = cosine(*one_hot(np.array(rows), size))
            bag = cosine(*(context_counts(corpus.ids, row, size, window) for row in rows))
            print(f"{word + ', ' + other:40} {hot:8.2f} {bag:8.2f} {score:8.2f}")
    print()


if __name__ == "__main__":
    run_experiment("skipgram", SkipGram, main)
