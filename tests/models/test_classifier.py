"""The classifier: padding never matters, and a table of pieces does what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.data import pad
from rnn_jax.models import Classifier, ClassifierEnsemble

CLASSES = ("bad", "good", "so")
SIZES = {"hidden_size": 4, "embedding_size": 3, "bidirectional": True}
LENGTH = 5
TEXTS = [np.array([1, 4, 2, 3, 5], np.int32), np.array([6, 1], np.int32), np.array([2, 2, 7], np.int32)]


def pieces_of(tokens):
    return np.stack([tokens % 5, (tokens * 3) % 5, np.zeros_like(tokens)], axis=-1)


def model_and_params():
    """One model in float64 for all tests, which so share its compilation; call it under `x64`."""
    model = Classifier(8, CLASSES, pieces=5, **SIZES)
    tokens, mask = map(jnp.asarray, pad(TEXTS))
    pieces = jnp.asarray(pieces_of(np.asarray(tokens)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, mask, pieces)["params"]
    random = np.random.default_rng(0)
    # Not the small initial values, which would hide differences.
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.5, leaf.shape)), shapes)
    return model.clone(dtype="float64"), params


def losses_and_gradient(model, params, tokens, mask, labels):
    """The loss of each column, and the gradient of their sum over those that are not empty."""
    pieces = np.where(mask[..., None], pieces_of(tokens), 4)
    (_, each), gradient = _losses_and_gradient(model, params, tokens, mask, pieces, np.asarray(labels))
    return each, gradient


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def _losses_and_gradient(model, params, tokens, mask, pieces, labels):
    logits = jax.nn.log_softmax(model.apply({"params": params}, tokens, mask, pieces))
    each = -jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.where(mask.any(0), each, 0).sum(), each


def test_padding_never_matters(x64):
    """Among columns of padding, padded on either side, and in a batch with others: the same loss, the same gradient."""
    model, params = model_and_params()

    def alone(number, before, column):
        text = TEXTS[number]
        # What stands under the padding is not 0, and must not show.
        tokens, mask = np.full((LENGTH, 4), 3, np.int32), np.zeros((LENGTH, 4), bool)
        tokens[before : before + len(text), column] = text
        mask[before : before + len(text), column] = True
        each, gradient = losses_and_gradient(model, params, tokens, mask, [number] * 4)
        assert np.isfinite(each).all()
        return each[column], gradient

    def assert_equal(first, second):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), first, second)

    tokens, mask = pad([*TEXTS, TEXTS[0][:0]], LENGTH)
    together, gradient = losses_and_gradient(model, params, np.where(mask, tokens, 5), mask, [0, 1, 2, 0])
    assert np.isfinite(together).all()
    total = jax.tree.map(jnp.zeros_like, params)
    for number, text in enumerate(TEXTS):
        behind = alone(number, 0, 0)
        assert_equal(alone(number, LENGTH - len(text), 3), behind)
        assert_equal(together[number], behind[0])
        total = jax.tree.map(jnp.add, total, behind[1])
    assert_equal(gradient, total)


def test_a_batch_of_padding_has_no_gradient_and_no_nan(x64):
    model, params = model_and_params()
    tokens, mask = np.ones((LENGTH, 4), np.int32), np.zeros((LENGTH, 4), bool)
    each, gradient = losses_and_gradient(model, params, tokens, mask, [0, 1, 2, 0])
    assert np.isfinite(each).all()
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_a_word_is_its_vector_and_the_scaled_sum_of_its_pieces(x64):
    model, params = model_and_params()
    tokens, mask = pad([TEXTS[1], *[TEXTS[0][:0]] * 3], LENGTH)
    given, labels = np.zeros((LENGTH, 4, 3), np.int32), np.zeros(4, int)
    given[0, 0] = [2, 3, 0]
    vectors, table = np.array(params["words"]["embedding"]), np.asarray(params["pieces"]["embedding"])
    vectors[tokens[0, 0]] += (table[2] + table[3]) / np.sqrt(2)
    by_hand = {**params, "words": {"embedding": jnp.asarray(vectors)}}
    (with_pieces, _), _ = _losses_and_gradient(model, params, tokens, mask, given, labels)
    (without, _), _ = _losses_and_gradient(model, by_hand, tokens, mask, np.zeros_like(given), labels)
    np.testing.assert_allclose(with_pieces, without, rtol=1e-12)


def test_dropout_hides_words_with_their_pieces(x64):
    model, params = model_and_params()
    tokens, mask = pad(TEXTS)
    # An unknown word would keep its pieces.
    tokens = np.where(mask, tokens, 1)
    lossy, random = model.clone(word_dropout=1.0), {"dropout": jax.random.key(0)}

    @jax.jit
    def lost_and_unknown(params, tokens, mask, pieces):
        lost = lossy.apply({"params": params}, tokens, mask, pieces, deterministic=False, rngs=random)
        return lost, model.apply({"params": params}, jnp.zeros_like(tokens), mask, jnp.zeros_like(pieces))

    lost, unknown = lost_and_unknown(params, tokens, mask, pieces_of(tokens))
    np.testing.assert_allclose(lost, unknown, rtol=1e-12)


def test_an_ensemble_is_the_mean_of_its_members():
    sizes = {"hidden_size": 4, "embedding_size": 3, "pieces": 5}
    model, single = ClassifierEnsemble(8, CLASSES, members=2, **sizes), Classifier(8, CLASSES, **sizes)
    tokens, mask = pad(TEXTS)
    arguments = (tokens, mask, pieces_of(tokens))
    params = jax.jit(model.init)(jax.random.key(0), *arguments)["params"]
    apply_single = jax.jit(lambda params: single.apply({"params": params}, *map(jnp.asarray, arguments)))
    each = [apply_single(jax.tree.map(lambda leaf, k=k: leaf[k], params["member"])) for k in range(2)]
    assert not np.allclose(each[0], each[1])

    @jax.jit
    def both(params):
        given = tuple(map(jnp.asarray, arguments))
        logits = model.apply({"params": params}, *given, method="member_logits")
        return logits, model.apply({"params": params}, *given)

    logits, log_probabilities = both(params)
    np.testing.assert_allclose(logits, np.stack(each), rtol=1e-4, atol=1e-6)
    mean = np.mean([jax.nn.softmax(one) for one in each], axis=0)
    np.testing.assert_allclose(np.exp(log_probabilities), mean, rtol=1e-4)


def test_wrong_arguments_are_named():
    tokens = jnp.zeros((3, 1), jnp.int32)
    with pytest.raises(ValueError, match="pieces: expected those of each word, found none"):
        Classifier(8, CLASSES, pieces=5, **SIZES).init(jax.random.key(0), tokens)
    with pytest.raises(ValueError, match="pieces: expected none, found some"):
        Classifier(8, CLASSES, **SIZES).init(jax.random.key(0), tokens, None, jnp.zeros((3, 1, 2), jnp.int32))
