"""Cells of the same equations elsewhere: Flax with copied weights, PyTorch through golden files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rnn_jax import elman, gru, lstm, unroll

pytestmark = pytest.mark.usefixtures("x64")

STEPS, BATCH, FEATURES, HIDDEN = 6, 3, 2, 4
GOLDEN = Path(__file__).parents[1] / "golden"


def side_by_side(blocks):
    return jnp.concatenate(blocks, axis=-1)


def from_flax_simple(params):
    return {
        "input": params["i"]["kernel"],
        "bias": params["i"]["bias"],
        "recurrent": params["h"]["kernel"],
    }


def from_flax_lstm(params):
    return {
        "input": side_by_side([params[f"i{gate}"]["kernel"] for gate in "ifgo"]),
        "recurrent": side_by_side([params[f"h{gate}"]["kernel"] for gate in "ifgo"]),
        "bias": side_by_side([params[f"h{gate}"]["bias"] for gate in "ifgo"]),
    }


def from_flax_gru(params):
    return {
        "input": side_by_side([params[f"i{gate}"]["kernel"] for gate in "rzn"]),
        "bias": side_by_side([params[f"i{gate}"]["bias"] for gate in "rzn"]),
        "recurrent": side_by_side([params[f"h{gate}"]["kernel"] for gate in "rzn"]),
        "candidate_bias": params["hn"]["bias"],
    }


FLAX = {
    "simple": (nn.SimpleCell, elman, from_flax_simple, lambda carry: carry.hidden),
    "lstm": (nn.LSTMCell, lstm, from_flax_lstm, lambda carry: (carry.cell, carry.hidden)),
    "optimized_lstm": (nn.OptimizedLSTMCell, lstm, from_flax_lstm, lambda carry: (carry.cell, carry.hidden)),
    "gru": (nn.GRUCell, gru, from_flax_gru, lambda carry: carry.hidden),
}


@pytest.mark.parametrize("name", FLAX)
def test_equals_flax(name):
    """Outputs, final carry and every gradient, on padded sequences."""
    make, factory, convert, as_flax = FLAX[name]
    cell = factory(HIDDEN, dtype=jnp.float64)
    layer = nn.RNN(make(HIDDEN, dtype=jnp.float64, param_dtype=jnp.float64), time_major=True, return_carry=True)
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (STEPS, BATCH, FEATURES), jnp.float64)
    lengths = jnp.asarray([STEPS, 4, 1])
    mask = jnp.arange(STEPS)[:, None] < lengths
    params = layer.init(keys[1], inputs)["params"]["cell"]
    # Flax draws zero biases.
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(keys[2], leaf.shape, leaf.dtype), params)

    def theirs(params, inputs):
        carry, outputs = layer.apply({"params": {"cell": params}}, inputs, seq_lengths=lengths)
        return carry, outputs * mask[..., None].astype(outputs.dtype)  # Flax leaves outputs at padding as they fall

    def ours(params, inputs):
        carry, outputs = unroll(cell, convert(params), inputs, mask=mask)
        return as_flax(carry), outputs

    def loss(results):
        return sum(jnp.sum(jnp.sin(leaf + 1.0)) for leaf in jax.tree.leaves(results))

    @jax.jit
    def both(params, inputs):
        values = [run(params, inputs) for run in (ours, theirs)]
        gradients = [jax.grad(lambda p, x, run=run: loss(run(p, x)), (0, 1))(params, inputs) for run in (ours, theirs)]
        return values, gradients

    for found, expected in both(params, inputs):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), found, expected)


TORCH = {
    "rnn_tanh": elman(HIDDEN, dtype=jnp.float64),
    "rnn_relu": elman(HIDDEN, activation="relu", dtype=jnp.float64),
    "lstm": lstm(HIDDEN, dtype=jnp.float64),
    "gru": gru(HIDDEN, dtype=jnp.float64),
}


def from_torch(kind, weights, suffix):
    """One layer and direction; PyTorch keeps two biases, which only the candidate of the GRU tells apart."""
    bias, hidden_bias = weights[f"bias_ih_{suffix}"], weights[f"bias_hh_{suffix}"]
    params = {"input": weights[f"weight_ih_{suffix}"].T, "recurrent": weights[f"weight_hh_{suffix}"].T}
    if kind != "gru":
        return params | {"bias": bias + hidden_bias}
    gates = 2 * HIDDEN
    return params | {
        "bias": jnp.concatenate([bias[:gates] + hidden_bias[:gates], bias[gates:]]),
        "candidate_bias": hidden_bias[gates:],
    }


def torch_layers(kind, weights, inputs, initial):
    """All layers and directions of a PyTorch module, over `unroll`: final states by name, outputs."""
    cell = TORCH[kind]
    carry_type = type(cell.initial_carry(from_torch(kind, weights, "l0"), ()))
    finals, run = [], 0
    outputs = inputs
    for layer in range(2 if "weight_ih_l1" in weights else 1):
        directions = []
        for suffix in (f"l{layer}", f"l{layer}_reverse"):
            if f"weight_ih_{suffix}" in weights:
                carry = carry_type(**{name: initial[name][run] for name in carry_type._fields})
                reverse = suffix.endswith("reverse")
                carry, ys = unroll(cell, from_torch(kind, weights, suffix), outputs, carry, reverse=reverse)
                directions.append(ys)
                finals.append(carry)
                run += 1
        outputs = side_by_side(directions)
    return {name: jnp.stack([getattr(carry, name) for carry in finals]) for name in carry_type._fields}, outputs


def golden(kind, variant):
    """The arrays of one variant as nested names: `initial`, `final`, `state_weights`, `grad`, and the rest."""
    tree = {"weights": {}, "initial": {}, "final": {}, "state_weights": {}, "grad": {}}
    with np.load(GOLDEN / f"{kind}.npz") as file:
        for name in file.files:
            head, _, rest = name.partition(".")
            if head == variant:
                group, _, leaf = rest.partition(".")
                place = tree[group] if leaf else tree["weights"] if "_l" in rest and "weights" not in rest else tree
                place[leaf or rest] = jnp.asarray(file[name], jnp.float64)
    return tree


@pytest.mark.parametrize("variant", ["single", "stacked", "bidirectional"])
@pytest.mark.parametrize("kind", TORCH)
def test_equals_pytorch(kind, variant):
    """Outputs, final states and the gradients of inputs, initial states and all weights."""
    data = golden(kind, variant)

    def loss(weights, inputs, initial):
        final, outputs = torch_layers(kind, weights, inputs, initial)
        value = jnp.sum(outputs * data["output_weights"])
        return value + sum(jnp.sum(final[n] * data["state_weights"][n]) for n in final), (final, outputs)

    gradients, (final, outputs) = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(
        data["weights"], data["inputs"], data["initial"]
    )
    found = gradients[0] | {"inputs": gradients[1]} | {f"initial.{n}": g for n, g in gradients[2].items()}
    assert found.keys() == data["grad"].keys()
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, data["grad"][name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(outputs, data["outputs"], rtol=0, atol=1e-6)
    assert final.keys() == data["final"].keys()
    for name, state in final.items():
        np.testing.assert_allclose(state, data["final"][name], rtol=0, atol=1e-6)
