r"""Word vectors: skip-gram and CBOW on blocks of text, without making pairs.

Two tables, input x and output y. A word c at position t has the window of positions j, 0 < |j - t| ≤ b, with b drawn
from 1..window for each position, within its document.

    skip-gram    a pair (x of c, y of w_j) for each j in the window                   score s = x · y
    CBOW         one pair (mean of x over the window, y of c)

With k negatives a pair, σ the logistic function and q the noise (unigram^0.75), the loss of a pair is

    negative sampling   -log σ(s) - Σₖ log σ(-sₖ)        Mikolov et al. 2013, arXiv 1310.4546; a negative that equals
                                                         the positive is left out
    NCE                 the same with s + log p(w) - log(k q(w)) in place of s        Gutmann and Hyvärinen 2010,
                                                         Mnih and Teh 2012; no negative is left out
    softmax             -log softmax over the vocabulary of s + log p(w)

p is the unigram distribution, a fixed bias. The optimum of NCE is then that of the softmax, exp(s + log p) adds up to
1; negative sampling instead tends to s = log(P(w|c) / (k q(w))), whose exponentials add up to nothing in particular.

A block is a number of tiles, runs of text from different places of the corpus. A tile gathers its rows once; all scores
are one batched product of which the band within the windows is used; the k negatives of every pair are an equal share
of a pool that the tile draws (Ji et al. 2016, arXiv 1604.04661, share them likewise), so that the expected loss is
that of pairs. Each table then gets one scatter of the rows' summed gradients.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from rnn_jax.typing import Key

MODELS = ("skipgram", "cbow")
OBJECTIVES = ("negative_sampling", "nce", "softmax")
# More pairs of one word than this in a block do not lengthen its step; found on 6 M words of Wikipedia. A pair of the
# softmax moves the rows of all words: with 100 its loss grows without bound.
TAME = {"negative_sampling": 100.0, "nce": 100.0, "softmax": 20.0}


class Tables(NamedTuple):
    """The parameters: the input table holds the word vectors."""

    input: Float[Array, "*S V d"]
    output: Float[Array, "*S V d"]


class Distributions(NamedTuple):
    """What training draws from and weighs by, from the counts of the words; see `distributions`.

    Attributes:
        keep: with which probability an occurrence stays in the corpus.
        noise_bits: cumulative noise distribution in units of 2⁻³².
        log_unigram: log p(w).
        log_noise: log(k q(w)).
        input_rate: factor of the learning rate of each row of the input table.
        output_rate: the same for the output table.
        input_pairs: pairs of each row of the input table that a block is expected to have, at the whole rate.
        output_pairs: the same for the output table.
    """

    keep: Float[Array, " V"]
    noise_bits: UInt[Array, " V"]
    log_unigram: Float[Array, " V"]
    log_noise: Float[Array, " V"]
    input_rate: Float[Array, " V"]
    output_rate: Float[Array, " V"]
    input_pairs: Float[Array, " V"]
    output_pairs: Float[Array, " V"]


class Block(NamedTuple):
    """Tiles of text: R runs of T words, each with `window` words on either side.

    Attributes:
        words: ids; negative: no word (the end of a document or of the corpus).
        centres: 1 where the position is trained, else 0.
        windows: b of each position.
        negatives: the pool of each tile.
    """

    words: Int[Array, "R C"]
    centres: Float[Array, "R T"]
    windows: Int[Array, "R T"]
    negatives: Int[Array, "R K"]


class RowGradients(NamedTuple):
    """Gradients of some rows of both tables; a row that is named twice has the sum of both.

    Attributes:
        input_rows: [R, N] ids.
        input: [R, N, d].
        output_rows: [R, M] ids.
        output: [R, M, d].
        loss: the sum of the losses in the first tile, a sample to watch.
        pairs: the number of pairs in it.
    """

    input_rows: Int[Array, "R N"]
    input: Float[Array, "R N d"]
    output_rows: Int[Array, "R M"]
    output: Float[Array, "R M d"]
    loss: Float[Array, ""]
    pairs: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class WordVectors:
    """The choices that shape the computation; all are static.

    Attributes:
        vocabulary_size: V.
        dimension: d.
        model: "skipgram" or "cbow".
        objective: "negative_sampling", "nce" or "softmax".
        window: the largest b.
        negative: k.
        tile: words in a tile, T.
        tiles: tiles in a block.
        pool: negatives drawn for a tile.

    Raises:
        ValueError: a choice that is not known or a size below 1.
    """

    vocabulary_size: int
    dimension: int = 100
    model: str = "skipgram"
    objective: str = "negative_sampling"
    window: int = 5
    negative: int = 5
    tile: int = 32
    tiles: int = 32
    pool: int = 32

    def __post_init__(self):
        for name, known in (("model", MODELS), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}")
        for name in ("vocabulary_size", "dimension", "window", "negative", "tile", "tiles", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")

    @property
    def span(self) -> int:
        """Words of a tile with its surroundings, C = T + 2 window."""
        return self.tile + 2 * self.window

    def initial(self, key: Key) -> Tables:
        """Input rows uniform in ±1/(2d), output rows zero, as in word2vec."""
        shape = (self.vocabulary_size, self.dimension)
        bound = 0.5 / self.dimension
        return Tables(jax.random.uniform(key, shape, minval=-bound, maxval=bound), jnp.zeros(shape))


def distributions(
    model: WordVectors,
    counts: np.ndarray,
    *,
    keep: np.ndarray,
    noise: np.ndarray,
    noise_bits: np.ndarray,
    tame: float | None = None,
) -> Distributions:
    """The arrays of `Distributions`.

    In a block, the pairs of a frequent word all see the same row, and their gradients add up to a step that one pair
    after the other would not make. A row that expects e > `tame` pairs in a block gets the rate tame / e: its step is
    as long as that of `tame` pairs.

    Args:
        model: its block decides how many pairs to expect.
        counts: [V] of the words in the corpus.
        keep: [V] see `rnn_jax.data.words.keep_probabilities`.
        noise: [V] see `rnn_jax.data.words.noise_distribution`.
        noise_bits: [V] see `rnn_jax.data.words.cumulative_bits`.
        tame: pairs; None: what `TAME` says of the objective.
    """
    tame = TAME[model.objective] if tame is None else tame
    unigram = counts / counts.sum()
    kept = unigram * keep / (unigram * keep).sum()
    positions = model.tile * model.tiles
    # The mean of b is (window + 1) / 2, on either side.
    pairs = positions * (model.window + 1 if model.model == "skipgram" else 1)
    reached = positions * (model.window + 1)
    expected_input = kept * reached * (1 + model.negative if model.objective != "softmax" else 1)
    expected_output = pairs * (kept + (model.negative * noise if model.objective != "softmax" else 0))

    def rate(expected):
        return jnp.asarray(np.minimum(1.0, tame / expected), jnp.float32)

    return Distributions(
        keep=jnp.asarray(keep, jnp.float32),
        noise_bits=jnp.asarray(noise_bits),
        log_unigram=jnp.asarray(np.log(unigram), jnp.float32),
        log_noise=jnp.asarray(np.log(model.negative * noise), jnp.float32),
        input_rate=rate(expected_input),
        output_rate=rate(expected_output),
        input_pairs=jnp.asarray(np.minimum(tame, expected_input), jnp.float32),
        output_pairs=jnp.asarray(np.minimum(tame, expected_output), jnp.float32),
    )


def draw_negatives(noise_bits: UInt[Array, " V"], bits: UInt[Array, "..."]) -> Int[Array, "..."]:
    """Words from the noise distribution, each from 32 random bits."""
    drawn = jnp.searchsorted(noise_bits, bits, side="right").astype(jnp.int32)
    # The last bound cannot be 2³²: a draw of all ones would fall behind it.
    return jnp.minimum(drawn, len(noise_bits) - 1)


def draw_windows(window: int, bits: UInt[Array, "..."]) -> Int[Array, "..."]:
    """b, uniform over 1..window, each from 16 random bits: a bias below window / 65,536."""
    return 1 + ((bits.astype(jnp.int32) * window) >> 16)


def draw_blocks(model: WordVectors, given: Distributions, key: Key, number: int) -> tuple[Array, Array]:
    """(windows [S, R, T], negatives [S, R, K]) of that many blocks.

    One call of the generator serves both: each takes long to compile. In one row: of a last axis of 10, say, LLVM makes
    seconds of work, and a slow loop.
    """
    positions = number * model.tiles * model.tile
    half = -(-positions // 2)
    bits = jax.random.bits(key, (half + number * model.tiles * model.pool,), jnp.uint32)
    windows = draw_windows(model.window, jnp.concatenate([bits[:half] >> 16, bits[:half] & 0xFFFF])[:positions])
    negatives = draw_negatives(given.noise_bits, bits[half:])
    return windows.reshape(number, model.tiles, model.tile), negatives.reshape(number, model.tiles, model.pool)


def window_mask(model: WordVectors, block: Block) -> Float[Array, "R O T"]:
    """1 where word t + o is in the window of centre t, which is word t + window, else 0; O = 2 window + 1."""
    within = jnp.cumsum(block.words < 0, axis=1)
    document = jnp.where(block.words < 0, -1, within)
    # A centre without a word has the number -2: nothing is its context.
    own = jnp.where(block.words < 0, -2, within)[:, model.window : -model.window]

    def inside(distance: np.ndarray, document: Array, own: Array, windows: Array, centres: Array) -> Array:
        near = jnp.asarray(np.where(distance == 0, model.span, distance), jnp.int32) <= windows
        return jnp.where(near & (document == own), centres, 0.0)

    own, windows, centres = (of_centre[:, None, :] for of_centre in (own, block.windows, block.centres))
    if model.model == "skipgram":
        distance = np.abs(np.arange(model.span)[:, None] - np.arange(model.tile) - model.window)
        return to_band(inside(distance, document[:, :, None], own, windows, centres), model.window)
    # CBOW reads it several times: it is kept, and then the shorter way pays. To skip-gram both are a loss.
    distance = np.abs(np.arange(2 * model.window + 1)[:, None] - model.window)

    def by_offset() -> Array:
        places = np.arange(2 * model.window + 1)[:, None] + np.arange(model.tile)
        return inside(distance, document.at[:, places].get(mode="promise_in_bounds"), own, windows, centres)

    return _stored((block.words >= 0).any(), by_offset)


def _by_offset(values: Array, tile: int) -> list[Array]:
    """For each offset o, [t] = values[t + o]: [R, T] each from [R, C]."""
    return [values[:, o : o + tile] for o in range(values.shape[1] - tile + 1)]


def to_band(scores: Float[Array, "R C T"], window: int) -> Float[Array, "R O T"]:
    """The entries [t + o, t] of each matrix, as [o, t]."""
    tiles, span, tile = scores.shape
    places = (np.arange(2 * window + 1)[:, None] + np.arange(tile)) * tile + np.arange(tile)
    return scores.reshape(tiles, span * tile).at[:, places].get(mode="promise_in_bounds")


class Pairs(NamedTuple):
    """The pairs of a block: which there are and how much each score counts; see `weigh`.

    P is O for the skip-gram and 1 for CBOW.

    Attributes:
        contexts: ids of all words of the block.
        negatives: ids of the pool of each tile.
        inside: the windows, see `window_mask`.
        positive_weights: of the scores of pairs.
        negative_weights: of the scores of each position with the pool.
        positive_shift: added to the scores of pairs; None: 0.
        negative_shift: added to those with the pool; None: 0.
    """

    contexts: Int[Array, "R C"]
    negatives: Int[Array, "R K"]
    inside: Float[Array, "R O T"]
    positive_weights: Float[Array, "R P T"]
    negative_weights: Float[Array, "R K T"]
    positive_shift: Float[Array, "R P T"] | None
    negative_shift: Float[Array, "R K 1"] | None


def weigh(model: WordVectors, given: Distributions, block: Block) -> Pairs:
    """The pairs of a block."""
    contexts = jnp.maximum(block.words, 0)
    inside = window_mask(model, block)
    share = model.negative / model.pool
    pool = block.negatives[:, :, None]
    if model.model == "skipgram":
        positives, targets = inside, contexts
    else:
        positives, targets = inside.max(1, keepdims=True), contexts[:, model.window : -model.window]
    count = positives.sum(1, keepdims=True)
    if model.objective == "nce":
        shift = given.log_unigram - given.log_noise
        weights = jnp.broadcast_to(share * count, (*pool.shape[:2], model.tile))
        of_targets = jnp.stack(_by_offset(shift[targets], model.tile), 1)
        return Pairs(contexts, block.negatives, inside, positives, weights, of_targets, shift[pool])
    views = _by_offset(targets, model.tile)
    equal = _sum(jnp.where(view[:, None] == pool, positives[:, o, None], 0.0) for o, view in enumerate(views))
    return Pairs(contexts, block.negatives, inside, positives, share * (count - equal), None, None)


def block_loss(model: WordVectors, given: Distributions, tables: Tables, pairs: Pairs) -> tuple[Array, Array]:
    """(sum of the losses of the pairs in a block, their number). Differentiable: the oracle of `block_gradient`."""
    contexts = pairs.contexts
    centres = contexts[:, model.window : -model.window]
    if model.model == "skipgram":
        hidden, targets = tables.input[centres], contexts
    else:
        hidden = _window_sum(_mean_weights(pairs), tables.input[contexts])
        targets = centres
    number = pairs.positive_weights.sum()
    if model.objective == "softmax":
        log_probability = jax.nn.log_softmax(hidden @ tables.output.T + given.log_unigram)
        of_pairs = jnp.take_along_axis(log_probability, jnp.stack(_by_offset(targets, model.tile), 2), axis=2)
        return -(of_pairs * pairs.positive_weights.swapaxes(1, 2)).sum(), number
    rows = tables.output[targets]
    if model.model == "skipgram":
        scores = to_band(jnp.einsum("rcd,rtd->rct", rows, hidden), model.window)
    else:
        scores = (hidden * rows).sum(-1)[:, None]
    pool_scores = jnp.einsum("rkd,rtd->rkt", tables.output[pairs.negatives], hidden)
    return _sampled_loss(pairs, scores, pool_scores), number


def _sampled_loss(pairs: Pairs, scores: Array, pool_scores: Array) -> Array:
    """The sum of the losses from the scores [R, P, T] and [R, K, T]."""
    positive = _log_sigmoid(_shifted(scores, pairs.positive_shift))
    negative = _log_sigmoid(-_shifted(pool_scores, pairs.negative_shift))
    return -(pairs.positive_weights * positive).sum() - (pairs.negative_weights * negative).sum()


def _shifted(scores: Array, shift: Array | None) -> Array:
    return scores if shift is None else scores + shift


def _log_sigmoid(x: Array) -> Array:
    return -jax.nn.softplus(-x)


def block_gradient(model: WordVectors, tables: Tables, pairs: Pairs) -> RowGradients:
    """The gradient of the summed `block_loss`, row by row; not for the softmax, which touches every row.

    Differs for CBOW, as word2vec does: every context word gets the whole gradient of the mean, not its share.
    """
    contexts = pairs.contexts
    centres = contexts[:, model.window : -model.window]
    skipgram = model.model == "skipgram"
    # Skip-gram's loops are faster without.
    stored = _at_once if skipgram else functools.partial(_stored, (pairs.positive_weights > 0).any())
    # One gather and one scatter for both kinds of output rows: two would make XLA copy the table.
    output_rows = jnp.concatenate([contexts if skipgram else centres, pairs.negatives], 1)
    input_rows = centres if skipgram else contexts
    outputs = stored(lambda: _rows(tables.output, output_rows))
    inputs = stored(lambda: _rows(tables.input, input_rows))
    near, pool = outputs[:, : -model.pool], outputs[:, -model.pool :]
    if skipgram:
        hidden = inputs
        # Output rows first: the product is a quarter faster than its transpose.
        products = jnp.einsum("rcd,rtd->rct", outputs, hidden)
        scores, pool_scores = to_band(products[:, : model.span], model.window), products[:, model.span :]
    else:
        hidden = stored(lambda: _window_sum(_mean_weights(pairs), inputs))
        scores = (hidden * near).sum(-1)[:, None]
        pool_scores = jnp.einsum("rkd,rtd->rkt", pool, hidden)
    to_positive, to_negative = stored(
        lambda: (
            -pairs.positive_weights * _sigmoid(-_shifted(scores, pairs.positive_shift)),
            pairs.negative_weights * _sigmoid(_shifted(pool_scores, pairs.negative_shift)),
        )
    )
    # A sum of a few scaled rows: XLA makes one loop of it, faster than a product of small matrices.
    to_hidden = _sum(to_negative[:, k, :, None] * pool[:, k, None] for k in range(model.pool))
    to_pool = jnp.einsum("rkt,rtd->rkd", to_negative, hidden)
    if skipgram:
        to_near = _spread(to_positive, hidden, stored)
        to_input = to_hidden + _window_sum(to_positive, near)
    else:
        to_near = to_positive[:, 0, :, None] * hidden
        to_input = _spread(pairs.inside, to_hidden + to_positive[:, 0, :, None] * near, stored)
    # Written in parts: of a concatenation XLA would make one loop with a branch for each number.
    to_output = jax.lax.dynamic_update_slice(jnp.zeros_like(outputs), to_near, (0, 0, 0))
    to_output = jax.lax.dynamic_update_slice(to_output, to_pool, (0, near.shape[1], 0))
    first = jax.tree.map(lambda leaf: leaf[:1], pairs)
    return RowGradients(
        input_rows,
        to_input,
        output_rows,
        to_output,
        _sampled_loss(first, scores[:1], pool_scores[:1]),
        first.positive_weights.sum(),
    )


def _at_once(compute: Callable[[], Any]) -> Any:
    return compute()


def _stored(live: Array, compute: Callable[[], Any]) -> Any:
    """What `compute` returns; on the CPU, zeros where a block is not live, for which there is nothing to compute.

    What matters is that it is kept in memory: else XLA computes a sum anew for each term of the next, and does not
    vectorise the loop either. On the CPU it forgets optimization barriers before it makes loops; the result of a
    branch it has to store.
    """

    def nothing() -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(compute))

    return jax.lax.platform_dependent(cpu=lambda: jax.lax.cond(live, compute, nothing), default=compute)


def _mean_weights(pairs: Pairs) -> Array:
    """CBOW's weights: a mean over each window, 0 where it is empty."""
    return pairs.inside / jnp.maximum(pairs.inside.sum(1, keepdims=True), 1.0)


