"""Attention and the decoder cells around it, beside the papers' equations in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import gru, lstm, unroll
from rnn_jax.layers.attention import ATTENTIONS, make_attention
from rnn_jax.layers.attentive import attentive, input_feeding

S, B, M, T, H, D = 5, 3, 4, 3, 4, 2
LENGTHS = np.array([5, 3, 1])
MASK = np.arange(S)[:, None] < LENGTHS


def arrays(*shapes):
    random = np.random.default_rng(0)
    return [random.normal(size=shape) for shape in shapes]


def scores_of(name, params, query, value):
    if name == "bahdanau":
        hidden = np.tanh(query @ params["query"] + params["bias"] + value @ params["memory"])
        return float((hidden @ params["score"])[0])
    if name == "luong_dot":
        return float(query @ value)
    return float(query @ (value @ params["memory"])) / len(query) ** 0.5


def by_hand(name, params, query, outputs, length):
    """One query, one source: (context, weights)."""
    scores = np.array([scores_of(name, params, query, outputs[s]) for s in range(length)])
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return weights @ outputs[:length], weights


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), tree)


def prepared(name, hidden_size=6, query_size=H, memory_size=M):
    attention = make_attention(name, hidden_size)
    return attention, jax.jit(attention.init, static_argnums=(1, 2))(jax.random.key(0), query_size, memory_size)


@functools.partial(jax.jit, static_argnums=0)
def attend(attention, params, outputs, mask, query):
    return attention(params, attention.remember(params, outputs, mask), query)


def test_additive_attention_query_by_query_is_that_of_all_queries_at_once(monkeypatch):
    attention, params = prepared("bahdanau")
    outputs, queries = (jnp.asarray(array, jnp.float32) for array in arrays((S, B, M), (T, B, H)))

    def loss(params, outputs, queries):
        contexts, _ = attention(params, attention.remember(params, outputs, jnp.asarray(MASK)), queries)
        return (contexts * jnp.arange(float(M))).sum()

    found = {}
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        loops = str(jax.make_jaxpr(lambda *given: loss(*given))(params, outputs, queries)).count("scan[")
        assert loops == (backend == "cpu")
        found[backend] = jax.jit(jax.grad(loss, (0, 1, 2)))(params, outputs, queries)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found.values())


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.usefixtures("x64")
def test_contexts_and_weights_are_the_equations(name):
    attention, params = prepared(name)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    outputs, queries = arrays((S, B, M), (T, B, H))
    contexts, weights = map(np.asarray, attend(attention, params, outputs, MASK, queries))
    for t in range(T):
        for b in range(B):
            context, expected = by_hand(name, double(params), queries[t, b], outputs[:, b], LENGTHS[b])
            np.testing.assert_allclose(contexts[t, b], context, rtol=1e-10)
            np.testing.assert_allclose(weights[t, b, : LENGTHS[b]], expected, rtol=1e-10)
            assert not weights[t, b, LENGTHS[b] :].any()


@pytest.mark.parametrize("name", ["bahdanau", "luong_general"])
def test_attention_that_learns_starts_by_looking_everywhere(name):
    """Wide layers whose outputs are of the size of tanh's: no place has much more than its share."""
    wide, places = 512, 20
    attention, params = prepared(name, wide, wide, wide)
    random = np.random.default_rng(0)
    outputs, query = (
        jnp.asarray(random.uniform(-1, 1, shape), jnp.float32) for shape in ((places, 8, wide), (8, wide))
    )
    _, weights = attend(attention, params, outputs, np.ones((places, 8), bool), query)
    assert weights.max() < 0.3


