r"""Training word vectors: a pass over a corpus as many blocks, each a step of gradient descent.

The parts of a block of CBOW are too small for two cores to share. Several streams of blocks are then trained side by
side, each on a copy of the tables by a thread of its own; after every round the copies meet, and what each has changed
is added up:

    row = before + w Σₛ (copyₛ - before),    w = 1/S Σᵢ (1 - δ)ⁱ, i = 0 .. S - 1

A row that one stream takes the share δ of the way to where it comes to rest, S streams one after the other take the
share 1 - (1 - δ)^S. δ = 1 - exp(-Σ rate · pairs / c), from the pairs that are expected of the row and a constant c: the
changes of rare words are added, those of frequent ones averaged.
"""

import functools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    draw_blocks,
    weigh,
)
from rnn_jax.typing import Key

# Blocks in a dispatch.
BLOCKS = 64
LAST_RATE = 1e-4
# At the start of training; the best of a few on 6 M words of Wikipedia.
LEARNING_RATES = {"skipgram": 0.03, "cbow": 0.05}
# Smaller pools cost analogies, larger ones time.
SHAPES = {"skipgram": {"tile": 32, "tiles": 32, "pool": 32}, "cbow": {"tile": 64, "tiles": 16, "pool": 16}}
# Learning needs steps: a small corpus gets blocks of fewer tiles, so that an epoch has this many.
FEWEST_BLOCKS = 125
STREAMS = {"skipgram": 1, "cbow": 2}
# With 4 streams analogies lose a quarter on 6 M words of Wikipedia; with 8 training diverges.
MOST_STREAMS = 4
# Several streams meet after this many blocks of all together, but at least so many times in an epoch.
ROUND, ROUNDS_AN_EPOCH = 1024, 4
# A row that the pairs of this many, each times its learning rate, have moved is 1 - 1/e of the way to where it comes to
# rest.
SETTLED = 50.0


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


@jax.jit
def draw_epoch(
    given: Distributions, corpus: Int[Array, " N"], key: Key, epoch: Int[Array, ""]
) -> tuple[Int[Array, " N"], Int[Array, ""], Key]:
    """(kept, length) of `subsample` for one epoch, and the key of its windows and negatives."""
    draw_key, run_key = jax.random.split(jax.random.fold_in(key, epoch))
    return *subsample(given, corpus, draw_key), run_key


def blocks_in_epoch(model: WordVectors, length: int) -> int:
    """How many blocks train each of `length` positions once."""
    return math.ceil(math.ceil(length / model.tiles) / model.tile)


