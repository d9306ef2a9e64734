"""The loop with deferred weight gradients.

Autodiff of a scan adds one step's weight gradient to an accumulator [H, gates·H] at each of T steps. Here the backward
loop computes only the gradients of the carry and of the preactivations; every weight gradient then comes from one
vectorised VJP over all time steps, one large product per matrix:

    backward loop, t = T..1:   (dc_tm1, dz_t) = VJP[update](c_tm1, z_t)(dc_t, dy_t);   dc_tm1 += VJP[recur](c_tm1)(dz_t)
    after it:                  (dparams, dprojected) = VJP[recur](params, projected; all c_tm1)(all dz)
                               dparams += VJP[update](params; all c_tm1, all z)(all dc, all dy)   if update reads params

The forward loop keeps c_tm1 (after a reset) and z_t. Nothing here knows any cell.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rnn_jax.cells.base import Cell, reads
from rnn_jax.recurrence.loop import Steps, lay_out, plain_loop, restart, scan, select, zeros_like
from rnn_jax.recurrence.rows import one_axis_pays
from rnn_jax.typing import Carry, Params

Residuals = tuple[Params, Carry, Steps, Carry, PyTree]


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def inexact(tree: PyTree) -> list[Any]:
    """The leaves that have gradients."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_inexact(leaf)]


def replace_inexact(tree: PyTree, leaves: list[Any]) -> PyTree:
    """`tree` with the leaves that have gradients taken from `leaves`."""
    new = iter(leaves)
    return jax.tree.map(lambda leaf: next(new) if _is_inexact(leaf) else leaf, tree)


def _cotangents(tree: PyTree, leaves: list[Any]) -> PyTree:
    """Cotangents of `tree`: `leaves` for what has a gradient, float0 for the rest."""
    new = iter(leaves)
    zero = jax.dtypes.float0
    return jax.tree.map(lambda leaf: next(new) if _is_inexact(leaf) else np.zeros(leaf.shape, zero), tree)


def _inexact_cotangents(tree: PyTree, cotangents: PyTree) -> list[Any]:
    """The cotangents of the leaves of `tree` that have gradients."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(cotangents), strict=True)
    return [cotangent for leaf, cotangent in pairs if _is_inexact(leaf)]


def over_time(cell: Cell, function: Callable[..., PyTree], batch_ndim: int) -> Callable[..., PyTree]:
    """Lift `function(*trees)` from one step to all T steps at once.

    For a rank-polymorphic cell time and batch become one axis where that pays. Any other function is vmapped over time.
    """
    if not cell.rank_polymorphic:
        return jax.vmap(function)
    if not one_axis_pays():
        return function

    def lifted(*trees: PyTree) -> PyTree:
        leading = jax.tree.leaves(trees)[0].shape[: batch_ndim + 1]

        rows = math.prod(leading)
        flat = jax.tree.map(lambda leaf: leaf.reshape(rows, *leaf.shape[batch_ndim + 1 :]), trees)
        return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), function(*flat))

    return lifted


def _packable(leaves: list[Any], batch_ndim: int) -> bool:
    """Whether the arrays of one step have one shape, with a feature axis, and one dtype."""
    return len({(leaf.shape, leaf.dtype) for leaf in leaves}) == 1 and leaves[0].ndim > batch_ndim


def _pack(leaves: list[Any], packable: bool) -> list[Any]:
    """Lay arrays side by side, as one, where they are `_packable`.

    The product dz @ R.T needs them so, and the gradients of W and R after the loop, so one array is stored in place of
    one per gate, and never cut.
    """
    return [jnp.concatenate(leaves, axis=-1)] if packable else leaves


def _first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def deferred_loop(
    cell: Cell,
    reverse: bool,
    batch_ndim: int,
    length: int,
    params: Params,
    carry: Carry,
    reset_carry: Carry,
    steps: Steps,
) -> tuple[Carry, PyTree]:
    """`plain_loop` with the gradient of the module's docstring."""
    stored, restore = lay_out(params, transposed_use=False)
    return plain_loop(cell, reverse, stored, carry, reset_carry, steps, length, restore, turned=False)


