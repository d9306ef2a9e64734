"""Sequence to sequence: an encoder reads a sentence, a decoder writes another, with attention or without.

python -m experiments.seq2seq
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from experiments.config import TrainingConfig
from experiments.evaluation import compiled, totals
from experiments.flags import FlagError, checked, flag
from experiments.runner import run_experiment
from experiments.seq2seq_data import Side, load_corpus, task_of, tokens_of
from experiments.translation_scores import exact_match_by_length, score
from experiments.translator import REFERENCES, Translator, cut_off, plot_attention_of, score_file, translate_lines

if TYPE_CHECKING:
    from rnn_jax.models import Seq2Seq
    from rnn_jax.training.run import Run

HYPOTHESES = "hypotheses.txt"
SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Seq2SeqConfig(TrainingConfig):
    """Train a recurrent translator with teacher forcing, decode the test set with beam search, translate.

    The default task is numbers in words, English to French and German, the language asked for by a mark in the source:
    "fr: twenty-one". test_exact_match, test_bleu and test_chrf are of free decoding, test_perplexity is per word.
    """

    traced: ClassVar[tuple[str, ...]] = ("dropout",)

    task: Literal["numbers", "add", "reverse", "copy", "multi30k"] = flag(
        "numbers", "what to translate, where no files are given"
    )
    pairs: int | None = flag(
        None, "training pairs to draw (default: 24,000 of numbers, 200,000 of add, 40,000 else)", minimum=20
    )
    largest: int = flag(999_999, "greatest number of the task numbers", minimum=99, maximum=10**12)
    digits: int = flag(3, "most digits of a number of the task add", minimum=1, maximum=9)
    longest: int = flag(25, "most symbols of a string of the tasks reverse and copy", minimum=1)
    train_source: str | None = flag(None, "PATH of training sentences, one a line")
    train_target: str | None = flag(None, "PATH of their translations, line by line")
    dev_source: str | None = flag(None, "PATH, to validate; by default cut from the training pairs")
    dev_target: str | None = flag(None, "PATH of their translations")
    test_source: str | None = flag(None, "PATH, to test; by default cut from the training pairs")
    test_target: str | None = flag(None, "PATH of their translations")
    train: str | None = flag(None, "PATH of training pairs, lines source<TAB>target")
    dev: str | None = flag(None, "PATH of such pairs, to validate")
    test: str | None = flag(None, "PATH of such pairs, to test")
    swap: bool = flag(False, "translate the second column of such files into the first")
    held_out: float = flag(
        0.02, "share cut from the training pairs to validate, and to test, by target sentence", above=0, maximum=0.4
    )
    lowercase: bool = flag(False, "lower-case all sentences")
    tokens: Literal["word", "bpe", "char"] | None = flag(
        None, "what a symbol is (default: char for add, word for reverse and copy, else bpe)"
    )
    vocab_size: int | None = flag(
        None, "most symbols of each side (default: bpe 400 for numbers, 6,000 for multi30k, else 8,000)", minimum=3
    )
    min_count: int = flag(1, "leave out words or characters that occur less often in training", minimum=1)
    reverse_source: bool = flag(False, "read the source backwards")
    max_length: int = flag(100, "most symbols of a training sentence, and of a translation", minimum=1, free="used")
    long: Literal["drop", "cut"] = flag("drop", "what to do with longer training sentences")
    buckets: int = flag(4, "lengths to which batches are padded; each is a compilation", minimum=1)
    label_smoothing: float = flag(
        0.0, "share of the target probability spread over all symbols", minimum=0, maximum=0.9
    )
    teacher_forcing: float | None = flag(
        None,
        "share of true tokens that the decoder reads in training, at the end of the schedule (default: 1; 0 under a "
        "schedule)",
        minimum=0,
        maximum=1,
    )
    teacher_forcing_schedule: Literal["constant", "linear", "inverse_sigmoid"] = flag(
        "constant", "course of that share from 1"
    )
    teacher_forcing_steps: int = flag(5000, "steps the course takes", minimum=1)
    teacher_forcing_unit: Literal["token", "sequence"] = flag("token", "what is chosen to be read true")
    beam_size: int = flag(5, "hypotheses kept at each step of decoding; 1 is greedy", minimum=1, free=True)
    n_best: int = flag(1, "translations to show of each sentence", minimum=1, free=True)
    length_penalty: float = flag(0.0, "exponent that favours long translations", minimum=0, free=True)
    coverage_penalty: float = flag(0.0, "weight of the charge for what is not attended to", minimum=0, free=True)
    translate: str | None = flag(None, "sentence for the run in --workdir to translate", stored=False, mode=True)
    translate_file: str | None = flag(
        None, "PATH of sentences to translate; - for standard input", stored=False, mode=True
    )
    attention_maps: int = flag(
        1,
        "with --translate or --translate_file, the number of sentences whose attention is drawn, the first ones",
        minimum=0,
        free=True,
    )
    bleu_of: str | None = flag(
        None,
        "PATH of hypotheses to score against the test set of the run in --workdir",
        stored=False,
        mode=True,
    )

    cell: str = "lstm"
    hidden_size: int = 256
    num_layers: int = 1
    bidirectional: bool = flag(True, "let the encoder read both ways", group="model")
    encoder_size: int | None = flag(
        None, "width of an encoder layer, both directions together (default: hidden_size)", group="model", minimum=1
    )
    embedding_size: int | None = flag(128, "width of the embeddings; none: hidden_size", group="model", minimum=1)
    attention: Literal["none", "bahdanau", "luong_dot", "luong_general"] = flag(
        "luong_general", "how the decoder looks at the source", group="model"
    )
    input_feeding: bool = flag(False, "feed what was attended to back into the decoder (luong)", group="model")
    context: Literal["state", "input", "both"] = flag(
        "state", "how else the source enters: as first state, as input of each step", group="model"
    )
    tie_embeddings: bool = flag(False, "use the target embedding as the matrix of the softmax", group="model")
    dropout: float = 0.0
    dtype: str = "float32"

    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 3e-3
    beta2: float = 0.98
    warmup: int = 100
    clip_norm: float | None = 1.0
    max_seconds: float | None = 150.0
    eval_every: int | None = 500


def main(config: Seq2SeqConfig, run: "Run") -> None:
    """Train, evaluate and decode; or use a trained run."""
    if config.n_best > config.beam_size:
        raise FlagError(f"--n_best: expected at most --beam_size={config.beam_size}, found {config.n_best}")
    if config.coverage_penalty and config.attention == "none":
        raise FlagError("--coverage_penalty: expected a model with attention, found --attention=none")
    if config.bleu_of is not None:
        score_file(config.bleu_of, run, config.lowercase)
    elif config.translate is not None or config.translate_file is not None:
        translate_lines(config, run)
    else:
        train_model(config, run)


def train_model(config: Seq2SeqConfig, run: "Run") -> None:
    """From the pairs to result.json."""
    import jax
    import jax.numpy as jnp

    from experiments.train import describe_parameters, initial_params, train
    from rnn_jax.data import PaddedBatches, limit_length
    from rnn_jax.models import Seq2Seq
    from rnn_jax.training.state import parameter_count

    corpus = load_corpus(config)
    source = Side.learn(config, corpus.train.source, reverse=config.reverse_source)
    target = Side.learn(config, corpus.train.target)
    encoded, long = {}, {}
    for split, pairs in (("train", corpus.train), ("valid", corpus.valid), ("test", corpus.test)):
        sides = source.encode(pairs.source), target.encode(pairs.target)
        # Every line of the test set counts, however long.
        limited = (
            (*sides, 0)
            if split == "test"
            else limit_length(*sides, config.max_length, config.long, source_reversed=config.reverse_source)
        )
        encoded[split], long[split] = {"source": limited[0], "target": limited[1]}, limited[2]
    batches = PaddedBatches(encoded["train"], {}, config.batch_size, config.buckets, seed=config.seed)

    with checked():
        model = Seq2Seq(
            len(source.vocabulary),
            len(target.vocabulary),
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            bidirectional=config.bidirectional,
            encoder_size=config.encoder_size,
            embedding_size=config.embedding_size,
            attention=config.attention,
            input_feeding=config.input_feeding,
            context=config.context,
            tie_embeddings=config.tie_embeddings,
            dropout=config.dropout,
            dtype=config.dtype,
        )
        tokens = jnp.zeros((1, 1), jnp.int32)
        params = initial_params(model, jax.random.key(config.seed), tokens, tokens == 0, tokens)
    run.begin(
        model=model,
        vocabulary={"source": source.vocabulary, "target": target.vocabulary},
        data={
            "name": corpus.name,
            "sha256": {split: getattr(corpus, split).sha256 for split in encoded},
            "sizes": {split: len(encoded[split]["source"]) for split in encoded},
        },
    )
    print(
        f"{corpus.name}: {len(batches):,} pairs to train on, {len(corpus.valid):,} to validate on, "
        f"{len(corpus.test):,} to test on; {len(source.vocabulary):,} and {len(target.vocabulary):,} symbols "
        f"({tokens_of(config)}); run in {run.path}"
    )
    if corpus.skipped:
        print(f"skipped {corpus.skipped:,} pairs with an empty side")
    if long["train"] + long["valid"]:
        done = {"drop": "dropped", "cut": "cut"}[config.long]
        too_long = f"{long['train']:,} training and {long['valid']:,} validation pairs"
        print(f"{done} {too_long} of over {config.max_length} symbols")
    print(describe_parameters(params))

    valid = PaddedBatches(encoded["valid"], {}, config.batch_size, config.buckets, shuffle=False)
    trained = train(
        config,
        run,
        params=params,
        carry=jnp.zeros((), jnp.int32),
        carry_axis=None,
        loss=make_loss(config, model, target.end),
        batches=batches,
        evaluate=lambda params: {"val_loss": _mean(total_loss(model, params, valid, target.end))},
        sample=lambda params, step: _sample(config, model, params, corpus, (source, target), step),
        batch_axis=batches.batch_axes,
    )

    translator = Translator(config, model, trained.params, source, target)
    translations = [found[0] for found in translator(corpus.test.source)]
    hypotheses = [translation.text for translation in translations]
    if unfinished := sum(not translation.finished for translation in translations):
        print(f"hypotheses of test sentences {cut_off(config, unfinished)}")
    _write_lines(run, HYPOTHESES, hypotheses)
    _write_lines(run, REFERENCES, corpus.test.target)
    scores = score(hypotheses, corpus.test.target)
    test = PaddedBatches(encoded["test"], {}, config.batch_size, config.buckets, shuffle=False)
    metrics = {
        "val_loss": trained.metrics["val_loss"],
        **scores.metrics,
        "test_perplexity": word_perplexity(total_loss(model, trained.params, test, target.end)[0], corpus.test.target),
        "tokens_per_second": trained.units_per_second,
    }
    for sentence, hypothesis, reference in list(zip(corpus.test.source, hypotheses, corpus.test.target, strict=True))[
        :SHOWN
    ]:
        print(f"--- {sentence}\n    {hypothesis}\n    {reference}")
    if config.attention != "none":
        drawn = _worth_drawing(corpus.test.source, source)
        translation = translations[corpus.test.source.index(drawn)]
        print(plot_attention_of(translator, drawn, translation, run.path / "attention.png"))
    if task_of(config)[0] in ("reverse", "copy"):
        plot_lengths(run, exact_match_by_length(corpus.test.source, hypotheses, corpus.test.target))
    metrics = run.write_result(
        metrics=metrics,
        steps=trained.steps,
        seconds=trained.seconds,
        parameters=parameter_count(trained.params),
        signatures=scores.signatures,
    )
    for name, value in metrics.items():
        print(f"{name:17} {value:,.4f}")
    print(scores.signatures["test_bleu"])
    print(f"hypotheses, results and curves in {run.path}")


def _worth_drawing(sentences: Sequence[str], source: Any, symbols: int = 20) -> str:
    """One long enough for a pattern to be seen, and short enough for its labels to be read."""
    return min(sentences[:100], key=lambda sentence: abs(len(source.encode([sentence])[0]) - symbols))


def make_loss(config: Seq2SeqConfig, model: "Seq2Seq", end: int) -> Callable[..., Any]:
    """The loss of a batch: teacher forcing, or a mixture with what the decoder would have written."""
    from rnn_jax import losses
    from rnn_jax.models.scheduled_sampling import sampled_logits, teacher_forcing_rate
    from rnn_jax.models.seq2seq import shift

    schedule = config.teacher_forcing_schedule
    lowest = config.teacher_forcing
    if lowest is None:
        lowest = 1.0 if schedule == "constant" else 0.0

    def loss(params: Any, step: Any, batch: Any, key: Any, **rates: Any) -> Any:
        network: Any = model.clone(**rates)
        variables, inputs = {"params": params}, shift(batch["target"], end)
        read = (batch["source"], batch["source_mask"], inputs)
        wanted = (batch["target"], batch["target_mask"])
        if lowest == 1:
            total: Any = network.apply(
                variables,
                *read,
                *wanted,
                label_smoothing=config.label_smoothing,
                deterministic=config.dropout == 0,
                rngs={"dropout": key},
                method="loss",
            )
        else:
            logits = sampled_logits(
                network,
                variables,
                *read,
                key,
                rate=teacher_forcing_rate(schedule, step, lowest, config.teacher_forcing_steps),
                unit=config.teacher_forcing_unit,
                deterministic=config.dropout == 0,
            )
            total = losses.cross_entropy(logits, *wanted, label_smoothing=config.label_smoothing)
        return total, step + 1

    return loss


def total_loss(model: "Seq2Seq", params: Any, batches: Iterable[Any], end: int) -> tuple[float, float]:
    """Nats and symbols of all targets, each read with the true symbols before it."""
    nats, symbols = totals(evaluation_step(model, params, batch, end) for batch in batches)
    return nats, symbols


def _mean(total: tuple[float, float]) -> float:
    return total[0] / total[1]


@compiled(0, 3)
def evaluation_step(model: Any, params: Any, batch: Any, end: int) -> Any:
    """The loss of a batch: (sum, count)."""
    from rnn_jax.models.seq2seq import shift

    target, mask = batch["target"], batch["target_mask"]
    read = (batch["source"], batch["source_mask"], shift(target, end))
    return model.apply({"params": params}, *read, target, mask, method="loss")


def word_perplexity(nats: float, references: Sequence[str]) -> float:
    """exp of nats per word, whatever the symbols are: words and marks count, and the end of each sentence."""
    from rnn_jax.data.joiners import count_words
    from rnn_jax.losses import perplexity

    return perplexity(nats / sum(count_words(line) + 1 for line in references))


def _sample(config: Any, model: Any, params: Any, corpus: Any, sides: tuple[Side, Side], step: int) -> str:
    sentences = corpus.valid.source[:SHOWN]
    found = Translator(config, model, params, *sides)(sentences)
    lines = [f"{sentence}\n    {best[0].text}" for sentence, best in zip(sentences, found, strict=True)]
    return "\n".join([f"--- after {step} steps ---", *lines, "---"])


def plot_lengths(run: "Run", shares: dict[int, float]) -> None:
    """Print and draw the exact match for each length of the source."""
    from rnn_jax.training.sequence_plots import plot_by_length

    print("exact match by length: " + "  ".join(f"{length}: {share:.2f}" for length, share in shares.items()))
    plot_by_length(shares, run.path / "exact_match_by_length.png", title=f"{run.experiment}: {run.label}")


def _write_lines(run: "Run", name: str, lines: Iterable[str]) -> None:
    from rnn_jax.training.files import write_text

    write_text(run.path / name, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    run_experiment("seq2seq", Seq2SeqConfig, main)
