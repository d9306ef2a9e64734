"""Greedy and sampled decoding over a step whose distribution is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untyped import untyped

from rnn_jax import decoding
from rnn_jax.decoding.sampling import check_sampling, filter_top_p, largest, warp

PROBABILITIES = jnp.array([0.5, 0.25, 0.15, 0.1])


@pytest.mark.parametrize("size", [641, 1000, 4096])
@pytest.mark.parametrize("distinct", [3, 50, 10**6])
def test_the_largest_are_those_of_lax_ties_included(size, distinct):
    values = np.random.default_rng(size).integers(0, distinct, (2, 7, size)).astype(np.float32)
    values[0, 0] = -np.inf
    values[0, 1, 5:] = -np.inf
    values[1] += np.arange(size, dtype=np.float32) * 0.5  # the largest stand side by side
    values[1, 2] = np.nan
    both = jax.jit(lambda values: (largest(values, 5), jax.lax.top_k(values, 5)))
    found, expected = both(values)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_the_largest_of_no_rows():
    assert [part.shape for part in largest(jnp.zeros((0, 1000)), 3)] == [(0, 3), (0, 3)]


def independent(carry, tokens):
    """Every symbol drawn from the same distribution, whatever came before."""
    return carry + 1, jnp.broadcast_to(jnp.log(PROBABILITIES), (*tokens.shape, 4))


def successor(carry, tokens):
    """The next symbol is certain: one more, modulo 5."""
    return carry + 1, 20.0 * jax.nn.one_hot((tokens + 1) % 5, 5)


def frequencies(length=4000, **options):
    tokens = jnp.zeros((5,), jnp.int32)
    _, drawn = jax.jit(lambda key: decoding.sample(independent, jnp.int32(0), tokens, length, key, **options))(
        jax.random.key(0)
    )
    return np.bincount(np.asarray(drawn).ravel(), minlength=4) / drawn.size


def test_greedy_follows_the_likeliest_symbol_and_counts_its_steps():
    carry, tokens = decoding.greedy(successor, jnp.int32(0), jnp.array([3, 0]), 7)
    assert tokens.T.tolist() == [[4, 0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 1, 2]]
    assert carry == 7


def test_after_its_end_a_sequence_repeats_it():
    _, tokens = decoding.greedy(successor, jnp.int32(0), jnp.array([3, 0]), 7, end=1)
    assert tokens.T.tolist() == [[4, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
    _, drawn = decoding.sample(successor, jnp.int32(0), jnp.array([3, 0]), 7, jax.random.key(0), end=1)
    assert drawn.tolist() == tokens.tolist()


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_a_sample_has_the_length_asked_for(length):
    carry, tokens = decoding.sample(successor, jnp.int32(0), jnp.array([0]), length, jax.random.key(0))
    assert tokens[:, 0].tolist() == [(1 + i) % 5 for i in range(length)]
    assert carry == length


def test_samples_have_the_frequencies_of_the_softmax():
    np.testing.assert_allclose(frequencies(), PROBABILITIES, atol=0.015)


def test_temperature_is_a_power_of_the_distribution():
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    np.testing.assert_allclose(frequencies(temperature=0.5), expected, atol=0.015)
    np.testing.assert_allclose(frequencies(temperature=jnp.float32(0.5)), expected, atol=0.015)


def test_top_k_keeps_the_k_likeliest():
    np.testing.assert_allclose(frequencies(top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.015)
    assert frequencies(length=50, top_k=1).tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(frequencies(top_k=9), PROBABILITIES, atol=0.015)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    np.testing.assert_allclose(frequencies(top_p=0.7), [2 / 3, 1 / 3, 0, 0], atol=0.015)
    assert frequencies(length=50, top_p=0.01).tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(frequencies(top_p=1.0), PROBABILITIES, atol=0.015)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature: expected a number above 0"),
        ({"top_k": 0}, "top_k: expected a positive integer"),
        ({"top_p": jnp.float32(2)}, "top_p: expected a number in"),
        ({"top_p": 1.5}, "top_p: expected a number in"),
        ({"length": -1}, "length: expected 0 or more, found -1"),
    ],
)
def test_bad_choices_are_named(options, message):
    options = {"length": 3, "key": jax.random.key(0)} | options
    with pytest.raises(ValueError, match=message):
        decoding.sample(successor, jnp.int32(0), jnp.array([0]), **options)


def test_no_length_is_below_0():
    with pytest.raises(ValueError, match="length: expected 0 or more, found -1"):
        decoding.greedy(successor, jnp.int32(0), jnp.array([0]), -1)


@pytest.mark.parametrize(
    ("temperature", "top_k", "message"),
    [
        (np.float32(0), None, "temperature: expected a number above 0"),
        (1e-50, None, "temperature: expected a number above 0"),
        ("1", None, "temperature: expected a number above 0"),
        (1.0, 1.5, "top_k: expected a positive integer"),
    ],
)
def test_numbers_of_other_types_are_looked_at_too(temperature, top_k, message):
    with pytest.raises(ValueError, match=message):
        check_sampling(temperature, top_k, None)


def test_logits_of_half_precision_are_drawn_from_as_those_of_single():
    def uniform(carry, tokens):
        return carry, jnp.zeros((*tokens.shape, 200), jnp.bfloat16)

    tokens = jnp.zeros(20, jnp.int32)
    _, drawn = jax.jit(lambda key: decoding.sample(uniform, 0, tokens, 1000, key))(jax.random.key(0))
    # Mean 99.5, deviation 57.7, 20,000 draws: five standard errors.
    assert np.asarray(drawn).mean() == pytest.approx(99.5, abs=5 * 57.7 / np.sqrt(20_000))

    logits = jax.random.normal(jax.random.key(1), (20_000,)).astype(jnp.bfloat16)
    for share in (0.5, 0.99, 1.0):
        half, single = (filter_top_p(x, share) for x in (logits, logits.astype(jnp.float32)))
        np.testing.assert_array_equal(jnp.isfinite(half), jnp.isfinite(single))


@pytest.mark.parametrize("temperature", [1e-3, 1e-37, 2e-38])
def test_the_lower_the_temperature_the_likelier_the_likeliest(temperature):
    logits = jnp.array([1.0, 4.0, 5.0, -2.0, -jnp.inf])
    assert warp(logits, temperature).argmax() == 2
    np.testing.assert_array_equal(warp(jnp.full(3, -jnp.inf), temperature), jnp.full(3, -jnp.inf))


def always(symbol, size):
    return lambda carry, tokens: (carry, jnp.broadcast_to(50 * jax.nn.one_hot(symbol, size), (*tokens.shape, size)))


def test_symbols_need_not_fit_the_dtype_of_the_first():
    start = jnp.zeros(2, jnp.int8)
    assert decoding.greedy(always(300, 400), (), start, 2)[1].tolist() == [[300, 300]] * 2
    assert decoding.sample(always(300, 400), (), start, 2, jax.random.key(0), top_k=1)[1].tolist() == [[300, 300]] * 2
    assert decoding.beam_search(always(300, 400), (), start, 2, end=1).tokens[:, 0].tolist() == [[300, 300]] * 2


def test_top_k_may_be_an_array_of_one_number():
    _, drawn = untyped(decoding.sample)(always(3, 4), (), jnp.zeros(2, int), 2, jax.random.key(0), top_k=jnp.int32(1))
    assert drawn.tolist() == [[3, 3]] * 2


def test_all_of_the_probability_is_every_symbol():
    logits = 3 * jax.random.normal(jax.random.key(0), (50_000,))
    np.testing.assert_array_equal(filter_top_p(logits, 1.0), logits)
