"""A trained translator: sentences in, translations out, and what the mode flags of `experiments.seq2seq` do."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.flags import FlagError
from experiments.seq2seq_data import Side, tokens_of
from experiments.translation_scores import score

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from rnn_jax.models import Seq2Seq
    from rnn_jax.training.run import Run

REFERENCES = "references.txt"
# Symbols of a sentence whose attention is drawn: more could not be read.
MOST_DRAWN = 200
# Sentences searched at once, and the shapes they are padded to: each shape is a compilation.
DECODE_BATCH, DECODE_BUCKETS, DECODE_MULTIPLE = 64, 3, 16


class Translation(NamedTuple):
    """One translation of a sentence, with its log-probability in nats and the score of the search.

    `symbols` are the numbers that the decoder wrote, the end among them; `finished` is False where it was cut off at
    the greatest length.
    """

    text: str
    symbols: "np.ndarray"
    log_prob: float
    score: float
    finished: bool


class Translator:
    """Sentences in, the best translations of each out."""

    def __init__(self, config: Any, model: "Seq2Seq", params: Any, source: Side, target: Side):
        self.config, self.model, self.params, self.source, self.target = config, model, params, source, target

    def __call__(self, sentences: Sequence[str]) -> list[list[Translation]]:
        """The `n_best` translations of every sentence; [] of one that is blank."""
        from rnn_jax.data import PaddedBatches

        found: list[list[Translation]] = [[] for _ in sentences]
        numbers = [number for number, sentence in enumerate(sentences) if sentence.strip()]
        encoded = self.source.encode([sentences[number] for number in numbers])
        if not encoded:
            return found
        size = min(DECODE_BATCH, len(encoded))
        for batch in PaddedBatches({"source": encoded}, {}, size, DECODE_BUCKETS, shuffle=False):
            for column, translations in enumerate(self._search(batch["source"], batch["source_mask"])):
                if batch["index"][column] >= 0:
                    found[numbers[batch["index"][column]]] = translations
        return found

    def _search(self, source: Any, mask: Any) -> list[list[Translation]]:
        """The translations of every column."""
        import jax
        import numpy as np

        from rnn_jax.models.seq2seq import translate

        more = _padded(len(source)) - len(source)
        source, mask = (np.pad(array, ((0, more), (0, 0))) for array in (source, mask))
        config = self.config
        best = jax.device_get(
            translate(
                self.model,
                {"params": self.params},
                source,
                mask,
                end=self.target.end,
                length=config.max_length,
                beam_size=config.beam_size,
                n_best=config.n_best,
                length_penalty=config.length_penalty,
                coverage_penalty=config.coverage_penalty,
            )
        )
        return [
            [
                Translation(
                    self.target.decode(written := best.tokens[: best.lengths[rank, column], rank, column]),
                    written,
                    float(best.log_probs[rank, column]),
                    float(best.scores[rank, column]),
                    bool(best.finished[rank, column]),
                )
                for rank in range(config.n_best)
                if np.isfinite(best.log_probs[rank, column])
            ]
            for column in range(source.shape[1])
        ]


def cut_off(config: Any, count: int) -> str:
    """What to say of translations that came to no end."""
    return f"cut off at --max_length={config.max_length} symbols: {count:,}"


def _padded(length: int) -> int:
    """The length that sequences are padded to: that changes nothing, and few lengths are compiled for."""
    return -(-length // DECODE_MULTIPLE) * DECODE_MULTIPLE


def plot_attention_of(translator: Translator, sentence: str, translation: Translation, image: "Path") -> str:
    """Draw where the decoder looks while it writes a translation; returns what to say of it."""
    import jax
    import jax.numpy as jnp

    from rnn_jax.data import pad
    from rnn_jax.models.seq2seq import attention_weights, shift
    from rnn_jax.training.sequence_plots import plot_attention

    source, target = translator.source, translator.target
    read, written = source.encode([sentence])[0], translation.symbols
    if max(len(read), len(written)) > MOST_DRAWN:
        return f"no attention map: expected at most {MOST_DRAWN} symbols, found {max(len(read), len(written))}"
    tokens, mask = pad([read], _padded(len(read)))
    outputs, _ = pad([written], _padded(len(written)))
    weights = attention_weights(
        translator.model, {"params": translator.params}, tokens, mask, shift(jnp.asarray(outputs), target.end)
    )
    weights = jax.device_get(weights)[: len(written), 0, : len(read)]
    try:
        plot_attention(weights, source.symbols(read), target.symbols(written), image)
    except OSError as error:
        return f"no attention map: cannot write {image}: {error.strerror}"
    return f"attention map in {image}"


def translate_lines(config: Any, run: "Run") -> None:
    """Print the translations of the sentences asked for."""
    from rnn_jax.training.run import load

    if config.translate is not None and not config.translate.strip():
        raise FlagError(f"--translate: expected a sentence, found {config.translate!r}")
    loaded = load(run.path)
    tokens = tokens_of(config)
    source = Side(loaded.vocabulary["source"], tokens, config.lowercase, config.reverse_source)
    target = Side(loaded.vocabulary["target"], tokens)
    translator = Translator(config, loaded.model, loaded.params, source, target)
    wanted = config.attention_maps if config.attention != "none" else 0
    unfinished, number, drawn = 0, 0, []
    for sentences in _requests(config):
        for sentence, found in zip(sentences, translator(sentences), strict=True):
            _show(found, config.n_best)
            number += 1
            if found:
                unfinished += not found[0].finished
                if len(drawn) < wanted:
                    drawn.append((number, sentence, found[0]))
    if unfinished:
        print(cut_off(config, unfinished), file=sys.stderr)
    for number, sentence, translation in drawn:
        # Not the picture of the run itself; where there are several, each by the number of its line.
        image = run.path / (f"translation_{number}.png" if wanted > 1 else "translation.png")
        print(plot_attention_of(translator, sentence, translation, image), file=sys.stderr)


def _requests(config: Any) -> Iterator[list[str]]:
    """The sentences to translate, in groups to be translated together."""
    from rnn_jax.data import read_text, stdin_lines

    if config.translate is not None:
        yield [config.translate]
    elif config.translate_file == "-":
        for line in stdin_lines("translate_file"):
            yield [line.rstrip("\n")]
    else:
        lines = read_text(str(config.translate_file), "translate_file").split("\n")
        yield lines[:-1] if lines[-1] == "" else lines


def _show(found: list[Translation], n_best: int) -> None:
    if n_best == 1 or not found:
        # An empty line keeps the lines of a file in step.
        print(found[0].text if found else "", flush=True)
        return
    for rank, one in enumerate(found, 1):
        print(f"{rank}\t{one.score:.4f}\t{one.log_prob:.4f}\t{one.text}", flush=True)


def score_file(path: str, run: "Run", lowercase: bool) -> None:
    """Print the scores of a file of hypotheses against the references that a run was tested on."""
    from rnn_jax.data import read_text

    references = run.path / REFERENCES
    if not references.exists():
        raise FlagError(f"--workdir: expected a run that has been tested, found no {REFERENCES} in {run.path}")
    hypotheses, wanted = (read_text(one, "bleu_of").removesuffix("\n").split("\n") for one in (path, references))
    # As the references were when the run was tested.
    print(score([line.lower() for line in hypotheses] if lowercase else hypotheses, wanted))
