"""Gradients with respect to earlier states, beside the formula and beside one Jacobian after the other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import rnn_jax
from rnn_jax.recurrence.state_gradients import norm_by_lag, state_gradients


def test_a_linear_recurrence_hands_back_its_powers(x64):
    matrix = np.random.default_rng(0).normal(size=(3, 3)) / 2
    inputs, direction = np.ones((6, 2, 3)), np.array([1.0, -2.0, 0.5])

    def step(carry, x):
        carry = carry @ matrix + x
        return carry, carry

    @jax.jit
    def gradients(inputs):
        return state_gradients(step, jnp.zeros((2, 3)), inputs, lambda last: (last @ direction).sum())

    found = gradients(inputs)
    expected = [np.linalg.matrix_power(matrix, 6 - t) @ direction for t in range(6)]
    np.testing.assert_allclose(found, np.stack([expected, expected], axis=1), rtol=1e-12)
    norms = norm_by_lag(found)
    np.testing.assert_allclose(norms[:, 1], np.linalg.norm(expected, axis=-1)[::-1], rtol=1e-12)


def test_it_equals_the_gradient_of_the_rest_of_the_sequence(x64):
    cell = rnn_jax.lstm(3)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), 2))
    inputs = jax.random.normal(jax.random.key(1), (5, 4, 2), jnp.float64)
    start = cell.initial_carry(params, (4,))

    def loss(last):
        return jnp.sin(last).sum()

    found = jax.jit(lambda start: state_gradients(partial(cell, params), start, inputs, loss))(start)

    @jax.jit
    @jax.grad
    def rest(carry):
        return loss(rnn_jax.unroll(cell, params, inputs[3:], carry)[1][-1])

    carry, _ = rnn_jax.unroll(cell, params, inputs[:3])
    expected = rest(carry)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[3], b, rtol=1e-10), found, expected)


def test_the_norm_is_over_all_leaves():
    gradients = {"hidden": jnp.array([[[3.0]], [[1.0]]]), "cell": jnp.array([[[4.0]], [[0.0]]])}
    np.testing.assert_allclose(norm_by_lag(gradients), [[1.0], [5.0]])
