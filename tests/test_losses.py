"""Masked losses against sums written out."""

import doctest
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untyped import untyped

from rnn_jax import losses


def test_cross_entropy_is_the_sum_of_negative_log_probabilities():
    logits = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float32)
    targets = np.random.default_rng(1).integers(0, 7, (5, 3))
    expected = 0.0
    for t in range(5):
        for b in range(3):
            expected -= np.log(np.exp(logits[t, b])[targets[t, b]] / np.exp(logits[t, b]).sum())
    total, count = jax.jit(losses.cross_entropy)(logits, targets)
    assert total == pytest.approx(expected, rel=1e-5)
    assert count == 15


def test_masked_positions_count_nothing_and_get_no_gradient():
    logits = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    targets = np.zeros((4, 2), np.int32)
    mask = np.array([[True, True], [True, False], [False, False], [False, True]])
    total, count = jax.jit(losses.cross_entropy)(logits, targets, mask)
    kept, _ = jax.jit(losses.cross_entropy)(logits[mask], targets[mask])
    assert total == pytest.approx(float(kept), rel=1e-6)
    assert count == 4
    differentiate = jax.jit(jax.grad(lambda *given: losses.cross_entropy(*given)[0]))
    gradient = np.asarray(differentiate(logits, targets, mask))
    assert not gradient[~mask].any()
    assert gradient[mask].any(axis=-1).all()


def test_squared_error_is_a_sum_over_what_is_not_masked():
    predictions, targets = np.random.default_rng(0).normal(size=(2, 4, 2, 3)).astype(np.float32)
    mask = np.array([[True, True], [True, False], [False, False], [False, True]])
    squared_error = jax.jit(losses.squared_error)
    total, count = squared_error(predictions, targets)
    assert total == pytest.approx(np.sum((predictions - targets) ** 2), rel=1e-6)
    assert count == 24
    total, count = squared_error(predictions, targets, mask)
    assert total == pytest.approx(np.sum((predictions - targets)[mask] ** 2), rel=1e-6)
    assert count == 12


def test_examples_in_the_docstrings():
    assert doctest.testmod(losses).failed == 0


def test_label_smoothing_is_the_cross_entropy_with_a_softened_target():
    logits = jax.random.normal(jax.random.key(0), (4, 3, 5))
    targets = jax.random.randint(jax.random.key(1), (4, 3), 0, 5)
    mask = jnp.arange(4)[:, None] < jnp.array([4, 2, 0])
    total, count = jax.jit(functools.partial(losses.cross_entropy, label_smoothing=0.2))(logits, targets, mask)
    soft = 0.8 * np.eye(5)[targets] + 0.2 / 5
    expected = -(soft * np.asarray(jax.nn.log_softmax(logits))).sum(-1)[np.asarray(mask)].sum()
    assert total == pytest.approx(expected, rel=1e-5)
    assert count == 6
    with pytest.raises(ValueError, match="label_smoothing: expected a number in"):
        losses.cross_entropy(logits, targets, label_smoothing=1.0)


@pytest.fixture(params=[2**22, 30, 1], ids=["at once", "in parts", "step by step"])
def at_once(request, monkeypatch):
    """How many logits the readout's loss may hold: all, those of 2 steps of 7, or not even those of one."""
    monkeypatch.setitem(losses._AT_ONCE, jax.default_backend(), request.param)
    return request.param


@pytest.mark.parametrize(("shape", "masked"), [((7, 3), True), ((7,), False), ((0, 3), True)])
def test_the_readouts_loss_is_that_of_its_logits(at_once, shape, masked):
    random = np.random.default_rng(0)
    weights = [random.normal(size=size).astype(np.float32) for size in ((*shape, 4), (4, 5), (5,))]
    targets = jnp.asarray(random.integers(0, 5, shape))
    mask = jnp.asarray(random.random(shape) < 0.6) if masked else None

    def plain(vectors, kernel, bias):
        total, count = losses.cross_entropy(vectors @ kernel + bias, targets, mask, label_smoothing=0.1)
        return 0.5 * total, count

    def linear(vectors, kernel, bias):
        total, count = losses.linear_cross_entropy(vectors, kernel, bias, targets, mask, label_smoothing=0.1)
        return 0.5 * total, count

    @jax.jit
    def both(*weights):
        (wanted, *_), gradient = expected = jax.value_and_grad(plain, argnums=(0, 1, 2), has_aux=True)(*weights)
        several = jax.vmap(jax.grad(linear, argnums=1, has_aux=True), in_axes=(None, 0, None))
        pair = several(weights[0], jnp.stack([weights[1], weights[1] + 1]), weights[2])[0]
        found = jax.value_and_grad(linear, argnums=(0, 1, 2), has_aux=True)(*weights)
        return (found, linear(*weights)[0], pair[0]), (expected, wanted, gradient[1])

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *both(*weights))


