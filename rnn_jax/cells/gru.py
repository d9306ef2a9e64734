"""The gated recurrent unit, with the reset gate after or before the recurrent product."""

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
    widen,
    zero_carry,
)
from rnn_jax.initializers import Initializer
from rnn_jax.typing import Dtype, Key, Params


class GRUCarry(NamedTuple):
    """The state h."""

    hidden: Array


@cell_factory
def gru(
    hidden_size: int,
    *,
    reset: str = "after",
    chrono: int | None = None,
    activation: str | Activation = "tanh",
    gate_activation: str | Activation = "sigmoid",
    kernel_init: str | Initializer = "glorot",
    recurrent_init: str | Initializer = "orthogonal",
    bias_init: str | Initializer = "zeros",
    dtype: Dtype = jnp.float32,
) -> Cell:
    """GRU.

        r_t = σ(x_t W_r + h_tm1 R_r + b_r)                          reset gate
        z_t = σ(x_t W_z + h_tm1 R_z + b_z)                          update gate
        n_t = φ(x_t W_n + b_n + r_t ⊙ (h_tm1 R_n + b_hn))           candidate, reset="after"
        n_t = φ(x_t W_n + b_n + (r_t ⊙ h_tm1) R_n)                  candidate, reset="before"
        h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_tm1
        y_t = h_t

    x_t [D] input, h_t [H] state, W [D, 3H], b [3H] in the order r, z, n. `"after"` is what cuDNN and PyTorch compute,
    and the faster: R [H, 3H] is one product a step, and b_hn [H] is "candidate_bias". `"before"` is the paper's: R [H,
    2H] for the gates, and R_n [H, H], "candidate", waits for r_t: a second product that cannot leave `update`.

    Args:
        hidden_size: H.
        reset: where the reset gate acts.
        chrono: T_max, the longest lag expected: draws b_z = log U(1, T_max - 1) in place of `bias_init`; see
            `rnn_jax.initializers.chrono`.
        activation: φ, a key of `ACTIVATIONS` or a function.
        gate_activation: σ.
        kernel_init, recurrent_init, bias_init: W, R, b, gate by gate; see `rnn_jax.initializers`.
        dtype: of the parameters.

    Source: Cho et al. 2014 (arXiv 1406.1078). Differs: biases, which the paper leaves out.

    Raises:
        ValueError: `reset` is neither "after" nor "before"; an activation or initialiser that does not exist;
            `hidden_size` is not a positive integer; `chrono` is below 3.
    """
    if reset not in ("after", "before"):
        raise ValueError(f"reset: expected 'after' or 'before', found {reset!r}")
    phi = resolve_activation(activation)
    sigma = resolve_activation(gate_activation, "gate_activation")
    init_input = initializers.resolve(kernel_init, hidden_size, "kernel_init")
    init_recurrent = initializers.resolve(recurrent_init, hidden_size, "recurrent_init")
    init_bias = initializers.resolve(bias_init, hidden_size, "bias_init")
    init_keep = None if chrono is None else initializers.chrono(chrono)

    def init(key: Key, input_size: int) -> Params:
        key_input, key_recurrent, key_candidate, key_bias, key_candidate_bias = jax.random.split(key, 5)
        recurrent_gates = 3 if reset == "after" else 2
        bias = init_bias(key_bias, (3 * hidden_size,), dtype)
        if init_keep is not None:
            bias = bias.at[hidden_size : 2 * hidden_size].set(init_keep(key_bias, (hidden_size,), dtype))
        params = {
            "input": initializers.per_gate(init_input, key_input, input_size, hidden_size, 3, dtype),
            "recurrent": initializers.per_gate(
                init_recurrent, key_recurrent, hidden_size, hidden_size, recurrent_gates, dtype
            ),
            "bias": bias,
        }
        if reset == "after":
            return params | {"candidate_bias": init_bias(key_candidate_bias, (hidden_size,), dtype)}
        candidate = initializers.per_gate(init_recurrent, key_candidate, hidden_size, hidden_size, 1, dtype)
        return params | {"candidate": candidate}

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> GRUCarry:
        return GRUCarry(zero_carry(params["recurrent"], batch_shape, hidden_size))

    def project(params: Params, inputs: Array) -> tuple[Array, ...]:
        return project_gates(inputs, params["input"], params["bias"], 3)

    def interpolate(hidden: Array, update_gate: Array, candidate: Array) -> tuple[GRUCarry, Array]:
        hidden = candidate + sigma(update_gate) * (hidden - candidate)
        return GRUCarry(hidden), hidden

    def recur_after(params: Params, carry: GRUCarry, projected: tuple[Array, ...]) -> tuple[Array, ...]:
        reset_gate, update_gate, candidate = projected
        blocks = split_gates(matmul(carry.hidden, params["recurrent"]), 3)
        return reset_gate + blocks[0], update_gate + blocks[1], candidate, blocks[2] + widen(params["candidate_bias"])

    def update_after(params: Params, carry: GRUCarry, preactivations: tuple[Array, ...]) -> tuple[GRUCarry, Array]:
        reset_gate, update_gate, candidate, recurrent = preactivations
        return interpolate(carry.hidden, update_gate, phi(candidate + sigma(reset_gate) * recurrent))

    def recur_before(params: Params, carry: GRUCarry, projected: tuple[Array, ...]) -> tuple[Array, ...]:
        reset_gate, update_gate, candidate = projected
        blocks = split_gates(matmul(carry.hidden, params["recurrent"]), 2)
        return reset_gate + blocks[0], update_gate + blocks[1], candidate

    def update_before(params: Params, carry: GRUCarry, preactivations: tuple[Array, ...]) -> tuple[GRUCarry, Array]:
        reset_gate, update_gate, candidate = preactivations
        recurrent = matmul(sigma(reset_gate) * carry.hidden, params["candidate"])
        return interpolate(carry.hidden, update_gate, phi(candidate + recurrent))

    if reset == "after":
        return Cell(init, initial_carry, project, recur_after, update_after)
    return Cell(init, initial_carry, project, recur_before, update_before)
