"""What sequences and carries must look like, and what is said of those that do not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rnn_jax.typing import Inputs


def describe(tree: PyTree) -> PyTree:
    """The dtypes and shapes of the leaves, as text."""
    return jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree)


def alike(one: PyTree, other: PyTree) -> bool:
    """Whether two trees have one structure and leaves of the same dtypes and shapes."""
    # A NamedTuple equals a tuple, and is another structure.
    return jax.tree.structure(one) == jax.tree.structure(other) and describe(one) == describe(other)


def check_form(name: str, expected: PyTree, found: PyTree) -> None:
    """Check a tree by another.

    Raises:
        ValueError: they are not `alike`; it begins with `name`.
    """
    if not alike(expected, found):
        raise ValueError(f"{name}: expected {describe(expected)}, found {describe(found)}")


def check_leading(inputs: Inputs, mask: Array | None, reset: Array | None, leading: tuple[int, ...]) -> None:
    """Check the axes of time and batch.

    Args:
        inputs: [T, B, ...], any tree.
        mask, reset: [T, B] bool, or None.
        leading: (T, B).

    Raises:
        ValueError: an argument has others, or is not bool; the message names it.
    """
    for leaf in jax.tree.leaves(inputs):
        if leaf.shape[: len(leading)] != leading:
            raise ValueError(f"inputs: every leaf must start with the axes {leading}, found shape {leaf.shape}")
    for name, array in (("mask", mask), ("reset", reset)):
        if array is not None and not hasattr(array, "dtype"):
            raise ValueError(f"{name}: expected an array, bool {list(leading)}, found a {type(array).__name__}")
        if array is not None and (array.shape != leading or array.dtype != jnp.bool_):
            raise ValueError(f"{name}: expected bool {list(leading)}, found {array.dtype} {list(array.shape)}")
