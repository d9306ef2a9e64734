"""Word vectors: blocks against pairs made one by one, draws against their distributions, epochs against the corpus."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rnn_jax.data.words import cumulative_bits, keep_probabilities, noise_distribution
from rnn_jax.models.word_vector_training import (
    LEARNING_RATES,
    SETTLED,
    blocks_in_epoch,
    compiled,
    meet,
    plan_rounds,
    subsample,
    take_tiles,
    train,
    train_blocks,
)
from rnn_jax.models.word_vectors import (
    Block,
    Tables,
    WordVectors,
    block_gradient,
    block_loss,
    descend,
    distributions,
    draw_blocks,
    draw_negatives,
    draw_windows,
    to_band,
    weigh,
    window_mask,
)

SIZE = 11
TINY = WordVectors(SIZE, dimension=4, window=2, negative=3, tile=5, tiles=3, pool=4)
COUNTS = np.array([90, 40, 30, 20, 10, 9, 8, 7, 6, 5, 5])

pairs_for, loss_of, gradient_of, descended = (
    jax.jit(function, static_argnums=0) for function in (weigh, block_loss, block_gradient, descend)
)


def given_for(model, counts=COUNTS, threshold=0.0, tame=1e9):
    noise = noise_distribution(counts)
    return distributions(
        model,
        counts,
        keep=keep_probabilities(counts, threshold),
        noise=noise,
        noise_bits=cumulative_bits(noise),
        tame=tame,
    )


def random_tables(model, seed=0):
    x, y = np.random.default_rng(seed).normal(size=(2, model.vocabulary_size, model.dimension)).astype(np.float32)
    return Tables(jnp.asarray(x), jnp.asarray(y))


def random_block(model, seed=0):
    """A block with ends of documents, positions that are not trained, repeated words and negatives equal to words."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, model.vocabulary_size, (model.tiles, model.span)).astype(np.int32)
    words[rng.random(words.shape) < 0.15] = -1
    centres = (rng.random((model.tiles, model.tile)) < 0.9).astype(np.float32)
    windows = rng.integers(1, model.window + 1, centres.shape).astype(np.int32)
    negatives = rng.integers(0, model.vocabulary_size, (model.tiles, model.pool)).astype(np.int32)
    return Block(*map(jnp.asarray, (words, centres, windows, negatives)))


def pairs_of(model, block):
    """(centre, contexts, tile) for every position, made as a textbook would."""
    words, centres, windows, _ = map(np.asarray, block)
    for tile in range(model.tiles):
        for t in range(model.tile):
            here = t + model.window
            if words[tile, here] < 0 or centres[tile, t] == 0:
                continue
            contexts = []
            for step in (-1, 1):
                for distance in range(1, windows[tile, t] + 1):
                    word = words[tile, here + step * distance]
                    if word < 0:
                        break
                    contexts.append(int(word))
            if contexts:
                yield int(words[tile, here]), contexts, tile


def textbook_loss(model, given, tables, block, whole_mean_gradient=False):
    """The sum over a list of pairs of Mikolov's loss."""
    shift = given.log_unigram - given.log_noise if model.objective == "nce" else jnp.zeros(model.vocabulary_size)
    centres, bags, positives, negatives = [], [], [], []
    for centre, contexts, tile in pairs_of(model, block):
        for positive in contexts if model.model == "skipgram" else [centre]:
            centres.append(centre)
            bags.append(np.bincount(contexts, minlength=model.vocabulary_size).astype(np.float32))
            positives.append([positive])
            negatives.append(np.asarray(block.negatives)[tile])
    positives, negatives = np.array(positives), np.array(negatives)
    if model.model == "skipgram":
        hidden = tables.input[np.array(centres)]
    else:
        total = np.array(bags) @ tables.input
        hidden = total / np.array(bags).sum(1, keepdims=True)
        if whole_mean_gradient:
            # The value is the mean, the gradient that of the sum: word2vec's update.
            hidden = jax.lax.stop_gradient(hidden - total) + total
    scores = hidden @ tables.output.T
    if model.objective == "softmax":
        return -jnp.take_along_axis(jax.nn.log_softmax(scores + given.log_unigram), positives, 1).sum()
    counts = (negatives != positives) | (model.objective == "nce")
    of_positives, of_negatives = (jnp.take_along_axis(scores + shift, index, 1) for index in (positives, negatives))
    share = model.negative / model.pool
    log_sigmoid = jax.nn.log_sigmoid
    return -log_sigmoid(of_positives).sum() - share * jnp.where(counts, log_sigmoid(-of_negatives), 0).sum()


