"""One step as the loop sees it (reset, step, mask), and the loop as plain `lax.scan`."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rnn_jax.cells.base import Cell
from rnn_jax.recurrence.fused import fused_scan
from rnn_jax.recurrence.packed import may_pack, packed_products
from rnn_jax.recurrence.setting import SETTING, LoopsError, way
from rnn_jax.recurrence.step_graph import Unfusable
from rnn_jax.typing import Carry, Params, Projected

_log = logging.getLogger(__name__)


class Steps(NamedTuple):
    """What differs from step to step: every leaf `[T, ...]`."""

    projected: Projected
    mask: Array | None
    reset: Array | None


def select(condition: Array | None, if_true: PyTree, if_false: PyTree) -> PyTree:
    """`where` over the leaves of two trees, `condition` [*batch] standing for all their feature axes; None is True."""
    if condition is None:
        return if_true

    shape = condition.shape
    return jax.tree.map(
        lambda x, y: jnp.where(condition.reshape(shape + (1,) * (x.ndim - len(shape))), x, y), if_true, if_false
    )


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros of the same structure, shapes and dtypes."""
    return jax.tree.map(jnp.zeros_like, tree)


def varying_as(tree: PyTree, *others: PyTree) -> PyTree:
    """The same arrays, within `jax.shard_map` marked as different on each device, as any of the others is.

    A loop's carry must be what a step makes of it, and what that makes of zeros and a device's data is that device's.
    """
    axes = frozenset().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(others)))
    if not axes:
        return tree

    def mark(leaf: Array) -> Array:
        missing = tuple(axes - jax.typeof(leaf).manual_axis_type.varying)
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree)


def restart(reset: Array | None, reset_carry: Carry, carry: Carry) -> Carry:
    """The carry a step really starts from: `reset_carry` where `reset` says so, even where the step is masked."""
    return carry if reset is None else select(reset, reset_carry, carry)


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any,
    *,
    length: int,
    reverse: bool,
    weights: PyTree = (),
    turned: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan`, except that one step does not pay for a loop.

    Args:
        body, carry, xs, length, reverse: see `jax.lax.scan`.
        weights: the parameters that `body` closes over, if the loop may run as machine code or on packed matrices.
        turned: see `packed_products`.

    Raises:
        LoopsError: see `rnn_jax.recurrence.setting.way`; fused loops were demanded and the body cannot be fused.
    """
    if length != 1:
        if length > 1 and any(may_pack(leaf) for leaf in jax.tree.leaves(weights)):
            chosen = way()
            if chosen in ("auto", "fused"):
                try:
                    return fused_scan(body, carry, xs, length=length, reverse=reverse, turned=turned)
                except Unfusable as reason:
                    if chosen == "fused":
                        raise LoopsError(f"{SETTING}: fused loops were demanded: {reason}") from None
                    _log.debug("a loop is left to XLA: %s", reason)
            body = packed_products(body, carry, jax.tree.map(lambda x: x[0], xs), turned=turned)
        return jax.lax.scan(body, carry, xs, length=length, reverse=reverse)
    carry, ys = body(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda y: y[None], ys)


# XLA:CPU multiplies a few rows by a small matrix [K, N] fastest as it stands, by a large one along its rows, as [N, K]:
# 143 against 92 GFLOP/s at [32, 512] x [512, 2048], 89 against 107 at [50, 128] x [128, 512] (2 cores, jax 0.10.2).
# That was an Intel Xeon; on an AMD EPYC the large one is faster as it stands too (167 against 139, 158 against 116 for
# the backward loop), of which whole training steps at H = 512 gain 7 % with an LSTM, nothing with a GRU nor at 650.
LARGE_MATRIX = 2**19


def lay_out(params: Params, *, transposed_use: bool) -> tuple[Params, Callable[[Params], Params]]:
    """Lay the matrices out in memory, once before a loop, as its products want them.

    Args:
        params: the parameters.
        transposed_use: whether the loop multiplies by the transposes, as a backward loop does.

    Returns:
        (stored, restore): `restore(stored)`, called inside the loop's body, gives the parameters back. A matrix to be
        turned is turned behind a barrier outside and back inside, where XLA folds the turn into the product; without
        the barrier it would cancel both. A matrix that will be packed is left as it is.
    """
    packs = way() != "xla"

    def turns(p: Array) -> bool:
        return p.ndim == 2 and (p.size >= LARGE_MATRIX) != transposed_use and not (packs and may_pack(p))

    flags = jax.tree.map(turns, params)
    stored = jax.tree.map(lambda p, turn: jax.lax.optimization_barrier(p.T) if turn else p, params, flags)
    return stored, lambda stored: jax.tree.map(lambda p, turn: p.T if turn else p, stored, flags)


def plain_loop(
    cell: Cell,
    reverse: bool,
    params: Params,
    carry: Carry,
    reset_carry: Carry,
    steps: Steps,
    length: int,
    restore: Callable[[Params], Params] = lambda params: params,
    turned: bool = True,
) -> tuple[Carry, PyTree]:
    """The loop over time, differentiated by JAX itself: forward mode works, and it is the oracle of the fast path.

    At each step: c = where(reset, reset_carry, c); z = recur(c); (new, y) = update(c, z); c = where(mask, new, c). What
    a masked step puts out means nothing. `restore` is that of `lay_out`, `turned` that of `packed_products`.
    """

    def body(carry: Carry, step: Steps) -> tuple[Carry, PyTree]:
        weights = restore(params)
        carry = restart(step.reset, reset_carry, carry)
        new_carry, output = cell.update(weights, carry, cell.recur(weights, carry, step.projected))
        return select(step.mask, new_carry, carry), output

    return scan(body, carry, steps, length=length, reverse=reverse, weights=params, turned=turned)
