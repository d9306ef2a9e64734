"""How much of a gradient arrives at the states of earlier steps: vanishing and exploding gradients, measured."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rnn_jax.typing import Carry

Step = Callable[[Carry, PyTree], tuple[Carry, PyTree]]


def state_gradients(step: Step, carry: Carry, inputs: PyTree, loss: Callable[[PyTree], Array]) -> Carry:
    """The gradient of a loss at the end of a sequence with respect to the state before every step.

        c_t, y_t = step(c_tm1, x_t);   ∂ loss(y_T) / ∂ c_tm1,   t = 1..T

    Args:
        step: one step, as `jax.lax.scan` wants it.
        carry: c_0, a pytree of floating-point arrays.
        inputs: x, with the axis T in front.
        loss: a scalar of the last output.

    Returns:
        A carry whose leaves have an axis T in front. Leaf [t] belongs to the state that step t reads.
    """
    length = jax.tree.leaves(inputs)[0].shape[0]

    # The gradient with respect to a state is that with respect to zeros added to it: all T of them at once.
    def at_end(zeros: Carry) -> Array:
        def body(carry: Carry, xs: tuple[PyTree, Carry]) -> tuple[Carry, PyTree]:
            inputs, added = xs
            return step(jax.tree.map(jnp.add, carry, added), inputs)

        _, outputs = jax.lax.scan(body, carry, (inputs, zeros))
        return loss(jax.tree.map(lambda leaf: leaf[-1], outputs))

    return jax.grad(at_end)(jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), carry))


def norm_by_lag(gradients: Any) -> Float[Array, "T B"]:
    """The Euclidean norm of `state_gradients` over all leaves and features, by the distance from the end.

    Returns:
        [T, B]; row k - 1 belongs to the state k steps before the end, c_{T-k}.
    """
    squares = [jnp.square(jnp.abs(leaf)).sum(axis=-1) for leaf in jax.tree.leaves(gradients)]
    return jnp.sqrt(sum(squares[1:], squares[0]))[::-1]