def block_shape(model: str, size: int) -> dict[str, int]:
    """tile, tiles and pool of `WordVectors` for a corpus [size]."""
    shape = SHAPES[model]
    return shape | {"tiles": max(1, min(shape["tiles"], size // (FEWEST_BLOCKS * shape["tile"])))}


def take_tiles(
    model: WordVectors, kept: Int[Array, " N"], length: Int[Array, ""], first: Int[Array, ""], number: int
) -> tuple[Int[Array, "S R C"], Float[Array, "S R T"]]:
    """The words and the centres of blocks first .. first + number - 1.

    The corpus is cut into one stretch for each tile of a block, and block i has the i-th piece of each stretch. Its
    tiles are then far apart in the corpus: a word that an article repeats does not fill a block.
    """
    stretch = -(-length // model.tiles)
    pieces = (first + jnp.arange(number)) * model.tile
    within = pieces[:, None, None] + jnp.arange(model.span) - model.window
    position = jnp.arange(model.tiles)[:, None] * stretch + within
    inside = (position >= 0) & (position < length)
    words = jnp.where(inside, kept[jnp.clip(position, 0, kept.shape[0] - 1)], -1)
    centres = (within[..., model.window : -model.window] < stretch).astype(jnp.float32)
    return words, jnp.broadcast_to(centres, (number, model.tiles, model.tile))


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
    windows, negatives = draw_blocks(model, given, jax.random.fold_in(key, first), number)

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


@functools.partial(jax.jit, donate_argnames=("before", "copies"))
def meet(
    given: Distributions, travel: Float[Array, ""], before: Tables, copies: tuple[Tables, ...]
) -> tuple[Tables, tuple[Tables, ...]]:
    """What all streams have learned, as one (see the module), and a copy of it for each of them.

    Args:
        given: distributions.
        travel: the learning rates of the blocks of a stream, added up.
        before: what all copies were.
        copies: what each stream has made of it.
    """

    def together(pairs: Array, before: Array, *copies: Array) -> Array:
        left = jnp.exp(-travel / SETTLED * pairs)
        weight = jnp.stack([left**others for others in range(len(copies))]).mean(0)[:, None]
        return functools.reduce(lambda after, copy: after + weight * (copy - before), copies, before)

    after = jax.tree.map(together, Tables(given.input_pairs, given.output_pairs), before, *copies)
    return after, (after,) * len(copies)


class Progress(NamedTuple):
    """How training stands after a round.

    Attributes:
        tables: the parameters; their buffers are given to the next round, so keep only a copy.
        step: rounds done; `start` of a training that goes on from here.
        share: of the whole training.
        loss: mean loss of a pair, in the last dispatch.
        learning_rate: of the last block.
    """

    tables: Tables
    step: int
    share: float
    loss: Array
    learning_rate: float


class Rounds(NamedTuple):
    """How the blocks of an epoch are taken.

    Attributes:
        streams: trained side by side.
        blocks: in a dispatch.
        dispatches: of each stream in a round.
        in_epoch: how many number an epoch; subsampling leaves the last unused.
    """

    streams: int
    blocks: int
    dispatches: int
    in_epoch: int

    @property
    def size(self) -> int:
        """Blocks in a round."""
        return self.streams * self.blocks * self.dispatches


def plan_rounds(model: WordVectors, size: int, streams: int | None = None) -> Rounds:
    """Rounds for a corpus [size].

    Raises:
        ValueError: streams below 1 or above `MOST_STREAMS`, or several for the softmax, which moves every row.
    """
    softmax = model.objective == "softmax"
    if streams is None:
        streams = 1 if softmax else STREAMS[model.model]
    if not 1 <= streams <= MOST_STREAMS:
        raise ValueError(f"streams: expected 1 to {MOST_STREAMS}, found {streams}")
    if softmax and streams > 1:
        raise ValueError(f"streams: expected 1 for the softmax, which moves every row in every block, found {streams}")
    total = blocks_in_epoch(model, size)
    each = min(BLOCKS, total) if streams == 1 else max(1, min(ROUND, total // ROUNDS_AN_EPOCH) // streams)
    blocks = min(BLOCKS, each)
    dispatches = each // blocks
    return Rounds(streams, blocks, dispatches, -(-total // (streams * blocks * dispatches)))


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
    streams: int | None = None,
) -> Iterator[Progress]:
    """Train over a corpus, the rate falling in a straight line to 1e-4: a `Progress` after each round.

    Args:
        model: what to train.
        given: distributions.
        tables: parameters at the start; their buffers may be donated.
        corpus: see `rnn_jax.data.words.encode_documents`.
        key: the whole training depends on it and on nothing else that is random.
        epochs: passes over the corpus.
        learning_rate: at the start.
        start: `Progress.step` of the training to go on with.
        streams: see the module; None: what `STREAMS` says, 1 for the softmax. The result depends on it, and on nothing
            that the machine has.

    Raises:
        ValueError: see `plan_rounds`.
    """
    rounds = plan_rounds(model, corpus.shape[0], streams)
    per_epoch = rounds.in_epoch
    dispatch = compiled(jax.default_backend())

    def descend_through(drawn: tuple[Array, Array, Key], rates: np.ndarray, tables: Tables, firsts: range) -> Any:
        kept, length, run_key = drawn
        loss = None
        for first in firsts:
            of_blocks = rates[first : first + rounds.blocks].astype(np.float32)
            tables, loss = dispatch(model, given, tables, kept, length, jnp.int32(first), run_key, of_blocks)
        return jax.block_until_ready((tables, loss))

    def join(travel: float, before: Tables, copies: tuple[Tables, ...]) -> tuple[Tables, tuple[Tables, ...]]:
        return meet(given, np.float32(travel), before, copies) if rounds.streams > 1 else (copies[0], copies)

    with ThreadPoolExecutor(rounds.streams + 1) as threads:
        upcoming = threads.submit(draw_epoch, given, corpus, key, np.int32(start // per_epoch))
        tables, scratch, *copies = (jax.tree.map(jnp.copy, tables) for _ in range(rounds.streams + 2))
        # What changes nothing, to compile the programs side by side: a meeting of equals, a dispatch without words.
        meeting = threads.submit(join, 0.0, tables, tuple(copies))
        descend_through((corpus, jnp.int32(0), key), np.zeros(rounds.blocks), scratch, range(1))
        tables, copies = meeting.result()
        for epoch in range(start // per_epoch, epochs):
            drawn = upcoming.result()
            if epoch + 1 < epochs:
                upcoming = threads.submit(draw_epoch, given, corpus, key, np.int32(epoch + 1))
            total = blocks_in_epoch(model, int(drawn[1]))
            share = (epoch + np.minimum(1.0, np.arange(total + rounds.size) / total)) / epochs
            rates = np.maximum(LAST_RATE, learning_rate * (1 - share))
            skipped = start % per_epoch if epoch == start // per_epoch else 0
            for begin in range(skipped * rounds.size, total, rounds.size):
                end = begin + rounds.size
                firsts = range(begin, min(end, total), rounds.blocks)
                under_way = [
                    threads.submit(descend_through, drawn, rates, copy, firsts[number :: rounds.streams])
                    for number, copy in enumerate(copies)
                ]
                copies, losses = zip(*(stream.result() for stream in under_way), strict=True)
                tables, copies = join(rates[begin : min(end, total)].sum() / rounds.streams, tables, copies)
                step = epoch * per_epoch + end // rounds.size
                yield Progress(tables, step, float(share[end]), losses[0], float(rates[end - 1]))
