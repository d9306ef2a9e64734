"""Beam search, over any decode step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax.cells.base import accumulation_dtype
from rnn_jax.decoding.sampling import DecodeStep, as_symbols, largest
from rnn_jax.recurrence.packed import packed_products
from rnn_jax.typing import Carry

# A source symbol that got no attention at all is charged log of this, not of 0.
_LEAST_COVERAGE = 1e-6


class Hypotheses(NamedTuple):
    """The best hypotheses of each sequence, the best first.

    Attributes:
        tokens: [T, N, B]; a hypothesis that ended repeats `end` from there on.
        lengths: [N, B], the number of its symbols, `end` included.
        log_probs: [N, B], Σ_t log P(y_t | y_1..y_{t-1}) in nats; -inf: there are fewer than N hypotheses.
        scores: [N, B], what they are ranked by.
        finished: [N, B], False: cut off at T symbols.
    """

    tokens: Int[Array, "T N B"]
    lengths: Int[Array, "N B"]
    log_probs: Float[Array, "N B"]
    scores: Float[Array, "N B"]
    finished: Bool[Array, "N B"]


class _Beams(NamedTuple):
    """The search after `step` symbols: K hypotheses of each of B sequences, the best first."""

    step: Int[Array, ""]
    carry: Any
    last: Int[Array, "K B"]
    tokens: Int[Array, "T K B"]
    lengths: Int[Array, "K B"]
    log_probs: Float[Array, "K B"]
    scores: Float[Array, "K B"]
    finished: Bool[Array, "K B"]
    coverage: Float[Array, "K B S"] | None


def beam_search(
    step: DecodeStep,
    carry: Carry,
    tokens: Int[Array, "B"],
    length: int,
    *,
    end: int,
    beam_size: int = 5,
    n_best: int = 1,
    length_penalty: float | int = 0.0,
    coverage_penalty: float | int = 0.0,
    attention: Callable[[Carry], Float[Array, "K B S"]] | None = None,
    source_mask: Bool[Array, "S B"] | None = None,
) -> Hypotheses:
    """The most probable sequences, as far as K at a time can tell.

        score(y) = log P(y) / ((5 + |y|) / 6)^α + β Σ_s log min(1, Σ_t a_ts)

    Hypotheses that have ended stay among the K, unchanged, for as long as none better drives them out. The loop stops
    when no hypothesis still growing can come into the N best of its sequence, or at T symbols; what is returned does
    not depend on which other sequences share the batch.

    Args:
        step: reads one token of each hypothesis, [K, B]; every leaf of its carry begins with the axes K, B.
        carry: the decoder's carry before `tokens` is read, every leaf [B, ...].
        tokens: [B], the symbol that starts each sequence.
        length: T, the most symbols of a hypothesis, its end included.
        end: the symbol that ends a hypothesis.
        beam_size: K; 1 is greedy.
        n_best: N, how many to return.
        length_penalty: α, at least 0; above it, long hypotheses are favoured.
        coverage_penalty: β, at least 0; above it, hypotheses that ignore a part of the source are charged.
        attention: gives the weights a_t [K, B, S] of the last step out of the carry; needed for β > 0.
        source_mask: [S, B], False = padding; needed for β > 0.

    Raises:
        ValueError: an argument out of its range; the message names it.

    Sources: the penalties of Wu et al. 2016 (arXiv 1609.08144). Differs: an uncovered symbol costs at most 13.8 β.
    """
    _check(length, beam_size, n_best, length_penalty, coverage_penalty, attention, source_mask)
    tokens = as_symbols(tokens)
    if tokens.ndim != 1:
        raise ValueError(f"tokens: expected [B], found {list(tokens.shape)}")
    columns = jnp.arange(tokens.shape[0])

    def spread(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (beam_size, *leaf.shape))

    carry, last = jax.tree.map(spread, (carry, tokens))
    # Half precision could not hold the sum of many logarithms.
    dtype = accumulation_dtype(jax.eval_shape(step, carry, last)[1].dtype)

    def normalisation(lengths: Array) -> Array:
        return ((5 + lengths.astype(dtype)) / 6) ** length_penalty

    def covered(coverage: Array | None) -> Array | float:
        if coverage is None or source_mask is None:
            return 0.0
        charges = jnp.log(jnp.clip(coverage, _LEAST_COVERAGE, 1.0))
        return coverage_penalty * jnp.where(source_mask.T, charges, 0).sum(-1).astype(dtype)

    def grow(beams: _Beams) -> _Beams:
        carry, logits = step(beams.carry, beams.last)
        width = min(beam_size, logits.shape[-1])
        # The K best of all K · V continuations are among the K best of each hypothesis.
        best, symbols = largest(logits, width)
        gains = best.astype(dtype) - jax.nn.logsumexp(logits.astype(dtype), axis=-1, keepdims=True)
        ended = beams.finished[..., None]
        gains = jnp.where(ended, jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf), gains)
        symbols = jnp.where(ended, end, symbols)
        lengths = beams.lengths + jnp.where(beams.finished, 0, 1)
        coverage = beams.coverage
        if coverage is not None and attention is not None:
            coverage = coverage + jnp.where(ended, 0, attention(carry).astype(coverage.dtype))

        log_probs = beams.log_probs[..., None] + gains
        scores = log_probs / normalisation(lengths)[..., None] + jnp.asarray(covered(coverage))[..., None]
        # [K, B, W] -> [B, K · W]; ties go to the first, as in argmax.
        scores, chosen = jax.lax.top_k(scores.swapaxes(0, 1).reshape(len(columns), beam_size * width), beam_size)
        parents, rank = chosen.T // width, chosen.T % width
        last = symbols[parents, columns, rank].astype(tokens.dtype)

        def inherit(leaf: Array) -> Array:
            return leaf[parents, columns]

        return _Beams(
            step=beams.step + 1,
            carry=jax.tree.map(inherit, carry),
            last=last,
            tokens=beams.tokens[:, parents, columns].at[beams.step].set(last),
            lengths=inherit(lengths),
            log_probs=log_probs[parents, columns, rank],
            scores=scores.T,
            finished=inherit(beams.finished) | (last == end),
            coverage=None if coverage is None else inherit(coverage),
        )

    def may_improve(beams: _Beams) -> Array:
        growing = ~beams.finished & (beams.log_probs > -jnp.inf)
        # A log-probability only falls, and no penalty is milder than that of the greatest length.
        within_reach = beams.log_probs / normalisation(jnp.asarray(length))
        bound = jnp.where(growing, within_reach, -jnp.inf).max(axis=0)
        ended = jnp.sort(jnp.where(beams.finished, beams.scores, -jnp.inf), axis=0, descending=True)
        # An equal one comes in, too: ties go to the first, which may be the one still growing.
        return (growing.any(axis=0) & (ended[n_best - 1] <= bound)).any() & (beams.step < length)

    shape = (beam_size, tokens.shape[0])
    # The hypotheses are all alike at first, so all but one are ruled out.
    log_probs = jnp.full(shape, -jnp.inf, dtype).at[0].set(0)
    beams = _Beams(
        step=jnp.zeros((), jnp.int32),
        carry=carry,
        last=last,
        tokens=jnp.full((length, *shape), end, tokens.dtype),
        lengths=jnp.zeros(shape, jnp.int32),
        log_probs=log_probs,
        scores=log_probs,
        finished=jnp.zeros(shape, bool),
        coverage=jnp.zeros((*shape, source_mask.shape[0])) if coverage_penalty and source_mask is not None else None,
    )
    beams = jax.lax.while_loop(may_improve, packed_products(grow, beams, inference=True), beams)
    kept = (beams.lengths, beams.log_probs, beams.scores, beams.finished)
    return Hypotheses(beams.tokens[:, :n_best], *(leaf[:n_best] for leaf in kept))


def _check(length, beam_size, n_best, length_penalty, coverage_penalty, attention, source_mask) -> None:
    for name, size in (("length", length), ("beam_size", beam_size), ("n_best", n_best)):
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, found {size}")
    if n_best > beam_size:
        raise ValueError(f"n_best: expected at most beam_size, {beam_size}, found {n_best}")
    for name, penalty in (("length_penalty", length_penalty), ("coverage_penalty", coverage_penalty)):
        if not penalty >= 0:
            raise ValueError(f"{name}: expected at least 0, found {penalty}")
    if coverage_penalty and (attention is None or source_mask is None):
        raise ValueError("coverage_penalty: expected a decoder with attention, and source_mask; found none")
