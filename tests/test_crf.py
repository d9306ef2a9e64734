"""The linear-chain CRF against all label sequences written out, in double precision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untyped import untyped

from rnn_jax import crf

T, B, K = 4, 6, 3
# No padding, padding at the end, in front, within, one label, none.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], bool).T


@pytest.fixture
def problem(x64):
    random = np.random.default_rng(0)
    emissions = random.normal(0, 2, (T, B, K))
    between, first, last = random.normal(0, 2, (K, K)), random.normal(0, 2, K), random.normal(0, 2, K)
    labels = random.integers(0, K, (T, B)).astype(np.int32)
    transitions = crf.Transitions(*map(jnp.asarray, (between, first, last)))
    return jnp.asarray(emissions), jnp.asarray(labels), transitions, jnp.asarray(MASK)


def written_out(emissions, transitions, b):
    """All label sequences of column b as (labels, score), from the definition."""
    emissions, between, first, last = map(np.asarray, (emissions, *transitions))
    kept = emissions[MASK[:, b], b]
    for labels in itertools.product(range(K), repeat=len(kept)):
        score = sum(kept[t, label] for t, label in enumerate(labels))
        score += sum(between[pair] for pair in itertools.pairwise(labels))
        yield labels, score + (first[labels[0]] + last[labels[-1]] if labels else 0)


def test_the_score_of_a_path_is_its_definition(problem):
    emissions, labels, transitions, mask = problem
    found = jax.jit(crf.path_score)(emissions, labels, transitions, mask)
    for b in range(B):
        wanted = dict(written_out(emissions, transitions, b))[tuple(np.asarray(labels)[MASK[:, b], b].tolist())]
        assert found[b] == pytest.approx(wanted, abs=1e-12)


def test_the_partition_sums_over_all_paths(problem):
    emissions, _, transitions, mask = problem
    found = jax.jit(crf.log_partition)(emissions, transitions, mask)
    for b in range(B):
        wanted = np.log(sum(np.exp(score) for _, score in written_out(emissions, transitions, b)))
        assert found[b] == pytest.approx(wanted, abs=1e-12)


def test_gradients_are_marginals_and_expected_counts(problem):
    emissions, _, transitions, mask = problem
    gradient = jax.jit(jax.grad(lambda *given: crf.log_partition(*given, mask).sum(), argnums=(0, 1)))
    by_emission, by_transition = gradient(emissions, transitions)
    single, pairs = np.zeros((T, B, K)), np.zeros((K, K))
    first, last = np.zeros(K), np.zeros(K)
    for b in range(B):
        paths = list(written_out(emissions, transitions, b))
        total = sum(np.exp(score) for _, score in paths)
        for labels, score in paths:
            share = np.exp(score) / total
            for t, label in zip(np.flatnonzero(MASK[:, b]), labels, strict=True):
                single[t, b, label] += share
            for pair in itertools.pairwise(labels):
                pairs[pair] += share
            if labels:
                first[labels[0]] += share
                last[labels[-1]] += share
    np.testing.assert_allclose(by_emission, single, atol=1e-12)
    np.testing.assert_allclose(jax.jit(crf.marginals)(emissions, transitions, mask), single, atol=1e-12)
    for found, wanted in zip(by_transition, (pairs, first, last), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_viterbi_finds_the_best_path(problem):
    emissions, _, transitions, mask = problem
    labels, scores = jax.jit(crf.viterbi)(emissions, transitions, mask)
    for b in range(B):
        best, score = max(written_out(emissions, transitions, b), key=lambda path: path[1])
        assert tuple(np.asarray(labels)[MASK[:, b], b].tolist()) == best
        assert scores[b] == pytest.approx(score, abs=1e-12)
    assert not np.asarray(labels)[~MASK].any()


def test_the_loss_sums_over_sequences_and_counts_labels(problem):
    emissions, labels, transitions, mask = problem
    total, count = jax.jit(crf.negative_log_likelihood)(emissions, labels, transitions, mask)
    wanted = 0.0
    for b in range(B):
        paths = dict(written_out(emissions, transitions, b))
        right = tuple(np.asarray(labels)[MASK[:, b], b].tolist())
        wanted -= np.log(np.exp(paths[right]) / sum(map(np.exp, paths.values())))
    assert total == pytest.approx(wanted, abs=1e-12)
    assert float(count) == MASK.sum()


def test_padding_at_the_end_changes_nothing(problem):
    emissions, labels, transitions, mask = problem

    @jax.jit
    def everything(emissions, labels, mask):
        def loss(emissions):
            return crf.negative_log_likelihood(emissions, labels, transitions, mask)[0]

        return *jax.value_and_grad(loss)(emissions), crf.viterbi(emissions, transitions, mask)[0]

    total, gradient, best = everything(emissions, labels, mask)
    longer_mask = np.concatenate([mask, np.zeros((3, B), bool)])
    padded, longer_labels = (
        np.concatenate([part, np.full((3, *part.shape[1:]), filled, part.dtype)])
        for part, filled in ((emissions, 1e3), (labels, K - 1))
    )
    found = jax.tree.map(np.asarray, everything(padded, longer_labels, longer_mask))
    assert found[0] == pytest.approx(float(total), abs=1e-12)
    np.testing.assert_allclose(found[1][:T], gradient, atol=1e-12)
    np.testing.assert_array_equal(found[2][:T], best)
    assert not found[1][~longer_mask].any()
    assert np.isfinite(found[1]).all()


def test_large_scores_in_single_precision_do_not_overflow():
    emissions = 300 * jax.random.normal(jax.random.key(0), (50, 2, K))
    forbidden = jnp.zeros((K, K)).at[0, 1].set(-1e4)
    transitions = crf.Transitions(forbidden, jnp.zeros(K), jnp.zeros(K))
    labels, score = jax.jit(crf.viterbi)(emissions, transitions)
    partition = jax.value_and_grad(lambda emissions: crf.log_partition(emissions, transitions).sum())
    total, gradient = jax.jit(partition)(emissions)
    assert total == pytest.approx(float(score.sum()), rel=1e-4)
    assert jnp.isfinite(gradient).all()
    assert not ((labels[:-1] == 0) & (labels[1:] == 1)).any()


def test_sequences_without_a_step():
    transitions = crf.Transitions(jnp.ones((K, K)), jnp.ones(K), jnp.ones(K))
    emissions, labels = jnp.zeros((0, B, K)), jnp.zeros((0, B), jnp.int32)
    assert not np.asarray(jax.jit(crf.path_score)(emissions, labels, transitions)).any()
    assert jax.jit(crf.negative_log_likelihood)(emissions, labels, transitions) == (0, 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)])
def test_scores_of_few_bits_are_added_up_in_single_precision(dtype):
    """Whatever the dtype of the transitions: a model may compute its emissions in fewer bits than they have."""
    random = np.random.default_rng(0)
    emissions = jnp.asarray(random.normal(size=(600, 2, K)), dtype)
    wide = crf.Transitions(*(jnp.asarray(random.normal(size=s), jnp.float32) for s in ((K, K), K, K)))
    narrow = crf.Transitions(*(leaf.astype(dtype) for leaf in wide))
    labels = jnp.asarray(random.integers(0, K, (600, 2)), jnp.int32)

    @jax.jit
    def everything(emissions, transitions):
        loss = crf.negative_log_likelihood(emissions, labels, transitions)
        return loss, crf.viterbi(emissions, transitions), crf.marginals(emissions, transitions).sum(-1)

    single = emissions.astype(jnp.float32)
    for transitions in (wide, narrow):
        exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), transitions)
        (expected, _), (wanted, _), _ = everything(single, exact)
        (loss, count), (best, score), whole = everything(emissions, transitions)
        assert (loss, count) == (expected, 1200)
        np.testing.assert_array_equal(best, wanted)
        assert score.dtype == jnp.float32
        np.testing.assert_allclose(whole, 1, rtol=1e-4)


def test_a_mask_is_not_a_number(problem):
    emissions, labels, transitions, _ = problem
    mask = jnp.ones(labels.shape, jnp.int32)
    for function in (crf.log_partition, crf.viterbi):
        with pytest.raises(ValueError, match="mask: expected bool"):
            untyped(function)(emissions, transitions, mask)
    with pytest.raises(ValueError, match="mask: expected bool"):
        untyped(crf.path_score)(emissions, labels, transitions, mask)
