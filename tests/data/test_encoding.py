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


@pytest.mark.parametrize("pieces", [0, 50])
def test_no_texts_have_no_sequences(pieces):
    fields = TextEncoder.from_texts(TEXTS, pieces=pieces).encode([])
    assert {name: len(field) for name, field in fields.items()} == {"tokens": 0} | ({"pieces": 0} if pieces else {})


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
