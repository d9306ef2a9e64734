"""Padding and length buckets."""

import numpy as np
import pytest
from untyped import untyped

from rnn_jax.data.errors import DataError
from rnn_jax.data.padded import PaddedBatches, is_held_out, pad


def examples(count: int = 23) -> dict[str, list[np.ndarray]]:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 9, count)
    return {
        "source": [random.integers(1, 50, length).astype(np.int32) for length in lengths],
        "target": [random.normal(size=(length + 2, 3)).astype(np.float32) for length in lengths],
    }


def test_pad_puts_zeros_behind_and_masks_them():
    values, mask = pad([np.array([1, 2, 3]), np.array([], int), np.array([4])], 4)
    np.testing.assert_array_equal(values, [[1, 0, 4], [2, 0, 0], [3, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(mask, values > 0)


@pytest.mark.parametrize(("sequences", "length", "match"), [([], None, "found none"), ([np.ones(3)], 2, "at least 3")])
def test_pad_refuses(sequences, length, match):
    with pytest.raises(DataError, match=match):
        pad(sequences, length)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_shows_every_example_once_and_whole(shuffle, epoch):
    fields = examples()
    label = np.arange(23)
    batches = PaddedBatches(fields, {"label": label}, batch_size=4, buckets=3, shuffle=shuffle)
    seen, shapes = [], set()
    for step in range(batches.steps_per_epoch):
        batch = batches.at(epoch * batches.steps_per_epoch + step)
        shapes.add((batch["source"].shape, batch["target"].shape))
        for column, number in enumerate(batch["index"]):
            for name, field in fields.items():
                found = batch[name][batch[f"{name}_mask"][:, column], column]
                np.testing.assert_array_equal(found, field[number] if number >= 0 else field[0][:0])
            if number >= 0:
                assert batch["label"][column] == number
                seen.append(number)
    assert sorted(seen) == list(range(23))
    assert len(shapes) <= 3


def test_epochs_differ_only_under_shuffle():
    for shuffle in (True, False):
        batches = PaddedBatches(examples(), {}, batch_size=4, shuffle=shuffle)
        first, second = (
            [tuple(batches.at(epoch * batches.steps_per_epoch + step)["index"]) for step in range(6)]
            for epoch in (0, 1)
        )
        assert (first != second) == shuffle


def test_a_block_is_its_batches_padded_to_the_longest():
    batches = PaddedBatches(examples(), {"label": np.arange(23)}, batch_size=4)
    block = batches.block(3, 5)
    for index in range(5):
        one = batches.at(3 + index)
        time = len(one["source"])
        np.testing.assert_array_equal(block["source"][index, :time], one["source"])
        assert not block["source_mask"][index, time:].any()
        np.testing.assert_array_equal(block["label"][index], one["label"])
    assert block.keys() == batches.batch_axes.keys()


def test_batches_of_values_alone():
    batches = PaddedBatches({}, {"image": np.arange(10.0).reshape(5, 2)}, batch_size=2, shuffle=False)
    assert [batch["image"].shape for batch in batches] == [(2, 2)] * 3


@pytest.mark.parametrize(
    ("sequences", "values", "batch_size", "match"),
    [
        ({"x": []}, {}, 2, "at least 1"),
        ({"x": [np.ones(2)]}, {"y": np.ones(2)}, 2, "one number of examples"),
        ({"x": [np.ones(2)]}, {}, 0, "batch_size: expected at least 1, found 0"),
    ],
)
def test_refuses(sequences, values, batch_size, match):
    with pytest.raises(DataError, match=match):
        PaddedBatches(sequences, values, batch_size)


@pytest.mark.parametrize(("sequences", "values"), [({"x": [np.ones(2)]}, {"y": [1]}), ({"y": [[1, 2]]}, {})])
def test_lists_are_no_arrays(sequences, values):
    with pytest.raises(DataError, match="y: expected arrays, found a list"):
        untyped(PaddedBatches.__init__)(object.__new__(PaddedBatches), sequences, values, 2)


def test_held_out_is_a_tenth_told_from_the_text():
    held = [is_held_out(f"example {number}") for number in range(10_000)]
    assert abs(sum(held) - 1000) < 4 * 30
    assert held == [is_held_out(f"example {number}") for number in range(10_000)]
