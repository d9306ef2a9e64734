"""Streams: continuity, coverage, shapes, and that a batch depends on its step alone."""

import itertools

import numpy as np
import pytest

from rnn_jax.data import DataError, StreamBatch, Streams, evaluation_streams, windows

SIZES = [(1, 1), (1, 5), (3, 1), (3, 5), (8, 2)]


def numbers(count, kind=np.int32):
    """A text in which every symbol is its own position."""
    return np.arange(count, dtype=kind)


@pytest.mark.parametrize(("batch_size", "bptt"), SIZES)
@pytest.mark.parametrize("shuffle_offset", [False, True])
@pytest.mark.parametrize("count", [41, 80, 97])
def test_streams_are_contiguous(count, batch_size, bptt, shuffle_offset):
    streams = Streams(numbers(count), batch_size, bptt, shuffle_offset=shuffle_offset)
    for epoch in range(3):
        begin = epoch * streams.steps_per_epoch
        batches = [streams.at(begin + step) for step in range(streams.steps_per_epoch)]
        assert [batch.first for batch in batches] == [True] + [False] * (streams.steps_per_epoch - 1)
        inputs = np.concatenate([batch.inputs for batch in batches])
        length = streams.steps_per_epoch * bptt
        expected = streams.offset(epoch) + np.arange(length)[:, None] + length * np.arange(batch_size)
        np.testing.assert_array_equal(inputs, expected)
        np.testing.assert_array_equal(np.concatenate([batch.targets for batch in batches]), expected + 1)
        # what an epoch leaves out: fewer than B T symbols, and T more where it may begin at different offsets
        assert 0 <= count - 1 - inputs.size < batch_size * bptt + (bptt if shuffle_offset else 0)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_every_batch_has_one_shape_and_no_mask(kind):
    streams = Streams(numbers(50, kind), batch_size=3, bptt=4)
    for step in range(2 * streams.steps_per_epoch):
        batch = streams.at(step)
        assert isinstance(batch, StreamBatch)
        assert batch.inputs.shape == batch.targets.shape == (4, 3)
        assert batch.inputs.dtype == batch.targets.dtype == np.int32
        assert batch.mask is None
        assert isinstance(batch.first, bool)


def test_a_batch_depends_on_its_step_alone():
    text = numbers(200)
    one, other = (Streams(text, 4, 3, shuffle_offset=True, seed=7) for _ in range(2))
    steps = range(5 * one.steps_per_epoch)
    forwards = [one.at(step) for step in steps]
    backwards = [other.at(step) for step in reversed(steps)][::-1]
    for left, right in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(left.inputs, right.inputs)
        assert left.first == right.first


def test_offsets_differ_between_epochs_and_seeds():
    def offsets(seed):
        # 192 pairs fill 8 batches to the last symbol, unless room is made
        return [Streams(numbers(193), 4, 6, shuffle_offset=True, seed=seed).offset(epoch) for epoch in range(40)]

    assert offsets(0) == offsets(0)
    assert offsets(0) != offsets(1) != offsets(-1)
    # every alignment of a window to the text comes up
    assert {offset % 6 for offset in offsets(0)} == set(range(6))
    assert {Streams(numbers(200), 4, 6, seed=3).offset(epoch) for epoch in range(9)} == {0}


def test_offsets_bring_up_the_symbols_that_were_left_out():
    streams = Streams(numbers(60), 2, 5, shuffle_offset=True)
    seen = set()
    for step in range(60 * streams.steps_per_epoch):
        seen.update(streams.at(step).targets.ravel().tolist())
    assert seen == set(range(1, 60))


@pytest.mark.parametrize("shuffle_offset", [False, True])
def test_a_text_of_one_batch(shuffle_offset):
    streams = Streams(numbers(13), batch_size=3, bptt=4, shuffle_offset=shuffle_offset)
    assert streams.steps_per_epoch == 1
    assert streams.at(0).first
    assert streams.at(1).first
    np.testing.assert_array_equal(streams.at(5).inputs, np.arange(12).reshape(3, 4).T)


@pytest.mark.parametrize("shuffle_offset", [False, True])
def test_blocks_are_stacked_batches(shuffle_offset):
    streams = Streams(numbers(50), batch_size=2, bptt=4, shuffle_offset=shuffle_offset)
    for step, count in itertools.product(range(8), (1, 2, 7, 20)):
        block = streams.block(step, count)
        batches = [streams.at(step + number) for number in range(count)]
        np.testing.assert_array_equal(block.inputs, np.stack([batch.inputs for batch in batches]))
        np.testing.assert_array_equal(block.targets, np.stack([batch.targets for batch in batches]))
        assert block.mask is None
        assert block.inputs.shape == (count, 4, 2)
        assert np.asarray(block.first).tolist() == [batch.first for batch in batches]
        assert block.inputs.flags.c_contiguous


def mask_of(batch):
    assert batch.mask is not None
    return batch.mask


def covered(batches):
    """The targets that are not padding, after checking the inputs that go with them."""
    shown = []
    for batch in batches:
        mask = mask_of(batch)
        np.testing.assert_array_equal(batch.inputs[mask] + 1, batch.targets[mask])
        shown.extend(batch.targets[mask].tolist())
    return sorted(shown)


