"""The language model: one call for training, evaluation and decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import draw_variables

from rnn_jax import losses
from rnn_jax.models import LanguageModel
from rnn_jax.models.language_model import continue_text, decode_step
from rnn_jax.training.optimizers import make_optimizer

VARIANTS = {
    "onehot": {"input": "onehot"},
    "embedding": {"embedding_size": 5, "cell": "gru"},
    "tied": {"tie_embeddings": True, "num_layers": 2},
    "tied through a map": {"tie_embeddings": True, "embedding_size": 5, "cell": "elman(activation=relu)"},
    "tied to other outputs": {"tie_embeddings": True, "hidden_size": 5, "cell": "jordan(output_size=3)"},
    "widths": {"hidden_size": (6, 4), "cell": "gru(reset=before)"},
    "regularised": {
        "embedding_size": 8,
        "num_layers": 2,
        "residual": True,
        "zoneout": 0.3,
        "weight_drop": 0.5,
        "variational_dropout": True,
    },
}
# Of all of it the products of a table are taken, of a part those of its symbols.
SYMBOLS = 9
TOKENS = jax.random.randint(jax.random.key(0), (6, 3), 0, SYMBOLS)


def build(name):
    model = LanguageModel(SYMBOLS, **({"hidden_size": 8} | VARIANTS[name]))
    return model, draw_variables(model, TOKENS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "embedding" else ()) for name in VARIANTS]
)
def test_token_by_token_equals_the_whole_sequence(name):
    model, variables = build(name)
    apply, step = jax.jit(functools.partial(model.apply, variables)), jax.jit(decode_step(model, variables))
    called = decoded = model.apply(variables, (3,), method="initial_carry")
    _, whole = apply(TOKENS, called)
    for t in range(len(TOKENS)):
        called, logits = apply(TOKENS[t : t + 1], called)
        np.testing.assert_allclose(logits[0], whole[t], rtol=1e-5, atol=1e-6)
        decoded, logits = step(decoded, TOKENS[t])
        np.testing.assert_allclose(logits, whole[t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["onehot", "tied through a map"])
def test_the_loss_is_the_cross_entropy_of_the_logits(name, monkeypatch):
    """In parts of two steps, too, with padding among them."""
    monkeypatch.setitem(losses._AT_ONCE, jax.default_backend(), 2 * 3 * SYMBOLS)
    model, variables = build(name)
    drawn = jax.eval_shape(lambda: model.init(jax.random.key(1), TOKENS[:-1], TOKENS[1:], method="loss"))
    assert jax.tree.structure(drawn) == jax.tree.structure(variables)
    mask = jnp.arange(5)[:, None] < jnp.array([5, 2, 4])

    def plain(variables):
        carry, logits = model.apply(variables, TOKENS[:-1], mask=mask)
        total, count = losses.cross_entropy(logits, TOKENS[1:], mask)
        return total, (carry, count)

    def linear(variables):
        carry, (total, count) = model.apply(variables, TOKENS[:-1], TOKENS[1:], mask=mask, method="loss")
        return total, (carry, count)

    found, wanted = jax.jit(lambda v: [jax.value_and_grad(f, has_aux=True)(v) for f in (linear, plain)])(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, wanted)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("embedding", "tied to other outputs", "widths") else ())
        for name in VARIANTS
    ],
)
def test_log_prob_is_the_sum_of_the_conditionals(name):
    model, variables = build(name)
    expected = np.zeros(3)
    apply = jax.jit(functools.partial(model.apply, variables))
    for t in range(1, len(TOKENS)):
        _, logits = apply(TOKENS[:t])
        expected += np.asarray(jax.nn.log_softmax(logits[-1]))[np.arange(3), TOKENS[t]]
    log_prob = jax.jit(functools.partial(model.apply, variables, method="log_prob"))
    np.testing.assert_allclose(log_prob(TOKENS), expected, rtol=1e-5)
    alone = log_prob(TOKENS[:, 0])
    assert alone.shape == ()
    assert alone == pytest.approx(expected[0], rel=1e-5)


def test_log_prob_leaves_padding_out():
    model, variables = build("onehot")
    mask = jnp.arange(6)[:, None] < jnp.array([6, 4, 1])
    log_prob = jax.jit(functools.partial(model.apply, variables, method="log_prob"))
    found = log_prob(TOKENS, mask=mask)
    for b, length in enumerate([6, 4, 1]):
        alone = log_prob(TOKENS[:length, b : b + 1])[0]
        assert found[b] == pytest.approx(float(alone), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["onehot", "tied"])
def test_log_prob_is_that_of_the_symbols_that_are_no_padding(name):
    model, variables = build(name)
    kept = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]], bool)
    log_prob = jax.jit(functools.partial(model.apply, variables, method="log_prob"))
    found = log_prob(TOKENS, mask=jnp.asarray(kept.T))
    for b, rows in enumerate(kept):
        alone = log_prob(TOKENS[rows, b])
        assert found[b] == pytest.approx(float(alone), rel=1e-5, abs=1e-6)


def test_probabilities_of_all_texts_of_a_length_sum_to_one():
    model = LanguageModel(3, hidden_size=4, input="onehot")
    texts = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * 3, indexing="ij")).reshape(3, -1)
    texts = jnp.concatenate([jnp.zeros((1, 27), texts.dtype), texts])
    variables = draw_variables(model, texts)
    log_prob = jax.jit(functools.partial(model.apply, method="log_prob"))
    assert np.exp(log_prob(variables, texts)).sum() == pytest.approx(1, abs=1e-5)


def test_a_continued_text_goes_on_from_its_carry():
    model, variables = build("tied")
    prompt = np.asarray(TOKENS[:2])
    carry, tokens = continue_text(model, variables, prompt, 5, jax.random.key(0), temperature=1.0)
    assert tokens.shape == (5, 3)
    read = jnp.concatenate([prompt, tokens])
    expected, _ = model.apply(variables, read[:-1])
    for found, wanted in zip(jax.tree.leaves(carry), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_p": 7.0}, {"top_k": 0}])
def test_choices_of_sampling_that_nothing_can_be_drawn_by_are_named(options):
    model, variables = build("tied")
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        continue_text(model, variables, TOKENS[:2], 5, jax.random.key(0), **options)


@pytest.mark.parametrize(
    "options", [{"dropout": 0.5}, {"dropout": 0.5, "variational_dropout": True}, {"weight_drop": 0.5}, {"zoneout": 0.3}]
)
def test_what_is_random_needs_its_stream_and_changes_the_logits(options):
    model = LanguageModel(SYMBOLS, cell="elman", hidden_size=8, **options)
    assert model.is_random
    variables = draw_variables(model, TOKENS)
    _, plain = model.apply(variables, TOKENS)
    _, dropped = model.apply(variables, TOKENS, deterministic=False, rngs={"dropout": jax.random.key(2)})
    assert not np.allclose(plain, dropped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "bytes"}, "input: expected 'onehot' or 'embedding', found 'bytes'"),
        ({"input": "onehot", "tie_embeddings": True}, "tie_embeddings: expected input='embedding'"),
        ({"cell": "lstn"}, "cell: expected one of .*did you mean 'lstm'"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(SYMBOLS, hidden_size=8, **options).init(jax.random.key(0), TOKENS)


def test_hello_three_hidden_units_learn_to_continue_hell():
    symbols = "helo"
    text = jnp.array([symbols.index(letter) for letter in "hello"])[:, None]
    model = LanguageModel(len(symbols), cell="elman", hidden_size=3, input="onehot")
    variables = model.init(jax.random.key(0), text)
    optimizer = make_optimizer("adam", learning_rate=0.1)

    def loss(variables):
        _, logits = model.apply(variables, text[:-1])
        return losses.cross_entropy(logits, text[1:])[0]

    @jax.jit
    def step(variables, state):
        updates, state = optimizer.update(jax.grad(loss)(variables), state, variables)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for _ in range(200):
        variables, state = step(variables, state)
    _, logits = model.apply(variables, text[:-1])
    assert "".join(symbols[i] for i in logits.argmax(-1)[:, 0]) == "ello"
