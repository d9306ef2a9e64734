"""Corpora of words: reading, counting, encoding, and the distributions of word2vec."""

import codecs
import gzip
from collections import Counter

import numpy as np
import pytest

from rnn_jax.data.errors import DataError
from rnn_jax.data.words import (
    DOCUMENT_END,
    check_writable,
    count_words,
    cumulative_bits,
    encode_documents,
    find_phrases,
    join_phrases,
    keep_probabilities,
    make_lexicon,
    noise_distribution,
    read_documents,
)

TEXT = "the cat sat\n\n  on the\tmat \nthe end"
DOCUMENTS = [["the", "cat", "sat"], ["on", "the", "mat"], ["the", "end"]]


def test_one_document_a_line_plain_and_gz(tmp_path):
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_text(TEXT)
    packed.write_bytes(gzip.compress(TEXT.encode()))
    assert list(read_documents(plain)) == DOCUMENTS
    assert list(read_documents(packed)) == DOCUMENTS
    plain.write_bytes(codecs.BOM_UTF8 + plain.read_bytes())
    assert list(read_documents(plain)) == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("missing", None, "corpus: expected a file, found none"),
        ("bad", b"good\n\xff\xfe\n", "line 2"),
        ("broken.gz", b"not packed", "corpus: expected a whole gzip file"),
        ("cut.gz", gzip.compress(b"a b c\n" * 1000, mtime=0)[:-12], "corpus: expected a whole gzip file"),
    ],
)
def test_unreadable_files(tmp_path, name, contents, message):
    path = tmp_path / name
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(DataError, match=message):
        list(read_documents(path))


def test_lexicon_orders_by_count_then_alphabet():
    lexicon = make_lexicon(count_words(DOCUMENTS), min_count=1)
    assert lexicon.vocabulary.symbols == ("the", "cat", "end", "mat", "on", "sat")
    assert lexicon.counts.tolist() == [3, 1, 1, 1, 1, 1]
    assert lexicon.corpus_words == 8


def test_rare_words_get_no_vector_but_count():
    lexicon = make_lexicon(count_words(DOCUMENTS), min_count=2)
    assert lexicon.vocabulary.symbols == ("the",)
    assert lexicon.corpus_words == 8


def test_no_word_frequent_enough():
    with pytest.raises(DataError, match=r"min_count: .*at least 4.*largest count is 3 \('the'\)"):
        make_lexicon(count_words(DOCUMENTS), min_count=4)


def test_empty_corpus():
    with pytest.raises(DataError, match="corpus: expected words, found none"):
        make_lexicon(Counter())


def test_encoding_marks_the_ends_and_leaves_out_unknown_words():
    vocabulary = make_lexicon(count_words(DOCUMENTS), min_count=1).vocabulary
    ids = encode_documents([["the", "dog", "sat"], ["dog"], ["end"]], vocabulary)
    assert ids.tolist() == [0, 5, DOCUMENT_END, 2, DOCUMENT_END]
    assert ids.dtype == np.int32


def test_keep_probabilities():
    counts = np.array([9_000, 900, 99, 1])
    t, f = 1e-2, counts / 10_000
    np.testing.assert_allclose(keep_probabilities(counts, t), np.minimum(1, np.sqrt(t / f) + t / f), rtol=1e-6)
    assert keep_probabilities(counts, 0.0).tolist() == [1, 1, 1, 1]


def test_noise_is_the_counts_to_the_power_of_three_quarters():
    noise = noise_distribution(np.array([16, 1]))
    np.testing.assert_allclose(noise, [8 / 9, 1 / 9])


def test_cumulative_bits_have_the_distribution():
    noise = noise_distribution(np.array([50, 20, 7, 1]))
    widths = np.diff(cumulative_bits(noise).astype(np.float64), prepend=0)
    np.testing.assert_allclose(widths / 2.0**32, noise, atol=1e-9)


def test_phrases_by_hand():
    documents = [["new", "york", "is", "big"], ["new", "york", "is", "new"]] * 3
    counts = count_words(documents)
    # new york: (6 - 1) * 24 / (9 * 6) = 2.22; york is: 5 * 24 / (6 * 6) = 3.33; is big: 2 * 24 / (6 * 3) = 2.67
    assert find_phrases(documents, counts, min_count=1, threshold=2.3) == {("york", "is"), ("is", "big")}
    assert ("new", "york") in find_phrases(documents, counts, min_count=1, threshold=2.2)


def test_phrases_are_joined_from_the_left():
    phrases = frozenset({("a", "b"), ("b", "c")})
    assert list(join_phrases([["a", "b", "c", "a"], ["b", "c"]], phrases)) == [["a_b", "c", "a"], ["b_c"]]


def test_writable(tmp_path):
    path = tmp_path / "vectors.txt"
    check_writable(path)
    assert not path.exists()
    path.write_text("kept")
    check_writable(path)
    assert path.read_text() == "kept"
    with pytest.raises(DataError, match="export: cannot write"):
        check_writable(tmp_path / "none" / "vectors.txt")
