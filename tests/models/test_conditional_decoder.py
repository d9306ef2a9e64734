"""The decoder under a context: three ways in, one call for training and decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

from rnn_jax import losses
from rnn_jax.models.conditional_decoder import CONTEXTS, ConditionalDecoder

TOKENS = jax.random.randint(jax.random.key(0), (5, 3), 0, 7)
CONTEXT = jax.random.normal(jax.random.key(1), (3, 4))
EXTRAS = jax.random.normal(jax.random.key(2), (5, 3, 2))


def build(context="both", **options):
    model = ConditionalDecoder(7, **({"hidden_size": 6, "embedding_size": 3, "context": context} | options))
    return model, draw_variables(model, TOKENS, CONTEXT)


def by_hand(params, context, tokens, vector):
    """A transcription of the equations for one sequence and one Elman layer, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    cell = p["stack"]["layer_0"]["cell"]
    h = np.zeros(6)
    if context != "input":
        h = np.tanh(vector @ p["to_carry_0"]["kernel"] + p["to_carry_0"]["bias"])
    logits = []
    for token in tokens:
        x = p["embedding"]["embedding"][token]
        if context != "state":
            x = np.concatenate([x, vector])
        h = np.tanh(x @ cell["input"] + h @ cell["recurrent"] + cell["bias"])
        logits.append(h @ p["readout"]["kernel"] + p["readout"]["bias"])
    return np.array(logits)


@pytest.mark.parametrize("context", CONTEXTS)
def test_equals_its_equations(context):
    model, variables = build(context, cell="elman")
    # A bias of zeros would hide one that is forgotten.
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    _, logits = jax.tree.map(np.asarray, jax.jit(model.apply)(variables, TOKENS, CONTEXT))
    for b in range(3):
        expected = by_hand(variables["params"], context, np.asarray(TOKENS[:, b]), np.asarray(CONTEXT[b], np.float64))
        np.testing.assert_allclose(logits[:, b], expected, atol=2e-6)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("options", [{"cell": "lstm", "num_layers": 2}, {"cell": "gru"}], ids=["lstm", "gru"])
def test_token_by_token_equals_the_whole_sequence(context, options):
    model = ConditionalDecoder(7, hidden_size=6, embedding_size=3, context=context, **options)
    variables = draw_variables(model, TOKENS, CONTEXT, extras=EXTRAS)
    apply = jax.jit(functools.partial(model.apply, variables))
    _, whole = apply(TOKENS, CONTEXT, extras=EXTRAS)
    carry = model.apply(variables, CONTEXT, EXTRAS, method="begin")
    for t in range(len(TOKENS)):
        step = slice(t, t + 1)
        carry, logits = apply(TOKENS[step], CONTEXT, carry, extras=EXTRAS[step])
        np.testing.assert_allclose(logits[0], whole[t], rtol=1e-5, atol=1e-6)


def test_every_leaf_of_every_layer_begins_with_the_context():
    model, variables = build("state", cell="lstm", num_layers=2)
    begin = jax.jit(functools.partial(model.apply, variables, method="begin"))
    one, other = (jax.tree.map(np.asarray, begin(context)) for context in (CONTEXT, CONTEXT + 1))
    assert [type(layer).__name__ for layer in one] == ["LSTMCarry", "LSTMCarry"]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.shape == (3, 6)
        assert (a != b).any(axis=1).all()


@pytest.mark.parametrize(
    "context", ["both", *(pytest.param(c, marks=pytest.mark.slow) for c in CONTEXTS if c != "both")]
)
def test_padding_never_matters(context):
    """Alone, padded left or right, or beside a longer one and one of padding alone: same outputs, same gradient."""
    model, variables = build(context)
    one, true = np.asarray(TOKENS[:3, :1]), np.ones((3, 1), bool)
    padding, false = np.zeros((2, 1), one.dtype), np.zeros((2, 1), bool)
    right, right_mask = np.concatenate([one, padding]), np.concatenate([true, false])
    others, busy_and_empty = np.asarray(TOKENS[:, 1:]), np.tile([True, False], (5, 1))
    cases = {
        "left": (np.concatenate([padding, one]), np.concatenate([false, true]), slice(2, 5)),
        "right": (right, right_mask, slice(0, 3)),
        "beside": (
            np.concatenate([right, others], 1),
            np.concatenate([right_mask, busy_and_empty], 1),
            slice(3),
        ),
    }

    def run(variables, tokens, mask):
        counted = mask & (np.arange(tokens.shape[1]) == 0)
        _, logits = model.apply(variables, jnp.asarray(tokens), CONTEXT[: tokens.shape[1]], mask=jnp.asarray(mask))
        return losses.cross_entropy(logits, jnp.asarray(tokens), jnp.asarray(counted))[0], logits[:, 0]

    gradient = jax.jit(jax.value_and_grad(run, has_aux=True))
    (loss, outputs), wanted = gradient(variables, one, true)
    for tokens, mask, steps in cases.values():
        (found_loss, found), found_gradient = gradient(variables, tokens, mask)
        np.testing.assert_allclose(found[steps], outputs, atol=1e-6)
        assert found_loss == pytest.approx(float(loss), abs=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found_gradient, wanted)


def test_an_unknown_context_is_named():
    with pytest.raises(ValueError, match="context: expected one of input, state, both, found 'output'"):
        build("output")
