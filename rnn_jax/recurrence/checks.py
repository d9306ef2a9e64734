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
    check_mask(mask, leading)
    check_mask(reset, leading, "reset")


def check_mask(mask: Array | None, leading: tuple[int, ...], name: str = "mask") -> None:
    """Check what is to be true or false of every step: numbers would count for something else here and there.

    Raises:
        ValueError: it is not bool of the shape `leading`; it begins with `name`.
    """
    if mask is None:
        return
    if not hasattr(mask, "dtype"):
        raise ValueError(f"{name}: expected an array, bool {list(leading)}, found a {type(mask).__name__}")
    if mask.shape != leading or mask.dtype != jnp.bool_:
        raise ValueError(f"{name}: expected bool {list(leading)}, found {mask.dtype} {list(mask.shape)}")
