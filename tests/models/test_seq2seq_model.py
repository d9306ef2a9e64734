"""The sequence-to-sequence model: one call for training and decoding, a batch as its sentences alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

from rnn_jax import decoding, losses
from rnn_jax.models import Seq2Seq
from rnn_jax.models.scheduled_sampling import sampled_logits, teacher_forcing_rate
from rnn_jax.models.seq2seq import attention_weights, decode_step, shift, translate

S, T, B, V, END = 6, 5, 4, 7, 0
LENGTHS = jnp.array([6, 2, 4, 1])
MASK = jnp.arange(S)[:, None] < LENGTHS
SOURCE = jnp.where(MASK, jax.random.randint(jax.random.key(0), (S, B), 1, 9), 0)
TARGET = jax.random.randint(jax.random.key(1), (T, B), 0, V)

VARIANTS = {
    "cho": {"attention": "none", "context": "both", "cell": "gru", "encoder_size": 6},
    "luong": {"attention": "luong_general", "tie_embeddings": True, "embedding_size": 3},
    "bahdanau": {"attention": "bahdanau", "num_layers": 2, "cell": "gru", "encoder_size": 6},
    "feeding": {"attention": "luong_general", "input_feeding": True, "cell": "gru"},
    "none": {"attention": "none", "num_layers": 2},
    "input alone": {"context": "input", "attention": "luong_dot", "bidirectional": False},
    "deep feeding": {"attention": "luong_dot", "input_feeding": True, "num_layers": 2},
}


def variants(*fast):
    return [*fast, *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name not in fast)]


@pytest.fixture(scope="module")
def built():
    cache = {}

    def build(name):
        if name not in cache:
            model = Seq2Seq(9, V, **({"hidden_size": 4} | VARIANTS[name]))
            # One step is no loop, and compiles faster.
            variables = jax.jit(model.init)(jax.random.key(2), SOURCE[:1], MASK[:1], TARGET[:1])
            # Large weights: hypotheses that differ, and attention that is not flat.
            cache[name] = model, jax.tree.map(lambda leaf: 2 * leaf, variables)
        return cache[name]

    return build


@pytest.mark.parametrize("name", variants("bahdanau"))
def test_token_by_token_equals_the_whole_target(built, name):
    model, variables = built(name)

    @jax.jit
    def both(variables):
        encoded = model.apply(variables, SOURCE, MASK, method="encode")
        _, whole, _ = model.apply(variables, encoded, encoded.carry, TARGET, method="decode")
        _, steps = jax.lax.scan(decode_step(model, variables, encoded), encoded.carry, TARGET)
        return whole, steps

    whole, steps = both(variables)
    np.testing.assert_allclose(steps, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", variants("luong"))
def test_the_loss_is_the_cross_entropy_of_the_logits(built, name, monkeypatch):
    monkeypatch.setitem(losses._AT_ONCE, jax.default_backend(), 2 * B * V)
    model, variables = built(name)
    mask, inputs = TARGET > 2, shift(TARGET, 0)

    def plain(variables):
        logits = model.apply(variables, SOURCE, MASK, inputs)
        return losses.cross_entropy(logits, TARGET, mask, label_smoothing=0.1)

    def linear(variables):
        return model.apply(variables, SOURCE, MASK, inputs, TARGET, mask, label_smoothing=0.1, method="loss")

    found, wanted = jax.jit(lambda v: [jax.value_and_grad(f, has_aux=True)(v) for f in (linear, plain)])(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


@pytest.mark.parametrize("name", variants("bahdanau"))
def test_beam_scores_are_teacher_forced_log_probabilities_and_a_batch_is_its_sentences_alone(built, name):
    model, variables = built(name)
    options = {"end": END, "length": 5, "beam_size": 3, "n_best": 3}
    best = translate(model, variables, SOURCE, MASK, **options)
    log_prob = jax.jit(lambda *arguments: model.apply(variables, *arguments, END, method="log_prob"))
    for rank in range(3):
        mask = jnp.arange(5)[:, None] < best.lengths[rank]
        np.testing.assert_allclose(
            log_prob(SOURCE, MASK, best.tokens[:, rank], mask), best.log_probs[rank], rtol=1e-4, atol=1e-5
        )
    column = slice(1, 2)
    length = int(LENGTHS[1])
    alone = translate(model, variables, SOURCE[:length, column], MASK[:length, column], **options)
    np.testing.assert_array_equal(alone.tokens, best.tokens[..., column])
    np.testing.assert_allclose(alone.log_probs, best.log_probs[:, column], rtol=1e-4)


@pytest.mark.parametrize("name", ["bahdanau", "luong", pytest.param("feeding", marks=pytest.mark.slow)])
def test_no_tokens_have_no_logits_and_no_weights(built, name):
    model, variables = built(name)
    encoded = jax.eval_shape(functools.partial(model.apply, method="encode"), variables, SOURCE, MASK)
    decode = functools.partial(model.apply, method="decode")
    _, logits, weights = jax.eval_shape(decode, variables, encoded, encoded.carry, TARGET[:0])
    assert logits.shape == (0, TARGET.shape[1], V)
    assert weights.shape == (0, *SOURCE.shape[::-1])


def test_what_stands_in_the_padding_of_a_source_does_not_matter(built):
    for name in ("cho", "bahdanau"):
        model, variables = built(name)
        apply = jax.jit(model.apply)
        one, other = (apply(variables, jnp.where(MASK, SOURCE, filler), MASK, TARGET) for filler in (0, 5))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["cho", "bahdanau", pytest.param("input alone", marks=pytest.mark.slow)])
def test_a_source_may_be_padded_anywhere(built, name):
    model, variables = built(name)
    apply = jax.jit(lambda source, mask: model.apply(variables, source, mask, TARGET[:, :1]))
    symbols = jnp.array([3, 1, 4, 2])
    alone = apply(jnp.pad(symbols, (0, 3))[:, None], jnp.arange(7)[:, None] < 4)
    for places in ([3, 4, 5, 6], [1, 2, 5, 6]):
        source = jnp.full((7,), 8).at[jnp.array(places)].set(symbols)[:, None]
        mask = jnp.zeros((7, 1), bool).at[jnp.array(places)].set(True)
        np.testing.assert_allclose(apply(source, mask), alone, rtol=1e-5, atol=1e-6)


def test_greedy_is_a_beam_of_one(built):
    model, variables = built("luong")

    @jax.jit
    def greedy(variables):
        encoded = model.apply(variables, SOURCE, MASK, method="encode")
        step = decode_step(model, variables, encoded)
        return decoding.greedy(step, encoded.carry, jnp.full(B, END), 6, end=END)[1]

    best = translate(model, variables, SOURCE, MASK, end=END, length=6, beam_size=1)
    np.testing.assert_array_equal(best.tokens[:, 0], greedy(variables))


@pytest.mark.parametrize(
    "name", ["bahdanau", *(pytest.param(n, marks=pytest.mark.slow) for n in ("luong", "deep feeding"))]
)
def test_attention_weights_are_a_distribution_over_the_source(built, name):
    model, variables = built(name)
    weights = attention_weights(model, variables, SOURCE, MASK, shift(TARGET, END))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not weights[:, ~MASK.T].any()


@pytest.mark.slow
def test_coverage_is_summed_over_the_steps(built):
    """Of a hypothesis that stops at once, all places are charged; of one that goes on, fewer or less."""
    model, variables = built("bahdanau")
    best = translate(model, variables, SOURCE, MASK, end=END, length=5, coverage_penalty=0.5)
    for column in range(B):
        length = int(best.lengths[0, column])
        inputs = shift(best.tokens[:, 0], END)
        weights = attention_weights(model, variables, SOURCE, MASK, inputs)[:length, column]
        seen = np.clip(weights.sum(0), 1e-6, 1)[: int(LENGTHS[column])]
        charge = float(best.scores[0, column] - best.log_probs[0, column])
        assert charge == pytest.approx(0.5 * np.log(seen).sum(), rel=1e-3, abs=1e-5)


def test_coverage_needs_attention(built):
    model, variables = built("cho")
    with pytest.raises(ValueError, match="coverage_penalty"):
        translate(model, variables, SOURCE, MASK, end=END, length=5, coverage_penalty=0.5)


@pytest.mark.parametrize("name", ["luong", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bahdanau", "feeding"))])
def test_scheduled_sampling_at_rate_1_is_teacher_forcing_and_at_0_reads_itself(built, name):
    model, variables = built(name)
    inputs = shift(TARGET, END)
    key = jax.random.key(5)
    forced = jax.jit(model.apply)(variables, SOURCE, MASK, inputs)
    sampled = jax.jit(lambda inputs, rate: sampled_logits(model, variables, SOURCE, MASK, inputs, key, rate=rate))
    np.testing.assert_allclose(sampled(inputs, 1.0), forced, rtol=1e-4, atol=1e-5)
    # The first input is true; from the second on the draws do not depend on the target.
    one, other = sampled(inputs, 0.0), sampled(inputs.at[1:].set(3), 0.0)
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(one[2:], forced[2:])


@pytest.mark.slow
def test_scheduled_sampling_by_sequence_forces_all_of_one_or_nothing(built):
    model, variables = built("luong")
    inputs = shift(TARGET, END)
    forced = model.apply(variables, SOURCE, MASK, inputs)
    key = jax.random.key(9)
    found = sampled_logits(model, variables, SOURCE, MASK, inputs, key, rate=0.5, unit="sequence")
    same = np.isclose(found, forced, rtol=1e-4, atol=1e-5).all(axis=(0, 2))
    chosen = jax.random.uniform(jax.random.split(key, 4)[0], (1, B))[0] < 0.5
    assert 0 < chosen.sum() < B
    np.testing.assert_array_equal(same, chosen)


def test_rates_of_the_schedules():
    def rates(name, lowest=0.0):
        return [float(teacher_forcing_rate(name, step, lowest, 100)) for step in (0, 50, 100, 1000)]

    assert rates("constant", 0.7) == pytest.approx([0.7] * 4)
    assert rates("linear", 0.2) == pytest.approx([1, 0.5, 0.2, 0.2])
    # k log k = 100 at k = 29.5366
    k = 29.5366
    assert rates("inverse_sigmoid") == pytest.approx([k / (k + np.exp(i / k)) for i in (0, 50, 100, 1000)], abs=1e-4)
    assert rates("inverse_sigmoid")[2] == pytest.approx(0.5, abs=1e-4)
    for arguments in (("x", 0, 0.0, 1), ("linear", 0, 2.0, 1), ("linear", 0, 0.0, 0)):
        with pytest.raises(ValueError, match="teacher_forcing"):
            teacher_forcing_rate(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "x"}, "context: expected one of state, input, both"),
        ({"attention": "x"}, "attention: expected one of"),
        ({"attention": "bahdanau", "input_feeding": True}, "input_feeding: expected attention luong"),
        ({"attention": "luong_dot", "encoder_size": 6}, "attention: expected an encoder of the decoder's width"),
        ({"hidden_size": 5}, "hidden_size: expected an even number"),
        ({"cell": "jordan(output_size=3)"}, "cell: expected an output of 4 numbers, hidden_size, found jordan"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    model = Seq2Seq(9, V, **({"hidden_size": 4} | options))
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), SOURCE, MASK, TARGET)


def test_the_softmax_runs_once_for_all_steps(built):
    """No matrix product with the vocabulary inside a loop: the only one in the program has T · B rows."""
    model, variables = built("bahdanau")
    text = str(jax.make_jaxpr(lambda: model.apply(variables, SOURCE, MASK, TARGET))())
    products = [line for line in text.splitlines() if "dot_general" in line and f",{V}]" in line]
    assert len(products) == 1
    assert f"f32[{T * B},{V}]" in products[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{"attention": "luong_general", "input_feeding": True}, {"attention": "bahdanau"}])
def test_parameters_are_single_where_double_precision_is_switched_on(options):
    source = jnp.array([[1, 2], [3, 1], [2, 2]])
    mask = jnp.ones(source.shape, bool)
    model = Seq2Seq(4, 4, hidden_size=4, embedding_size=4, tie_embeddings=True, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), source, mask, source)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert jax.eval_shape(model.apply, variables, source, mask, source).dtype == jnp.float32
    search = functools.partial(translate, model, end=0, length=3, coverage_penalty=0.2)
    assert jax.eval_shape(search, variables, source, mask).scores.dtype == jnp.float32


def test_a_target_may_have_more_symbols_than_the_sources_dtype_holds():
    source = jnp.array([[1, 2], [3, 1]], jnp.int8)
    mask = jnp.ones(source.shape, bool)
    model = Seq2Seq(4, 1000, hidden_size=4)
    variables = draw_variables(model, source, mask, jnp.zeros((1, 2), int))
    variables["params"]["readout"]["bias"] = 50 * jax.nn.one_hot(300, 1000)
    assert (translate(model, variables, source, mask, end=999, length=4).tokens == 300).all()


@pytest.mark.parametrize(
    ("length", "batch", "options"),
    [(2, 0, {"attention": "bahdanau"}), (2, 0, {"attention": "luong_general"}), (0, 2, {"context": "both"})],
)
def test_nothing_to_read(length, batch, options):
    source = jnp.zeros((length, batch), int)
    mask, target = jnp.ones(source.shape, bool), jnp.zeros((3, batch), int)
    model = Seq2Seq(4, 4, hidden_size=4, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), source, mask, target)
    assert jax.eval_shape(model.apply, variables, source, mask, target).shape == (3, batch, 4)
    scheduled = functools.partial(sampled_logits, model, rate=0.5)
    drawn = jax.eval_shape(scheduled, variables, source, mask, target[:0], jax.random.key(1))
    assert drawn.shape == (0, batch, 4)
