"""Character (and word) language model: truncated backpropagation through time over one long text.

python -m experiments.charlm --cell=gru
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from experiments.config import TrainingConfig
from experiments.evaluation import compiled, totals
from experiments.flags import FlagError, check_temperature, checked, flag
from experiments.runner import run_experiment

if TYPE_CHECKING:
    from rnn_jax.data import Vocabulary
    from rnn_jax.data.streams import EvaluationBatches
    from rnn_jax.models import LanguageModel
    from rnn_jax.training.run import Run

# A fresh carry each so many symbols: the context that published Transformers of this size are evaluated with.
WINDOW = 256
# An evaluation at the end reads the text in streams no shorter than this, so that hardly a symbol lacks its context.
SHORTEST_STREAM = 200_000
# While training, more and shorter ones serve, up to as many as there are windows in a batch: one program for both.
QUICK_STREAM = 700
ROWS = 64
STREAMED_CHUNK = 32


@dataclasses.dataclass(frozen=True)
class CharLM(TrainingConfig):
    """Train a recurrent language model on a text, evaluate it, write more of the text.

    val_loss keeps the carry over the whole validation text (from 400,000 symbols on, over parts of 200,000 or more);
    val_loss_window starts afresh each 256 symbols. While training goes on, val_loss is estimated on up to 64 shorter
    parts side by side.
    """

    traced: ClassVar[tuple[str, ...]] = ("dropout", "weight_drop")

    corpus: str = flag("builtin", "text to learn: builtin, shakespeare, ptb, text8, enwik8, wikitext2, or a PATH")
    valid: str | None = flag(None, "PATH of a validation text, in place of the end of the corpus")
    valid_fraction: float = flag(0.1, "share of the corpus, at its end, for validation", above=0, maximum=0.5)
    test: str | None = flag(None, "PATH of one more text to evaluate at the end")
    level: Literal["char", "word"] = flag("char", "what a symbol is")
    vocab_size: int | None = flag(None, "keep that many of the most frequent symbols", minimum=2)
    bptt: int = flag(64, "steps through which gradients flow; the carry goes on across batches", minimum=1)
    prompt: str = flag("", "text that samples continue; by default a line break", free=True)
    temperature: float = flag(
        0.8, "of sampling; 0 takes the likeliest symbol", minimum=0, check=check_temperature, free=True
    )
    top_k: int | None = flag(None, "sample among that many likeliest symbols", minimum=1, free=True)
    top_p: float | None = flag(
        None, "sample among the likeliest symbols of this probability", above=0, maximum=1, free=True
    )
    sample_length: int = flag(400, "symbols in a sample", minimum=1, free=True)
    sample: bool = flag(False, "sample from the run in --workdir", stored=False, mode=True)
    score: str | None = flag(
        None,
        "PATH whose loss under the run in --workdir is wanted; - for each line of standard input",
        stored=False,
        mode=True,
    )

    cell: str = "lstm"
    hidden_size: int = 256
    num_layers: int = 1
    input: Literal["onehot", "embedding"] = flag("embedding", "how symbols enter the first layer", group="model")
    embedding_size: int | None = flag(64, "width of the embedding; none: that of the layer", group="model", minimum=1)
    tie_embeddings: bool = flag(False, "use the embedding as the matrix of the softmax", group="model")
    dropout: float = 0.0
    variational_dropout: bool = flag(False, "drop the same activations at every step of a sequence", group="model")
    weight_drop: float = flag(
        0.0, "share of the elements of the recurrent matrices dropped", group="model", minimum=0, maximum=0.99
    )
    zoneout: float = flag(
        0.0, "share of the state's units that keep their value at a step", group="model", minimum=0, maximum=0.99
    )
    residual: bool = flag(False, "add a layer's input to its output where widths agree", group="model")
    dtype: str = "float32"

    batch_size: int = 32
    optimizer: str = "adamw"
    learning_rate: float = 1e-2
    warmup: int = 50
    clip_norm: float | None = 1.0
    steps: int | None = 3000
    max_seconds: float | None = 140.0
    eval_every: int | None = 500
    sample_every: int | None = 1000


def main(config: CharLM, run: "Run") -> None:
    """Train, evaluate and sample; or use a trained run."""
    if config.score is not None:
        score(config, run)
    elif config.sample:
        stream_sample(config, run)
    else:
        train_model(config, run)


def train_model(config: CharLM, run: "Run") -> None:
    """From the corpus to result.json."""
    import jax
    import jax.numpy as jnp

    from experiments.joint import apart
    from experiments.train import describe_parameters, initial_params, train
    from rnn_jax.data import Streams, Vocabulary, load_corpus
    from rnn_jax.data.streams import StreamBatch
    from rnn_jax.models import LanguageModel
    from rnn_jax.training.state import parameter_count

    corpus = load_corpus(
        config.corpus, valid=config.valid, valid_fraction=config.valid_fraction, test=config.test, level=config.level
    )
    vocabulary = Vocabulary.from_text(
        corpus.train if config.level == "word" else corpus.train + corpus.valid, config.level, config.vocab_size
    )
    prompt = encode_prompt(config.prompt, vocabulary)
    texts = {"train": corpus.train, "valid": corpus.valid}
    if corpus.test is not None:
        texts["test"] = corpus.test
    ids = {split: vocabulary.encode(text, argument=split) for split, text in texts.items()}
    # Too short a text is to be known before training.
    quick = evaluation_batches(ids["valid"], QUICK_STREAM, "valid", WINDOW)
    if "test" in ids:
        evaluation_batches(ids["test"], SHORTEST_STREAM, "test")
    streams = Streams(ids["train"], config.batch_size, config.bptt, shuffle_offset=True, seed=config.seed)

    with checked():
        model = LanguageModel(
            len(vocabulary),
            cell=config.cell,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            input=config.input,
            embedding_size=config.embedding_size,
            tie_embeddings=config.tie_embeddings,
            dropout=config.dropout,
            variational_dropout=config.variational_dropout,
            weight_drop=config.weight_drop,
            zoneout=config.zoneout,
            residual=config.residual,
            dtype=config.dtype,
        )
        tokens = jnp.zeros((1, config.batch_size), jnp.int32)
        params = initial_params(model, jax.random.key(config.seed), tokens)
    run.begin(
        model=model,
        vocabulary=vocabulary,
        data={"name": corpus.name, "sha256": corpus.sha256, "sizes": {split: len(ids[split]) for split in ids}},
    )
    print(
        f"{corpus.name}: {len(ids['train']):,} {config.level}s to train on, {len(ids['valid']):,} to validate on, "
        f"vocabulary {len(vocabulary):,}; run in {run.path}"
    )
    print(describe_parameters(params))

    def loss(params: Any, carry: Any, batch: StreamBatch, key: jax.Array, **rates: Any) -> Any:
        fresh = model.apply({"params": params}, (config.batch_size,), method="initial_carry")
        carry = jax.tree.map(lambda start, goes_on: jnp.where(batch.first, start, goes_on), fresh, carry)
        result: Any = model.clone(**rates).apply(
            {"params": params},
            batch.inputs,
            jnp.asarray(batch.targets),
            carry,
            deterministic=not model.is_random,
            rngs={"dropout": key},
            method="loss",
        )
        carry, total = result
        return total, carry

    def write(params: Any, step: int) -> str:
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        text = vocabulary.decode(jax.device_get(sampler(config, model, params)(prompt, key)[1])[:, 0])
        return f"--- sample after {step} steps ---\n{config.prompt}{glue(config)}{text}\n---"

    trained = train(
        config,
        run,
        params=params,
        carry=initial_carry(model, params, (config.batch_size,)),
        loss=loss,
        batches=streams,
        evaluate=lambda params: {"val_loss": mean_loss(model, params, quick)},
        sample=write,
        batch_axis=StreamBatch(1, 1, None, None),  # pyright: ignore[reportArgumentType]
        unit=f"{config.level}s",
        loss_unit=f"nats per {config.level}",
    )

    metrics = apart("judge", evaluate, model, trained.params, ids["valid"], "val", config.level)
    if "test" in ids:
        metrics |= apart("judge test", evaluate, model, trained.params, ids["test"], "test", config.level)
    metrics |= {"tokens_per_second": trained.units_per_second}
    metrics = run.write_result(
        metrics=metrics, steps=trained.steps, seconds=trained.seconds, parameters=parameter_count(trained.params)
    )
    print(apart("sample", write, trained.params, trained.steps))
    parts = len(evaluation_batches(ids["valid"], SHORTEST_STREAM, "valid").starts)
    kept = "the whole split" if parts == 1 else f"each of {parts} parts of the split"
    print(f"val_loss         {metrics['val_loss']:.4f} nats per {config.level}, carry kept over {kept}")
    print(f"val_loss_window  {metrics['val_loss_window']:.4f} nats per {config.level}, fresh carry each {WINDOW}")
    for name in [name for name in metrics if not name.startswith("val_loss")]:
        print(f"{name:16} {metrics[name]:,.4f}")
    print(f"results and curves in {run.path}")


def glue(config: CharLM) -> str:
    """What stands between a prompt and its continuation."""
    return " " if config.level == "word" and config.prompt and not config.prompt[-1].isspace() else ""


def encode_prompt(prompt: str, vocabulary: "Vocabulary") -> Any:
    """The prompt as tokens [T, 1]; a line break (or the first symbol) where there is none."""
    import numpy as np

    ids = vocabulary.encode(prompt, argument="prompt")
    if len(ids) == 0:
        # Blanks are no words.
        breaks = vocabulary.level == "word" or "\n" in vocabulary.symbols
        ids = vocabulary.encode("\n" if breaks else vocabulary.symbols[0], argument="prompt")
    return np.asarray(ids)[:, None]


def sampler(config: CharLM, model: "LanguageModel", params: Any, length: int | None = None) -> Callable[..., Any]:
    """`(prompt [T, 1], key, carry=None) -> (carry, tokens [N, 1])` with the sampling flags of the configuration."""
    from rnn_jax.models.language_model import continue_text

    return functools.partial(
        _swap_key,
        functools.partial(
            continue_text,
            model,
            {"params": params},
            length=length or config.sample_length,
            # The likeliest symbol, always: what the limit of temperature 0 means.
            temperature=config.temperature or 1.0,
            top_k=config.top_k if config.temperature else 1,
            top_p=config.top_p,
        ),
    )


def _swap_key(function: Callable[..., Any], prompt: Any, key: Any, carry: Any = None) -> Any:
    return function(prompt=prompt, key=key, carry=carry)


def stream_sample(config: CharLM, run: "Run") -> None:
    """Print a sample as it is drawn."""
    import jax

    from rnn_jax.training.run import load

    loaded = load(run.path)
    prompt = encode_prompt(config.prompt, loaded.vocabulary)
    draw = sampler(config, loaded.model, loaded.params, STREAMED_CHUNK)
    print(config.prompt, end=glue(config), flush=True)
    carry, left, key = None, config.sample_length, jax.random.key(config.seed)
    while left > 0:
        key, chunk_key = jax.random.split(key)
        carry, tokens = draw(prompt, chunk_key, carry)
        text = loaded.vocabulary.decode(jax.device_get(tokens)[: min(left, STREAMED_CHUNK), 0])
        print(text, end=" " if config.level == "word" else "", flush=True)
        prompt, left = tokens[-1:], left - STREAMED_CHUNK
    print()


def score(config: CharLM, run: "Run") -> None:
    """Print the loss and the perplexity of a text, or of each line of standard input."""
    from rnn_jax.data import read_text, stdin_lines
    from rnn_jax.losses import perplexity
    from rnn_jax.training.run import load

    loaded = load(run.path)
    path = str(config.score)
    texts: Iterable[tuple[str, str]] = (
        ((f"score: line {number}", line) for number, line in enumerate(stdin_lines("score"), start=1))
        if path == "-"
        else [("score", read_text(path, "score"))]
    )
    # A text that knows no lines has no line break at its end.
    unbroken = config.level == "char" and "\n" not in loaded.vocabulary.symbols
    for name, text in texts:
        if path == "-" and not text.strip():
            # One line for each that is read.
            print(flush=True)
            continue
        text = text.removesuffix("\n") if unbroken else text
        ids = loaded.vocabulary.encode(text, argument=name)
        if len(ids) < 2:
            raise FlagError(f"--{name}: expected at least 2 {config.level}s, found {len(ids)}")
        loss = mean_loss(loaded.model, loaded.params, evaluation_batches(ids, SHORTEST_STREAM, "score"))
        print(
            f"loss {loss:.4f} nats per {config.level}, perplexity {perplexity(loss):.3f}, {len(ids) - 1} predicted",
            flush=True,
        )


def evaluation_batches(ids: Any, shortest: int, name: str, steps: int = 1024) -> "EvaluationBatches":
    """A text in streams of `shortest` symbols or more, read so many steps at a time."""
    from rnn_jax.data import evaluation_streams

    return evaluation_streams(ids, max(1, min(ROWS, len(ids) // shortest)), min(steps, max(1, len(ids) - 1)), name)


def mean_loss(model: "LanguageModel", params: Any, batches: "EvaluationBatches") -> float:
    """Nats per symbol, over every target once."""
    fresh = carry = initial_carry(model, params, batches.starts.shape)
    sums = []
    for batch in batches:
        carry = fresh if batch.first else carry
        carry, loss_and_count = evaluation_step(model, params, carry, batch.inputs, batch.targets, batch.mask)
        sums.append(loss_and_count)
    total, count = totals(sums)
    return total / count


@compiled(0, 2)
def initial_carry(model: Any, params: Any, batch_shape: tuple[int, ...]) -> Any:
    """The carry at the start of texts."""
    return model.apply({"params": params}, batch_shape, method="initial_carry")


@compiled(0)
def evaluation_step(model: Any, params: Any, carry: Any, inputs: Any, targets: Any, mask: Any) -> Any:
    """The carry after a batch, and its loss: (sum, count)."""
    return model.apply({"params": params}, inputs, targets, carry, mask=mask, method="loss")


def evaluate(model: "LanguageModel", params: Any, ids: Any, split: str, level: str) -> dict[str, float]:
    """The metrics of one split: `val_loss`, `val_loss_window`, `val_bpc`, ..."""
    from rnn_jax.data import windows
    from rnn_jax.losses import perplexity

    carried = mean_loss(model, params, evaluation_batches(ids, SHORTEST_STREAM, split))
    fresh = mean_loss(model, params, windows(ids, WINDOW, ROWS, split))
    unit, value = ("bpc", carried / math.log(2)) if level == "char" else ("perplexity", perplexity(carried))
    return {f"{split}_loss": carried, f"{split}_loss_window": fresh, f"{split}_{unit}": value}


if __name__ == "__main__":
    run_experiment("charlm", CharLM, main)
