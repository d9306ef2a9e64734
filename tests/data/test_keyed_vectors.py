"""Keyed vectors: neighbours, analogies and the word2vec formats."""

import gzip

import numpy as np
import pytest

from rnn_jax.data.errors import DataError
from rnn_jax.data.keyed_vectors import KeyedVectors, load_word2vec, save_word2vec


@pytest.fixture
def royal():
    """Two directions, sex and rank, and a word apart."""
    words = ("man", "woman", "king", "queen", "stone")
    vectors = np.array([[1, 0, 1], [-1, 0, 1], [1, 2, 1], [-1, 2, 1], [0, 0, -3]], np.float32)
    return KeyedVectors(words, vectors)


def test_nearest_are_those_of_the_largest_cosine(royal):
    found = royal.nearest("king", 2)
    assert [neighbour.word for neighbour in found] == ["queen", "man"]
    assert found[0].score == pytest.approx(4 / 6, abs=1e-6)
    assert len(royal.nearest("king", 99)) == 4
    assert [neighbour.word for neighbour in royal.nearest("king", 99, limit=3)] == ["man", "woman"]
    assert [neighbour.word for neighbour in royal.nearest("queen", 99, limit=2)] == ["woman", "man"]


def test_odd_one_out(royal):
    assert royal.odd_one_out(["king", "stone", "queen"]) == "stone"


@pytest.mark.parametrize("method", ["add", "multiply"])
def test_analogies_leave_out_their_own_words(royal, method):
    assert royal.analogy("man", "king", "woman", 1, method)[0].word == "queen"
    assert {n.word for n in royal.analogy("man", "king", "woman", 9, method)} == {"queen", "stone"}


def test_multiplied_score_by_hand(royal):
    u = royal.unit_vectors
    near = [(1 + u[3] @ u[row]) / 2 for row in (0, 2, 1)]
    best = royal.analogy("man", "king", "woman", 1, "multiply")[0]
    assert best.score == pytest.approx(near[1] * near[2] / (near[0] + 1e-3), rel=1e-5)


def test_unknown_word_names_close_ones(royal):
    with pytest.raises(DataError, match="'quen'; close ones: queen"):
        royal.nearest("quen")


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.bin", "vectors.txt.gz", "vectors.bin.gz"])
def test_word2vec_formats_keep_every_bit(tmp_path, name):
    vectors = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32) * np.float32(1e-3)
    before = KeyedVectors(("a", "né", "new_york", "."), vectors)
    save_word2vec(before, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b" if name.endswith(".gz") else b"4 7\n")
    after = load_word2vec(tmp_path / name)
    assert after.words == before.words
    np.testing.assert_array_equal(after.vectors, before.vectors)


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.bin"])
def test_gensim_opens_what_we_write(tmp_path, royal, name):
    models = pytest.importorskip("gensim.models")
    save_word2vec(royal, tmp_path / name)
    theirs = models.KeyedVectors.load_word2vec_format(str(tmp_path / name), binary=name.endswith(".bin"))
    assert theirs.index_to_key == list(royal.words)
    np.testing.assert_array_equal(theirs.vectors, royal.vectors)


def test_what_gensim_writes_is_read(tmp_path, royal):
    models = pytest.importorskip("gensim.models")
    theirs = models.KeyedVectors(3)
    theirs.add_vectors(list(royal.words), royal.vectors)
    for name in ("vectors.txt", "vectors.bin"):
        theirs.save_word2vec_format(str(tmp_path / name), binary=name.endswith(".bin"))
        ours = load_word2vec(tmp_path / name)
        assert ours.words == royal.words
        np.testing.assert_array_equal(ours.vectors, royal.vectors)


def test_packed_vectors_and_line_breaks_between_binary_words(tmp_path):
    row = np.array([0.5, 2.0], "<f4").tobytes()
    (tmp_path / "v.bin.gz").write_bytes(gzip.compress(b"2 2\na " + row + b"\nb " + row))
    (tmp_path / "v.txt.gz").write_bytes(gzip.compress(b"2 2\na 0.5 2\nb 0.5 2\n"))
    for name in ("v.bin.gz", "v.txt.gz"):
        found = load_word2vec(tmp_path / name)
        assert found.words == ("a", "b")
        assert found.vectors.tolist() == [[0.5, 2.0], [0.5, 2.0]]


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("v.txt", b"words\n", "vectors: expected 'words dimension' in the first line"),
        ("v.txt", b"0 3\n", "first line"),
        ("v.txt", b"2 3\na 1 2 3\n", "expected 2 words, found 1"),
        ("v.txt", b"1 1\na 1\nb 2\n", "expected 1 words, found more"),
        ("v.txt", b"2 3\na 1 2 3\nb 1 2\n", "3 numbers in line 3, found b'b 1 2"),
        ("v.txt", b"1 3\n\n", "3 numbers in line 2"),
        ("v.txt", b"1 3\na 1 2 x\n", "expected numbers after the word in line 2"),
        ("v.txt", b"2 1\na 1\nb nan\n", "expected finite numbers, found others for 'b'"),
        ("v.bin", b"2 1\na \0\0\0\0\nb \0\0", "expected 4 bytes for word 2, found 2"),
        ("v.bin", b"2 1\na \0\0\0\0\n", "expected 2 words, found 1"),
        ("v.bin", b"1 1\na \0\0\0\0\nb \0\0\0\0\n", "expected 1 words, found more"),
        ("v.txt.gz", b"2 1\na 1\n", "expected a whole gzip file"),
        ("v.txt", None, "expected a file, found none"),
    ],
)
def test_malformed_vectors(tmp_path, name, contents, message):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(DataError, match=message):
        load_word2vec(tmp_path / name)


def test_one_row_a_word():
    with pytest.raises(DataError, match="one row for each of 2 words"):
        KeyedVectors(("a", "b"), np.zeros((3, 2), np.float32))
