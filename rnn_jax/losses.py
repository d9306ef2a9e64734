"""Masked losses: each returns (sum, count), so that means over batches, devices and padding come out right."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rnn_jax.recurrence.checks import check_mask
from rnn_jax.recurrence.loop import varying_as
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
        ValueError: `label_smoothing` out of range; `targets` or `mask` of another shape or dtype.

    >>> total, count = cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 2]))
    >>> print(f"{total / count:.4f}")  # log 4
    1.3863
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1), found {label_smoothing}")
    _check_targets(targets, logits.shape[:-1])
    check_mask(mask, targets.shape)
    logits = _single(logits)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if label_smoothing:
        uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    if mask is None:
        return losses.sum(), jnp.asarray(losses.size, losses.dtype)
    return jnp.where(mask, losses, 0).sum(), mask.sum(dtype=losses.dtype)


# Logits taken at once by `linear_cross_entropy`. On a CPU 16 MB of them, near enough to its caches that none of the
# passes over them goes to memory; on an accelerator as many as keep its products large.
_AT_ONCE = {"cpu": 2**22}
_AT_ONCE_ELSEWHERE = 2**26


def linear_cross_entropy(
    vectors: Float[Array, "T *B H"],
    kernel: Float[Array, "H V"],
    bias: Float[Array, "V"],
    targets: Tokens,
    mask: Mask | None = None,
    *,
    label_smoothing: float | int = 0.0,
    dtype: Any = jnp.float32,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`cross_entropy(vectors @ kernel + bias, targets, mask)` that never holds the logits of a whole sequence.

    Where they are many, a few time steps go at a time. Under differentiation the gradients of a part are taken while
    its logits are at hand, so none are kept and none are computed twice; what it costs is that there are derivatives
    of the first order and in reverse mode only.

    Args:
        vectors: [T, ..., H], the last outputs of a model.
        kernel: [H, V], the matrix of the softmax.
        bias: [V].
        targets: [T, ...], integers in 0..V-1.
        mask: [T, ...] bool, False = padding; None counts everything.
        label_smoothing: see `cross_entropy`.
        dtype: compute dtype of the products; the logits are float32.

    Returns:
        (L, N), see `cross_entropy`.

    Raises:
        ValueError: as `cross_entropy`.

    >>> total, count = linear_cross_entropy(jnp.ones((3, 2)), jnp.zeros((2, 4)), jnp.zeros(4), jnp.array([0, 1, 2]))
    >>> print(f"{total / count:.4f}")  # log 4
    1.3863
    """
    _check_targets(targets, vectors.shape[:-1])
    check_mask(mask, targets.shape)
    if mask is None:
        mask = jnp.ones(targets.shape, bool)
    at_once = _AT_ONCE.get(jax.default_backend(), _AT_ONCE_ELSEWHERE)
    length, rows = len(vectors), max(1, math.prod(targets.shape[1:]))
    parts = -(-length // max(1, at_once // (rows * kernel.shape[1]))) if length else 1
    function = functools.partial(_linear_cross_entropy, label_smoothing, jnp.dtype(dtype))
    total: Any
    if parts == 1:
        total = function(vectors, kernel, bias, targets, mask)
    else:
        steps = -(-length // parts)

        def split(sequence: Array) -> Array:
            padding = [(0, steps * parts - length)] + [(0, 0)] * (sequence.ndim - 1)
            return jnp.pad(sequence, padding).reshape(parts, steps, *sequence.shape[1:])

        vectors, kernel, bias = varying_as((vectors, kernel, bias), vectors, kernel, bias, targets, mask)
        total = _in_parts(function, split(vectors), kernel, bias, split(targets), split(mask))
    return total, mask.sum(dtype=jnp.float32)


def _linear_cross_entropy(
    label_smoothing: float, dtype: Any, vectors: Array, kernel: Array, bias: Array, targets: Array, mask: Array
) -> Array:
    if targets.ndim > 1:
        # The batch first: a flat axis of time and batch could not stay spread over devices.
        vectors, targets, mask = (array.swapaxes(0, 1) for array in (vectors, targets, mask))
    # One flat axis: XLA:CPU would transpose copies of whole sequences for the gradient of the matrix.
    flat = vectors.reshape(-1, vectors.shape[-1]).astype(dtype)
    logits = (flat @ kernel.astype(dtype)).astype(jnp.float32) + bias.astype(jnp.float32)
    return cross_entropy(logits, targets.reshape(-1), mask.reshape(-1), label_smoothing=label_smoothing)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_parts(function: Any, vectors: Array, kernel: Array, bias: Array, targets: Array, mask: Array) -> Array:
    """The sum of `function` over parts: the leading axis of vectors, targets and mask."""

    def body(total: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        vectors, targets, mask = part
        return total + function(vectors, kernel, bias, targets, mask), None

    start = varying_as(jnp.zeros((), jnp.float32), vectors)
    return jax.lax.scan(body, start, (vectors, targets, mask))[0]


def _in_parts_forward(
    function: Any, vectors: Array, kernel: Array, bias: Array, targets: Array, mask: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    with_gradient = jax.value_and_grad(function, argnums=(0, 1, 2))

    def body(sums: Any, part: tuple[Array, Array, Array]) -> tuple[Any, Array]:
        vectors, targets, mask = part
        loss, (of_vectors, *of_weights) = with_gradient(vectors, kernel, bias, targets, mask)
        return jax.tree.map(lambda total, part: total + part.astype(total.dtype), sums, (loss, of_weights)), of_vectors

    zeros = (jnp.zeros((), jnp.float32), [jnp.zeros(weight.shape, jnp.float32) for weight in (kernel, bias)])
    start = varying_as(zeros, vectors)
    (total, (of_kernel, of_bias)), of_vectors = jax.lax.scan(body, start, (vectors, targets, mask))
    return total, (of_vectors, of_kernel.astype(kernel.dtype), of_bias.astype(bias.dtype))


def _in_parts_backward(function: Any, gradients: tuple[Array, Array, Array], cotangent: Array) -> tuple[Any, ...]:
    return *(gradient * cotangent.astype(gradient.dtype) for gradient in gradients), None, None


_in_parts.defvjp(_in_parts_forward, _in_parts_backward)


def _check_targets(targets: Array, shape: tuple[int, ...]) -> None:
    if targets.shape != shape:
        raise ValueError(f"targets: expected {list(shape)}, found {list(targets.shape)}")


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

    Raises:
        ValueError: `targets` or `mask` of another shape or dtype.
    """
    _check_targets(targets, predictions.shape)
    check_mask(mask, targets.shape[:-1])
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
