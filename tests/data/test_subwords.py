"""Byte-pair encoding beside a transcription of the paper's loop, and its way through JSON."""

import itertools
from collections import Counter

import numpy as np
import pytest

from rnn_jax.data import DataError, Subwords

LINES = ["low lower lowest, low", "new newer newest wide", "wider widest new low", "lowly newly"] * 3


def by_hand(word, merges):
    """Sennrich et al. 2016: join the pair that was learned first, as long as there is one."""
    symbols, rank = list(word), {pair: number for number, pair in enumerate(merges)}
    while True:
        pairs = [(rank[pair], i) for i, pair in enumerate(itertools.pairwise(symbols)) if pair in rank]
        if not pairs:
            return symbols
        i = min(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def test_the_first_merge_is_the_most_frequent_pair():
    learned = Subwords.learn(LINES, 40)
    pairs = Counter()
    for line in LINES:
        for word in line.replace(",", " , ").split():
            word = word if word == "," else "\u2581" + word
            pairs.update(itertools.pairwise(word))
    assert pairs[learned.merges[0]] == max(pairs.values())
    assert len(Subwords.learn(LINES, 30)) == 30
    # No pair is left to merge.
    assert len(learned) == len(Subwords.learn(LINES, 1000)) < 40


def test_encoding_is_the_merges_in_their_order():
    learned = Subwords.learn(LINES, 45)
    for word in ("lowest", "newly", "widow", "swell"):
        wanted = by_hand("\u2581" + word, learned.merges)
        found = [learned.symbols[i] for i in learned.encode(word)]
        assert found == [symbol if symbol in learned.index else "<unk>" for symbol in wanted]


def test_there_and_back():
    learned = Subwords.learn(LINES, 60)
    text = "lower, newest\nwide\n"
    ids = learned.encode(text)
    assert ids.dtype == np.int32
    assert learned.decode(ids) == text
    assert (ids == learned.index["<eos>"]).sum() == 2
    assert learned.encode("\n").tolist() == [learned.index["<eos>"]]
    assert learned.encode("").tolist() == []
    assert "<unk>" in learned.decode(learned.encode("low Q"))
    again = Subwords.from_json(learned.to_json())
    assert again == learned
    np.testing.assert_array_equal(again.encode(text), ids)
    assert Subwords.learn(LINES, 60) == learned


def test_a_written_end_mark_is_text():
    learned = Subwords.learn([*LINES, "<eos>"], 60)
    assert (learned.encode("low <eos> low") == learned.index["<eos>"]).sum() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Subwords.learn(LINES, 2), "vocab_size: expected at least 3"),
        (lambda: Subwords.learn(["", ""], 10), "text: expected at least one word"),
        (lambda: Subwords(("a", "a"), ()), "symbols: expected each once, found 'a' twice"),
        (lambda: Subwords(("<unk>", "<eos>", "a"), (("a", "b"),)), "expected 'ab' among them"),
        (lambda: Subwords.from_json("{}"), "vocabulary: expected JSON"),
        (lambda: Subwords.learn(LINES, 30).decode([99]), "ids: expected numbers from 0 to 29, found 99"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(DataError, match=message):
        make()
