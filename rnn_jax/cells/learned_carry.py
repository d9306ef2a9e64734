"""A learned initial state for any cell."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnn_jax.cells.base import Cell, cell_factory
from rnn_jax.typing import Carry, Key, Params


@cell_factory
def learned_carry(cell: Cell) -> Cell:
    """Make the carry before the first step a parameter.

        c_0 = params["initial_carry"], one array [H] for each array of the carry, the same for every sequence

    It starts as the cell's own initial carry. Resets restore it too. Arrays of integers stay the cell's own.

    Args:
        cell: any cell whose parameters are a dict.

    Source: Forcada & Carrasco, "Learning the Initial State of a Second-Order Recurrent Neural Network", 1995.
    """

    def init(key: Key, input_size: int) -> Params:
        params = cell.init(key, input_size)
        start = jax.tree_util.tree_leaves_with_path(cell.initial_carry(params, ()))
        learned = {_name(path): leaf for path, leaf in start if jnp.issubdtype(leaf.dtype, jnp.inexact)}
        return params | {"initial_carry": learned}

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> Carry:
        def learned(path: tuple[object, ...], own: Array) -> Array:
            leaf = params["initial_carry"].get(_name(path))
            return own if leaf is None else jnp.broadcast_to(leaf.astype(own.dtype), own.shape)

        return jax.tree_util.tree_map_with_path(learned, cell.initial_carry(params, batch_shape))

    return cell.replace(init=init, initial_carry=initial_carry)


def _name(path: tuple[object, ...]) -> str:
    """`hidden` for the field of a NamedTuple; a carry that is one bare array is `carry`."""
    return jax.tree_util.keystr(path, simple=True, separator=".") or "carry"  # pyright: ignore[reportArgumentType]
