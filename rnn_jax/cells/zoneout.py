"""Zoneout: units of the carry that keep their old value, at random while training."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from rnn_jax.cells.base import Cell, cell_factory
from rnn_jax.typing import Carry, Inputs, Key, Params, Preactivations, Projected

Rates = float | np.floating | Sequence[float]


def _per_leaf(rate: Rates, leaves: int) -> tuple[float, ...]:
    """One rate for each array of the carry."""
    rates = tuple(rate) if isinstance(rate, Sequence) else (rate,) * leaves
    if len(rates) != leaves or not all(0 <= r < 1 for r in rates):
        raise ValueError(f"zoneout: expected one rate in [0, 1), or one for each of {leaves} arrays, found {rate!r}")
    return tuple(map(float, rates))


def draw_zoneout(key: Key, cell: Cell, rate: Rates, params: Params, leading: tuple[int, ...]) -> PyTree:
    """Draw the masks that `zoneout` takes.

    Args:
        key: a JAX random key.
        cell: the cell that is wrapped.
        rate: the share of units that keep their value; or one for each array of the carry, in its order.
        params: parameters of the cell.
        leading: [T, B], or whatever axes the inputs have before their features.

    Returns:
        A tree like the carry, each leaf bool `[T, B, H]`: True = this unit keeps its value at this step.

    Raises:
        ValueError: a rate outside [0, 1); not as many rates as the carry has arrays.
    """
    carry = jax.eval_shape(lambda params: cell.initial_carry(params, leading), params)
    leaves, structure = jax.tree.flatten(carry)
    keys = jax.random.split(key, len(leaves))
    masks = [
        jax.random.bernoulli(k, r, leaf.shape)
        for k, r, leaf in zip(keys, _per_leaf(rate, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, masks)


@cell_factory
def zoneout(cell: Cell, rate: Rates) -> Cell:
    """Let units of the carry keep their old value.

        c̃_t = cell(c_tm1, x_t)
        c_t = d_t ⊙ c_tm1 + (1 - d_t) ⊙ c̃_t        training, d_t ~ Bernoulli(p)
        c_t = p c_tm1 + (1 - p) c̃_t                evaluation: the expectation

    c_t stands for every array of the carry, each with its own d_t and, if `rate` is a tuple, its own p: for an LSTM
    (p_hidden, p_cell). The wrapped cell takes `(x, masks)` as inputs, with the masks of `draw_zoneout`; `(x, None)`
    is evaluation. Parameters and carry are the cell's own. Arrays of integers are left to the cell.

    An output that is itself part of the carry (y_t = h_t) is that of the new carry, and a `readout` reads the new
    carry; any other output is the step's own.

    Args:
        cell: any cell.
        rate: p, in [0, 1); or one for each array of the carry, in its order.

    Source: Krueger et al. 2017 (arXiv 1606.01305).

    Raises (when it is evaluated):
        ValueError: a rate outside [0, 1); not as many rates as the carry has arrays.
    """

    def project(params: Params, inputs: tuple[Inputs, PyTree]) -> tuple[Projected, PyTree]:
        x, masks = inputs
        return cell.project(params, x), masks

    def recur(params: Params, carry: Carry, projected: tuple[Projected, PyTree]) -> tuple[Preactivations, PyTree]:
        inner, masks = projected
        return cell.recur(params, carry, inner), masks

    def update(params: Params, carry: Carry, preactivations: tuple[Preactivations, PyTree]) -> tuple[Carry, Any]:
        inner, masks = preactivations
        new_carry, output = cell.update(params, carry, inner)
        old, new = jax.tree.leaves(carry), jax.tree.leaves(new_carry)
        rates = _per_leaf(rate, len(new))
        drawn = [None] * len(new) if masks is None else jax.tree.leaves(masks)
        kept = [_keep(*leaves) for leaves in zip(old, new, rates, drawn, strict=True)]
        # Whether an output is part of the carry can be told from its being the very same array.
        place = {id(before): after for before, after in zip(new, kept, strict=True)}
        output = jax.tree.map(lambda y: place.get(id(y), y), output)
        return jax.tree.unflatten(jax.tree.structure(new_carry), kept), output

    readout = cell.readout

    def read(params: Params, carry: Carry, projected: tuple[Projected, PyTree]) -> Any:
        assert readout is not None
        return readout(params, carry, projected[0])

    return cell.replace(
        project=project, recur=recur, update=update, readout=None if readout is None else read, coefficients=None
    )


def _keep(old: Array, new: Array, rate: float, mask: Array | None) -> Array:
    if not jnp.issubdtype(new.dtype, jnp.inexact):
        return new
    return new + rate * (old - new) if mask is None else jnp.where(mask, old, new)
