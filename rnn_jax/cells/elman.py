"""The simple recurrent network of Elman."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnn_jax import initializers
from rnn_jax.cells.base import (
    Activation,
    Cell,
    cell_factory,
    matmul,
    project_gates,
    resolve_activation,
    zero_carry,
)
from rnn_jax.initializers import Initializer
from rnn_jax.typing import Dtype, Key, Params


class ElmanCarry(NamedTuple):
    """The state h."""

    hidden: Array


@cell_factory
def elman(
    hidden_size: int,
    *,
    activation: str | Activation = "tanh",
    kernel_init: str | Initializer = "glorot",
    recurrent_init: str | Initializer = "orthogonal",
    bias_init: str | Initializer = "zeros",
    dtype: Dtype = jnp.float32,
) -> Cell:
    """Vanilla RNN.

        h_t = φ(x_t W + h_tm1 R + b)
        y_t = h_t

    x_t [D] input, h_t [H] state, W [D, H], R [H, H], b [H], φ the activation. With `activation="relu",
    recurrent_init="identity"` it is the IRNN of Le, Jaitly & Hinton 2015 (arXiv 1504.00941).

    Args:
        hidden_size: H.
        activation: a key of `ACTIVATIONS` (tanh, relu, sigmoid, ...) or a function.
        kernel_init, recurrent_init, bias_init: W, R, b; see `rnn_jax.initializers`.
        dtype: of the parameters.

    Source: Elman, "Finding Structure in Time", 1990. Differs: no context layer apart from the state itself.

    Raises:
        ValueError: an activation or initialiser that does not exist; `hidden_size` is not a positive integer.
    """
    phi = resolve_activation(activation)
    init_input = initializers.resolve(kernel_init, hidden_size, "kernel_init")
    init_recurrent = initializers.resolve(recurrent_init, hidden_size, "recurrent_init")
    init_bias = initializers.resolve(bias_init, hidden_size, "bias_init")

    def init(key: Key, input_size: int) -> Params:
        key_input, key_recurrent, key_bias = jax.random.split(key, 3)
        return {
            "input": initializers.per_gate(init_input, key_input, input_size, hidden_size, 1, dtype),
            "recurrent": initializers.per_gate(init_recurrent, key_recurrent, hidden_size, hidden_size, 1, dtype),
            "bias": init_bias(key_bias, (hidden_size,), dtype),
        }

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> ElmanCarry:
        return ElmanCarry(zero_carry(params["recurrent"], batch_shape, hidden_size))

    def project(params: Params, inputs: Array) -> tuple[Array, ...]:
        return project_gates(inputs, params["input"], params["bias"], 1)

    def recur(params: Params, carry: ElmanCarry, projected: tuple[Array]) -> tuple[Array]:
        return (projected[0] + matmul(carry.hidden, params["recurrent"]),)

    def update(params: Params, carry: ElmanCarry, preactivations: tuple[Array]) -> tuple[ElmanCarry, Array]:
        hidden = phi(preactivations[0])
        return ElmanCarry(hidden), hidden

    return Cell(init, initial_carry, project, recur, update)
