"""One step as the loop sees it (reset, step, mask), and the loop as plain `lax.scan`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rnn_jax.cells.base import Cell
from rnn_jax.typing import Carry, Params, Projected


class Steps(NamedTuple):
    """What differs from step to step: every leaf `[T, ...]`."""

    projected: Projected
    mask: Array | None
    reset: Array | None


def select(condition: Array | None, if_true: PyTree, if_false: PyTree) -> PyTree:
    """`where` over the leaves of two trees, `condition` [*batch] standing for all their feature axes; None is True."""
    if condition is None:
        return if_true

    def choose(x: Array, y: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim)), x, y)

    return jax.tree.map(choose, if_true, if_false)


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros of the same structure, shapes and dtypes."""
    return jax.tree.map(jnp.zeros_like, tree)


def restart(reset: Array | None, reset_carry: Carry, carry: Carry) -> Carry:
    """The carry a step really starts from: `reset_carry` where `reset` says so, even where the step is masked."""
    return carry if reset is None else select(reset, reset_carry, carry)


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, *, length: int, reverse: bool
) -> tuple[Any, Any]:
    """`lax.scan`, except that one step does not pay for a loop."""
    if length != 1:
        return jax.lax.scan(body, carry, xs, length=length, reverse=reverse)
    carry, ys = body(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda y: y[None], ys)


def plain_loop(
    cell: Cell, reverse: bool, params: Params, carry: Carry, reset_carry: Carry, steps: Steps, length: int
) -> tuple[Carry, PyTree]:
    """The loop over time, differentiated by JAX itself: forward mode works, and it is the oracle of the fast path.

    At each step: c = where(reset, reset_carry, c); z = recur(c); (new, y) = update(c, z); c = where(mask, new, c);
    y = where(mask, y, 0).
    """

    def body(carry: Carry, step: Steps) -> tuple[Carry, PyTree]:
        carry = restart(step.reset, reset_carry, carry)
        new_carry, output = cell.update(params, carry, cell.recur(params, carry, step.projected))
        return select(step.mask, new_carry, carry), select(step.mask, output, zeros_like(output))

    return scan(body, carry, steps, length=length, reverse=reverse)
