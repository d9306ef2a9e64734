"""The one product that the cells share: its gradient is the plain one's, however its inputs lie in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.cells.base import matmul


def plain(inputs, weights):
    return jnp.einsum("...d,dh->...h", inputs, weights)


def operands(leading, width):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((*leading, 3), (3, width)))


def turns(inputs, weights):
    """Whether the gradient of the weights turns the inputs in memory."""
    gradient = jax.grad(lambda w: jnp.square(matmul(inputs, w)).sum())
    return "optimization_barrier" in str(jax.make_jaxpr(gradient)(weights))


@pytest.mark.parametrize("leading", [(1024,), (64, 16), (1030,)])
def test_gradients_of_a_wide_matrix(leading):
    """First and second derivatives, forward and backward, and one matrix for each run of a sweep."""
    inputs, weights = operands(leading, 2048)
    assert turns(inputs, weights) == (jax.default_backend() == "cpu" and jax.device_count() == 1)

    def everything(product):
        def loss(x, w):
            return jnp.sin(product(x, w)).mean()

        gradients = jax.grad(loss, argnums=(0, 1))(inputs, weights)
        both = (inputs, weights)
        forward = jax.jvp(loss, both, both)
        second = jax.grad(lambda x, w: jnp.square(jax.grad(loss, argnums=1)(x, w)).sum(), argnums=(0, 1))(*both)
        runs = jax.vmap(jax.grad(loss, argnums=1), (None, 0))(inputs, jnp.stack([weights, -weights]))
        return product(inputs, weights), gradients, forward, second, runs

    found, expected = everything(matmul), everything(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), found, expected)


@pytest.mark.parametrize(
    ("leading", "width"), [((1024,), 2047), ((1024,), 1024), ((1023,), 2048), ((4,), 2048), ((), 2048)]
)
def test_inputs_are_turned_only_where_that_pays(leading, width):
    assert not turns(*operands(leading, width))


def test_inputs_that_are_spread_over_devices_are_not_turned(monkeypatch):
    monkeypatch.setattr("rnn_jax.cells.base.jax.device_count", lambda: 2)
    assert not turns(*operands((1024,), 2048))


def test_half_precision_is_left_alone():
    inputs, weights = operands((1024,), 2048)
    assert not turns(inputs, weights.astype(jnp.bfloat16))
    assert matmul(inputs, weights.astype(jnp.bfloat16)).dtype == jnp.float32