def textbook_value(model, given, tables, block):
    return jax.jit(functools.partial(textbook_loss, model, given, block=block))(tables)


@jax.jit
def dense(rows, like):
    return Tables(
        jnp.zeros_like(like.input).at[rows.input_rows].add(rows.input),
        jnp.zeros_like(like.output).at[rows.output_rows].add(rows.output),
    )


@pytest.mark.parametrize("objective", ["negative_sampling", "nce"])
@pytest.mark.parametrize("kind", ["skipgram", "cbow"])
def test_block_gradient_is_that_of_the_pairs(kind, objective):
    model = dataclasses.replace(TINY, model=kind, objective=objective)
    given, tables, block = given_for(model), random_tables(model), random_block(model)
    textbook = functools.partial(textbook_loss, model, given, block=block, whole_mean_gradient=True)
    expected = jax.jit(jax.grad(textbook))(tables)
    pairs = pairs_for(model, given, block)
    found = dense(gradient_of(model, tables, pairs), tables)
    np.testing.assert_allclose(found.input, expected.input, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.output, expected.output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["skipgram", "cbow"])
def test_a_block_without_a_pair_has_no_gradient(kind):
    model = dataclasses.replace(TINY, model=kind)
    block = random_block(model)
    # Every other word is an end: no word has a neighbour.
    block = block._replace(words=block.words.at[:, ::2].set(-1))
    pairs = pairs_for(model, given_for(model), block)
    found = gradient_of(model, random_tables(model), pairs)
    assert found.loss == found.pairs == 0
    assert not found.input.any()
    assert not found.output.any()


@pytest.mark.parametrize("objective", ["negative_sampling", "nce", "softmax"])
@pytest.mark.parametrize("kind", ["skipgram", "cbow"])
def test_block_loss_is_that_of_the_pairs(kind, objective):
    model = dataclasses.replace(TINY, model=kind, objective=objective)
    given, tables, block = given_for(model), random_tables(model), random_block(model)
    weights = pairs_for(model, given, block)
    loss, count = loss_of(model, given, tables, weights)
    pairs = list(pairs_of(model, block))
    assert count == (sum(len(contexts) for _, contexts, _ in pairs) if kind == "skipgram" else len(pairs))
    np.testing.assert_allclose(loss, textbook_value(model, given, tables, block), rtol=1e-5)


def test_softmax_descends_its_own_gradient():
    model = dataclasses.replace(TINY, objective="softmax")
    given, tables, block = given_for(model), random_tables(model), random_block(model)
    gradient = jax.jit(jax.grad(functools.partial(textbook_loss, model, given, block=block)))(tables)
    after, (loss, _) = descended(model, given, tables, pairs_for(model, given, block), jnp.float32(0.1))
    np.testing.assert_allclose(loss, textbook_value(model, given, tables, block), rtol=1e-5)
    np.testing.assert_allclose(after.input, tables.input - 0.1 * gradient.input, atol=1e-5)
    np.testing.assert_allclose(after.output, tables.output - 0.1 * gradient.output, atol=1e-5)


def test_the_softmax_of_blocks_of_frequent_words_stays_finite():
    """200 words with Zipf's frequencies: at the other objectives' TAME the loss is NaN in the first dispatch."""
    rng = np.random.default_rng(0)
    zipf = 1 / np.arange(1, 201)
    corpus = np.sort(rng.choice(200, p=zipf / zipf.sum(), size=(2_000, 20)), axis=1).ravel().astype(np.int32)
    model = WordVectors(200, dimension=16, objective="softmax")
    given = given_for(model, np.bincount(corpus, minlength=200), tame=None)
    key = jax.random.key(0)
    training = train(
        model, given, model.initial(key), jnp.asarray(corpus), key, epochs=2, learning_rate=LEARNING_RATES["skipgram"]
    )
    first, last = (float(progress.loss) for progress in training)
    assert last < first - 0.1


