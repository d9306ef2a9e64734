"""The captioner: greedy captions, and what padding must not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

from rnn_jax import losses
from rnn_jax.models import Captioner
from rnn_jax.models.captioner import describe

END = 5
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3)), jnp.uint8)
TOKENS = jnp.array([[END] * 4, [0, 1, 2, 3], [4, 4, 3, 2], [1, 0, 0, 1]], jnp.int32)


@pytest.fixture(scope="module")
def built():
    model = Captioner(
        7,
        image_shape=(8, 6, 3),
        end=END,
        unknown=6,
        max_length=6,
        hidden_size=5,
        embedding_size=3,
        channels=(3, 4),
        heads=2,
        features=4,
    )
    # Large weights, so that captions differ and some of them end.
    return model, draw_variables(model, IMAGES, TOKENS, scale=1.0)


def test_a_caption_is_the_likeliest_word_again_and_again(built):
    model, variables = built
    found = np.asarray(describe(model, variables, IMAGES))
    assert found.shape == (6, 4)
    # Behind what was read may stand anything: no word knows what follows.
    apply = jax.jit(functools.partial(model.apply, variables))
    for image, caption in zip(IMAGES, found.T, strict=True):
        read = [END]
        for word in caption:
            logits = apply(image[None], np.pad(read, (0, 6 - len(read)))[:, None])
            likeliest = int(logits[len(read) - 1, 0].argmax())
            # After the end there is nothing but the end.
            assert word == (END if END in read[1:] else likeliest)
            read.append(int(word))


def test_what_follows_the_end_is_the_end(built):
    model, variables = built
    readout = variables["params"]["decoder"]["readout"]
    ending = jax.tree.map(jnp.asarray, variables)
    ending["params"]["decoder"]["readout"] = readout | {"bias": readout["bias"].at[END].set(1e3)}
    assert (describe(model, ending, IMAGES) == END).all()


@pytest.mark.parametrize("number", [0, 3])
def test_padding_never_matters(built, number):
    model, variables = built
    mask = jnp.arange(4)[:, None] < jnp.array([3, 4, 0, 2])

    def loss(variables, images, tokens, mask, counted):
        logits = model.apply(variables, images, tokens, mask=mask)
        return losses.cross_entropy(logits, tokens, mask & counted)[0]

    length = int(mask[:, number].sum())
    alone = TOKENS[:length, number : number + 1]
    arguments = IMAGES[number : number + 1], alone, jnp.ones(alone.shape, bool), jnp.ones(alone.shape, bool)
    run = jax.jit(jax.value_and_grad(loss))
    wanted, gradient = run(variables, *arguments)
    found, found_gradient = run(variables, IMAGES, TOKENS, mask, jnp.arange(4) == number)
    assert found == pytest.approx(float(wanted), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found_gradient, gradient)


def test_words_are_withheld_in_training_only(built):
    model, variables = built
    dropping, key = model.clone(word_dropout=1.0), jax.random.key(0)
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(jax.jit(dropping.apply)(variables, IMAGES, TOKENS), apply(variables, IMAGES, TOKENS))
    dropped = jax.jit(functools.partial(dropping.apply, deterministic=False))(
        variables, IMAGES, TOKENS, rngs={"dropout": key}
    )
    np.testing.assert_array_equal(dropped, apply(variables, IMAGES, jnp.full_like(TOKENS, 6)))


def test_images_of_another_shape_are_named(built):
    model, variables = built
    with pytest.raises(ValueError, match=r"images: expected \[B, 8, 6, 3\], found \(4, 6, 8, 3\)"):
        model.apply(variables, IMAGES.swapaxes(1, 2), TOKENS)


def test_no_images_have_no_captions(built):
    model, variables = built
    assert describe(model, variables, IMAGES[:0]).shape == (6, 0)
