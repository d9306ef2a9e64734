"""Functions of rows, applied to sequences: with time and batch as one axis, or with both as they are."""

from collections.abc import Callable

from jaxtyping import Array, Float

from rnn_jax.cells.base import lone_cpu


def one_axis_pays() -> bool:
    """Whether products of sequences [T, B, D] had better have time and batch as one axis.

    On a lone CPU: contracting two axes, as the gradient of a matrix does, makes XLA:CPU transpose copies of whole
    sequences. On several devices that axis could not stay spread, and each would do the work of all.
    """
    return lone_cpu()


def over_rows(function: Callable[[Array], Array], vectors: Float[Array, "*TB D"]) -> Array:
    """`function(vectors)`, which maps [..., D] to [..., F], by one product of matrices; see `one_axis_pays`."""
    if not one_axis_pays():
        return function(vectors)
    found = function(vectors.reshape(-1, vectors.shape[-1]))
    return found.reshape(*vectors.shape[:-1], *found.shape[1:])