def test_descent_is_scaled_by_row_and_touches_no_other_row():
    model = TINY
    given, tables, block = given_for(model, tame=2.0), random_tables(model), random_block(model)
    block = block._replace(words=jnp.minimum(block.words, 5), negatives=jnp.minimum(block.negatives, 5))
    pairs = pairs_for(model, given, block)
    gradient = dense(gradient_of(model, tables, pairs), tables)
    after, sample = descended(model, given, tables, pairs, jnp.float32(0.1))
    assert given.input_rate[0] < given.input_rate[-1] <= 1
    wanted = tables.input - 0.1 * given.input_rate[:, None] * gradient.input
    np.testing.assert_allclose(after.input, wanted, atol=1e-6)
    np.testing.assert_array_equal(after.input[6:], tables.input[6:])
    np.testing.assert_array_equal(after.output[6:], tables.output[6:])
    first = jax.tree.map(lambda leaf: leaf[:1], block)
    one = dataclasses.replace(model, tiles=1)
    assert sample[1] == sum(len(contexts) for _, contexts, _ in pairs_of(one, first))
    np.testing.assert_allclose(sample[0], textbook_value(one, given, tables, first), rtol=1e-5)


def test_a_negative_equal_to_the_positive_is_masked():
    model = WordVectors(3, dimension=2, window=1, negative=2, tile=2, tiles=1, pool=2)
    words = jnp.array([[-1, 0, 1, -1]], jnp.int32)
    ones = jnp.ones((1, 2))
    both = Block(words, ones, ones.astype(jnp.int32), jnp.array([[0, 1]], jnp.int32))
    tables, given = random_tables(model), given_for(model, np.array([3, 2, 1]))
    x, y = tables
    # Pairs (0, 1) and (1, 0); each has the one negative that differs from its positive, at half of the weight 2.
    log_sigmoid = jax.nn.log_sigmoid
    wanted = -(
        log_sigmoid(x[0] @ y[1]) + log_sigmoid(-x[0] @ y[0]) + log_sigmoid(x[1] @ y[0]) + log_sigmoid(-x[1] @ y[1])
    )
    loss, count = loss_of(model, given, tables, pairs_for(model, given, both))
    assert count == 2
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)


def test_windows_do_not_cross_the_end_of_a_document():
    model = WordVectors(9, dimension=2, window=2, tile=4, tiles=1, pool=1)
    words = jnp.array([[1, 2, 3, 4, -1, 5, 6, -1]], jnp.int32)
    block = Block(words, jnp.ones((1, 4)), jnp.full((1, 4), 2), jnp.zeros((1, 1), jnp.int32))
    # Two words before and two behind the centres 3, 4, (end), 5.
    expected = [[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0] * 5, [0, 0, 0, 1, 0]]
    np.testing.assert_array_equal(window_mask(model, block)[0].T, expected)


def test_the_band_of_a_matrix():
    scores = np.arange(2 * 11 * 5, dtype=np.float32).reshape(2, 11, 5)
    band = to_band(jnp.asarray(scores), 3)
    assert band.shape == (2, 7, 5)
    for o, t in itertools.product(range(7), range(5)):
        np.testing.assert_array_equal(band[:, o, t], scores[:, t + o, t])


def test_negatives_have_the_noise_distribution():
    noise = noise_distribution(COUNTS)
    bits = jax.random.bits(jax.random.key(3), (200_000,), "uint32")
    drawn = draw_negatives(jnp.asarray(cumulative_bits(noise)), bits)
    observed = np.bincount(drawn, minlength=SIZE)
    assert stats.chisquare(observed, noise * observed.sum()).pvalue > 1e-3
    assert stats.chisquare(observed, COUNTS / COUNTS.sum() * observed.sum()).pvalue < 1e-6


def test_windows_are_uniform():
    drawn = draw_windows(5, jax.random.bits(jax.random.key(0), (100_000,), "uint16"))
    observed = np.bincount(drawn, minlength=7)
    assert observed[0] == observed[6] == 0
    assert stats.chisquare(observed[1:6]).pvalue > 1e-3


