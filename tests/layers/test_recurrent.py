"""Recurrent layers: the Linen side of `unroll`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from rnn_jax.layers import Recurrent, Stack

INPUTS = jax.random.normal(jax.random.key(0), (5, 2, 3))


def test_a_layer_is_unroll_with_the_parameters_held_by_flax():
    cell = rnn_jax.lstm(4)
    layer = Recurrent(cell)
    variables = layer.init(jax.random.key(1), INPUTS)
    carry, outputs = layer.apply(variables, INPUTS)
    expected_carry, expected = rnn_jax.unroll(cell, variables["params"]["cell"], INPUTS)
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(carry.cell, expected_carry.cell)


def test_batch_major_and_reverse():
    cell = rnn_jax.gru(4)
    variables = Recurrent(cell).init(jax.random.key(1), INPUTS)
    _, outputs = Recurrent(cell, reverse=True).apply(variables, INPUTS)
    _, batch_major = Recurrent(cell, reverse=True, time_major=False).apply(variables, INPUTS.swapaxes(0, 1))
    np.testing.assert_allclose(batch_major.swapaxes(0, 1), outputs, rtol=1e-6)


def test_a_stack_feeds_each_layer_with_the_one_below():
    cells = [rnn_jax.lstm(4), rnn_jax.gru(6)]
    stack = Stack(cells)
    variables = stack.init(jax.random.key(1), INPUTS)
    carry, outputs = stack.apply(variables, INPUTS)
    params = variables["params"]
    first_carry, first = rnn_jax.unroll(cells[0], params["layer_0"]["cell"], INPUTS)
    second_carry, second = rnn_jax.unroll(cells[1], params["layer_1"]["cell"], first)
    np.testing.assert_array_equal(outputs, second)
    np.testing.assert_array_equal(carry[0].hidden, first_carry.hidden)
    np.testing.assert_array_equal(carry[1].hidden, second_carry.hidden)


def test_a_stack_goes_on_from_its_carry():
    stack = Stack([rnn_jax.elman(4), rnn_jax.lstm(4)])
    variables = stack.init(jax.random.key(1), INPUTS)
    _, whole = stack.apply(variables, INPUTS)
    carry, first = stack.apply(variables, INPUTS[:2])
    _, second = stack.apply(variables, INPUTS[2:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-5, atol=1e-6)


def test_dropout_acts_between_layers_only():
    one, two = Stack([rnn_jax.gru(4)], dropout=0.5), Stack([rnn_jax.gru(4), rnn_jax.gru(4)], dropout=0.5)
    noise = {"dropout": jax.random.key(2)}
    variables = one.init(jax.random.key(1), INPUTS)
    kept = one.apply(variables, INPUTS, deterministic=False, rngs=noise)[1]
    np.testing.assert_array_equal(kept, one.apply(variables, INPUTS)[1])
    variables = two.init(jax.random.key(1), INPUTS)
    dropped = two.apply(variables, INPUTS, deterministic=False, rngs=noise)[1]
    assert not np.allclose(dropped, two.apply(variables, INPUTS)[1])


def test_a_stack_works_inside_any_module():
    class Regressor(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            carry, _ = Stack([rnn_jax.lstm(4)])(inputs)
            return nn.Dense(1)(carry[-1].hidden)

    variables = Regressor().init(jax.random.key(0), INPUTS)
    assert Regressor().apply(variables, INPUTS).shape == (2, 1)


def test_half_precision_products_leave_carry_and_outputs_in_float32():
    layer = Recurrent(rnn_jax.lstm(16), dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(1), INPUTS)
    carry, outputs = layer.apply(variables, INPUTS)
    assert {outputs.dtype, carry.hidden.dtype, carry.cell.dtype} == {jnp.dtype("float32")}
    _, exact = Recurrent(rnn_jax.lstm(16)).apply(variables, INPUTS)
    assert 0 < np.abs(outputs - exact).max() < 0.02
    gradient = jax.grad(lambda v: layer.apply(v, INPUTS)[1].sum())(variables)
    exact_gradient = jax.grad(lambda v: Recurrent(rnn_jax.lstm(16)).apply(v, INPUTS)[1].sum())(variables)
    for found, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact_gradient), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="cells: expected at least one"):
        Stack([]).init(jax.random.key(0), INPUTS)
    stack = Stack([rnn_jax.gru(4)])
    variables = stack.init(jax.random.key(0), INPUTS)
    with pytest.raises(ValueError, match="carry: expected one a layer, 1, found 2"):
        stack.apply(variables, INPUTS, (None, None))