def _forward(
    cell: Cell,
    reverse: bool,
    batch_ndim: int,
    length: int,
    params: Params,
    carry: Carry,
    reset_carry: Carry,
    steps: Steps,
) -> tuple[tuple[Carry, PyTree], Residuals]:
    stored, restore = lay_out(params, transposed_use=False)

    def body(carry: Carry, step: Steps) -> tuple[Carry, tuple[PyTree, Carry, PyTree]]:
        weights = restore(stored)
        carry = restart(step.reset, reset_carry, carry)
        preactivations = cell.recur(weights, carry, step.projected)
        new_carry, output = cell.update(weights, carry, preactivations)
        return select(step.mask, new_carry, carry), (output, carry, preactivations)

    carry, (outputs, carries, preactivations) = scan(body, carry, steps, length=length, reverse=reverse, weights=stored)
    return (carry, outputs), (params, reset_carry, steps, carries, preactivations)


def _backward(
    cell: Cell, reverse: bool, batch_ndim: int, length: int, residuals: Residuals, cotangents: tuple[PyTree, PyTree]
) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    params, reset_carry, steps, carries, preactivations = residuals
    first_carry, first_preactivations = _first(carries), _first(preactivations)
    new_carry, output = jax.eval_shape(cell.update, params, first_carry, first_preactivations)
    d_carry = _inexact_cotangents(new_carry, cotangents[0])
    d_outputs = _inexact_cotangents(output, cotangents[1])
    update_reads_params = any(reads(cell.update, params, first_carry, first_preactivations))
    packable = _packable(inexact(first_preactivations), batch_ndim)

    stored, restore = lay_out(params, transposed_use=True)

    def body(state: tuple[list[Any], list[Any]], xs: Any) -> tuple[Any, Any]:
        (d_carry, d_reset), (carry, preactivations, step, d_output) = state, xs
        weights = restore(stored)

        def update(c: list[Any], z: list[Any]) -> tuple[list[Any], list[Any]]:
            new, y = cell.update(weights, replace_inexact(carry, c), replace_inexact(preactivations, z))
            return inexact(new), inexact(y)

        def recur(c: list[Any]) -> list[Any]:
            return inexact(cell.recur(weights, replace_inexact(carry, c), step.projected))

        d_new = select(step.mask, d_carry, zeros_like(d_carry))
        through_update, d_preactivations = jax.vjp(update, inexact(carry), inexact(preactivations))[1](
            (d_new, d_output)
        )
        (through_recur,) = jax.vjp(recur, inexact(carry))[1](d_preactivations)
        d_tm1 = select(step.mask, jax.tree.map(jnp.add, through_update, through_recur), d_carry)
        if step.reset is not None:
            d_restarted = select(step.reset, d_tm1, zeros_like(d_tm1))
            d_reset = jax.tree.map(jnp.add, d_reset, d_restarted)
            d_tm1 = select(step.reset, zeros_like(d_tm1), d_tm1)
        return (d_tm1, d_reset), (_pack(d_preactivations, packable), d_new if update_reads_params else [])

    xs = (carries, preactivations, steps, d_outputs)
    (d_carry, d_reset), (packed, d_new) = scan(
        body, (d_carry, zeros_like(inexact(reset_carry))), xs, length=length, reverse=not reverse, weights=stored
    )

    def recur(p: list[Any], projected: list[Any]) -> PyTree:
        full = replace_inexact(params, p)

        def step(carry: Carry, old: PyTree, new: list[Any]) -> list[Any]:
            return _pack(inexact(cell.recur(full, carry, replace_inexact(old, new))), packable)

        return over_time(cell, step, batch_ndim)(carries, steps.projected, projected)

    d_params, d_projected = jax.vjp(recur, inexact(params), inexact(steps.projected))[1](packed)

    if update_reads_params:

        def update(p: list[Any]) -> tuple[PyTree, PyTree]:
            full = replace_inexact(params, p)

            def step(carry: Carry, z: PyTree) -> tuple[list[Any], list[Any]]:
                new, y = cell.update(full, carry, z)
                return inexact(new), inexact(y)

            return over_time(cell, step, batch_ndim)(carries, preactivations)

        (from_update,) = jax.vjp(update, inexact(params))[1]((d_new, d_outputs))
        d_params = jax.tree.map(jnp.add, d_params, from_update)

    d_steps = _cotangents(steps, [*d_projected])
    return _cotangents(params, d_params), _cotangents(new_carry, d_carry), _cotangents(reset_carry, d_reset), d_steps


deferred_loop.defvjp(_forward, _backward)
