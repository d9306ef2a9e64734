"""Texts as numbers and back."""

import numpy as np
import pytest

from rnn_jax.data import PaddedBatches, TextEncoder, word_pieces

TEXTS = ["The film is good .", "the film is not good !", "a bad film"]


def words_of(encoder, numbers):
    return [encoder.vocabulary.symbols[number] for number in numbers]


def test_rare_and_new_words_are_unknown():
    encoder = TextEncoder.from_texts(TEXTS, min_count=2)
    assert set(encoder.vocabulary.symbols) == {"the", "film", "is", "good", "<unk>"}
    (tokens,) = encoder.encode(["GOOD film noir"])["tokens"]
    assert words_of(encoder, tokens) == ["good", "film", "<unk>"]
    assert tokens.dtype == np.int32


def test_the_middle_of_a_long_text_is_left_out():
    encoder = TextEncoder.from_texts(["a b c d e f g"], max_length=5)
    (tokens,) = encoder.encode(["a b c d e f g"])["tokens"]
    assert words_of(encoder, tokens) == ["a", "b", "c", "f", "g"]
    (tokens,) = TextEncoder(encoder.vocabulary, max_length=1).encode(["a b c"])["tokens"]
    assert words_of(encoder, tokens) == ["a"]


def test_characters_know_the_unknown_too():
    encoder = TextEncoder.from_texts(["ab  ab\n", "b"], "char")
    (tokens,) = encoder.encode([" a\tbz"])["tokens"]
    assert encoder.vocabulary.decode(tokens) == "a b\ufffd"


def test_a_text_without_words_is_one_unknown_word():
    (tokens,) = TextEncoder.from_texts(TEXTS).encode(["&nbsp;"])["tokens"]
    assert tokens.shape == (1,)


@pytest.mark.parametrize("max_length", [100, 2])
def test_pieces_stand_beside_their_words(max_length):
    encoder = TextEncoder.from_texts(TEXTS, max_length=max_length, pieces=50)
    fields = encoder.encode(["a strange film", "film"])
    batch = PaddedBatches(fields, {"label": np.zeros(2, np.int32)}, 2, buckets=1, shuffle=False).at(0)
    texts = {0: ["a", "strange", "film"] if max_length > 2 else ["a", "film"], 1: ["film"]}
    for column, number in enumerate(batch["index"]):
        for row, word in enumerate(texts[number]):
            np.testing.assert_array_equal(batch["pieces"][row, column], word_pieces(word, 50))
        assert not batch["pieces"][len(texts[number]) :, column].any()


def test_pairs_of_two_texts_or_more_are_symbols_too():
    texts = ["not good , not good", "so good", "not good at all", "so good !"]
    encoder = TextEncoder.from_texts(texts, pairs=9)
    assert encoder.pairs
    assert encoder.vocabulary.symbols[-2:] == ("not␣good", "so␣good")
    words = TextEncoder.from_texts(texts).vocabulary.symbols
    assert encoder.vocabulary.symbols[: len(words)] == words
    (pairs,) = encoder.encode(["so good , not good noir"])["pairs"]
    assert pairs.dtype == np.int32
    assert words_of(encoder, pairs) == ["<unk>", "so␣good", "<unk>", "<unk>", "not␣good", "<unk>"]
    assert TextEncoder.from_texts(texts, pairs=1).vocabulary.symbols[-2:] == (words[-1], "not␣good")
    assert "pairs" not in TextEncoder.from_texts(texts).encode(texts)


def test_a_text_may_hold_what_pairs_are_written_with():
    encoder = TextEncoder.from_texts(["a␣b a b", "a b"], pairs=5)
    (tokens,), (pairs,) = encoder.encode(["a b"]).values()
    assert words_of(encoder, tokens) == ["a", "b"]
    assert words_of(encoder, pairs)[1] == "a␣b"
