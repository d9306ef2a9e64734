"""Tagged sequences, the files they come from, and their arrays."""

import gzip
import io
import tokenize

import numpy as np
import pytest

from rnn_jax.data import DataError, PaddedBatches, TagEncoder, TaggedSequence, read_columns
from rnn_jax.data.source_code import KINDS, SourceFile, label_source
from rnn_jax.data.tagged import casing

SENTENCES = "He PRP B-NP\nsaw VBD B-VP\n42 CD B-NP\ncats NNS I-NP\n\n\nStop VB B-VP\n"


def write(tmp_path, text, name="train.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_columns_by_their_numbers(tmp_path):
    path = write(tmp_path, SENTENCES)
    first, second = read_columns(path, feature_columns=(2,))
    assert first.tokens == ("He", "saw", "42", "cats")
    assert first.labels == ("B-NP", "B-VP", "B-NP", "I-NP")
    assert first.features == (("PRP",), ("VBD",), ("CD",), ("NNS",))
    assert (first.line, second.line) == (1, 7)
    assert [one.labels for one in read_columns(path, label_column=2)] == [("PRP", "VBD", "CD", "NNS"), ("VB",)]
    assert read_columns(path, token_column=2, label_column=None)[1] == TaggedSequence(("VB",), (), (), str(path), 7)


def test_gz_tabs_comments_and_document_starts(tmp_path):
    path = tmp_path / "train.gz"
    text = "-DOCSTART-\tO\n\n# a comment\n#\tO\nNew York\tB-LOC\n"
    path.write_bytes(gzip.compress(text.encode()))
    (only,) = read_columns(path)
    assert (only.tokens, only.labels, only.line) == (("#", "New York"), ("O", "B-LOC"), 4)


def test_a_document_start_is_no_part_of_the_sentences_beside_it(tmp_path):
    text = "a O\n-DOCSTART- O\nb O\nc O\n\nd O\n-DOCSTART- O\n"
    found = read_columns(write(tmp_path, text))
    assert [(one.tokens, one.line) for one in found] == [(("a",), 1), (("b", "c"), 3), (("d",), 6)]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a B\nb\n", {}, r"train: expected 2 columns as in line 1, found 1 in line 2 of '.*train.txt'"),
        ("a B\n\nb x B\n", {}, r"train: expected 2 columns as in line 1, found 3 in line 3 of"),
        ("a B\n", {"feature_columns": (3,)}, r"train: expected at least 3 columns, found 2 in line 1 of"),
        ("a B\n", {"label_column": 0}, "label_column: expected a number from 1 on"),
        ("a B\n", {"feature_columns": (2,)}, "label_column: expected a column that is not read as input too, found -1"),
        ("\n\n", {}, "train: expected at least one sentence, found none in"),
        ("", {}, "train: expected a text, found nothing in"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message):
        read_columns(write(tmp_path, text), **options)


def test_words_become_numbers(tmp_path):
    sentences = read_columns(write(tmp_path, SENTENCES), feature_columns=(2,))
    encoder = TagEncoder.from_sequences(sentences, "word")
    assert encoder.label_names == ("B-NP", "B-VP", "I-NP")
    assert set(encoder.vocabularies["tokens"].symbols) == {"<unk>", "he", "saw", "00", "cats", "stop"}
    unseen = TaggedSequence(("HE", "77", "dogs"), ("B-NP", "B-NP", "I-NP"), (("PRP",), ("CD",), ("XX",)))
    arrays = {name: field[0] for name, field in encoder.arrays([unseen], "test").items()}
    words = encoder.vocabularies["tokens"]
    assert [words.symbols[number] for number in arrays["tokens"]] == ["he", "00", "<unk>"]
    assert arrays["labels"].tolist() == [0, 0, 2]
    casings, tags = encoder.feature_vocabularies
    assert [casings.symbols[number] for number in arrays["features"][:, 0]] == ["upper", "number", "lower"]
    assert [tags.symbols[number] for number in arrays["features"][:, 1]] == ["PRP", "CD", "<unk>"]
    spelled = arrays["characters"]
    assert (spelled > 0).sum(axis=1).tolist() == [2, 2, 4]
    characters = encoder.vocabularies["characters"]
    # H occurs once in training, so it is unknown, as is d.
    assert [characters.symbols[number - 1] for number in spelled[2][:4]] == ["\ufffd", "\ufffd", "\ufffd", "s"]


def test_long_words_keep_both_ends():
    word = "abcdef" + "-" * 30 + "opqrstuvwx"
    sentence = TaggedSequence((word, word), ("A", "B"))
    encoder = TagEncoder.from_sequences([sentence], "word")
    (spelled,) = encoder.arrays([sentence], "train")["characters"]
    symbols = encoder.vocabularies["characters"].symbols
    assert "".join(symbols[number - 1] for number in spelled[0]) == "abcdefopqrstuvwx"


def test_rare_words_are_unknown_and_words_with_strange_blanks_too():
    sentence = TaggedSequence(("a", "a", "b", "c\u2003d", "c\u2003d"), ("X", "X", "Y", "Y", "Y"))
    encoder = TagEncoder.from_sequences([sentence], "word", min_count=2, spelled=False)
    assert encoder.vocabularies["tokens"].symbols == ("<unk>", "a")
    assert encoder.arrays([sentence], "train")["tokens"][0].tolist() == [1, 1, 0, 0, 0]
    assert "characters" not in encoder.arrays([sentence], "train")


def test_characters_become_numbers():
    piece = TaggedSequence("a=1", ("name", "operator", "number"))
    encoder = TagEncoder.from_sequences([piece], "char")
    assert set(encoder.arrays([piece], "train")) == {"tokens", "labels"}
    assert encoder.arrays([TaggedSequence("1?a")], "predict", labelled=False)["tokens"][0].tolist() == [1, 0, 3]


def test_an_unknown_label_is_named_with_its_line(tmp_path):
    encoder = TagEncoder.from_sequences(read_columns(write(tmp_path, SENTENCES)), "word")
    other = read_columns(write(tmp_path, "He PRP B-NP\nsaw VBD B-XX\n", "dev.txt"), "dev")
    with pytest.raises(DataError, match=r"dev: expected one of the 3 labels .*, found 'B-XX' in line 2 of '.*dev.txt'"):
        encoder.arrays(other, "dev")


@pytest.mark.parametrize("level", ["word", "char"])
def test_texts_may_hold_the_character_that_stands_for_unknown_ones(level):
    pieces = ["caf\ufffd", "caf\ufffd", "no"]
    sentence = TaggedSequence(pieces if level == "word" else "a\ufffd\ufffd", ("X", "Y", "X"))
    encoder = TagEncoder.from_sequences([sentence], level)
    numbers = encoder.arrays([sentence], "train")
    assert all(len(field) == 1 for field in numbers.values())


def test_labels_have_no_blanks():
    with pytest.raises(DataError, match="train: expected labels without blanks, found 'City name'"):
        TagEncoder.from_sequences([TaggedSequence(["Paris", "is"], ("City name", "O"))], "word")


def test_one_label_alone_cannot_be_learned(tmp_path):
    with pytest.raises(DataError, match="train: expected at least two labels, found only O in"):
        TagEncoder.from_sequences(read_columns(write(tmp_path, "a O\nb O\n")), "word")


def test_arrays_fit_padded_batches(tmp_path):
    sentences = read_columns(write(tmp_path, SENTENCES), feature_columns=(2,))
    batches = PaddedBatches(
        TagEncoder.from_sequences(sentences, "word").arrays(sentences, "train"), {}, 2, shuffle=False
    )
    batch = batches.at(0)
    assert batch["features"].shape == (4, 2, 2)
    assert batch["tokens_mask"].sum() == 5


@pytest.mark.parametrize(
    ("word", "expected"),
    [("the", "lower"), ("The", "capitalised"), ("A", "capitalised"), ("IBM", "upper"), ("McCoy", "mixed"),
     ("1990", "number"), ("1,990.5", "number"), ("F16", "with_digit"), ("--", "other")],
)  # fmt: skip
def test_casing(word, expected):
    assert casing(word) == expected


SOURCE = '''\
def print(x):  # loud
\treturn f"{x!r}" + 'it' * 0x1F

class A:
    """Two
    lines."""
    x.len = len(a)
'''


def test_source_is_labelled_as_tokenize_reads_it():
    labels = label_source(SOURCE)
    assert len(labels) == len(SOURCE)
    assert set(labels) == set(KINDS)

    def of(text, occurrence=0):
        start = -1
        for _ in range(occurrence + 1):
            start = SOURCE.index(text, start + 1)
        (label,) = set(labels[start : start + len(text)])
        return label

    expected = {
        "def": "keyword", "print": "definition", "x": "name", "# loud": "comment", 'f"{x!r}"': "string",
        "*": "operator", "0x1F": "number", "A": "definition",
        '"""Two\n    lines."""': "string", "\n\treturn"[:2]: "space",
    }  # fmt: skip
    for text, label in expected.items():
        assert of(text) == label, text
    assert (of("len"), of("len", 1)) == ("name", "builtin")
    # Every token that is not a name must lie where tokenize says.
    lines = SOURCE.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(SOURCE).readline):
        if token.type == tokenize.NUMBER:
            start = sum(map(len, lines[: token.start[0] - 1])) + token.start[1]
            assert set(labels[start : start + len(token.string)]) == {"number"}


def test_what_is_no_python_is_said():
    with pytest.raises(DataError, match="text: expected Python source"):
        label_source('x = """never closed')


def test_pieces_are_whole_lines_and_miss_nothing():
    file = SourceFile("a.py", SOURCE + "#" * 100 + "\n", label_source(SOURCE) + ("comment",) * 100 + ("space",))
    pieces = file.pieces(30)
    assert "".join(piece.tokens for piece in pieces) == file.text
    assert tuple(label for piece in pieces for label in piece.labels) == file.labels
    assert max(map(len, pieces)) <= 30
    assert pieces[0].tokens == "def print(x):  # loud\n"
    np.testing.assert_array_less(0, [len(piece) for piece in pieces])
