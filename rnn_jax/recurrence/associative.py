"""Linear recurrences by associative scan: O(log T) depth in place of T steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from rnn_jax.cells.base import Cell
from rnn_jax.recurrence.deferred import over_time
from rnn_jax.recurrence.loop import Steps, select, zeros_like
from rnn_jax.typing import Carry, Params


def associative_loop(
    cell: Cell, reverse: bool, batch_ndim: int, params: Params, carry: Carry, reset_carry: Carry, steps: Steps
) -> tuple[Carry, PyTree]:
    """Run a cell that declares `coefficients` over all T at once.

        h_t = a_t ⊙ h_tm1 + b_t,   (a2, b2) ∘ (a1, b1) = (a2 a1, a2 b1 + b2)

    A masked step is (1, 0); a reset step is (0, a_t c0 + b_t). Outputs come from one vectorised `step` on the carries;
    those of masked steps mean nothing.
    """
    assert cell.coefficients is not None

    def coefficients(projected: PyTree) -> tuple[PyTree, PyTree]:
        assert cell.coefficients is not None
        return cell.coefficients(params, projected)

    a, b = over_time(cell, coefficients, batch_ndim)(steps.projected)
    a = select(steps.mask, a, jax.tree.map(jnp.ones_like, a))
    b = select(steps.mask, b, zeros_like(b))
    if steps.reset is not None:
        b = select(steps.reset, jax.tree.map(lambda a, b, c0: a * c0 + b, a, b, reset_carry), b)
        a = select(steps.reset, zeros_like(a), a)

    def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    def run(a: Array, b: Array, h: Array) -> Array:
        products, sums = jax.lax.associative_scan(combine, (a, b), reverse=reverse)
        return products * h + sums

    carries = jax.tree.map(run, a, b, carry)
    last = 0 if reverse else -1

    def shift(h: Array, all_h: Array) -> Array:
        return jnp.concatenate([all_h[1:], h[None]]) if reverse else jnp.concatenate([h[None], all_h[:-1]])

    before = jax.tree.map(shift, carry, carries)
    before = before if steps.reset is None else select(steps.reset, _repeat(reset_carry, steps.reset.shape[0]), before)

    def output(carry: Carry, projected: PyTree) -> PyTree:
        return cell.step(params, carry, projected)[1]

    outputs = over_time(cell, output, batch_ndim)(before, steps.projected)
    return jax.tree.map(lambda h: h[last], carries), outputs


def _repeat(tree: PyTree, length: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (length, *leaf.shape)), tree)
