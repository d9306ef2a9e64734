"""The classifier of sequences of vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

import rnn_jax
from rnn_jax import losses
from rnn_jax.models import VectorClassifier

INPUTS = jax.random.normal(jax.random.key(0), (6, 4, 3))
LENGTHS = jnp.array([6, 3, 0, 5])
LABELS = jnp.array([0, 1, 2, 1], jnp.int32)


def test_is_the_last_output_and_a_softmax_layer():
    model = VectorClassifier(5, cell="gru", hidden_size=4)
    variables = draw_variables(model, INPUTS)
    params = variables["params"]
    carry, _ = rnn_jax.unroll(rnn_jax.gru(4), params["Stack_0"]["layer_0"]["cell"], INPUTS)
    expected = carry.hidden @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    np.testing.assert_allclose(model.apply(variables, INPUTS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), {"bidirectional": True, "pooling": "mean"}],
    ids=["last", "both ways"],
)
def test_padding_never_matters(options):
    model = VectorClassifier(5, hidden_size=4, **options)
    variables = draw_variables(model, INPUTS)
    mask = jnp.arange(6)[:, None] < LENGTHS

    def loss(variables, inputs, mask, number, column):
        logits = model.apply(variables, inputs, mask=mask)
        counted = jnp.arange(len(logits)) == column
        return losses.cross_entropy(logits, jnp.full(len(logits), LABELS[number]), counted)[0]

    gradient = jax.jit(jax.value_and_grad(loss))
    for number in (0, 1, 3):
        length = int(LENGTHS[number])
        wanted = gradient(variables, INPUTS[:length, number : number + 1], jnp.ones((length, 1), bool), number, 0)
        found = gradient(variables, INPUTS, mask, number, number)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)
