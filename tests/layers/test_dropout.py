"""Dropout of words, and dropout with one mask a sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.layers import VariationalDropout, WordDropout
from rnn_jax.layers.dropout import TracedRate

NOISE = {"dropout": jax.random.key(2)}


@pytest.mark.parametrize("time_major", [True, False])
def test_variational_dropout_keeps_its_mask_over_time(time_major):
    inputs = jnp.ones((6, 50, 40))
    inputs = inputs if time_major else inputs.swapaxes(0, 1)
    layer = VariationalDropout(0.25, time_major)
    outputs = layer.apply({}, inputs, deterministic=False, rngs=NOISE)
    outputs = np.asarray(outputs if time_major else outputs.swapaxes(0, 1))
    assert (outputs == outputs[0]).all()
    assert not (outputs[0, 0] == outputs[0, 1]).all()
    assert outputs.mean() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(layer.apply({}, inputs, deterministic=True), inputs)


@pytest.mark.parametrize("time_major", [True, False])
def test_one_sequence_has_one_mask_too(time_major):
    outputs = VariationalDropout(0.5, time_major).apply({}, jnp.ones((6, 40)), deterministic=False, rngs=NOISE)
    assert (outputs == outputs[0]).all()
    assert not (outputs == outputs[:, :1]).all()


def test_word_dropout_puts_the_unknown_word_in_place_of_some():
    tokens = jnp.arange(2, 1002).reshape(100, 10)
    layer = WordDropout(0.2, unknown=1)
    found = np.asarray(layer.apply({}, tokens, deterministic=False, rngs=NOISE))
    lost = found == 1
    assert lost.mean() == pytest.approx(0.2, abs=0.05)
    np.testing.assert_array_equal(found[~lost], np.asarray(tokens)[~lost])
    assert found.dtype == tokens.dtype
    np.testing.assert_array_equal(layer.apply({}, tokens, deterministic=True), tokens)
    traced = jax.jit(lambda rate: WordDropout(TracedRate(rate), 1).apply({}, tokens, deterministic=False, rngs=NOISE))
    np.testing.assert_array_equal(traced(jnp.float32(0.2)), found)
