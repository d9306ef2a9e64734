"""The recurrent network of Jordan."""

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
    widen,
    zero_carry,
)
from rnn_jax.initializers import Initializer
from rnn_jax.typing import Dtype, Key, Params


class JordanCarry(NamedTuple):
    """The last output y."""

    output: Array


@cell_factory
def jordan(
    hidden_size: int,
    *,
    output_size: int | None = None,
    activation: str | Activation = "tanh",
    output_activation: str | Activation = "identity",
    kernel_init: str | Initializer = "glorot",
    recurrent_init: str | Initializer = "orthogonal",
    bias_init: str | Initializer = "zeros",
    dtype: Dtype = jnp.float32,
) -> Cell:
    """A network whose recurrence runs from the output back to the hidden layer, and nowhere else.

        h_t = φ(x_t W + y_tm1 R + b)
        y_t = ψ(h_t V + b_y)

    x_t [D] input, h_t [H] hidden layer, y_t [O] output and carry, W [D, H], R [O, H] "recurrent", b [H], V [H, O]
    "output", b_y [O] "output_bias".

    The hidden layer hands nothing on, so where targets d_t are known, y_tm1 can be replaced by d_tm1, and then no step
    waits for another: `rnn_jax.teacher_forced` trains on all steps at once.

    Args:
        hidden_size: H.
        output_size: O; None for H.
        activation: φ, a key of `ACTIVATIONS` or a function.
        output_activation: ψ, likewise; `jax.nn.softmax` makes the output a distribution.
        kernel_init, recurrent_init, bias_init: W and V, R, b and b_y; see `rnn_jax.initializers`.
        dtype: of the parameters.

    Source: Jordan, "Serial Order: A Parallel Distributed Processing Approach", 1986; teacher forcing: Williams &
    Zipser 1989. Differs: no state units that average over past outputs.

    Raises:
        ValueError: `hidden_size` or `output_size` is not a positive integer; an activation or initialiser that does not
            exist.
    """
    if output_size is not None and (type(output_size) is not int or output_size < 1):
        raise ValueError(f"output_size: expected a positive integer or None, found {output_size!r}")
    width = output_size or hidden_size
    phi = resolve_activation(activation)
    psi = resolve_activation(output_activation, "output_activation")
    init_kernel = initializers.resolve(kernel_init, hidden_size, "kernel_init")
    init_recurrent = initializers.resolve(recurrent_init, hidden_size, "recurrent_init")
    init_bias = initializers.resolve(bias_init, hidden_size, "bias_init")

    def init(key: Key, input_size: int) -> Params:
        key_input, key_recurrent, key_bias, key_output, key_output_bias = jax.random.split(key, 5)
        return {
            "input": initializers.per_gate(init_kernel, key_input, input_size, hidden_size, 1, dtype),
            "recurrent": initializers.per_gate(init_recurrent, key_recurrent, width, hidden_size, 1, dtype),
            "bias": init_bias(key_bias, (hidden_size,), dtype),
            "output": initializers.per_gate(init_kernel, key_output, hidden_size, width, 1, dtype),
            "output_bias": init_bias(key_output_bias, (width,), dtype),
        }

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> JordanCarry:
        return JordanCarry(zero_carry(params["recurrent"], batch_shape, width))

    def project(params: Params, inputs: Array) -> tuple[Array, ...]:
        return project_gates(inputs, params["input"], params["bias"], 1)

    def recur(params: Params, carry: JordanCarry, projected: tuple[Array]) -> tuple[Array]:
        return (projected[0] + matmul(carry.output, params["recurrent"]),)

    def update(params: Params, carry: JordanCarry, preactivations: tuple[Array]) -> tuple[JordanCarry, Array]:
        output = psi(matmul(phi(preactivations[0]), params["output"]) + widen(params["output_bias"]))
        return JordanCarry(output), output

    return Cell(init, initial_carry, project, recur, update)
