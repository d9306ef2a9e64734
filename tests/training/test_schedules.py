"""Learning-rate schedules against Optax and against the recipes they are named after."""

import numpy as np
import optax
import pytest

from rnn_jax.training.schedules import SCHEDULES, make_schedule


def test_constant():
    rates = make_schedule("constant", 0.3)
    assert {rates(step, step / 10) for step in range(10)} == {0.3}


def test_cosine_equals_optax():
    rates, theirs = make_schedule("cosine", 0.3, end=0.1), optax.cosine_decay_schedule(0.3, 100, alpha=0.1)
    for step in range(101):
        np.testing.assert_allclose(rates(step, step / 100), theirs(step), rtol=1e-5)


def test_exponential_is_that_of_char_rnn():
    """Its lines after each epoch, counted from 1: `if epoch >= 10 then rate = rate * 0.97`."""
    rates, rate = make_schedule("exponential", 2e-3, steps_per_epoch=7), 2e-3
    for epoch in range(1, 30):
        for step in range((epoch - 1) * 7, epoch * 7):
            assert rates(step, 0.0) == pytest.approx(rate, rel=1e-12)
        if epoch >= 10:
            rate *= 0.97


def test_exponential_equals_optax():
    rates = make_schedule("exponential", 1.0, steps_per_epoch=5, decay=0.5, decay_after=1)
    theirs = optax.exponential_decay(1.0, transition_steps=5, decay_rate=0.5, staircase=True)
    for step in range(40):
        np.testing.assert_allclose(rates(step, 0.0), theirs(step), rtol=1e-5)


def test_halving_is_that_of_zaremba():
    """13 epochs, the rate 1 for the first four, halved before each of the others."""
    rates = make_schedule("halving", 1.0, steps_per_epoch=3)
    assert [rates(3 * epoch + 2, 0.0) for epoch in range(13)] == [1.0] * 4 + [0.5**n for n in range(1, 10)]
    medium = make_schedule("halving", 1.0, steps_per_epoch=3, decay=1 / 1.2, decay_after=6)
    assert [medium(3 * epoch, 0.0) for epoch in (5, 6, 7)] == pytest.approx([1.0, 1 / 1.2, 1 / 1.44])


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_linear_and_never_zero(name):
    plain, warm = make_schedule(name, 0.5), make_schedule(name, 0.5, warmup_steps=4)
    factors = [warm(step, step / 10) / plain(step, step / 10) for step in range(7)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"schedule: expected one of constant, .*; found 'linear'"):
        make_schedule("linear", 0.1)
    with pytest.raises(ValueError, match="decay: expected schedule exponential or halving, found 'cosine'"):
        make_schedule("cosine", 0.1, decay=0.5)
