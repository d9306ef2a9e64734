"""The recurrent network with a linear readout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

from rnn_jax.models import RecurrentReadout

INPUTS = jax.random.normal(jax.random.key(1), (6, 3, 2))


@pytest.fixture(scope="module")
def trained():
    model = RecurrentReadout(4, cell="elman", hidden_size=5)
    return model, draw_variables(model, INPUTS)


def test_it_is_the_equations(trained):
    model, variables = trained
    params = jax.tree.map(np.asarray, variables["params"])
    cell, readout = params["stack"]["layer_0"]["cell"], params["readout"]
    hidden = np.zeros((3, 5))
    _, outputs = jax.jit(model.apply)(variables, INPUTS)
    for x, found in zip(*map(np.asarray, (INPUTS, outputs)), strict=True):
        hidden = np.tanh(x @ cell["input"] + hidden @ cell["recurrent"] + cell["bias"])
        np.testing.assert_allclose(found, hidden @ readout["kernel"] + readout["bias"], atol=1e-5)


def test_padding_does_not_matter(trained):
    """Alone, or padded on both sides beside another sequence: the same outputs and the same gradient."""
    model, variables = trained
    padded = np.full((9, 2, 2), 7.0, np.float32)
    padded[2:6, 0], padded[:, 1] = INPUTS[:4, 0], 1.0
    mask = np.zeros((9, 2), bool)
    mask[2:6, 0] = True

    def alone(variables):
        return model.apply(variables, INPUTS[:4, :1])[1]

    def inside(variables):
        return model.apply(variables, jnp.asarray(padded), mask=jnp.asarray(mask))[1][2:6, :1]

    def value_and_gradient(run):
        def loss(variables):
            outputs = run(variables)
            return jnp.sin(outputs).sum(), outputs

        return jax.jit(jax.grad(loss, has_aux=True))(variables)

    (wanted, expected), (found, outputs) = map(value_and_gradient, (alone, inside))
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
