"""Training word vectors: a pass over a corpus as many blocks, each a step of gradient descent."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnn_jax.models.word_vectors import (
    Block,
    Distributions,
    Tables,
    WordVectors,
    descend,
    draw_negatives,
    draw_windows,
    weigh,
)
from rnn_jax.typing import Key

# Blocks in a dispatch.
BLOCKS = 64
LAST_RATE = 1e-4
# At the start of training; the best of a few on 6 M words of Wikipedia.
LEARNING_RATES = {"skipgram": 0.03, "cbow": 0.05}
# Negatives that a tile draws: smaller pools cost analogies, larger ones time.
POOLS = {"skipgram": 32, "cbow": 12}


@jax.jit
def subsample(given: Distributions, corpus: Int[Array, " N"], key: Key) -> tuple[Int[Array, " N"], Int[Array, ""]]:
    """The corpus of one epoch: frequent words thinned out by chance, the rest moved together.

    Returns:
        (kept, length): the ids that stay and the ends of documents, in order; after `length` of them, negative ids.
    """
    size = corpus.shape[0]
    chance = jnp.where(corpus < 0, 1.0, given.keep[jnp.maximum(corpus, 0)])
    # Probabilities below 2⁻¹⁶ do not occur: the threshold would have to be as small.
    keep = jax.random.bits(key, (size,), jnp.uint16).astype(jnp.float32) < 65_536 * chance
    places = jnp.cumsum(keep)
    kept = jnp.full(size, -1, corpus.dtype)
    kept = kept.at[jnp.where(keep, places - 1, size)].set(corpus, mode="drop", unique_indices=True)
    return kept, places[-1].astype(jnp.int32)


def blocks_in_epoch(model: WordVectors, length: int) -> int:
    """How many blocks train each of `length` positions once."""
    return math.ceil(math.ceil(length / model.tiles) / model.tile)


def take_tiles(
    model: WordVectors, kept: Int[Array, " N"], length: Int[Array, ""], first: Int[Array, ""], number: int
) -> tuple[Int[Array, "S R C"], Float[Array, "S R T"]]:
    """The words and the centres of blocks first .. first + number - 1.

    The corpus is cut into one stretch for each tile of a block, and block i has the i-th piece of each stretch. Its
    tiles are then far apart in the corpus: a word that an article repeats does not fill a block.
    """
    stretch = -(-length // model.tiles)
    begin = jnp.arange(model.tiles)[:, None] * stretch
    within = first * model.tile + jnp.arange(number * model.tile + 2 * model.window) - model.window
    position = begin + within
    inside = (position >= 0) & (position < length)
    run = jnp.where(inside, kept[jnp.clip(position, 0, kept.shape[0] - 1)], -1)
    pieces = jnp.arange(number)[:, None] * model.tile
    words = run[:, pieces + jnp.arange(model.span)]
    centres = within[pieces + model.window + jnp.arange(model.tile)] < stretch
    centres = jnp.broadcast_to(centres[None].astype(jnp.float32), (model.tiles, number, model.tile))
    return jnp.swapaxes(words, 0, 1), jnp.swapaxes(centres, 0, 1)


def train_blocks(
    model: WordVectors,
    given: Distributions,
    tables: Tables,
    kept: Int[Array, " N"],
    length: Int[Array, ""],
    first: Int[Array, ""],
    key: Key,
    rates: Float[Array, " S"],
) -> tuple[Tables, Float[Array, ""]]:
    """Blocks first .. first + S - 1 of an epoch, one step each. A pure function: jit it, or vmap it over its arrays.

    Args:
        model: static.
        given: distributions.
        tables: parameters.
        kept: from `subsample`.
        length: from `subsample`.
        first: number of the first block; blocks after the last of the epoch change nothing.
        key: for windows and negatives; the same for all dispatches of an epoch.
        rates: learning rate of each block.

    Returns:
        (tables, loss): the mean loss of a pair, each block's before its step; see `descend`.
    """
    number = rates.shape[0]
    words, centres = take_tiles(model, kept, length, first, number)
    window_key, negative_key = jax.random.split(jax.random.fold_in(key, first))
    windows = draw_windows(model.window, window_key, centres.shape)
    negatives = draw_negatives(given.noise_bits, negative_key, (number, model.tiles, model.pool))

    def step(tables: Tables, inputs: tuple[Block, Array]) -> tuple[Tables, tuple[Array, Array]]:
        block, rate = inputs
        return descend(model, given, tables, weigh(model, given, block), rate)

    tables, (loss, count) = jax.lax.scan(step, tables, (Block(words, centres, windows, negatives), rates))
    return tables, loss.sum() / jnp.maximum(count.sum(), 1.0)


@functools.cache
def compiled(platform: str) -> Any:
    """`train_blocks` as one program, the tables' buffers donated."""
    # LLVM prefers half of the width that AVX-512 has; these loops gain a fifth from all of it.
    options = {"xla_cpu_prefer_vector_width": 512} if platform == "cpu" else None
    return jax.jit(train_blocks, static_argnames="model", donate_argnames="tables", compiler_options=options)


class Progress(NamedTuple):
    """How training stands after a dispatch of blocks.

    Attributes:
        tables: the parameters; their buffers are given to the next dispatch, so keep only a copy.
        step: dispatches done; `start` of a training that goes on from here.
        share: of the whole training.
        loss: mean loss of a pair.
        learning_rate: of the last block.
    """

    tables: Tables
    step: int
    share: float
    loss: Array
    learning_rate: float


def steps_in_epoch(model: WordVectors, size: int) -> int:
    """An epoch over a corpus [size] has this many numbers for its dispatches; subsampling leaves the last unused."""
    return -(-blocks_in_epoch(model, size) // BLOCKS)


def train(
    model: WordVectors,
    given: Distributions,
    tables: Tables,
    corpus: Int[Array, " N"],
    key: Key,
    *,
    epochs: int,
    learning_rate: float,
    start: int = 0,
) -> Iterator[Progress]:
    """Train over a corpus, the rate falling in a straight line to 1e-4: a `Progress` after each dispatch.

    Args:
        model: what to train.
        given: distributions.
        tables: parameters at the start; their buffers are donated.
        corpus: see `rnn_jax.data.words.encode_documents`.
        key: the whole training depends on it and on nothing else that is random.
        epochs: passes over the corpus.
        learning_rate: at the start.
        start: `Progress.step` of the training to go on with.
    """
    blocks = min(BLOCKS, blocks_in_epoch(model, corpus.shape[0]))
    per_epoch = steps_in_epoch(model, corpus.shape[0])
    dispatch = compiled(jax.default_backend())
    for epoch in range(start // per_epoch, epochs):
        draw_key, run_key = jax.random.split(jax.random.fold_in(key, epoch))
        kept, length = subsample(given, corpus, draw_key)
        total = blocks_in_epoch(model, int(length))
        for first in range(start % per_epoch * blocks if epoch == start // per_epoch else 0, total, blocks):
            share = (epoch + np.minimum(1.0, (first + np.arange(blocks + 1)) / total)) / epochs
            rates = np.maximum(LAST_RATE, learning_rate * (1 - share[:-1])).astype(np.float32)
            tables, loss = dispatch(model, given, tables, kept, length, jnp.int32(first), run_key, rates)
            step = epoch * per_epoch + first // blocks + 1
            yield Progress(tables, step, float(share[-1]), loss, float(rates[-1]))
