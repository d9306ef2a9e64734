"""The tagger: what padding, CRF and inputs do to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import crf, losses
from rnn_jax.models import Tagger

T = 5
TOKENS = jax.random.randint(jax.random.key(0), (T, 1), 0, 11)
LABELS = jax.random.randint(jax.random.key(1), (T, 1), 0, 4)
CHARACTERS = jax.random.randint(jax.random.key(2), (T, 1, 3), 1, 6)
FEATURES = jax.random.randint(jax.random.key(3), (T, 1, 2), 0, 3)
MASK = jnp.ones((T, 1), bool)


def build(**options):
    model = Tagger(
        4,
        11,
        embedding_size=5,
        hidden_size=3,
        characters=5,
        character_filters=4,
        features=(3, 3),
        feature_size=2,
        **options,
    )
    variables = jax.jit(model.init)(jax.random.key(4), TOKENS, characters=CHARACTERS, features=FEATURES)
    # Transitions begin at zero, where a CRF is a softmax.
    random = np.random.default_rng(5)
    return model, jax.tree.map(lambda leaf: leaf + 0.3 * random.normal(size=leaf.shape).astype(np.float32), variables)


def run(model, variables, before, after, others):
    """Loss, labels, emissions and gradient of the example with padding around it and other columns beside it."""

    def wide(array):
        array = jnp.pad(array, [(before, after), (0, others)] + [(0, 0)] * (array.ndim - 2))
        return array.at[:, 1:].set(1) if array.dtype != jnp.bool_ else array

    tokens, labels, characters, features, mask = map(wide, (TOKENS, LABELS, CHARACTERS, FEATURES, MASK))
    inputs = {"mask": mask, "characters": characters, "features": features}

    @jax.jit
    def everything(variables):
        def loss(variables):
            return model.apply(variables, tokens, labels, **inputs, method="learn")

        (total, count), gradient = jax.value_and_grad(loss, has_aux=True)(variables)
        emissions = model.apply(variables, tokens, **inputs)
        return total, count, gradient, emissions, model.apply(variables, emissions, inputs["mask"], method="decode")

    total, count, gradient, emissions, labels = everything(variables)
    return total, count, gradient, emissions[before : before + T, :1], labels[before : before + T, :1]


@pytest.mark.parametrize("with_crf", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_padding_and_examples_of_padding_never_matter(with_crf):
    model, variables = build(crf=with_crf)
    total, count, gradient, emissions, labels = run(model, variables, 0, 0, 0)
    assert count == T
    found = run(model, variables, 1, 2, 2)
    np.testing.assert_allclose(found[0], total, rtol=1e-6)
    assert found[1] == count
    for one, other in zip(jax.tree.leaves(found[2]), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(found[3], emissions, atol=1e-6)
    np.testing.assert_array_equal(found[4], labels)


def test_its_loss_and_labels_are_those_of_the_crf_and_without_preferences_of_a_softmax():
    model, variables = build()
    inputs = {"characters": CHARACTERS, "features": FEATURES}

    @jax.jit
    def everything(params):
        emissions = model.apply({"params": params}, TOKENS, **inputs)
        learned = model.apply({"params": params}, TOKENS, LABELS, **inputs, method="learn")
        return emissions, *learned, model.apply({"params": params}, TOKENS, **inputs, method="tag")

    params = variables["params"]
    emissions, total, count, labels = everything(params)
    transitions = crf.Transitions(*(params[name] for name in ("transitions", "first", "last")))
    assert total == pytest.approx(float(crf.negative_log_likelihood(emissions, LABELS, transitions)[0]), rel=1e-6)
    assert count == T
    np.testing.assert_array_equal(labels, crf.viterbi(emissions, transitions)[0])

    params = params | {name: jnp.zeros_like(params[name]) for name in ("transitions", "first", "last")}
    emissions, total, _, labels = everything(params)
    assert total == pytest.approx(float(losses.cross_entropy(emissions, LABELS)[0]), rel=1e-6)
    np.testing.assert_array_equal(labels, emissions.argmax(-1))


def test_every_input_reaches_the_emissions():
    model, variables = build()

    @jax.jit
    def score(tokens, characters, features):
        return model.apply(variables, tokens, characters=characters, features=features)

    plain = score(TOKENS, CHARACTERS, FEATURES)
    for changed in (
        (TOKENS.at[-1].add(1) % 11, CHARACTERS, FEATURES),
        (TOKENS, CHARACTERS.at[-1, 0, 0].set(CHARACTERS[-1, 0, 0] % 5 + 1), FEATURES),
        (TOKENS, CHARACTERS, FEATURES.at[-1, 0, 1].set((FEATURES[-1, 0, 1] + 1) % 3)),
    ):
        assert not np.allclose(score(*changed)[0], plain[0], atol=1e-7), "the first label must know the last token"


def test_errors_name_the_argument():
    model, variables = build()
    with pytest.raises(ValueError, match="characters: expected"):
        model.apply(variables, TOKENS, features=FEATURES)
    with pytest.raises(ValueError, match="features: expected 2 a token, found 1"):
        model.apply(variables, TOKENS, characters=CHARACTERS, features=FEATURES[..., :1])
