"""Decoding one symbol after another: the likeliest, or one drawn."""

import operator
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from rnn_jax.cells.base import accumulation_dtype
from rnn_jax.recurrence.packed import packed_products
from rnn_jax.typing import Carry, Key

NOISE_BLOCK = 64

# Neighbouring numbers of which `largest` first looks at the largest alone.
_TOP_BLOCK = 32

# Carry, last tokens, which sequences have ended.
_State = tuple[Any, Array, Array]


@runtime_checkable
class DecodeStep(Protocol):
    """One step of a decoder."""

    def __call__(self, carry: Any, tokens: Int[Array, "*B"], /) -> tuple[Any, Float[Array, "*B V"]]:
        """Read one token of each sequence; return the carry and the logits of the next token."""
        ...


def largest(values: Float[Array, "*B V"], k: int) -> tuple[Float[Array, "*B k"], Int[Array, "*B k"]]:
    """`jax.lax.top_k` of numbers, nan not among them: the k largest and where they stand, equal ones in that order.

    On a CPU, where that sorts with one thread, long rows are cut into blocks, and only the k blocks with the largest
    maxima are searched: an element of any other has k before it.
    """
    size = values.shape[-1]
    if jax.default_backend() != "cpu" or size <= 4 * k * _TOP_BLOCK:
        found, places = jax.lax.top_k(values, k)
        return found, places
    padding = [(0, 0)] * (values.ndim - 1) + [(0, -size % _TOP_BLOCK)]
    padded = jnp.pad(values, padding, constant_values=-jnp.inf)
    blocks = padded.reshape(*values.shape[:-1], padded.shape[-1] // _TOP_BLOCK, _TOP_BLOCK)
    # In their order, for the sake of ties.
    chosen = jnp.sort(jax.lax.top_k(blocks.max(axis=-1), k)[1], axis=-1)
    candidates = jnp.take_along_axis(blocks, chosen[..., None], axis=-2)
    found, inside = jax.lax.top_k(candidates.reshape(*values.shape[:-1], k * _TOP_BLOCK), k)
    return found, jnp.take_along_axis(chosen, inside // _TOP_BLOCK, axis=-1) * _TOP_BLOCK + inside % _TOP_BLOCK


def as_symbols(tokens: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """Tokens in a dtype that holds every symbol which may follow them: at least int32."""
    tokens = jnp.asarray(tokens)
    return tokens.astype(jnp.int32) if tokens.dtype.itemsize < 4 else tokens


def filter_top_k(logits: Float[Array, "*B V"], top_k: int) -> Float[Array, "*B V"]:
    """Keep the k largest logits; the rest become -inf. Ties with the k-th are kept."""
    smallest_kept = largest(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits < smallest_kept, -jnp.inf, logits)


def filter_top_p(logits: Float[Array, "*B V"], top_p: float | Float[Array, ""]) -> Float[Array, "*B V"]:
    """Keep the smallest set of symbols whose probability reaches p, the likeliest always; the rest become -inf.

    Ties with the least likely of them are kept.

    Source: Holtzman et al. 2020 (arXiv 1904.09751), nucleus sampling.
    """
    ordered = jnp.sort(logits, axis=-1, descending=True)
    # Many small probabilities add up to nothing in half precision.
    probabilities = jax.nn.softmax(ordered.astype(accumulation_dtype(ordered.dtype)), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounded sums reach 1 before the last symbols.
    kept = ((before < top_p) | (top_p >= 1)).at[..., 0].set(True)
    smallest_kept = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < smallest_kept, -jnp.inf, logits)


def warp(
    logits: Float[Array, "*B V"],
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Float[Array, "*B V"]:
    """The logits to sample from, in at least float32: divided by the temperature, then cut by top-k, then by top-p.

    They are shifted so that the largest is 0, which changes no probability: no temperature makes them overflow.
    """
    logits = logits.astype(accumulation_dtype(logits.dtype))
    greatest = logits.max(axis=-1, keepdims=True)
    logits = (logits - jnp.where(jnp.isfinite(greatest), greatest, 0)) / temperature
    if top_k is not None:
        logits = filter_top_k(logits, top_k)
    if top_p is not None:
        logits = filter_top_p(logits, top_p)
    return logits


def greedy(
    step: DecodeStep, carry: Carry, tokens: Int[Array, "*B"], length: int, *, end: int | None = None
) -> tuple[Carry, Int[Array, "T *B"]]:
    """Take the likeliest symbol `length` times.

    Args:
        step: reads a token, gives the logits of the next.
        carry: the decoder's carry before `tokens` is read.
        tokens: the last known symbol of each sequence, [B] or scalar.
        length: T, how many symbols to produce.
        end: the symbol that ends a sequence: nothing but it follows; None: there is none.

    Returns:
        (carry, tokens [T, B]): the carry has read all but the last of them.

    Raises:
        ValueError: `length` below 0.
    """
    _check_length(length)
    tokens = as_symbols(tokens)

    def body(state: _State, _: None) -> tuple[_State, Array]:
        carry, tokens, ended = state
        carry, logits = step(carry, tokens)
        tokens, ended = _hold(jnp.argmax(logits, axis=-1).astype(tokens.dtype), ended, end)
        return (carry, tokens, ended), tokens

    state = (carry, tokens, jnp.zeros(tokens.shape, bool))
    body = packed_products(body, state, None, inference=True)
    (carry, _, _), produced = jax.lax.scan(body, state, length=length)
    return carry, produced


def _hold(tokens: Array, ended: Array, end: int | None) -> tuple[Array, Array]:
    """After its end a sequence only repeats it."""
    if end is None:
        return tokens, ended
    tokens = jnp.where(ended, end, tokens)
    return tokens, ended | (tokens == end)


def sample(
    step: DecodeStep,
    carry: Carry,
    tokens: Int[Array, "*B"],
    length: int,
    key: Key,
    *,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    end: int | None = None,
) -> tuple[Carry, Int[Array, "T *B"]]:
    """Sample `length` symbols, each from softmax(logits / temperature) cut by top-k and top-p.

    Args:
        step, carry, tokens, length: see `greedy`.
        key: a JAX random key.
        temperature: above 0; below 1 sharpens the distribution, above 1 flattens it. May be traced.
        top_k: keep that many likeliest symbols; None keeps all.
        top_p: keep the smallest set of symbols with that much probability; None keeps all. May be traced.
        end: see `greedy`.

    Returns:
        (carry, tokens [T, B]): the carry has read all but the last of them.

    Raises:
        ValueError: `length`, or `temperature`, `top_k` or `top_p` where their value is known, out of range.
    """
    _check_length(length)
    check_sampling(temperature, top_k, top_p)
    top_k = None if top_k is None else operator.index(top_k)
    tokens = as_symbols(tokens)
    _, logits = jax.eval_shape(step, carry, tokens)
    # Noise of half precision has few values, and ties go to the first symbol.
    dtype = accumulation_dtype(logits.dtype)

    def body(state: _State, noise: Array) -> tuple[_State, Array]:
        carry, tokens, ended = state
        carry, logits = step(carry, tokens)
        drawn = jnp.argmax(warp(logits, temperature, top_k, top_p) + noise, axis=-1).astype(tokens.dtype)
        drawn, ended = _hold(drawn, ended, end)
        return (carry, drawn, ended), drawn

    state = (carry, tokens, jnp.zeros(tokens.shape, bool))
    body = packed_products(body, state, jax.ShapeDtypeStruct(logits.shape, dtype), inference=True)

    # argmax(logits + Gumbel noise) is a draw from the softmax. Noise for a block of steps at once costs a fraction of a
    # call of the generator per step, and bounds the memory.
    def block(state: _State, key: Key, size: int) -> tuple[_State, Array]:
        return jax.lax.scan(body, state, jax.random.gumbel(key, (size, *logits.shape), dtype))

    whole, rest = divmod(length, NOISE_BLOCK)
    key_whole, key_rest = jax.random.split(key)
    state, produced = jax.lax.scan(
        lambda state, key: block(state, key, NOISE_BLOCK), state, jax.random.split(key_whole, whole)
    )
    (carry, _, _), last = block(state, key_rest, rest)
    return carry, jnp.concatenate([produced.reshape(whole * NOISE_BLOCK, *tokens.shape), last])


def _check_length(length: int) -> None:
    if length < 0:
        raise ValueError(f"length: expected 0 or more, found {length}")


def check_sampling(temperature: Any, top_k: Any, top_p: Any) -> None:
    """Check the choices of `sample` that are known before tracing.

    Raises:
        ValueError: names the argument.
    """
    # What is less would be 0 on its way through single precision.
    if _known_outside(temperature, lambda number: number >= np.finfo(np.float32).tiny):
        raise ValueError(f"temperature: expected a number above 0 (use greedy for 0), found {temperature!r}")
    if top_k is not None and not (hasattr(top_k, "__index__") and operator.index(top_k) >= 1):
        raise ValueError(f"top_k: expected a positive integer or None, found {top_k!r}")
    if top_p is not None and _known_outside(top_p, lambda number: (number > 0) & (number <= 1)):
        raise ValueError(f"top_p: expected a number in (0, 1] or None, found {top_p!r}")


def _known_outside(value: Any, allowed: Callable[[np.ndarray], Any]) -> bool:
    """Whether a value, if it is known before tracing, is not what is allowed."""
    if isinstance(value, Tracer):
        return False
    number = np.asarray(value)
    return not jnp.issubdtype(number.dtype, jnp.number) or not np.all(allowed(number))
