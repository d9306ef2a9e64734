"""The one door through which a cell runs over time."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from rnn_jax.cells.base import Cell, CellFunction, from_function
from rnn_jax.recurrence.associative import associative_loop
from rnn_jax.recurrence.checks import alike, check_form, check_leading, describe
from rnn_jax.recurrence.deferred import deferred_loop, over_time
from rnn_jax.recurrence.loop import Steps, plain_loop, select, varying_as, zeros_like
from rnn_jax.typing import Carry, Inputs, Params


def unroll(
    cell: Cell | CellFunction,
    params: Params,
    inputs: Inputs,
    carry: Carry | None = None,
    *,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    time_major: bool = True,
    segment: int | str | None = None,
    gradient: str = "deferred",
    method: str = "loop",
) -> tuple[Carry, PyTree]:
    """Run a cell over a sequence.

        c_t, y_t = cell(params, c_tm1, x_t),   t = 1..T

    The inputs are projected once for all T; the loop holds what the carry needs. The function is jitted with the cell
    static, so calling it eagerly is fast from the second call on.

    Args:
        cell: a `Cell`, or any function `(params, carry, x) -> (carry, output)`; then `carry` must be given.
        params: the cell's parameters.
        inputs: [T, B, D], or [T, D] without a batch (a bare function's: [T], too); a pytree of such arrays if the cell
            takes one. Its first leaf says what T and the batch axes are.
        carry: the carry before the first step; None for the cell's initial carry.
        mask: [T, B] bool, False = padding, wherever it lies: the carry stands still and the output is zero, so the
            final carry is the state at the true end. What is padded there may be any finite number. For a bare function
            its axes say which are the batch; with `time_major=False` and inputs of two axes, it must be given.
        reset: [T, B] bool, True restores the cell's initial carry before that step (a bare function's: the carry that
            was given), even where the step is masked.
        reverse: run from the last step to the first; outputs[t] belongs to inputs[t].
        time_major: False: inputs, mask, reset and outputs are [B, T, ...].
        segment: keep only every k-th carry and recompute in between when gradients are taken: memory O(T/k + k) in
            place of O(T). "sqrt" takes k = ⌈√T⌉.
        gradient: "deferred" takes all weight gradients after the backward loop in one product per matrix;
            "autodiff" leaves them to JAX, which also permits forward mode (`jax.jvp`), and a bare function that closes
            over what is differentiated.
        method: "associative" runs a cell that declares `coefficients` in O(log T) depth.

    Returns:
        (carry, outputs): the carry after the last step and the outputs [T, B, H], as `lax.scan` returns them.

    Raises:
        ValueError: an argument has the wrong shape, dtype or value; the message names it.
    """
    if not (segment in (None, "sqrt") or (type(segment) is int and segment >= 1)):
        raise ValueError(f"segment: expected a positive integer, 'sqrt' or None, found {segment!r}")
    if gradient not in ("deferred", "autodiff"):
        raise ValueError(f"gradient: expected 'deferred' or 'autodiff', found {gradient!r}")
    if method not in ("loop", "associative"):
        raise ValueError(f"method: expected 'loop' or 'associative', found {method!r}")
    if not isinstance(cell, Cell):
        if carry is None:
            raise ValueError("carry: a bare function has no initial carry of its own; found None")
        condition = reset if mask is None else mask
        if not time_major and condition is None and _axes(inputs) == 2:
            raise ValueError(
                "mask: expected one, to tell whether a bare function's inputs of two axes are [B, T] or [T, D] where "
                "time_major=False; found None"
            )
        cell = _wrap(cell, _feature_ndim(inputs, condition))
    if method == "associative" and cell.coefficients is None:
        raise ValueError("method: 'associative' needs a cell that declares `coefficients`; this one does not")
    return _unroll(cell, params, inputs, carry, mask, reset, reverse, time_major, segment, gradient, method)


def _feature_ndim(inputs: Inputs, condition: ArrayLike | None) -> int:
    """How many axes of a bare function's inputs are features.

    Those that `mask` or `reset` lacks, where it has a batch or there are numbers only; else the last.
    """
    total = _axes(inputs)
    given = 0 if condition is None else jnp.ndim(condition)
    return max(0, total - given if given > 1 or given == total else min(1, total - 1))


def _axes(inputs: Inputs) -> int:
    leaves = jax.tree.leaves(inputs)
    return jnp.ndim(leaves[0]) if leaves else 2


@functools.lru_cache(maxsize=256)
def _wrap(function: CellFunction, feature_ndim: int) -> Cell:
    """One cell per function object, so that a second call does not compile again."""

    def nothing(*_: object) -> None:
        return None

    return from_function(function, nothing, nothing, feature_ndim=feature_ndim)  # pyright: ignore[reportArgumentType]


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8, 9, 10))
def _unroll(
    cell: Cell,
    params: Params,
    inputs: Inputs,
    carry: Carry | None,
    mask: Array | None,
    reset: Array | None,
    reverse: bool,
    time_major: bool,
    segment: int | str | None,
    gradient: str,
    method: str,
) -> tuple[Carry, PyTree]:
    leaves = jax.tree.leaves(inputs)
    if not leaves:
        raise ValueError("inputs: expected at least one array, found an empty tree")
    batch_ndim = leaves[0].ndim - 1 - cell.feature_ndim
    if batch_ndim < 0:
        expected = "[T, D]" if cell.feature_ndim == 1 else f"[T, ...] with {cell.feature_ndim} feature axes"
        raise ValueError(f"inputs: expected {expected} or more axes, found shape {leaves[0].shape}")
    check_leading(inputs, mask, reset, leaves[0].shape[: batch_ndim + 1])
    swap = not time_major and batch_ndim > 0
    if swap:
        inputs, mask, reset = jax.tree.map(lambda x: x.swapaxes(0, 1), (inputs, mask, reset))
    length, *batch_shape = jax.tree.leaves(inputs)[0].shape[: batch_ndim + 1]
    batch_shape = tuple(batch_shape)

    try:
        initial = cell.initial_carry(params, batch_shape)
    except Exception as error:
        if carry is None and not isinstance(error, KeyError | AttributeError):
            raise
        raise ValueError(f"params: the cell's initial_carry does not take them: {error!r}") from error
    carry = initial if carry is None else carry
    reset_carry = carry if initial is None else initial
    carry, reset_carry = varying_as((carry, reset_carry), params, inputs, carry, mask, reset)
    _check_carry(cell, params, inputs, carry, initial)
    if mask is not None or reset is not None:
        _check_batch(carry, batch_shape)

    loop_cell = cell
    if cell.readout is not None and (method == "loop" or length == 0):
        loop_cell = cell.replace(update=_emit_carry(cell), readout=None)

    def run(
        params: Params, carry: Carry, reset_carry: Carry, sequence: tuple[Inputs, Array | None, Array | None]
    ) -> tuple[Carry, PyTree]:
        inputs, mask, reset = sequence
        steps_count = jax.tree.leaves(inputs)[0].shape[0]

        def project(inputs: Inputs) -> PyTree:
            return cell.project(params, inputs)

        steps = Steps(over_time(cell, project, batch_ndim)(inputs), mask, reset)
        if method == "associative" and steps_count > 0:
            result: Any = associative_loop(cell, reverse, batch_ndim, params, carry, reset_carry, steps)
        elif gradient == "deferred":
            result = deferred_loop(loop_cell, reverse, batch_ndim, steps_count, params, carry, reset_carry, steps)
        else:
            result = plain_loop(loop_cell, reverse, params, carry, reset_carry, steps, steps_count)
        carry, outputs = result

        if loop_cell is not cell:

            def readout(carry: Carry, projected: PyTree) -> PyTree:
                assert cell.readout is not None
                return cell.readout(params, carry, projected)

            outputs = over_time(cell, readout, batch_ndim)(outputs, steps.projected)
        return carry, select(mask, outputs, zeros_like(outputs))

    sequence = (inputs, mask, reset)
    if segment is None or length <= 1:
        carry, outputs = run(params, carry, reset_carry, sequence)
    else:
        size = math.ceil(math.sqrt(length)) if segment == "sqrt" else min(int(segment), length)
        carry, outputs = _segmented(run, size, length, reverse, params, carry, reset_carry, sequence)
    if swap:
        outputs = jax.tree.map(lambda y: y.swapaxes(0, 1), outputs)
    return carry, outputs


def _emit_carry(cell: Cell) -> CellFunction:
    """`update` of a cell with a readout, as the loop runs it: the new carry is the output."""

    def update(params: Params, carry: Carry, preactivations: PyTree) -> tuple[Carry, Carry]:
        new_carry, _ = cell.update(params, carry, preactivations)
        return new_carry, new_carry

    return update


def _segmented(
    run: Callable[..., tuple[Carry, PyTree]],
    size: int,
    length: int,
    reverse: bool,
    params: Params,
    carry: Carry,
    reset_carry: Carry,
    sequence: PyTree,
) -> tuple[Carry, PyTree]:
    """Run whole segments of `size` steps under `jax.checkpoint`, and the rest as one shorter segment at the end."""
    count = length // size
    whole = count * size
    checkpointed = jax.checkpoint(run)

    def body(carry: Carry, segment_inputs: PyTree) -> tuple[Carry, PyTree]:
        return checkpointed(params, carry, reset_carry, segment_inputs)

    def rest(carry: Carry) -> tuple[Carry, PyTree]:
        return checkpointed(params, carry, reset_carry, jax.tree.map(lambda x: x[whole:], sequence))

    def segments(carry: Carry) -> tuple[Carry, PyTree]:
        split = jax.tree.map(lambda x: x[:whole].reshape(count, size, *x.shape[1:]), sequence)
        carry, outputs = jax.lax.scan(body, carry, split, reverse=reverse)
        return carry, jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), outputs)

    if whole == length:
        return segments(carry)
    if reverse:
        carry, last = rest(carry)
        carry, first = segments(carry)
    else:
        carry, first = segments(carry)
        carry, last = rest(carry)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)


def _check_batch(carry: Carry, batch_shape: tuple[int, ...]) -> None:
    for leaf in jax.tree.leaves(carry):
        if jnp.shape(leaf)[: len(batch_shape)] != batch_shape:
            raise ValueError(
                f"carry: expected leaves that begin with the axes of the batch {list(batch_shape)}, as mask and reset "
                f"need them, found {describe(leaf)}"
            )


def _check_carry(cell: Cell, params: Params, inputs: Inputs, carry: Carry, initial: Carry | None) -> None:
    if initial is not None:
        check_form("carry", initial, carry)
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
    try:
        new_carry, _ = jax.eval_shape(cell, params, carry, first)
    except (KeyError, AttributeError) as error:
        if initial is None:
            raise
        raise ValueError(f"params: a step of the cell does not take them: {error!r}") from error
    except TypeError as error:
        if initial is None or "dot_general" not in str(error):
            raise
        shapes = [list(leaf.shape) for leaf in jax.tree.leaves(inputs)]
        reason = str(error).partition("\n")[0]
        raise ValueError(f"inputs, params: a step cannot multiply them, inputs of shapes {shapes}: {reason}") from error
    if not alike(new_carry, carry):
        raise ValueError(f"carry: one step turns {describe(carry)} into {describe(new_carry)}; it must keep its form")
