"""Words and their pieces."""

import doctest

import numpy as np

from rnn_jax.data import splitting
from rnn_jax.data.splitting import split_words, word_pieces


def test_the_docstring_tells_the_truth():
    assert doctest.testmod(splitting).failed == 0


def test_text_that_a_treebank_has_cut_already_stays_as_it_is():
    text = "you 'd think they wo n't sit still for a sociology-lesson , however it 's n't bad ; no ?"
    assert split_words(text) == text.split()


def test_running_text_is_cut_as_a_treebank_would():
    assert split_words("They won't, I can't; she's here.") == [
        "they", "wo", "n't", ",", "i", "ca", "n't", ";", "she", "'s", "here", "."
    ]  # fmt: skip


def test_what_varies_without_end_is_made_one():
    assert split_words("soooo GOOD!!!! 1984 www.x.org/a?b=1 &amp; #win @me 😀😀😀") == [
        "soo", "good", "!!", "00", "<url>", "&", "#win", "@me", "😀😀"
    ]  # fmt: skip


def test_every_visible_character_belongs_to_some_word():
    random = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(map(chr, random.integers(33, 0x3000, 8)))
        assert bool(split_words(text)) == bool(text.strip())


def test_pieces_are_the_ngrams_of_the_marked_word():
    rows = 1_000_000
    number = {size: word_pieces("abcd", rows)[size] for size in range(24)}
    # <ab abc bcd cd> <abc abcd bcd> <abcd abcd>
    assert (np.array(list(number.values()))[:9] > 0).all()
    assert (np.array(list(number.values()))[9:] == 0).all()
    shared = set(word_pieces("abcd", rows)) & set(word_pieces("xbcd", rows)) - {0}
    assert len(shared) == 3  # bcd, cd> and bcd>
    assert set(word_pieces("<", rows, 2)) != {0}
    assert (word_pieces("a" * 50, rows) > 0).all()
    assert word_pieces("a" * 50, 7).max() < 7
