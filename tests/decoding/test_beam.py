"""Beam search beside brute force over all sequences of a tiny vocabulary."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untyped import untyped

from rnn_jax import decoding

END, VOCABULARY, LENGTH = 2, 3, 4
# log P(next | the two symbols before it), one table for each of three sequences.
TABLES = jax.nn.log_softmax(1.5 * jax.random.normal(jax.random.key(3), (3, VOCABULARY, VOCABULARY, VOCABULARY)))


def step(carry, tokens):
    """The carry [K, B, 2] holds which sequence this is and the symbol before the last."""
    table, before = carry[..., 0], carry[..., 1]
    return jnp.stack([table, tokens], axis=-1), TABLES[table, before, tokens]


def start(batch=3):
    return jnp.stack([jnp.arange(batch), jnp.full(batch, END)], axis=-1), jnp.full(batch, END)


def search(**options):
    carry, tokens = start()
    options = {"end": END, "length": LENGTH} | options
    length = options.pop("length")
    return jax.jit(lambda: decoding.beam_search(step, carry, tokens, length, **options))()


def every_hypothesis(table):
    """(log-probability, symbols) of all that end within LENGTH symbols, and of all cut off there."""
    for length in range(1, LENGTH + 1):
        for symbols in itertools.product(range(VOCABULARY), repeat=length):
            ended = symbols[-1] == END
            if END in symbols[:-1] or not (ended or length == LENGTH):
                continue
            read = (END, END, *symbols)
            yield sum(float(TABLES[table][read[t], read[t + 1], read[t + 2]]) for t in range(length)), symbols


def found(best, rank, column):
    return tuple(np.asarray(best.tokens[: best.lengths[rank, column], rank, column]).tolist())


@pytest.mark.parametrize("alpha", [1.2, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_beam_as_wide_as_all_hypotheses_is_exhaustive_search(alpha):
    best = search(beam_size=81, n_best=40, length_penalty=alpha)
    for column in range(3):
        ranked = sorted(
            ((p / ((5 + len(symbols)) / 6) ** alpha, p, symbols) for p, symbols in every_hypothesis(column)),
            reverse=True,
        )
        assert len(ranked) == 31
        for rank, (score, log_prob, symbols) in enumerate(ranked):
            assert found(best, rank, column) == symbols
            assert best.log_probs[rank, column] == pytest.approx(log_prob, abs=1e-5)
            assert best.scores[rank, column] == pytest.approx(score, abs=1e-5)
            assert best.finished[rank, column] == (symbols[-1] == END)
        assert not np.isfinite(best.log_probs[31:, column]).any()


@pytest.mark.parametrize(
    ("alpha", "beam_size"), [(1.2, 3), *(pytest.param(a, k, marks=pytest.mark.slow) for a in (0, 1.2) for k in (2, 5))]
)
def test_stopping_early_changes_nothing_of_what_is_returned(alpha, beam_size):
    whole, one = (
        search(beam_size=beam_size, n_best=n_best, length_penalty=alpha, length=12) for n_best in (beam_size, 1)
    )
    np.testing.assert_array_equal(one.tokens, whole.tokens[:, :1])
    np.testing.assert_allclose(one.scores, whole.scores[:1], rtol=1e-6)


def test_it_stops_when_all_have_ended():
    """Every hypothesis ends at its third symbol; were the loop to go on, the counter in the carry would tell."""

    def counted(carry, tokens):
        jax.debug.callback(lambda: calls.append(1))
        ends = jnp.where(carry[..., None] >= 2, 50.0, -50.0) * jax.nn.one_hot(END, VOCABULARY)
        return carry + 1, jnp.broadcast_to(ends, (*tokens.shape, VOCABULARY))

    calls = []
    best = decoding.beam_search(counted, jnp.zeros(2), jnp.zeros(2, jnp.int32), 100, end=END, beam_size=2)
    jax.effects_barrier()
    assert best.lengths.tolist() == [[3, 3]]
    assert len(calls) == 3


@pytest.mark.parametrize("alpha", [2.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_beam_of_one_is_greedy(alpha):
    carry, tokens = start()
    _, greedy = decoding.greedy(step, carry, tokens, 8, end=END)
    np.testing.assert_array_equal(search(beam_size=1, length_penalty=alpha, length=8).tokens[:, 0], greedy)


def test_a_batch_is_its_sequences_alone():
    best = search(beam_size=2, n_best=2)
    alone_search = jax.jit(
        lambda carry, tokens: decoding.beam_search(step, carry, tokens, LENGTH, end=END, beam_size=2, n_best=2)
    )
    for column in range(3):
        alone = alone_search(*(leaf[column : column + 1] for leaf in start()))
        np.testing.assert_array_equal(alone.tokens[..., 0], best.tokens[..., column])
        np.testing.assert_allclose(alone.scores[:, 0], best.scores[:, column], rtol=1e-6)


def test_the_coverage_penalty_charges_what_is_not_attended_to():
    """Symbol 0 looks at the first place of the source, symbol 1 at the second; both have the same probability."""
    source_mask = jnp.array([[True], [True], [False]])

    def looking(carry, tokens):
        weights = jnp.concatenate([jax.nn.one_hot(tokens, 2), jnp.zeros((*tokens.shape, 1))], axis=-1)
        logits = jnp.where(carry[0][..., None] < 2, jnp.array([0.1, 0.0, -9.0]), jnp.array([-9.0, -9.0, 0.0]))
        return (carry[0] + 1, weights), logits

    def tokens(beta):
        best = decoding.beam_search(
            looking,
            (jnp.zeros(1, jnp.int32), jnp.zeros((1, 3))),
            jnp.array([0]),
            4,
            end=END,
            beam_size=4,
            coverage_penalty=beta,
            attention=lambda carry: carry[1],
            source_mask=source_mask,
        )
        return best.tokens[:3, 0, 0].tolist(), float(best.scores[0, 0] - best.log_probs[0, 0])

    # The start symbol, 0, has looked at the first place; one of the others must look at the second.
    assert tokens(0.0) == ([0, 0, 2], 0.0)
    symbols, charge = tokens(1.0)
    assert sorted(symbols) == [0, 1, 2]
    assert charge == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size: expected at least 1, found 0"),
        ({"n_best": 6}, "n_best: expected at most beam_size, 5, found 6"),
        ({"length": 0}, "length: expected at least 1"),
        ({"length_penalty": -1.0}, "length_penalty: expected at least 0"),
        ({"coverage_penalty": 1.0}, "coverage_penalty: expected a decoder with attention"),
    ],
)
def test_bad_choices_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_tie_between_one_that_ended_and_one_that_grows_is_no_end_of_the_search():
    """Sequence 0: both symbols as likely, at every step. Sequence 1: hardly an end, so the search goes on."""
    logits = jnp.array([[0.0, 0.0], [3.0, 0.0]])

    def memoryless(carry, tokens):
        return carry, logits[carry]

    def best(sequences):
        tokens = jnp.zeros(len(sequences), jnp.int32)
        return decoding.beam_search(memoryless, jnp.array(sequences), tokens, 10, end=1, beam_size=2)

    alone, beside = best([0]), best([0, 1])
    np.testing.assert_array_equal(alone.tokens[..., 0], beside.tokens[..., 0])
    assert alone.lengths.tolist() == [[1]]
    assert alone.finished.all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_logarithms_of_few_bits_are_added_up_in_single_precision(dtype):
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.normal(0, 0.01, (400, 4)), dtype).at[:, END].set(-jnp.inf)

    def narrow(carry, tokens):
        return carry + 1, logits[carry]

    def wide(carry, tokens):
        carry, found = narrow(carry, tokens)
        return carry, found.astype(jnp.float32)

    best, expected = (
        jax.jit(
            lambda step=step: decoding.beam_search(
                step, jnp.zeros(1, jnp.int32), jnp.array([0]), 400, end=END, beam_size=2
            )
        )()
        for step in (narrow, wide)
    )
    assert best.log_probs.dtype == best.scores.dtype == jnp.float32
    np.testing.assert_array_equal(best.tokens, expected.tokens)
    np.testing.assert_allclose(best.log_probs, expected.log_probs, rtol=1e-6)
    assert float(best.log_probs[0, 0]) == pytest.approx(-400 * np.log(3), rel=0.01)


def test_no_sequences():
    best = decoding.beam_search(step, *start(0), LENGTH, end=END, beam_size=2, n_best=2)
    assert best.tokens.shape == (LENGTH, 2, 0)


def test_one_sequence_still_has_a_batch():
    with pytest.raises(ValueError, match=r"tokens: expected \[B\], found \[\]"):
        untyped(decoding.beam_search)(step, (), jnp.int32(0), 3, end=0)
