"""Initial weights: per-gate orthogonal, uniform(±1/√H), identity; biases for long memories.

An initialiser is `(key, shape, dtype) -> array`, as in `jax.nn.initializers`. A matrix that holds several gates side by
side, `[rows, gates * H]`, is drawn gate by gate: an orthogonal draw of the joint matrix would leave each gate's block
far from orthogonal and about half as large.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnn_jax.typing import Dtype, Key

Initializer = Callable[[Key, tuple[int, ...], Dtype], Array]


def uniform_hidden(hidden_size: int) -> Initializer:
    """U(-1/√H, 1/√H) for every weight and bias: what PyTorch's recurrent layers start from."""
    bound = 1.0 / math.sqrt(hidden_size)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def identity(key: Key, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    """The identity matrix: with ReLU units, the IRNN of Le, Jaitly & Hinton 2015 (arXiv 1504.00941).

    Raises:
        ValueError: `shape` is not that of a matrix.
    """
    del key
    if len(shape) != 2:
        raise ValueError(f"identity: expected the shape of a matrix, found {list(shape)}")
    return jnp.eye(*shape, dtype=dtype)


def chrono(longest: int) -> Initializer:
    """log U(1, T_max - 1), for the bias of a gate that keeps: time constants spread evenly from 1 to T_max steps.

    Args:
        longest: T_max, the longest lag that is expected, at least 3.

    Raises:
        ValueError: it is not.

    Source: Tallec & Ollivier 2018 (arXiv 1804.11188).
    """
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 3:
        raise ValueError(f"chrono: expected a whole number at least 3, the longest lag, found {longest!r}")
    return lambda key, shape, dtype=jnp.float32: jnp.log(
        jax.random.uniform(key, shape, dtype, minval=1.0, maxval=longest - 1.0)
    )


INITIALIZERS: dict[str, Initializer] = {
    "glorot": jax.nn.initializers.glorot_uniform(),
    "lecun": jax.nn.initializers.lecun_normal(),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "identity": identity,
    "zeros": jax.nn.initializers.zeros,
}


def resolve(initializer: str | Initializer, hidden_size: int, argument: str) -> Initializer:
    """Turn a name into an initialiser; a function is taken as it is.

    Args:
        initializer: a key of `INITIALIZERS`, `"uniform"` for `uniform_hidden(hidden_size)`, or `(key, shape, dtype) ->
            array`.
        hidden_size: H.
        argument: the caller's name for it, for the error.

    Raises:
        ValueError: unknown name.
    """
    if callable(initializer):
        return initializer
    if initializer == "uniform":
        return uniform_hidden(hidden_size)
    if initializer not in INITIALIZERS:
        known = ", ".join(["uniform", *INITIALIZERS])
        raise ValueError(
            f"{argument}: expected one of {known}, or a function (key, shape, dtype); found {initializer!r}"
        )
    return INITIALIZERS[initializer]


def per_gate(initializer: Initializer, key: Key, rows: int, hidden_size: int, gates: int, dtype: Dtype) -> Array:
    """Draw `gates` blocks `[rows, H]` one by one and lay them side by side: `[rows, gates * H]`.

    Half precisions are drawn in float32 and rounded: an orthogonal draw needs a QR decomposition, which has no other.
    """
    drawn_dtype = dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32
    blocks = [initializer(k, (rows, hidden_size), drawn_dtype) for k in jax.random.split(key, gates)]
    return jnp.concatenate(blocks, axis=-1).astype(dtype)
