"""Output feedback: the chain rule by enumeration, and generation that reads its own symbols."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

import rnn_jax
from rnn_jax import decoding
from rnn_jax.layers import OutputFeedback, Stack
from rnn_jax.layers.output_feedback import feedback_step

STEPS, SYMBOLS = 3, 3
LAYER = OutputFeedback(Stack([rnn_jax.elman(5), rnn_jax.elman(5)], residual=True), SYMBOLS, embedding_size=2)
X = jax.random.normal(jax.random.key(0), (STEPS, 1, 2))
EVERY = np.array(list(itertools.product(range(SYMBOLS), repeat=STEPS))).T
VARIABLES = draw_variables(LAYER, X, jnp.zeros((STEPS, 1), jnp.int32), scale=1.0)
apply = jax.jit(LAYER.apply, static_argnames="method")


def probabilities():
    """P(y | x) of all 27 y: one call for all of them."""
    many = jnp.broadcast_to(X, (STEPS, EVERY.shape[1], 2))
    return np.exp(apply(VARIABLES, many, jnp.asarray(EVERY), method="log_prob"))


def test_probabilities_of_all_sequences_sum_to_one():
    assert probabilities().sum() == pytest.approx(1, abs=1e-5)


def test_the_factors_depend_on_the_symbols_before():
    """P(y | x) is not a product over time of what is known of each y_t alone."""
    joint = probabilities().reshape((SYMBOLS,) * STEPS)
    marginals = [joint.sum(axis=tuple(set(range(STEPS)) - {t})) for t in range(STEPS)]
    assert np.abs(joint - np.einsum("a,b,c->abc", *marginals)).max() > 0.01


def test_log_prob_is_the_product_step_by_step():
    step, carry, tokens = feedback_step(LAYER, VARIABLES, jnp.broadcast_to(X, (STEPS, EVERY.shape[1], 2)))
    step = jax.jit(step)
    total = np.zeros(EVERY.shape[1])
    for t in range(STEPS):
        carry, logits = step(carry, tokens)
        total += np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), EVERY[t][:, None], axis=1)[:, 0]
        tokens = jnp.asarray(EVERY[t])
    np.testing.assert_allclose(np.exp(total), probabilities(), rtol=1e-4)


def test_samples_follow_the_distribution():
    count = 4000
    step, carry, tokens = feedback_step(LAYER, VARIABLES, jnp.broadcast_to(X, (STEPS, count, 2)))
    drawn = np.asarray(decoding.sample(step, carry, tokens, STEPS, jax.random.key(3))[1])
    numbers = drawn[0] * SYMBOLS**2 + drawn[1] * SYMBOLS + drawn[2]
    frequencies = np.bincount(numbers, minlength=EVERY.shape[1]) / count
    expected = probabilities()
    # Five standard deviations of a share.
    assert (np.abs(frequencies - expected) < 5 * np.sqrt(expected * (1 - expected) / count) + 1e-3).all()


def test_generation_reads_its_own_symbols_and_not_those_of_the_padding():
    inputs = jax.random.normal(jax.random.key(4), (6, 3, 2))
    mask = jnp.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0]], bool)
    step, carry, tokens = feedback_step(LAYER, VARIABLES, inputs, mask=mask)
    (final, _), drawn = decoding.greedy(step, carry, tokens, 6)
    true = np.argsort(~np.asarray(mask), axis=0, kind="stable")[:4], np.arange(3)
    expected = decoding.greedy(*feedback_step(LAYER, VARIABLES, inputs[true]), 4)[1]
    np.testing.assert_array_equal(np.asarray(drawn)[true], expected)
    # The likeliest symbols, told to the layer as if they were true, are the likeliest again.
    carry, logits = apply(VARIABLES, inputs, drawn, mask=mask)
    np.testing.assert_array_equal(np.asarray(logits.argmax(-1))[mask], np.asarray(drawn)[mask])
    for found, expected in zip(jax.tree.leaves(final.layers), jax.tree.leaves(carry.layers), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_sequence_goes_on_from_its_carry_and_starts_again_at_a_reset():
    inputs = jax.random.normal(jax.random.key(4), (4, 2, 2))
    targets = jax.random.randint(jax.random.key(5), (4, 2), 0, SYMBOLS)
    _, whole = apply(VARIABLES, inputs, targets)
    carry, first = apply(VARIABLES, inputs[:2], targets[:2])
    _, second = apply(VARIABLES, inputs[2:], targets[2:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-5, atol=1e-5)
    reset = jnp.zeros((4, 2), bool).at[2].set(True)
    _, packed = apply(VARIABLES, inputs, targets, reset=reset)
    _, fresh = apply(VARIABLES, inputs[2:], targets[2:])
    np.testing.assert_allclose(packed[2:], fresh, rtol=1e-5, atol=1e-5)


def test_padding_counts_nothing():
    targets = jnp.array([[1], [2], [-1]])
    mask = jnp.array([[True], [True], [False]])
    found = apply(VARIABLES, X, targets, mask=mask, method="log_prob")
    expected = apply(VARIABLES, X[:2], targets[:2], method="log_prob")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_symbols_of_small_integers_leave_room_for_the_start():
    layer = OutputFeedback(Stack([rnn_jax.elman(5)]), 128, embedding_size=2)
    targets = jnp.asarray([[127], [0], [1]])
    variables = draw_variables(layer, X, targets, scale=1.0)
    log_prob = jax.jit(functools.partial(layer.apply, variables, X, method="log_prob"))
    expected = log_prob(targets)
    found = log_prob(targets.astype(jnp.int8))
    np.testing.assert_array_equal(found, expected)


def test_a_beam_as_wide_as_all_sequences_finds_the_likeliest():
    """Of two examples: each hypothesis must read the inputs of its own."""
    inputs = jnp.concatenate([X, -X], axis=1)
    every = jnp.asarray(EVERY)
    log_prob = functools.partial(apply, VARIABLES, inputs, method="log_prob")
    scores = jax.jit(jax.vmap(lambda y: log_prob(jnp.stack([y, y], 1)), in_axes=1))(every)
    found = decoding.beam_search(*feedback_step(LAYER, VARIABLES, inputs), STEPS, end=-1, beam_size=27)
    np.testing.assert_array_equal(found.tokens[:, 0], every[:, scores.argmax(0)])
    np.testing.assert_allclose(found.log_probs[0], scores.max(0), rtol=1e-5)
