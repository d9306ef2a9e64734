"""One recurrent layer in each framework, written as its users would write it well.

Each function here builds the same job: `forward()` runs the layer over `inputs` [T, B, D] and returns when the outputs
are ready; `train()` returns when the gradients of mean(outputs²) with respect to parameters and inputs are. The kind is
"lstm" or "gru". A framework that is not installed raises `ImportError`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.sweep import cores


class Layer(NamedTuple):
    """The two calls that are timed."""

    forward: Callable[[], Any]
    train: Callable[[], Any]


def _jitted(apply: Callable[[Any, Any], Any], params: Any, inputs: np.ndarray) -> Layer:
    """The two calls of a pure function `apply(params, inputs) -> outputs`, the batch spread over all devices."""
    mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
    spread = jax.sharding.PartitionSpec(None, "batch")
    device_inputs = jax.device_put(inputs, jax.sharding.NamedSharding(mesh, spread))
    params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    forward = jax.jit(apply)
    train = jax.jit(jax.grad(lambda p, x: jnp.mean(jnp.square(apply(p, x))), argnums=(0, 1)))
    return Layer(
        lambda: jax.block_until_ready(forward(params, device_inputs)),
        lambda: jax.block_until_ready(train(params, device_inputs)),
    )


def ours(kind: str, inputs: np.ndarray, hidden_size: int, gradient: str = "deferred") -> Layer:
    """`rnn_jax.unroll`."""
    from rnn_jax import cells, unroll

    cell = cells.CELLS[kind](hidden_size)
    params = cell.init(jax.random.key(0), inputs.shape[-1])
    return _jitted(lambda p, x: unroll(cell, p, x, gradient=gradient)[1], params, inputs)


def flax_linen(kind: str, inputs: np.ndarray, hidden_size: int) -> Layer:
    """`flax.linen.RNN` over the fastest of its cells."""
    from flax import linen as nn

    cell = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[kind](hidden_size)
    layer = nn.RNN(cell, time_major=True)
    return _jitted(layer.apply, layer.init(jax.random.key(0), jnp.asarray(inputs)), inputs)


def flax_nnx(kind: str, inputs: np.ndarray, hidden_size: int) -> Layer:
    """`flax.nnx.RNN`, split once so that a call pays nothing for the object."""
    from flax import nnx

    make = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}[kind]
    layer = nnx.RNN(make(inputs.shape[-1], hidden_size, rngs=nnx.Rngs(0)), time_major=True, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(layer, nnx.Param, ...)

    def apply(p: Any, xs: Any) -> Any:
        zeros = jnp.zeros((xs.shape[1], hidden_size))  # its own initial carry draws a key, a side effect under jit
        carry = (zeros, zeros) if kind == "lstm" else zeros
        return nnx.merge(graph, p, rest)(xs, initial_carry=carry)

    return _jitted(apply, params, inputs)


def haiku(kind: str, inputs: np.ndarray, hidden_size: int) -> Layer:
    """`haiku.dynamic_unroll`. Its GRU resets before the recurrent product."""
    import haiku as hk

    def run(xs: Any) -> Any:
        core = {"lstm": hk.LSTM, "gru": hk.GRU}[kind](hidden_size)
        return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    layer = hk.without_apply_rng(hk.transform(run))
    return _jitted(layer.apply, layer.init(jax.random.key(0), jnp.asarray(inputs)), inputs)


def equinox(kind: str, inputs: np.ndarray, hidden_size: int) -> Layer:
    """An Equinox cell under `vmap` inside one `lax.scan`."""
    import equinox as eqx

    make = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[kind]
    cell = make(inputs.shape[-1], hidden_size, key=jax.random.key(0))
    params, static = eqx.partition(cell, eqx.is_inexact_array)

    def apply(p: Any, xs: Any) -> Any:
        model = eqx.combine(p, static)
        zeros = jnp.zeros((xs.shape[1], hidden_size))

        def step(carry: Any, x: Any) -> Any:
            carry = jax.vmap(model)(x, carry)
            return carry, carry[0] if kind == "lstm" else carry

        return jax.lax.scan(step, (zeros, zeros) if kind == "lstm" else zeros, xs)[1]

    return _jitted(apply, params, inputs)


def torch(kind: str, inputs: np.ndarray, hidden_size: int) -> Layer:
    """`torch.nn.LSTM` or `torch.nn.GRU`: oneDNN or ATen on the CPU, cuDNN on a GPU."""
    import torch

    torch.set_num_threads(cores())
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](inputs.shape[-1], hidden_size).to(device)
    xs = torch.tensor(inputs, device=device)
    xs_leaf = xs.clone().requires_grad_()
    leaves = [*layer.parameters(), xs_leaf]

    def forward() -> Any:
        with torch.no_grad():
            outputs = layer(xs)[0]
        wait()
        return outputs

    def train() -> Any:
        gradients = torch.autograd.grad(layer(xs_leaf)[0].square().mean(), leaves)
        wait()
        return gradients

    return Layer(forward, train)


PEERS: dict[str, Callable[[str, np.ndarray, int], Layer]] = {
    "rnn_jax": ours,
    "autodiff": functools.partial(ours, gradient="autodiff"),
    "linen": flax_linen,
    "nnx": flax_nnx,
    "haiku": haiku,
    "equinox": equinox,
    "torch": torch,
}
