"""The adding and copying problems, read back from their inputs."""

import numpy as np
import pytest

from rnn_jax.data.errors import DataError
from rnn_jax.data.memory_tasks import MemoryBatches


@pytest.mark.parametrize("lag", [2, 7, 20])
def test_adding_asks_for_the_sum_of_the_two_marked_numbers(lag):
    inputs, targets = MemoryBatches("adding", lag, 500).at(3)
    assert inputs.shape == (lag, 500, 2)
    assert targets.shape == (1, 500)
    assert inputs.dtype == targets.dtype == np.float32
    values, marks = inputs[..., 0], inputs[..., 1]
    assert set(np.unique(marks)) <= {0, 1}
    np.testing.assert_array_equal(marks[: lag // 2].sum(axis=0), 1)
    np.testing.assert_array_equal(marks[lag // 2 :].sum(axis=0), 1)
    np.testing.assert_allclose((values * marks).sum(axis=0), targets[0], rtol=1e-6)


def test_adding_without_a_memory_leaves_a_sixth():
    _, targets = MemoryBatches("adding", 20, 1).held_out(1, 100_000)
    assert np.mean((targets - 1) ** 2) == pytest.approx(1 / 6, rel=0.02)


def test_every_step_may_be_marked():
    inputs, _ = MemoryBatches("adding", 9, 2000).at(0)
    assert (inputs[..., 1].sum(axis=1) > 0).all()


@pytest.mark.parametrize("lag", [2, 5])
def test_copying_shows_ten_symbols_then_blanks_and_a_sign(lag):
    inputs, targets = MemoryBatches("copying", lag, 300).at(0)
    assert inputs.shape == (20 + lag, 300, 10)
    assert targets.shape == (10, 300)
    np.testing.assert_array_equal(inputs.sum(axis=-1), 1)
    tokens = inputs.argmax(axis=-1)
    np.testing.assert_array_equal(tokens[:10], targets)
    assert set(np.unique(targets)) == set(range(8))
    sign = 10 + lag - 1
    np.testing.assert_array_equal(tokens[sign], 9)
    np.testing.assert_array_equal(np.delete(tokens[10:], sign - 10, axis=0), 8)


@pytest.mark.parametrize("task", ["adding", "copying"])
def test_a_batch_depends_on_its_step_and_seed_alone(task):
    batches = MemoryBatches(task, 5, 4, seed=1)
    block = batches.block(7, 3)
    for index in range(3):
        for found, expected in zip(block, MemoryBatches(task, 5, 4, seed=1).at(7 + index), strict=True):
            np.testing.assert_array_equal(found[index], expected)
    different = [batches.at(7), batches.at(8), MemoryBatches(task, 5, 4, seed=2).at(7), batches.held_out(1, 4)]
    assert len({batch.inputs.tobytes() for batch in different}) == 4


def test_held_out_examples_are_the_same_for_every_seed():
    one, other = (MemoryBatches("adding", 5, 4, seed=seed).held_out(2, 10) for seed in (0, 1))
    np.testing.assert_array_equal(one.inputs, other.inputs)
    assert not np.array_equal(one.inputs, MemoryBatches("adding", 5, 4).held_out(1, 10).inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sorting", 5, 4), "task: expected one of adding, copying, found 'sorting'"),
        (("adding", 1, 4), "lag: expected at least 2, found 1"),
        (("adding", 5, 0), "batch_size: expected at least 1, found 0"),
        (("adding", 5, 4, -1), "seed: expected at least 0, found -1"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(DataError, match=message):
        MemoryBatches(*arguments)
