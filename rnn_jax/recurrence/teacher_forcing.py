"""Recurrence through the output alone, the outputs known: every step at once, no loop."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from rnn_jax.cells.base import Cell
from rnn_jax.recurrence.checks import check_form, check_leading
from rnn_jax.recurrence.deferred import over_time
from rnn_jax.recurrence.loop import select, zeros_like
from rnn_jax.typing import Carry, Inputs, Params


def teacher_forced(
    cell: Cell,
    params: Params,
    inputs: Inputs,
    targets: PyTree,
    carry: Carry | None = None,
    *,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
) -> tuple[Carry, PyTree]:
    """Run a cell whose carry is its own last output, that output replaced by what it should have been.

        y_t = cell(params, d_tm1, x_t),   t = 1..T,   d_0 = carry

    No step waits for another, so there is no loop: the whole sequence is one batch of T·B steps. Masks and resets mean
    what they mean to `rnn_jax.unroll`.

    Args:
        cell: one whose carry is its last output alone, such as `rnn_jax.cells.jordan`.
        params: its parameters.
        inputs: [T, B, D].
        targets: d [T, B, O], or a tree like the carry.
        carry: what stands for the output before the first step; None for the cell's initial carry.
        mask: [T, B] bool, False = padding: a step after it sees the last true target, and its output is zero.
        reset: [T, B] bool, True restores the cell's initial carry before that step.

    Returns:
        (carry, outputs [T, B, O]): the carry holds the last true target.

    Raises:
        ValueError: the carry or the targets are not of the form of the cell's carry; inputs, mask or reset of other
            axes.

    Source: Williams & Zipser 1989.
    """
    return _teacher_forced(cell, params, inputs, targets, carry, mask, reset)


@functools.partial(jax.jit, static_argnums=0)
def _teacher_forced(
    cell: Cell,
    params: Params,
    inputs: Inputs,
    targets: PyTree,
    carry: Carry | None,
    mask: Array | None,
    reset: Array | None,
) -> tuple[Carry, PyTree]:
    first = jax.tree.leaves(inputs)[0]
    batch_ndim = first.ndim - 1 - cell.feature_ndim
    leading = first.shape[: batch_ndim + 1]
    check_leading(inputs, mask, reset, leading)
    initial = cell.initial_carry(params, leading[1:])
    if carry is not None:
        check_form("carry", initial, carry)
    structure = jax.tree.structure(initial)
    shapes = [(*leading, *leaf.shape[batch_ndim:]) for leaf in jax.tree.leaves(initial)]
    given: list[Any] = jax.tree.leaves(targets)
    if [target.shape for target in given] != shapes:
        found = [target.shape for target in given]
        raise ValueError(f"targets: expected the form of the carry at every step, {shapes}, found {found}")
    forced = jax.tree.unflatten(
        structure, [x.astype(leaf.dtype) for x, leaf in zip(given, jax.tree.leaves(initial), strict=True)]
    )
    final, before = delayed(forced, initial if carry is None else carry, mask=mask, reset=reset, reset_carry=initial)

    def step(carry: Carry, inputs: Inputs) -> PyTree:
        return cell(params, carry, inputs)[1]

    outputs = over_time(cell, step, batch_ndim)(before, inputs)
    return final, select(mask, outputs, zeros_like(outputs))


def delayed(
    targets: PyTree, carry: PyTree, *, mask: Array | None = None, reset: Array | None = None, reset_carry: PyTree = None
) -> tuple[PyTree, PyTree]:
    """What every step finds, if each true step leaves its target for the next: targets, one step later.

    Args:
        targets: [T, B, ...], any tree.
        carry: [B, ...], what the first step finds.
        mask, reset: [T, B] bool, see `rnn_jax.unroll`.
        reset_carry: [B, ...], what the step of a reset finds; `carry` if None.

    Returns:
        (what stands after the last step [B, ...], what each step finds [T, B, ...]).
    """

    def extend(target: Array, carry: Array) -> Array:
        return jnp.concatenate([carry[None].astype(target.dtype), target])

    extended = jax.tree.map(extend, targets, carry)
    if mask is None and reset is None:
        return jax.tree.map(lambda x: x[-1], extended), jax.tree.map(lambda x: x[:-1], extended)

    # Where in `extended` the latest true target stands, after each step; a running maximum is no loop over steps.
    shape = jax.tree.leaves((mask, reset))[0].shape
    numbers = jnp.arange(1, shape[0] + 1).reshape(-1, *(1,) * (len(shape) - 1))
    start = jnp.zeros((1, *shape[1:]), numbers.dtype)

    def latest(events: Array | None) -> Array:
        return jax.lax.cummax(jnp.broadcast_to(numbers if events is None else jnp.where(events, numbers, 0), shape))

    after = jnp.concatenate([start, latest(mask)])

    def at(place: Array) -> PyTree:
        return jax.tree.map(
            lambda x: jnp.take_along_axis(x, place.reshape(place.shape + (1,) * (x.ndim - place.ndim)), axis=0),
            extended,
        )

    final, before = at(after[-1:]), at(after[:-1])
    if reset is not None:
        resets = jnp.concatenate([start, latest(reset)])
        fresh = carry if reset_carry is None else reset_carry
        fresh = jax.tree.map(lambda x, c: c[None].astype(x.dtype), targets, fresh)
        before = select(after[:-1] < resets[1:], fresh, before)
        final = select(after[-1:] < resets[-1:], fresh, final)
    return jax.tree.map(lambda x: x[0], final), before