def test_logits_of_a_whole_sequence_are_held_nowhere(monkeypatch):
    monkeypatch.setitem(losses._AT_ONCE, jax.default_backend(), 1000)
    vectors, kernel, bias = jnp.ones((64, 2, 8)), jnp.ones((8, 250)), jnp.zeros(250)
    targets = jnp.zeros((64, 2), jnp.int32)

    def loss(vectors, kernel, bias):
        return losses.linear_cross_entropy(vectors, kernel, bias, targets)[0]

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(vectors, kernel, bias).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 64 * 2 * 250 / 2


def test_the_readouts_loss_computes_in_few_bits_and_adds_in_single_precision():
    vectors, kernel = jnp.full((64, 3, 8), 1 / 3), jnp.full((8, 5), 1 / 3)
    bias, targets = jnp.arange(5.0), jnp.zeros((64, 3), jnp.int32)
    loss = jax.jit(losses.linear_cross_entropy, static_argnames="dtype")
    exact, _ = loss(vectors, kernel, bias, targets)
    rounded, count = loss(vectors, kernel, bias, targets, dtype="bfloat16")
    assert (rounded.dtype, float(count)) == (jnp.float32, 192)
    assert float(rounded) == pytest.approx(float(exact), rel=1e-5)  # all logits move alike
    gradient = jax.jit(jax.grad(lambda x: loss(x, kernel, bias, targets, dtype="bfloat16")[0]))(vectors)
    assert gradient.dtype == jnp.float32


def test_the_readouts_loss_in_parts_keeps_single_precision(monkeypatch):
    """With double precision switched on and parameters of few bits, too."""
    vectors, targets = jax.random.normal(jax.random.key(0), (256, 2, 8)), jnp.zeros((256, 2), jnp.int32)
    kernel, bias = jnp.ones((8, 5), jnp.bfloat16), jnp.zeros(5, jnp.bfloat16)

    def gradient(at_once):
        monkeypatch.setitem(losses._AT_ONCE, jax.default_backend(), at_once)
        function = jax.value_and_grad(
            lambda *weights: losses.linear_cross_entropy(vectors, *weights, targets)[0], (0, 1)
        )
        return jax.jit(function)(kernel, bias)

    with jax.enable_x64(True):
        (total, whole), (in_parts, parts) = gradient(2**22), gradient(1)
    assert (total.dtype, in_parts.dtype) == (jnp.float32, jnp.float32)
    for one, other in zip(whole, parts, strict=True):
        assert one.dtype == other.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=0.01, atol=0.01 * np.abs(one).max())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_and_counts_in_single_precision(dtype):
    total, count = jax.jit(losses.cross_entropy)(jnp.zeros((1001, 4), dtype), jnp.zeros(1001, jnp.int32))
    assert (total.dtype, float(count)) == (jnp.float32, 1001)
    assert float(total) == pytest.approx(1001 * math.log(4), rel=1e-6)
    total, count = jax.jit(losses.squared_error)(jnp.ones((1001, 3), dtype), jnp.zeros((1001, 3), dtype))
    assert (float(total), float(count)) == (3003, 3003)


def test_perplexity_beyond_a_float():
    assert losses.perplexity(math.log(7)) == pytest.approx(7)
    assert losses.perplexity(1e6) == math.inf


MASKS = [jnp.array([True, False]), jnp.full((3, 2), 0.5), jnp.ones((3, 1), bool)]


@pytest.mark.parametrize("mask", MASKS)
def test_masks_that_would_count_otherwise_than_they_hide_are_refused(mask):
    targets, expected = jnp.zeros((3, 2), int), r"mask: expected bool \[3, 2\], found "
    with pytest.raises(ValueError, match=expected):
        untyped(losses.cross_entropy)(jnp.zeros((3, 2, 4)), targets, mask)
    with pytest.raises(ValueError, match=expected):
        untyped(losses.linear_cross_entropy)(jnp.zeros((3, 2, 5)), jnp.zeros((5, 4)), jnp.zeros(4), targets, mask)
    with pytest.raises(ValueError, match=expected):
        untyped(losses.squared_error)(jnp.zeros((3, 2, 4)), jnp.zeros((3, 2, 4)), mask)


def test_targets_are_not_stretched():
    with pytest.raises(ValueError, match=r"targets: expected \[5, 1\], found \[5\]"):
        untyped(losses.squared_error)(jnp.ones((5, 1)), jnp.ones(5))
    with pytest.raises(ValueError, match=r"targets: expected \[3, 2\], found \[2\]"):
        untyped(losses.cross_entropy)(jnp.zeros((3, 2, 4)), jnp.zeros(2, int))
    with pytest.raises(ValueError, match=r"targets: expected \[3, 2\], found \[2\]"):
        untyped(losses.linear_cross_entropy)(jnp.zeros((3, 2, 5)), jnp.zeros((5, 4)), jnp.zeros(4), jnp.zeros(2, int))
