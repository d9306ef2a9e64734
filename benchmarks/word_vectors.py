"""Word vectors beside gensim: raw words per second, and the quality of what was learned.

python -m benchmarks.word_vectors --corpus=wiki.txt.gz --similarity=wordsim353.txt --analogies=questions-words.txt

Both train in turns in one process, the whole training timed: ours with its compilation, gensim's with two workers; the
pass that builds the vocabulary counts for neither. Ours compiles afresh in each turn.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import timing

DIMENSION, WINDOW, NEGATIVE, MIN_COUNT, SUBSAMPLE = 100, 5, 5, 5, 1e-3


def main(arguments: argparse.Namespace) -> None:
    """Alternate, print and keep the figures."""
    import numpy as np

    from rnn_jax.data.words import count_words, encode_documents, make_lexicon, read_documents

    lexicon = make_lexicon(count_words(read_documents(arguments.corpus)), MIN_COUNT)
    ids = encode_documents(read_documents(arguments.corpus), lexicon.vocabulary)
    rows: list[dict[str, Any]] = []
    rivals = {"rnn_jax": ours, "gensim": theirs}
    for seed in range(arguments.seeds):
        # In turns, the order reversed from seed to seed.
        for name in list(rivals)[:: 1 if seed % 2 == 0 else -1]:
            vectors, seconds = rivals[name](arguments, lexicon, ids, seed)
            row = {"name": name, "seed": seed, "seconds": seconds}
            row["words_per_second"] = lexicon.corpus_words * arguments.epochs / seconds
            rows.append(row | quality(arguments, vectors))
            print(json.dumps(rows[-1]), flush=True)
    medians = {
        name: {
            key: float(np.median([row[key] for row in rows if row["name"] == name]))
            for key in rows[0]
            if key not in ("name", "seed")
        }
        for name in rivals
    }
    ratio = medians["rnn_jax"]["words_per_second"] / medians["gensim"]["words_per_second"]
    print(json.dumps({"medians": medians, "ratio": ratio}, indent=1))
    record = {
        "model": arguments.model,
        "objective": arguments.objective,
        "epochs": arguments.epochs,
        "corpus_words": lexicon.corpus_words,
        "medians": medians,
        "ratio": ratio,
        "runs": rows,
    }
    print(timing.write(f"word_vectors_{arguments.model}", record, arguments.json))


def ours(arguments: argparse.Namespace, lexicon: Any, ids: Any, seed: int) -> tuple[Any, float]:
    """(KeyedVectors, seconds)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rnn_jax.data.keyed_vectors import KeyedVectors
    from rnn_jax.data.words import cumulative_bits, keep_probabilities, noise_distribution
    from rnn_jax.models.word_vector_training import LEARNING_RATES, block_shape, train
    from rnn_jax.models.word_vectors import WordVectors, distributions

    jax.clear_caches()
    start = time.perf_counter()
    noise = noise_distribution(lexicon.counts)
    model = WordVectors(
        len(lexicon.vocabulary),
        dimension=DIMENSION,
        model=arguments.model,
        objective=arguments.objective,
        window=WINDOW,
        negative=NEGATIVE,
        **block_shape(arguments.model, len(ids)),
    )
    given = distributions(
        model,
        lexicon.counts,
        keep=keep_probabilities(lexicon.counts, SUBSAMPLE),
        noise=noise,
        noise_bits=cumulative_bits(noise),
    )
    key = jax.random.key(seed)
    tables = model.initial(key)
    rate, epochs = arguments.learning_rate or LEARNING_RATES[arguments.model], arguments.epochs
    for progress in train(model, given, tables, jnp.asarray(ids), key, epochs=epochs, learning_rate=rate):
        tables = progress.tables
    vectors = np.asarray(tables.input)
    return KeyedVectors(lexicon.vocabulary.symbols, vectors), time.perf_counter() - start


def theirs(arguments: argparse.Namespace, lexicon: Any, ids: Any, seed: int) -> tuple[Any, float]:
    """(KeyedVectors, seconds)."""
    from gensim.models import Word2Vec

    from rnn_jax.data.keyed_vectors import KeyedVectors
    from rnn_jax.data.words import read_documents

    logging.getLogger("gensim").setLevel(logging.ERROR)
    documents: list[list[str]] = list(_documents(read_documents(arguments.corpus)))
    model = Word2Vec(
        vector_size=DIMENSION,
        window=WINDOW,
        negative=NEGATIVE,
        min_count=MIN_COUNT,
        sample=SUBSAMPLE,
        sg=int(arguments.model == "skipgram"),
        workers=2,
        seed=seed + 1,
    )
    model.build_vocab(documents)
    start = time.perf_counter()
    model.train(
        documents,
        total_examples=model.corpus_count,
        total_words=model.corpus_total_words,
        epochs=arguments.epochs,
    )
    seconds = time.perf_counter() - start
    return KeyedVectors(tuple(map(str, model.wv.index_to_key)), model.wv.vectors), seconds


def _documents(documents: Iterator[list[str]]) -> Iterator[list[str]]:
    # gensim silently cuts off what follows the 10,000th word of a document.
    for words in documents:
        for start in range(0, len(words), 10_000):
            yield words[start : start + 10_000]


def quality(arguments: argparse.Namespace, vectors: Any) -> dict[str, float]:
    """similarity_spearman and analogy_accuracy, as far as there are files."""
    from rnn_jax.data.word_evaluation import evaluate_analogies, evaluate_similarity

    found = {}
    if arguments.similarity:
        found["similarity_spearman"] = evaluate_similarity(vectors, arguments.similarity).spearman
    if arguments.analogies:
        sections = evaluate_analogies(vectors, arguments.analogies)
        found["analogy_accuracy"] = sum(s.correct for s in sections) / max(1, sum(s.total for s in sections))
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = timing.parser("benchmarks.word_vectors", __doc__)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--similarity")
    parser.add_argument("--analogies")
    parser.add_argument("--model", choices=("skipgram", "cbow"), default="skipgram")
    parser.add_argument("--objective", choices=("negative_sampling", "nce", "softmax"), default="negative_sampling")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, help="ours (default: that of the experiment)")
    # The experiment sets what --malloc does by itself.
    return timing.read_flags(parser, malloc=True)


if __name__ == "__main__":
    main(parse())
