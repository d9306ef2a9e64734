"""Pairs of sentences: files, splits, lengths; words with joiners; made-up tasks."""

import gzip

import numpy as np
import pytest

from rnn_jax.data import (
    DataError,
    hold_out,
    join_marks,
    limit_length,
    make_pairs,
    read_parallel,
    read_tsv,
    set_marks_apart,
)
from rnn_jax.data.joiners import count_words
from rnn_jax.data.number_words import LANGUAGES, marked, number_words, spell
from rnn_jax.data.symbol_tasks import addition, symbols


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_parallel_files_plain_and_compressed(tmp_path):
    source = write(tmp_path / "a.de", "eins \nzwei\u2028halb\n\ndrei\n")
    target = write(tmp_path / "a.en.gz", "one\ntwo\nnothing\nthree")
    pairs = read_parallel(source, target)
    assert pairs.source == ("eins", "zwei\u2028halb", "drei")
    assert pairs.target == ("one", "two", "three")
    assert pairs.skipped == 1


def test_columns_and_the_other_way_round(tmp_path):
    pairs = read_tsv(write(tmp_path / "a.tsv", "one\teins\tfrom a friend\n\n\tzwei\ntwo\tzwei\n"))
    assert (pairs.source, pairs.target, pairs.skipped) == (("one", "two"), ("eins", "zwei"), 2)
    assert pairs.swapped().source == ("eins", "zwei")
    assert pairs.sha256 != pairs.swapped().sha256


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("a\nb\nc\n", "a\nb\n"),
            "train_source, train_target: expected files of equally many lines, found 3 in .* and 2",
        ),
        (("\n\n", "a\nb\n"), "train_source: expected at least one pair of sentences, found none"),
        (("", "a\n"), "train_source: expected a text, found nothing"),
    ],
)
def test_parallel_files_that_do_not_fit(tmp_path, files, message):
    source, target = (write(tmp_path / name, text) for name, text in zip(("s", "t"), files, strict=True))
    with pytest.raises(DataError, match=message):
        read_parallel(source, target)


def test_a_line_of_one_column_is_named_by_its_number(tmp_path):
    with pytest.raises(DataError, match=r"dev: expected source<TAB>target, found one column in line 2 of '.*x.tsv'"):
        read_tsv(write(tmp_path / "x.tsv", "a\tb\na b\n"), "dev")


def test_what_is_held_out_is_not_seen_in_training_on_either_side():
    random = np.random.default_rng(0)
    pairs = make_pairs((f"s{a}", f"t{b}") for a, b in random.integers(0, 400, (2000, 2)))
    train, valid, test = hold_out(pairs, 0.1)
    for held in (valid, test):
        assert abs(len(held) - 200) < 80
        assert not set(held.target) & set(train.target)
        assert not set(held.source) & set(train.source)
    assert not set(valid.target) & set(test.target)
    with pytest.raises(DataError, match="held_out: expected some pairs for"):
        hold_out(make_pairs([("a", "b"), ("c", "d")]), 0.01)


def test_only_what_is_wanted_is_held_out():
    pairs = make_pairs((f"s{number}", f"t{number}") for number in range(1000))
    train, valid, test = hold_out(pairs, 0.1)
    for wanted, held, other in (("validation", valid, test), ("testing", test, valid)):
        switches = {name: name == wanted for name in ("validation", "testing")}
        more, *parts = hold_out(pairs, 0.1, **switches)
        assert parts[wanted == "validation"] is None
        assert set(parts[wanted == "testing"].target) == set(held.target)
        assert set(more.target) == set(train.target) | set(other.target)


def test_a_reversed_source_keeps_the_beginning_of_the_sentence_too():
    source, _, _ = limit_length([np.array([4, 3, 2, 1, 0])], [np.array([5, 0])], 2, "cut", source_reversed=True)
    assert source[0].tolist() == [2, 1, 0]


def test_long_sentences_are_dropped_or_cut_and_counted():
    source = [np.array([1, 2, 3, 0]), np.array([1, 0]), np.array([1, 2, 0])]
    target = [np.array([5, 0]), np.array([6, 7, 8, 0]), np.array([5, 6, 0])]
    dropped = limit_length(source, target, 2)
    assert [a.tolist() for a in dropped[0]] == [[1, 2, 0]]
    assert [a.tolist() for a in dropped[1]] == [[5, 6, 0]]
    cut = limit_length(source, target, 2, "cut")
    assert [a.tolist() for a in cut[0]] == [[1, 2, 0], [1, 0], [1, 2, 0]]
    assert [a.tolist() for a in cut[1]] == [[5, 0], [6, 7, 0], [5, 6, 0]]
    assert dropped[2] == cut[2] == 2
    with pytest.raises(DataError, match="max_length: expected some pairs of at most 1 symbols, found none of 1"):
        limit_length(source[:1], target[:1], 1)
    with pytest.raises(DataError, match="long: expected one of drop, cut"):
        limit_length(source, target, 2, "keep")


@pytest.mark.parametrize("text", ["A man, smiling (twice).", "don't - stop…", "a  b", "«Bonjour!», dit-il", "3.1%"])
def test_words_and_joiners_are_undone(text):
    words = set_marks_apart(text)
    assert join_marks(words) == " ".join(text.split())
    assert count_words(text) == len(words.split())
    assert all(word.lstrip("\uffed").isalnum() or len(word.lstrip("\uffed")) == 1 for word in words.split())


def test_numbers_in_words():
    # Written by hand, not by the library that spells.
    assert spell(71, "fr") == "soixante et onze"
    assert spell(345, "de") == "dreihundertfünfundvierzig"
    parts = number_words(300, 9999)
    for part in parts:
        assert len(part) % len(LANGUAGES) == 0
        assert len(set(part.source)) == len(part)
    english = [{source.split(": ")[1] for source in part.source} for part in parts]
    assert not english[0] & (english[1] | english[2])
    assert not english[1] & english[2]
    assert sum(map(len, parts)) == 300
    first = parts[0].source[0]
    assert first.startswith("fr: ")
    assert first == marked("fr", first.removeprefix("fr: "))
    with pytest.raises(DataError, match="pairs: expected enough to train, validate and test, found 2"):
        number_words(2)


def test_sums_are_right_and_held_out_pairs_are_new():
    train, valid, test = addition(3000, 3)
    for part in (train, valid, test):
        for source, target in zip(part.source, part.target, strict=True):
            first, second = source.split("+")
            assert int(first) + int(second) == int(target)
            assert max(len(first), len(second)) <= 3
    assert not set(test.source) & set(train.source)
    lengths = [len(source) for source in train.source]
    assert min(lengths) == 3
    assert max(lengths) == 7


def test_strings_reversed_and_copied():
    for task, wanted in (("reverse", lambda words: words[::-1]), ("copy", lambda words: words)):
        for part in symbols(task, 400, 25):
            assert all(wanted(s.split()) == t.split() for s, t in zip(part.source, part.target, strict=True))
            assert {len(source.split()) for source in part.source} <= set(range(1, 26))
    with pytest.raises(DataError, match="task: expected one of reverse, copy, found 'x'"):
        symbols("x", 10)