@pytest.mark.parametrize("name", ATTENTIONS)
def test_padding_is_never_looked_at(name):
    """Whatever finite stands in the padding, and a source that is padding throughout."""
    attention, params = prepared(name)
    outputs, query = (a.astype(np.float32) for a in arrays((S, B, M), (B, H)))
    mask = MASK & (np.arange(B) != 1)
    other = np.where(mask[..., None], outputs, np.float32(1e6))

    @jax.jit
    def everything(outputs):
        given, back = jax.vjp(lambda outputs: attend(attention, params, outputs, mask, query), outputs)
        return given, back((jnp.ones_like(given[0]), jnp.zeros_like(given[1])))[0]

    (contexts, weights), gradient = jax.tree.map(np.asarray, everything(outputs))
    for found, wanted in zip(everything(other)[0], (contexts, weights), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not contexts[1].any()
    assert not weights[1].any()
    assert np.isfinite(gradient).all()
    assert not gradient[~mask].any()


def test_rows_of_several_steps_or_hypotheses_go_through_the_batch_in_turn():
    attention, params = prepared("bahdanau")
    outputs, queries = (jnp.asarray(a, jnp.float32) for a in arrays((S, B, M), (T, B, H)))
    memory = attention.remember(params, outputs, jnp.asarray(MASK))
    whole, _ = attention(params, memory, queries)
    flat, _ = attention(params, memory, queries.reshape(-1, H))
    np.testing.assert_array_equal(flat.reshape(whole.shape), whole)
    np.testing.assert_allclose(attention(params, memory, queries[1])[0], whole[1], rtol=1e-6)


def test_an_unknown_attention_and_unequal_widths_are_named():
    with pytest.raises(ValueError, match="attention: expected one of bahdanau, luong_dot, luong_general, found 'x'"):
        make_attention("x", 3)
    with pytest.raises(ValueError, match="luong_dot, found 5 and 4"):
        make_attention("luong_dot", 3).init(jax.random.key(0), 4, 5)


def decoders():
    attention, _ = prepared("bahdanau")
    return {
        "attentive": attentive(lstm(H), attention, H, M),
        "attentive gru": attentive(gru(H, reset="before"), attention, H, M),
        "input feeding": input_feeding((lstm(H), lstm(H)), make_attention("luong_general", H), H, M, 3),
    }


def with_memory(cell, params, outputs):
    name = "luong_general" if "combine" in params else "bahdanau"
    attention = make_attention(name, 6 if name == "bahdanau" else H)
    return params | {"memory": attention.remember(params["attention"], outputs, jnp.asarray(MASK))}


@pytest.mark.parametrize(
    "name", ["attentive", *(pytest.param(name, marks=pytest.mark.slow) for name in ("attentive gru", "input feeding"))]
)
@pytest.mark.usefixtures("x64")
def test_gradients_of_the_decoder_loop_are_those_of_autodiff(name):
    """Those of weights, inputs and of the memory, which sits among the parameters."""
    cell = decoders()[name]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), D))
    outputs, inputs = map(jnp.asarray, arrays((S, B, M), (T, B, D)))

    def loss(gradient):
        def value(params, outputs, inputs):
            carry, ys = unroll(cell, with_memory(cell, params, outputs), inputs, gradient=gradient)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((carry, ys)))

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))

    found, wanted = (loss(kind)(params, outputs, inputs) for kind in ("deferred", "autodiff"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), found, wanted)


@pytest.mark.usefixtures("x64")
def test_bahdanau_feeds_the_context_of_the_last_state_into_the_cell():
    cell = attentive(lstm(H), make_attention("bahdanau", 6), H, M)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), D))
    outputs, inputs = arrays((S, B, M), (T, B, D))
    _, (states, contexts) = unroll(cell, with_memory(cell, params, jnp.asarray(outputs)), jnp.asarray(inputs))
    plain = double(params)
    for b in range(B):
        h, c = np.zeros(H), np.zeros(H)
        for t in range(T):
            context, _ = by_hand("bahdanau", plain["attention"], h, outputs[:, b], LENGTHS[b])
            x = np.concatenate([inputs[t, b], context])
            i, f, g, o = np.split(
                x @ plain["cell"]["input"] + h @ plain["cell"]["recurrent"] + plain["cell"]["bias"], 4
            )
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            np.testing.assert_allclose(contexts[t, b], context, rtol=1e-9)
            np.testing.assert_allclose(states[t, b], h, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_input_feeding_hands_the_attentional_vector_on():
    cell = input_feeding((gru(H),), make_attention("luong_general", H), H, M, 3)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), cell.init(jax.random.key(0), D))
    outputs, inputs = arrays((S, B, M), (T, B, D))
    full = with_memory(cell, params, jnp.asarray(outputs))
    _, (feeds, _) = unroll(cell, full, jnp.asarray(inputs), gradient="autodiff")
    plain = double(params)
    one_layer = gru(H)
    for b in range(B):
        feed, carry = np.zeros(3), one_layer.initial_carry(params["cells"]["layer_0"], ())
        for t in range(T):
            carry, state = one_layer(
                params["cells"]["layer_0"], carry, jnp.asarray(np.concatenate([inputs[t, b], feed]))
            )
            context, _ = by_hand("luong_general", plain["attention"], np.asarray(state), outputs[:, b], LENGTHS[b])
            feed = np.tanh(np.concatenate([context, state]) @ plain["combine"] + plain["combine_bias"])
            np.testing.assert_allclose(feeds[t, b], feed, rtol=1e-9)