def test_blocks_draw_their_own_windows_and_negatives():
    model = dataclasses.replace(TINY, tile=3, tiles=5, pool=2)
    given = given_for(model)
    windows, negatives = draw_blocks(model, given, jax.random.key(0), 4_001)
    assert (windows.shape, negatives.shape) == ((4_001, 5, 3), (4_001, 5, 2))
    assert stats.chisquare(np.bincount(windows.ravel(), minlength=3)[1:]).pvalue > 1e-3
    noise = noise_distribution(COUNTS)
    assert stats.chisquare(np.bincount(negatives.ravel(), minlength=SIZE), noise * negatives.size).pvalue > 1e-3
    table = stats.contingency.crosstab(windows[:, :, 0].ravel(), negatives[:, :, 0].ravel()).count
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_subsampling_has_its_probabilities_and_keeps_the_order():
    counts = np.array([60_000, 20_000, 3_000, 200])
    rng = np.random.default_rng(0)
    corpus = rng.permutation(np.repeat(np.arange(4), counts)).astype(np.int32)
    corpus[::1000] = -1
    model = WordVectors(4, tile=4, tiles=2)
    given = given_for(model, counts, threshold=1e-2)
    kept, length = subsample(given, jnp.asarray(corpus), jax.random.key(1))
    kept = np.asarray(kept)
    assert (kept[int(length) :] == -1).all()
    kept = kept[: int(length)]
    assert (kept == -1).sum() == (corpus == -1).sum()
    before = np.bincount(corpus[corpus >= 0], minlength=4)
    after = np.bincount(kept[kept >= 0], minlength=4)
    keep = np.asarray(given.keep, np.float64)
    for word in range(4):
        expected = [before[word] * keep[word], before[word] * (1 - keep[word])]
        if keep[word] == 1:
            assert after[word] == before[word]
        else:
            assert stats.chisquare([after[word], before[word] - after[word]], expected).pvalue > 1e-3
    # What stays is a subsequence: each kept id is found in order.
    rest = iter(corpus.tolist())
    assert all(word in rest for word in kept.tolist())


@pytest.mark.parametrize("length", [1, 30, 31, 200])
def test_an_epoch_has_each_position_as_centre_once(length):
    model = TINY
    kept = jnp.arange(240, dtype=jnp.int32)
    seen, blocks = [], blocks_in_epoch(model, length)
    for first in range(0, blocks, 2):
        words, centres = take_tiles(model, kept, jnp.int32(length), jnp.int32(first), 2)
        inner = np.asarray(words)[:, :, model.window : -model.window]
        seen += inner[(np.asarray(centres) > 0) & (inner >= 0)].tolist()
        for run in np.asarray(words).reshape(-1, model.span):
            assert all(b == a + 1 for a, b in itertools.pairwise(run) if a >= 0 and b >= 0)
    assert sorted(seen) == list(range(length))


def toy_corpus(rng, number):
    """Sentences of two topics that share no word: topic 0 has the words 0 to 4, topic 1 the words 5 to 9."""
    topics = rng.integers(0, 2, number)
    return np.concatenate([np.append(rng.integers(0, 5, 6) + 5 * topic, -1) for topic in topics]).astype(np.int32)


def test_nce_reaches_the_partition_function_and_negative_sampling_does_not():
    """Two topics of five words each: a word predicts each word of its topic with P = 0.2."""
    rng = np.random.default_rng(0)

    def partition(objective):
        model = WordVectors(10, dimension=8, objective=objective, window=2, negative=20, tile=4, tiles=32, pool=6)
        given = given_for(model, np.full(10, 10), tame=20.0)

        def step(tables, inputs):
            block, rate = inputs
            return descend(model, given, tables, weigh(model, given, block), rate)[0], None

        shape = (1500, model.tiles)
        words = rng.integers(0, 5, (*shape, model.span)) + 5 * rng.integers(0, 2, (*shape, 1))
        ones = np.ones((*shape, model.tile), np.float32)
        negatives = rng.integers(0, 10, (*shape, model.pool))
        blocks = Block(words.astype(np.int32), ones, 2 * ones.astype(np.int32), negatives.astype(np.int32))
        rates = np.linspace(0.1, 1e-4, len(words), dtype=np.float32)
        tables, _ = jax.jit(lambda *inputs: jax.lax.scan(step, model.initial(jax.random.key(0)), inputs))(blocks, rates)
        bias = given.log_unigram if objective == "nce" else 0.0
        return np.exp(tables.input @ tables.output.T + bias).sum(1)

    np.testing.assert_allclose(partition("nce"), 1.0, atol=0.1)
    # A word of the topic is a negative with k q = 2, of which the share of P is masked as equal to the positive:
    # exp(s) = 0.2 / (2 · 0.8), for five words.
    np.testing.assert_allclose(partition("negative_sampling"), 0.625, atol=0.1)


