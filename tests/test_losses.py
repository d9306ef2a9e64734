"""Masked losses against sums written out."""

import doctest
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import losses


def test_cross_entropy_is_the_sum_of_negative_log_probabilities():
    logits = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float32)
    targets = np.random.default_rng(1).integers(0, 7, (5, 3))
    expected = 0.0
    for t in range(5):
        for b in range(3):
            expected -= np.log(np.exp(logits[t, b])[targets[t, b]] / np.exp(logits[t, b]).sum())
    total, count = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    assert total == pytest.approx(expected, rel=1e-5)
    assert count == 15


def test_masked_positions_count_nothing_and_get_no_gradient():
    logits = jax.random.normal(jax.random.key(0), (4, 2, 3))
    targets = jnp.zeros((4, 2), jnp.int32)
    mask = jnp.array([[True, True], [True, False], [False, False], [False, True]])
    total, count = losses.cross_entropy(logits, targets, mask)
    kept, _ = losses.cross_entropy(logits[mask], targets[mask])
    assert total == pytest.approx(float(kept), rel=1e-6)
    assert count == 4
    gradient = jax.grad(lambda logits: losses.cross_entropy(logits, targets, mask)[0])(logits)
    assert not gradient[~mask].any()
    assert gradient[mask].any(axis=-1).all()


def test_squared_error_is_a_sum_over_what_is_not_masked():
    predictions, targets = np.random.default_rng(0).normal(size=(2, 4, 2, 3)).astype(np.float32)
    mask = np.array([[True, True], [True, False], [False, False], [False, True]])
    total, count = losses.squared_error(jnp.asarray(predictions), jnp.asarray(targets))
    assert total == pytest.approx(np.sum((predictions - targets) ** 2), rel=1e-6)
    assert count == 24
    total, count = losses.squared_error(jnp.asarray(predictions), jnp.asarray(targets), jnp.asarray(mask))
    assert total == pytest.approx(np.sum((predictions - targets)[mask] ** 2), rel=1e-6)
    assert count == 12


def test_examples_in_the_docstrings():
    assert doctest.testmod(losses).failed == 0


def test_label_smoothing_is_the_cross_entropy_with_a_softened_target():
    logits = jax.random.normal(jax.random.key(0), (4, 3, 5))
    targets = jax.random.randint(jax.random.key(1), (4, 3), 0, 5)
    mask = jnp.arange(4)[:, None] < jnp.array([4, 2, 0])
    total, count = losses.cross_entropy(logits, targets, mask, label_smoothing=0.2)
    soft = 0.8 * np.eye(5)[targets] + 0.2 / 5
    expected = -(soft * np.asarray(jax.nn.log_softmax(logits))).sum(-1)[np.asarray(mask)].sum()
    assert total == pytest.approx(expected, rel=1e-5)
    assert count == 6
    with pytest.raises(ValueError, match="label_smoothing: expected a number in"):
        losses.cross_entropy(logits, targets, label_smoothing=1.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_and_counts_in_single_precision(dtype):
    total, count = losses.cross_entropy(jnp.zeros((1001, 4), dtype), jnp.zeros(1001, jnp.int32))
    assert (total.dtype, float(count)) == (jnp.float32, 1001)
    assert float(total) == pytest.approx(1001 * math.log(4), rel=1e-6)
    total, count = losses.squared_error(jnp.ones((1001, 3), dtype), jnp.zeros((1001, 3), dtype))
    assert (float(total), float(count)) == (3003, 3003)


def test_perplexity_beyond_a_float():
    assert losses.perplexity(math.log(7)) == pytest.approx(7)
    assert losses.perplexity(1e6) == math.inf