@pytest.mark.parametrize(("batch_size", "window"), [*SIZES, (7, 100), (100, 7)])
@pytest.mark.parametrize("count", [2, 3, 40, 41, 43])
@pytest.mark.parametrize("make", [evaluation_streams, windows])
def test_evaluation_covers_every_target_once(make, count, batch_size, window):
    batches = make(numbers(count), batch_size=batch_size, window=window)
    assert covered(batches) == list(range(1, count))
    assert len(list(batches)) == len(batches) == batches.steps
    for batch in batches:
        assert batch.inputs.shape == batch.targets.shape == mask_of(batch).shape == (window, batch_size)
        assert batch.inputs.dtype == np.int32
        assert mask_of(batch).dtype == bool
    # the last batch is there for a reason
    assert mask_of(batches.at(batches.steps - 1)).any()


def test_evaluation_in_one_stream():
    batches = list(evaluation_streams(numbers(24), batch_size=1, window=10))
    assert [batch.first for batch in batches] == [True, False, False]
    np.testing.assert_array_equal(np.concatenate([batch.inputs[:, 0] for batch in batches])[:23], np.arange(23))
    np.testing.assert_array_equal(mask_of(batches[2])[:, 0], [True] * 3 + [False] * 7)


def test_evaluation_streams_continue():
    batches = evaluation_streams(numbers(100), batch_size=3, window=8)
    inputs = np.concatenate([batch.inputs for batch in batches])
    mask = np.concatenate([mask_of(batch) for batch in batches])
    for stream in range(3):
        shown = inputs[mask[:, stream], stream]
        np.testing.assert_array_equal(np.diff(shown), 1)
        assert len(shown) == 33
        # padding comes last, so the carry is never held up in the middle
        assert (np.diff(mask[:, stream].astype(int)) <= 0).all()


def test_windows_begin_afresh_and_are_full():
    batches = windows(numbers(1000), window=16, batch_size=4)
    assert all(batch.first for batch in batches)
    firsts = np.concatenate([batch.inputs[0][mask_of(batch)[0]] for batch in batches])
    np.testing.assert_array_equal(firsts, np.arange(0, 999, 16))
    lengths = np.concatenate([mask_of(batch).sum(axis=0) for batch in batches])
    assert lengths.tolist() == [16] * 62 + [7, 0]


def test_evaluation_blocks():
    for batches in (evaluation_streams(numbers(90), 3, 8), windows(numbers(90), 8, 3)):
        block = batches.block(0, batches.steps + 1)
        np.testing.assert_array_equal(block.inputs[:-1], np.stack([batch.inputs for batch in batches]))
        np.testing.assert_array_equal(mask_of(block)[:-1], np.stack([mask_of(batch) for batch in batches]))
        assert np.asarray(block.first).tolist()[:-1] == [batch.first for batch in batches]
        assert not mask_of(block)[-1].any()


@pytest.mark.parametrize(
    ("count", "batch_size", "bptt", "hint"),
    [
        (100, 32, 64, "batch_size=1 or bptt=3 would fit"),
        (31, 2, 40, "bptt=15 would fit"),
        (31, 40, 2, "batch_size=15 would fit"),
        (31, 40, 40, "batch_size=1 with bptt=30 would fit"),
        (12, 3, 4, "batch_size=2 or bptt=3 would fit"),
    ],
)
def test_a_text_too_short_says_what_would_fit(count, batch_size, bptt, hint):
    with pytest.raises(DataError) as caught:
        Streams(numbers(count), batch_size, bptt)
    assert str(caught.value) == (
        f"corpus: expected at least {batch_size * bptt + 1} symbols for one batch (batch_size={batch_size}, "
        f"bptt={bptt}), found {count}; {hint}"
    )
    fits = {"batch_size": batch_size, "bptt": bptt}
    alternatives = [hint] if "with" in hint else hint.split(" or ")
    for alternative in alternatives:
        changes = dict(part.split("=") for part in alternative.replace(" would fit", "").split(" with "))
        fitting = fits | {name: int(size) for name, size in changes.items()}
        assert Streams(numbers(count), fitting["batch_size"], fitting["bptt"]).steps_per_epoch == 1


@pytest.mark.parametrize("make", [evaluation_streams, windows])
def test_evaluation_of_too_little(make):
    with pytest.raises(DataError, match="valid: expected at least 2 symbols, an input and a target, found 1"):
        make(numbers(1), batch_size=1, window=4)
    with pytest.raises(DataError, match="score: expected at least 2"):
        make(numbers(0), batch_size=1, window=4, name="score")
    with pytest.raises(DataError, match="window: expected at least 1, found 0"):
        make(numbers(9), batch_size=1, window=0)
    with pytest.raises(DataError, match="batch_size: expected at least 1, found -2"):
        make(numbers(9), batch_size=-2, window=3)


def test_bad_arguments():
    with pytest.raises(DataError, match="batch_size: expected at least 1, found 0"):
        Streams(numbers(9), 0, 2)
    with pytest.raises(DataError, match="bptt: expected at least 1, found -1"):
        Streams(numbers(9), 1, -1)
    with pytest.raises(DataError, match=r"corpus: expected integers of shape \[N\], found float64 \[3\]"):
        Streams(np.zeros(3), 1, 1)
    with pytest.raises(DataError, match=r"corpus: expected integers of shape \[N\], found int32 \[3, 1\]"):
        Streams(np.zeros((3, 1), np.int32), 1, 1)
    with pytest.raises(DataError, match="step: expected at least 0, found -1"):
        Streams(numbers(9), 1, 2).at(-1)
    with pytest.raises(DataError, match="count: expected at least 1, found 0"):
        Streams(numbers(9), 1, 2).block(0, 0)