@pytest.fixture(scope="module")
def small():
    """(model, corpus, distributions), used where a program is compiled."""
    model = WordVectors(10, dimension=4, window=2, tile=4, tiles=2, pool=4)
    return model, jnp.asarray(toy_corpus(np.random.default_rng(0), 12)), given_for(model, np.full(10, 12), 0.05)


@pytest.mark.parametrize(("kind", "streams"), [("skipgram", 1), ("cbow", 2)])
def test_training_goes_on_from_any_step_as_if_it_had_not_stopped(small, monkeypatch, kind, streams):
    monkeypatch.setattr("rnn_jax.models.word_vector_training.BLOCKS", 4)
    model, corpus, given = small
    model = dataclasses.replace(model, model=kind)
    key, programs = jax.random.key(0), compiled("cpu")._cache_size()
    assert plan_rounds(model, len(corpus)).streams == streams
    steps = list(_copied(train(model, given, model.initial(key), corpus, key, epochs=2, learning_rate=0.1)))
    assert compiled("cpu")._cache_size() <= programs + 1
    assert steps[-1].share == 1
    assert all(before.share < after.share for before, after in itertools.pairwise(steps))
    assert len({progress.step for progress in steps}) == len(steps) > 4
    for middle in (steps[0], steps[len(steps) // 2 - 1], steps[-2]):
        tables = jax.tree.map(jnp.asarray, middle.tables)
        rest = train(model, given, tables, corpus, key, epochs=2, learning_rate=0.1, start=middle.step)
        *_, last = _copied(rest)
        np.testing.assert_array_equal(last.tables.input, steps[-1].tables.input)
    # At the end there is nothing to do, and the tables are as they were.
    tables = jax.tree.map(jnp.asarray, steps[-1].tables)
    assert not list(train(model, given, tables, corpus, key, epochs=2, learning_rate=0.1, start=steps[-1].step))
    np.testing.assert_array_equal(tables.input, steps[-1].tables.input)


@pytest.mark.parametrize("streams", [2, 4])
def test_streams_learn_what_one_learns(streams):
    """Words of two topics, which each pass tells further apart."""
    model = WordVectors(10, dimension=4, model="cbow", window=2, tile=4, tiles=2, pool=4)
    corpus = jnp.asarray(toy_corpus(np.random.default_rng(0), 400))
    given = given_for(model, np.full(10, 240), tame=20.0)
    key = jax.random.key(0)

    def similarity(streams):
        tables = model.initial(key)
        for progress in train(model, given, tables, corpus, key, epochs=10, learning_rate=0.05, streams=streams):
            tables = progress.tables
        rows = np.asarray(tables.input) / np.linalg.norm(tables.input, axis=1, keepdims=True)
        cosines = rows @ rows.T
        return cosines[:5, :5].mean() - cosines[:5, 5:].mean()

    assert plan_rounds(model, len(corpus), streams).streams == streams
    assert similarity(streams) > 0.8 * similarity(1) > 0.7


@pytest.mark.parametrize("count", [1, 2, 3])
def test_streams_add_up_rare_words_and_average_frequent_ones(small, count):
    model, _, given = small
    pairs = np.array([0.0, 1.0, 50.0, 100.0, 1e9, 2.0, 3.0, 4.0, 5.0, 6.0], np.float32)
    given = given._replace(input_pairs=jnp.asarray(pairs), output_pairs=jnp.asarray(pairs[::-1]))
    before, *copies = (jax.tree.map(np.asarray, random_tables(model, seed)) for seed in range(count + 1))
    travel = 2.0
    device = jax.tree.map(jnp.asarray, (before, tuple(copies)))
    after, handed = meet(given, np.float32(travel), *device)
    assert len(handed) == count
    for table, of_row in (("input", pairs), ("output", pairs[::-1])):
        start = getattr(before, table).astype(np.float64)
        change = sum(getattr(copy, table) - start for copy in copies)
        share = -np.expm1(-of_row.astype(np.float64) * travel / SETTLED)
        weight = np.where(share > 0, (1 - (1 - share) ** count) / np.maximum(count * share, 1e-300), 1.0)
        np.testing.assert_allclose(getattr(after, table), start + weight[:, None] * change, rtol=1e-4, atol=1e-5)
        for copy in handed:
            np.testing.assert_array_equal(getattr(copy, table), getattr(after, table))
    np.testing.assert_allclose(weight[-1], 1.0)
    np.testing.assert_allclose(weight[5], 1 / count)


@pytest.mark.parametrize(
    ("streams", "objective", "message"),
    [
        (0, "nce", "streams: expected 1 to 4, found 0"),
        (5, "nce", "streams: expected 1 to 4, found 5"),
        (2, "softmax", "streams: expected 1 for the softmax"),
    ],
)
def test_streams_that_cannot_be(streams, objective, message):
    model = dataclasses.replace(TINY, objective=objective)
    with pytest.raises(ValueError, match=message):
        plan_rounds(model, 1_000, streams)
    assert plan_rounds(dataclasses.replace(TINY, model="cbow", objective="softmax"), 1_000).streams == 1


def _copied(training):
    # Each dispatch takes the buffers of the tables before it.
    return (progress._replace(tables=jax.tree.map(np.array, progress.tables)) for progress in training)


@pytest.mark.parametrize("kind", ["skipgram", "cbow"])
def test_vmap_over_seeds_and_learning_rates(small, kind):
    model, corpus, given = small
    model = dataclasses.replace(model, model=kind)
    kept, length = subsample(given, corpus, jax.random.key(9))
    keys = jax.random.split(jax.random.key(0), 4)
    rates = jnp.asarray(np.outer([0.1, 0.05, 0.01, 0.2], np.ones(4)), jnp.float32)
    starts = jax.vmap(model.initial)(keys)
    every_seed = jax.jit(jax.vmap(functools.partial(train_blocks, model, given), in_axes=(0, None, None, None, 0, 0)))
    together, losses = every_seed(starts, kept, length, jnp.int32(0), keys, rates)
    for number in range(4):
        start = Tables(*(jnp.array(table[number]) for table in starts))
        dispatch = compiled("cpu")
        alone, loss = dispatch(model, given, start, kept, length, jnp.int32(0), keys[number], rates[number])
        np.testing.assert_allclose(losses[number], loss, rtol=1e-5)
        for one, every in zip(alone, together, strict=True):
            np.testing.assert_allclose(every[number], one, rtol=1e-5, atol=1e-6)


def test_memory_grows_with_the_block_and_not_with_the_pairs():
    model = WordVectors(1_000, dimension=16, tile=8, tiles=8, pool=4)
    given = given_for(model, np.full(1_000, 100))

    def temporary(positions, blocks):
        tables = jax.eval_shape(model.initial, jax.random.key(0))
        arguments = (
            tables,
            jax.ShapeDtypeStruct((positions,), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.int32),
            jax.random.key(0),
            jax.ShapeDtypeStruct((blocks,), jnp.float32),
        )
        program = compiled("cpu").lower(model, given, *arguments).compile()
        return program.memory_analysis().temp_size_in_bytes

    # 64 blocks of 64 positions: 400 bytes each, some tens of rows for a block, nothing for the million positions, whose
    # pairs, some 6 of 6 x 16 floats each, would take 2 GB.
    assert temporary(1_000_000, 64) < 64 * 64 * 400 + 1_000_000


@pytest.mark.parametrize(("field", "value"), [("model", "glove"), ("objective", "hinge"), ("window", 0), ("pool", -1)])
def test_bad_choices(field, value):
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        dataclasses.replace(TINY, **{field: value})
