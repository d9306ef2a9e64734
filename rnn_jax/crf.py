"""The linear-chain conditional random field: a distribution over whole label sequences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax.recurrence.checks import check_mask
from rnn_jax.recurrence.loop import varying_as


class Transitions(NamedTuple):
    """The scores that no input changes. All finite: a large negative number forbids.

    Attributes:
        between: A [K, K], of label j (column) right after label i (row).
        first: a [K], of a label that begins a sequence.
        last: z [K], of a label that ends one.
    """

    between: Array
    first: Array
    last: Array


def path_score(
    emissions: Float[Array, "T *B K"],
    labels: Int[Array, "T *B"],
    transitions: Transitions,
    mask: Bool[Array, "T *B"] | None = None,
) -> Float[Array, "*B"]:
    """The score of given label sequences.

        s(y) = a[y_1] + Σ_{t=1..T} e_t[y_t] + Σ_{t=2..T} A[y_{t-1}, y_t] + z[y_T]

    Args:
        emissions: e, the scores of every label at every step; sums of fewer than 32 bits are taken in float32.
        labels: y, integers in 0..K-1; any where masked.
        transitions: A, a, z.
        mask: False = padding, wherever it lies: the sequence is what remains. None: no padding.

    Returns:
        [*B]; 0 for a sequence that is padding throughout.

    Raises:
        ValueError: a mask of another shape or dtype.
    """
    emissions, transitions = _wide(emissions, transitions)
    mask = _checked(mask, emissions)
    steps = jnp.arange(emissions.shape[0], dtype=jnp.int32).reshape(-1, *[1] * (mask.ndim - 1))
    # The step of the last label up to each step, -1 before the first.
    latest = jax.lax.cummax(jnp.where(mask, steps, -1), axis=0)
    before = jnp.concatenate([jnp.full_like(latest[:1], -1), latest[:-1]])
    label_before = jnp.take_along_axis(labels, jnp.maximum(before, 0), axis=0)
    reached = jnp.where(before < 0, transitions.first[labels], transitions.between[label_before, labels])
    emitted = jnp.take_along_axis(emissions, labels[..., None], axis=-1)[..., 0]
    score = jnp.where(mask, emitted + reached, 0).sum(axis=0)
    if emissions.shape[0] == 0:
        return score
    label_at_end = jnp.take_along_axis(labels, jnp.maximum(latest[-1:], 0), axis=0)[0]
    return score + jnp.where(latest[-1] < 0, 0, transitions.last[label_at_end])


def log_partition(
    emissions: Float[Array, "T *B K"], transitions: Transitions, mask: Bool[Array, "T *B"] | None = None
) -> Float[Array, "*B"]:
    """The logarithm of the sum over all K^T label sequences, by the forward recursion.

        α_1[j] = a[j] + e_1[j]
        α_t[j] = e_t[j] + log Σ_i exp(α_{t-1}[i] + A[i, j])
        log Z  = log Σ_y exp s(y) = log Σ_j exp(α_T[j] + z[j])

    Its gradient with respect to e_t[j] is the probability P(y_t = j).

    Args:
        emissions, transitions, mask: see `path_score`.

    Returns:
        [*B]; 0 for a sequence that is padding throughout, of which there is one labelling, the empty one.
    """

    def step(state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        scores, begun = state
        emission, valid = inputs
        following = logsumexp(scores[..., None] + transitions.between, axis=-2)
        reached = jnp.where(begun[..., None], following, transitions.first)
        return (jnp.where(valid[..., None], emission + reached, scores), begun | valid), None

    emissions, transitions = _wide(emissions, transitions)
    mask = _checked(mask, emissions)
    (scores, begun), _ = jax.lax.scan(step, _nothing_read(emissions, transitions, mask), (emissions, mask))
    return jnp.where(begun, logsumexp(scores + transitions.last, axis=-1), 0)


def negative_log_likelihood(
    emissions: Float[Array, "T *B K"],
    labels: Int[Array, "T *B"],
    transitions: Transitions,
    mask: Bool[Array, "T *B"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Negative log-likelihood of label sequences in nats, a masked loss as those of `rnn_jax.losses`.

        L = Σ_b log Z_b - s_b(y_b),   N = Σ_{t,b} m_tb

    Args:
        emissions, labels, transitions, mask: see `path_score`.

    Returns:
        (L, N); L / N is in nats per label, comparable with the cross-entropy of a softmax.

    Source: Lafferty, McCallum & Pereira 2001.
    """
    mask = _checked(mask, emissions)
    difference = log_partition(emissions, transitions, mask) - path_score(emissions, labels, transitions, mask)
    return difference.sum(), mask.sum(dtype=difference.dtype)


