"""The drawer: a distribution over images, and draws from it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

from rnn_jax.models import Drawer
from rnn_jax.models.drawer import draw

LABELS = jnp.array([0, 2, 1], jnp.int32)


def build(shape=(2, 3), levels=4, **options):
    model = Drawer(3, levels, image_shape=shape, hidden_size=5, embedding_size=3, **options)
    pixels = jax.random.randint(jax.random.key(0), (model.length, 3), 0, levels)
    return model, draw_variables(model, LABELS, pixels, scale=1.0), pixels


@pytest.mark.parametrize("context", ["input", "state"])
def test_pixel_by_pixel_equals_the_whole_image(context):
    model, variables, pixels = build(context=context)
    whole = jax.jit(model.apply)(variables, LABELS, pixels)
    carry = model.apply(variables, LABELS, method="begin")
    before = jnp.zeros(3, pixels.dtype)
    decode = jax.jit(functools.partial(model.apply, variables, method="decode"))
    for logits, pixel in zip(whole, pixels, strict=True):
        carry, found = decode(LABELS, carry, before)
        np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)
        before = pixel


def test_no_pixel_knows_itself_or_what_follows():
    model, variables, pixels = build()
    apply = jax.jit(model.apply)
    changed = apply(variables, LABELS, pixels.at[3].add(1) % 4)
    same = (changed == apply(variables, LABELS, pixels)).all(axis=(1, 2))
    np.testing.assert_array_equal(same, [True, True, True, True, False, False])


def test_draws_follow_the_probability_of_each_image():
    model, variables, _ = build(shape=(1, 3), levels=2)
    images = jnp.array([*itertools.product(range(2), repeat=3)], jnp.int32)
    label = 2
    logits = jax.jit(model.apply)(variables, jnp.full(8, label, jnp.int32), images.T)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), images.T[..., None], axis=-1)
    expected = np.exp(np.asarray(picked, np.float64)[..., 0].sum(axis=0))
    assert expected.sum() == pytest.approx(1, abs=1e-5)

    count = 20_000
    drawn = np.asarray(draw(model, variables, jnp.full(count, label, jnp.int32), jax.random.key(0)))
    assert drawn.shape == (count, 1, 3)
    found = np.bincount(drawn[:, 0] @ [4, 2, 1], minlength=8) / count
    error = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(found - expected) < 4.5 * error + 1e-9).all()
    assert expected.max() < 0.9


def test_a_temperature_that_nothing_can_be_drawn_by_is_named():
    model, variables, _ = build()
    with pytest.raises(ValueError, match="temperature: expected a number above 0"):
        draw(model, variables, np.asarray(LABELS), jax.random.key(0), 0.0)
