"""Long short-term memory."""

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
    split_gates,
    zero_carry,
)
from rnn_jax.initializers import Initializer
from rnn_jax.typing import Dtype, Key, Params

Gates = tuple[Array, Array, Array, Array]


class LSTMCarry(NamedTuple):
    """The state h and the memory c."""

    hidden: Array
    cell: Array


@cell_factory
def lstm(
    hidden_size: int,
    *,
    forget_bias: float | int = 1.0,
    chrono: int | None = None,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    kernel_init: str | Initializer = "glorot",
    recurrent_init: str | Initializer = "orthogonal",
    bias_init: str | Initializer = "zeros",
    dtype: Dtype = jnp.float32,
) -> Cell:
    """LSTM with forget gate.

        i_t = σ(x_t W_i + h_tm1 R_i + b_i)          input gate
        f_t = σ(x_t W_f + h_tm1 R_f + b_f)          forget gate
        g_t = φ(x_t W_g + h_tm1 R_g + b_g)          candidate
        o_t = σ(x_t W_o + h_tm1 R_o + b_o)          output gate
        c_t = f_t ⊙ c_tm1 + i_t ⊙ g_t
        h_t = o_t ⊙ φ(c_t)
        y_t = h_t

    x_t [D] input, h_t [H] state, c_t [H] memory, W [D, 4H], R [H, 4H], b [4H] in the order i, f, g, o.

    Args:
        hidden_size: H.
        forget_bias: added to b_f when parameters are drawn: 1 lets gradients pass at the start.
        chrono: T_max, the longest lag expected: draws b_f = log U(1, T_max - 1), b_i = -b_f, in place of `bias_init`
            and `forget_bias`; see `rnn_jax.initializers.chrono`.
        activation: φ, a key of `ACTIVATIONS` or a function.
        gate_activation: σ. Anything that does not stay within [0, 1] makes the memory grow without bound.
        kernel_init, recurrent_init, bias_init: W, R, b, gate by gate; see `rnn_jax.initializers`.
        dtype: of the parameters.

    Source: Hochreiter & Schmidhuber 1997; forget gate of Gers, Schmidhuber & Cummins 2000. Differs: one bias vector
    where PyTorch has two; no peepholes.

    Raises:
        ValueError: an activation or initialiser that does not exist; `hidden_size` is no positive integer; `chrono` is
            below 3.
    """
    phi = resolve_activation(activation)
    sigma = resolve_activation(gate_activation, "gate_activation")
    init_input = initializers.resolve(kernel_init, hidden_size, "kernel_init")
    init_recurrent = initializers.resolve(recurrent_init, hidden_size, "recurrent_init")
    init_bias = initializers.resolve(bias_init, hidden_size, "bias_init")
    init_keep = None if chrono is None else initializers.chrono(chrono)

    def init(key: Key, input_size: int) -> Params:
        key_input, key_recurrent, key_bias = jax.random.split(key, 3)
        bias = init_bias(key_bias, (4 * hidden_size,), dtype)
        if init_keep is None:
            bias = bias.at[hidden_size : 2 * hidden_size].add(forget_bias)
        else:
            keep = init_keep(key_bias, (hidden_size,), dtype)
            bias = bias.at[: 2 * hidden_size].set(jnp.concatenate([-keep, keep]))
        return {
            "input": initializers.per_gate(init_input, key_input, input_size, hidden_size, 4, dtype),
            "recurrent": initializers.per_gate(init_recurrent, key_recurrent, hidden_size, hidden_size, 4, dtype),
            "bias": bias,
        }

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> LSTMCarry:
        zeros = zero_carry(params["recurrent"], batch_shape, hidden_size)
        return LSTMCarry(zeros, zeros)

    def project(params: Params, inputs: Array) -> tuple[Array, ...]:
        return project_gates(inputs, params["input"], params["bias"], 4)

    def recur(params: Params, carry: LSTMCarry, projected: Gates) -> Gates:
        blocks = split_gates(matmul(carry.hidden, params["recurrent"]), 4)
        input_gate, forget_gate, candidate, output_gate = (x + h for x, h in zip(projected, blocks, strict=True))
        return input_gate, forget_gate, candidate, output_gate

    def update(params: Params, carry: LSTMCarry, preactivations: Gates) -> tuple[LSTMCarry, Array]:
        input_gate, forget_gate, candidate, output_gate = preactivations
        cell = sigma(forget_gate) * carry.cell + sigma(input_gate) * phi(candidate)
        hidden = sigma(output_gate) * phi(cell)
        return LSTMCarry(hidden, cell), hidden

    return Cell(init, initial_carry, project, recur, update)