def _window_sum(weights: Array, rows: Array) -> Array:
    """[t] = Σₒ weights[o, t] rows[t + o]: [R, T, d] from [R, O, T] and [R, C, d]."""
    width, tile = weights.shape[1:]
    return _sum(weights[:, o, :, None] * rows[:, o : o + tile] for o in range(width) if o != width // 2)


def _spread(weights: Array, rows: Array, stored: Callable[[Callable[[], Any]], Any]) -> Array:
    """[c] = Σₒ weights[o, c - o] rows[c - o], the transpose of `_window_sum`: [R, C, d] from [R, O, T], [R, T, d]."""
    width, tile = weights.shape[1:]
    margin, span = width - 1, tile + width - 1
    around = ((0, 0), (margin, margin))
    rows, weights = stored(lambda: (jnp.pad(rows, (*around, (0, 0))), jnp.pad(weights, ((0, 0), *around))))
    starts = [(o, margin - o) for o in range(width) if o != width // 2]
    return _sum(weights[:, o, start : start + span, None] * rows[:, start : start + span] for o, start in starts)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def descend(
    model: WordVectors, given: Distributions, tables: Tables, pairs: Pairs, rate: Array
) -> tuple[Tables, tuple[Array, Array]]:
    """One step of gradient descent on the summed loss of a block; only the rows that occur change.

    The softmax changes every row: it is the oracle for small vocabularies.

    Returns:
        (tables, (sum of losses, number of pairs)): the losses before the step; those of the first tile alone where the
        objective is not the softmax.
    """
    if model.objective == "softmax":
        loss = jax.value_and_grad(lambda tables: block_loss(model, given, tables, pairs), has_aux=True)
        found, gradient = loss(tables)
        scale = Tables(given.input_rate[:, None], given.output_rate[:, None])
        return jax.tree.map(lambda table, row, factor: table - rate * factor * row, tables, gradient, scale), found
    rows = block_gradient(model, tables, pairs)
    to_input = -rate * given.input_rate[rows.input_rows][..., None] * rows.input
    to_output = -rate * given.output_rate[rows.output_rows][..., None] * rows.output
    after = Tables(
        tables.input.at[rows.input_rows].add(to_input, mode="promise_in_bounds"),
        tables.output.at[rows.output_rows].add(to_output, mode="promise_in_bounds"),
    )
    return after, (rows.loss, rows.pairs)


def _rows(table: Array, rows: Array) -> Array:
    return table.at[rows].get(mode="promise_in_bounds")


def _sigmoid(x: Array) -> Array:
    # XLA vectorises tanh on the CPU, but not the exponential of its own logistic function.
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)