def marginals(
    emissions: Float[Array, "T *B K"], transitions: Transitions, mask: Bool[Array, "T *B"] | None = None
) -> Float[Array, "T *B K"]:
    """P(y_t = j) of every label at every step, zero where masked: the gradient of `log_partition`."""
    emissions, transitions = _wide(emissions, transitions)
    return jax.grad(lambda emissions: log_partition(emissions, transitions, mask).sum())(emissions)


def viterbi(
    emissions: Float[Array, "T *B K"], transitions: Transitions, mask: Bool[Array, "T *B"] | None = None
) -> tuple[Int[Array, "T *B"], Float[Array, "*B"]]:
    """The likeliest label sequence: the forward recursion with the largest term for the sum, then the way back.

    Args:
        emissions, transitions, mask: see `path_score`.

    Returns:
        (labels [T, *B], 0 where masked; their score [*B]).

    Source: Viterbi 1967.
    """
    size = emissions.shape[-1]

    def forward(state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        scores, begun = state
        emission, valid = inputs
        through = scores[..., None] + transitions.between
        reached = jnp.where(begun[..., None], through.max(axis=-2), transitions.first)
        came_from = through.argmax(axis=-2).astype(jnp.int32)
        # At padding and at the first label every label leads back to itself.
        came_from = jnp.where((begun & valid)[..., None], came_from, jnp.arange(size, dtype=jnp.int32))
        return (jnp.where(valid[..., None], emission + reached, scores), begun | valid), came_from

    def backward(label: Array, came_from: Array) -> tuple[Array, Array]:
        return jnp.take_along_axis(came_from, label[..., None], axis=-1)[..., 0], label

    emissions, transitions = _wide(emissions, transitions)
    mask = _checked(mask, emissions)
    (scores, begun), came_from = jax.lax.scan(forward, _nothing_read(emissions, transitions, mask), (emissions, mask))
    scores = scores + transitions.last
    _, labels = jax.lax.scan(backward, scores.argmax(axis=-1).astype(jnp.int32), came_from, reverse=True)
    return jnp.where(mask, labels, 0), jnp.where(begun, scores.max(axis=-1), 0)


def _wide(emissions: Array, transitions: Transitions) -> tuple[Array, Transitions]:
    """All scores in one dtype: fewer bits than 32 could not hold the score of a sequence."""
    scores = [jnp.asarray(leaf) for leaf in (emissions, *transitions)]
    dtype = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in scores) else jnp.float32
    emissions, *rest = (leaf.astype(dtype) for leaf in scores)
    return emissions, Transitions(*rest)


def _checked(mask: Array | None, emissions: Array) -> Array:
    check_mask(mask, emissions.shape[:-1])
    return jnp.ones(emissions.shape[:-1], bool) if mask is None else mask


def _nothing_read(emissions: Array, transitions: Transitions, mask: Array) -> tuple[Array, Array]:
    """(scores [*B, K], whether a label has been read [*B]) before the first step."""
    start = jnp.zeros(emissions.shape[1:], emissions.dtype), jnp.zeros(emissions.shape[1:-1], bool)
    return varying_as(start, emissions, transitions, mask)
