"""Vocabularies of characters and words: order, limits, round trips, errors."""

import itertools
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from rnn_jax.data import DataError, Vocabulary, vocabulary

PENN_TREEBANK = Path(__file__).resolve().parents[3] / "shared" / "data" / "ptb" / "train.txt"


def test_characters_are_sorted_and_round_trip():
    text = "hello\nwörld 漢😀\ud800"
    symbols = Vocabulary.from_text(text)
    assert symbols.symbols == tuple(sorted(set(text)))
    assert symbols.unknown is None
    assert len(symbols) == len(set(text))
    ids = symbols.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [symbols.symbols.index(character) for character in text]
    assert symbols.decode(ids) == text


def test_hello_has_four_symbols():
    symbols = Vocabulary.from_text("hello")
    assert symbols.symbols == ("e", "h", "l", "o")
    assert symbols.encode("hell").tolist() == [1, 0, 2, 2]
    assert symbols.decode([0, 2, 2, 3]) == "ello"


def test_empty_texts_and_ids():
    symbols = Vocabulary.from_text("ab")
    assert symbols.encode("").shape == (0,)
    assert symbols.encode("").dtype == np.int32
    assert symbols.decode([]) == ""
    assert symbols.decode(np.zeros((0,), np.int32)) == ""


def test_unknown_characters_are_counted_and_listed():
    symbols = Vocabulary.from_text("abc\n")
    with pytest.raises(DataError, match=re.escape("prompt: expected only the 4 characters")) as caught:
        symbols.encode("aé bé\t", argument="prompt")
    assert "found 4 others: '\\t', ' ', 'é'" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"found 9 others: .* and 4 more"):
        symbols.encode("abcdefghijkl")
    with pytest.raises(DataError, match="found 1 others"):
        symbols.encode("a\udcff")  # a byte of a command line that was not UTF-8


@pytest.mark.parametrize("limits", [{"max_size": 3}, {"min_count": 2}])
def test_limits_on_characters_bring_the_replacement_character(limits):
    symbols = Vocabulary.from_text("aaabbcd", **limits)
    assert symbols.symbols == ("a", "b", "\ufffd")
    assert symbols.unknown == "\ufffd"
    assert symbols.decode(symbols.encode("abcx")) == "ab\ufffd\ufffd"


def test_words_are_ordered_by_count_then_alphabet():
    words = Vocabulary.from_text("b a b\nc a\nb\n", level="word")
    assert words.symbols == ("<eos>", "b", "a", "c", "<unk>")
    assert words.unknown == "<unk>"
    assert words.encode("b a\nzebra").tolist() == [1, 2, 0, 4]
    assert words.decode([1, 2, 0, 4]) == "b a\n<unk>"


def test_an_unfinished_line_gets_no_end_mark():
    words = Vocabulary.from_text("a b\n", level="word")
    assert words.encode("a").tolist() == [words.index["a"]]
    assert words.encode("a\n").tolist() == [words.index["a"], words.index["<eos>"]]


def test_unknown_word_of_the_text_is_reused():
    words = Vocabulary.from_text("<unk> a <unk> a b a c\n", level="word", min_count=2)
    # 2 written and the 2 left out make 4
    assert words.symbols == ("<unk>", "a", "<eos>")


def test_max_size_counts_the_special_words():
    text = "a a a a b b b c c\n"
    assert Vocabulary.from_text(text, level="word", max_size=4).symbols == ("a", "b", "<unk>", "<eos>")
    assert set(Vocabulary.from_text(text, level="word", max_size=2).symbols) == {"<unk>", "<eos>"}
    assert len(Vocabulary.from_text(text, level="word", max_size=100)) == 5
    # of equally frequent words the first of the alphabet stay
    assert set(Vocabulary.from_text("f e d c b a", level="word", max_size=4).symbols) == {"a", "b", "c", "<unk>"}


@pytest.mark.parametrize("text", ["a b\n\n\nb a\n", "\n\na", " \n a  b \n", "a", "\n"])
def test_words_round_trip(text):
    words = Vocabulary.from_text(text, level="word")
    ids = words.encode(text)
    decoded = words.decode(ids)
    assert words.encode(decoded).tolist() == ids.tolist()
    assert decoded == "\n".join(" ".join(line.split()) for line in text.split("\n"))


def test_every_short_sequence_of_words_round_trips():
    words = Vocabulary.from_text("a b\n", level="word")
    for ids in itertools.product(range(len(words)), repeat=5):
        assert tuple(words.encode(words.decode(ids)).tolist()) == ids


@pytest.mark.parametrize("level", ["char", "word"])
def test_pieces_do_not_show(level, monkeypatch):
    text = "to be or not\nto be\n\nthat is the question \u2028 " * 7 + "no"
    whole = Vocabulary.from_text(text, level=level)
    ids = whole.encode(text)
    monkeypatch.setattr(vocabulary, "_PIECE", 5)
    assert Vocabulary.from_text(text, level=level) == whole
    assert whole.encode(text).tolist() == ids.tolist()


@pytest.mark.parametrize("level", ["char", "word"])
def test_json_round_trip(level):
    original = Vocabulary.from_text('a "quoted"\n漢 \ud800', level=level, min_count=1 if level == "word" else 2)
    assert Vocabulary.from_json(original.to_json()) == original
    assert json.loads(original.to_json())["level"] == level


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"symbols": 3, "level": "char", "unknown": null}'])
def test_broken_json_is_named(text):
    with pytest.raises(DataError, match="vocabulary: expected JSON"):
        Vocabulary.from_json(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ""}, "text: expected at least one char"),
        ({"text": "  ", "level": "word"}, "text: expected at least one word"),
        ({"text": "a", "level": "byte"}, "level: expected one of char, word, found 'byte'"),
        ({"text": "a", "max_size": 1}, "max_size: expected at least 2, found 1"),
        ({"text": "a", "min_count": 0}, "min_count: expected at least 1, found 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        Vocabulary.from_text(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), "char"), "at least one"),
        ((("a", "b", "a"), "char"), "found 'a' twice"),
        ((("a", "bc"), "char"), "one char each, found 'bc'"),
        ((("a", "b c"), "word"), "one word each, found 'b c'"),
        ((("a", "b"), "char", "c"), "unknown: expected one of the 2 symbols, found 'c'"),
    ],
)
def test_bad_symbols(arguments, message):
    with pytest.raises(DataError, match=message):
        Vocabulary(*arguments)


@pytest.mark.parametrize("ids", [[3], [-1], [0, 7]])
def test_ids_outside_the_vocabulary(ids):
    with pytest.raises(DataError, match=rf"ids: expected numbers from 0 to 2, found {ids[-1]}"):
        Vocabulary.from_text("abc").decode(ids)


def test_characters_are_encoded_fast():
    text = "The quick brown fox jumps over the lazy dog.\n" * 200_000  # 9 MB
    symbols = Vocabulary.from_text(text)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        ids = symbols.encode(text)
        seconds.append(time.perf_counter() - started)
        assert len(ids) == len(text)
    # 0.05 s where this was written; a loop over the characters takes 1 s
    assert min(seconds) < 0.5


@pytest.mark.skipif(not PENN_TREEBANK.exists(), reason="the Penn Treebank text is not at hand")
def test_penn_treebank_has_its_published_counts():
    text = PENN_TREEBANK.read_text()
    words = Vocabulary.from_text(text, level="word")
    assert len(words) == 10_000
    assert len(words.encode(text)) == 929_589
