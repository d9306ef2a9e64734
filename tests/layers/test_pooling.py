"""Pooling heads against NumPy, example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

from rnn_jax.layers import Pooling

OUTPUTS = jax.random.normal(jax.random.key(0), (6, 5, 4))
# Padding at the end, in front, inside, nowhere; and nothing but padding.
MASK = np.array(
    [[1, 0, 1, 1, 0], [1, 0, 0, 1, 0], [1, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0]], bool
)


def attention(params, steps):
    hidden = np.tanh(steps @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    scores = np.exp(hidden @ params["score"]["kernel"])
    return (scores * steps).sum(0) / scores.sum()


ORACLES = {
    "last": lambda params, steps: steps[-1],
    "mean": lambda params, steps: steps.mean(0),
    "max": lambda params, steps: steps.max(0),
    "attention": attention,
}


@pytest.mark.parametrize("kind", ORACLES)
def test_pools_the_true_steps_of_each_example(kind):
    head = Pooling(kind)
    variables = draw_variables(head, OUTPUTS)
    apply = jax.jit(head.apply)
    spoiled = jnp.where(MASK[..., None], OUTPUTS, jnp.nan)
    pooled = np.asarray(apply(variables, spoiled, MASK))
    params = jax.tree.map(np.asarray, variables.get("params", {}))
    for column in range(4):
        steps = np.asarray(OUTPUTS)[MASK[:, column], column]
        np.testing.assert_allclose(pooled[column], ORACLES[kind](params, steps), rtol=1e-5)
    assert not pooled[4].any()
    everything = apply(variables, OUTPUTS)
    np.testing.assert_allclose(everything, apply(variables, OUTPUTS, np.ones((6, 5), bool)))


@pytest.mark.parametrize("kind", ORACLES)
def test_an_example_of_padding_alone_has_no_gradient(kind):
    head = Pooling(kind)
    variables = draw_variables(head, OUTPUTS)

    def loss(variables, outputs):
        return head.apply(variables, outputs, jnp.asarray(MASK)).sum()

    gradient, of_outputs = jax.jit(jax.grad(loss, (0, 1)))(variables, OUTPUTS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(of_outputs).all()
    assert not np.asarray(of_outputs)[~MASK].any()
    assert np.asarray(of_outputs)[:, 3].any()


def test_last_of_two_directions_is_each_ones_own_last_step():
    pooled = Pooling("last", bidirectional=True).apply({}, OUTPUTS, jnp.asarray(MASK))
    np.testing.assert_array_equal(pooled[0], jnp.concatenate([OUTPUTS[2, 0, :2], OUTPUTS[0, 0, 2:]]))
    np.testing.assert_array_equal(pooled[1], jnp.concatenate([OUTPUTS[5, 1, :2], OUTPUTS[2, 1, 2:]]))


def test_a_single_sequence_needs_no_batch():
    np.testing.assert_array_equal(Pooling("max").apply({}, OUTPUTS[:, 0]), OUTPUTS[:, 0].max(0))


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="kind: expected one of last, mean, max, attention, found 'first'"):
        Pooling("first").apply({}, OUTPUTS)
    with pytest.raises(ValueError, match="bidirectional: expected two halves of one width, found 3 features"):
        Pooling("last", bidirectional=True).apply({}, OUTPUTS[..., :3])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ORACLES)
def test_no_step_at_all_is_zeros(kind, bidirectional):
    head = Pooling(kind, bidirectional)
    pooled, _ = jax.jit(head.init_with_output)(jax.random.key(0), OUTPUTS[:0])
    assert pooled.tolist() == np.zeros((5, 4)).tolist()


@pytest.mark.parametrize("mask", [jnp.ones((3, 1), bool), jnp.ones((3, 2, 4), bool)])
def test_a_mask_is_of_every_step(mask):
    with pytest.raises(ValueError, match=r"mask: expected bool \[3, 2\], found"):
        Pooling("mean").apply({}, jnp.ones((3, 2, 4)), mask)
