"""Masked losses: each returns (sum, count), so that means over batches, devices and padding come out right."""

import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rnn_jax.typing import Logits, Mask, Tokens


def cross_entropy(
    logits: Logits, targets: Tokens, mask: Mask | None = None, *, label_smoothing: float | int = 0.0
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Negative log-likelihood of the targets in nats.

        L = -Σ_t m_t log softmax(logits_t)[target_t],   N = Σ_t m_t

    Under label smoothing ε the target is (1 - ε) one-hot + ε / V instead (Szegedy et al. 2016, arXiv 1512.00567).

    Args:
        logits: [..., V], unnormalised.
        targets: [...] integers in 0..V-1.
        mask: [...] bool, False = padding; None counts everything.
        label_smoothing: ε in [0, 1).

    Returns:
        (L, N); the mean is L / N, without smoothing the perplexity is exp(L / N).

    Raises:
        ValueError: `label_smoothing` out of range.

    >>> total, count = cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 2]))
    >>> print(f"{total / count:.4f}")  # log 4
    1.3863
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), found {label_smoothing}")
    logits = _single(logits)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if label_smoothing:
        uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    if mask is None:
        return losses.sum(), jnp.asarray(losses.size, losses.dtype)
    return jnp.where(mask, losses, 0).sum(), mask.sum(dtype=losses.dtype)


def _single(array: Array) -> Array:
    """At least float32: fewer bits could not even count a batch."""
    few = jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits < 32
    return array.astype(jnp.float32) if few else array


def squared_error(
    predictions: Float[Array, "*TB F"], targets: Float[Array, "*TB F"], mask: Mask | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Squared error.

        L = Σ_t m_t Σ_f (prediction_tf - target_tf)²,   N = F Σ_t m_t

    Args:
        predictions: [..., F].
        targets: [..., F].
        mask: [...] bool, False = padding; None counts everything.

    Returns:
        (L, N); the mean squared error is L / N.
    """
    squares = jnp.square(_single(predictions) - _single(targets))
    if mask is None:
        return squares.sum(), jnp.asarray(squares.size, squares.dtype)
    counted = jnp.broadcast_to(mask[..., None], squares.shape)
    return jnp.where(counted, squares, 0).sum(), counted.sum(dtype=squares.dtype)


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; inf where that is beyond a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
