"""Labelled texts: what is read, and how what cannot be read is named."""

import gzip

import pytest

from rnn_jax.data import DataError, LabelledTexts, is_held_out, read_labelled
from rnn_jax.data.labelled import check_classes, hold_out


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_lines_of_label_and_text(tmp_path):
    path = write(tmp_path / "a.tsv", "good\tfine , as\tit is\r\nbad \tawful\n\n\r\n")
    found = read_labelled(path)
    assert found.texts == ("fine , as\tit is", "awful")
    assert found.labels == ("good", "bad")
    assert found.places == (f"'{path}', line 1", f"'{path}', line 2")
    assert found.classes == ("bad", "good")
    packed = tmp_path / "a.tsv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_labelled(packed).texts == found.texts


def test_csv_with_a_header(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text,label\n1,"one, two\nthree ""four""",x\n\n2,five,y\n')
    found = read_labelled(path)
    assert found.texts == ('one, two three "four"', "five")
    assert found.labels == ("x", "y")
    assert found.places[1] == f"'{path}', line 5"


def test_a_book_in_a_csv(tmp_path):
    path = write(tmp_path / "a.csv", f"text,label\n{'word ' * 40_000},x\n")
    assert len(read_labelled(path).texts[0]) > 131_072


def test_named_columns(tmp_path):
    comma = write(tmp_path / "a.txt", "stars,review\n5,nice\n1,poor\n")
    tab = write(tmp_path / "a.tsv", 'stars\treview\n5\t"nice\n1\tpoor\n')
    columns = {"text_column": "review", "label_column": "stars"}
    assert read_labelled(comma, **columns).texts == ("nice", "poor")
    assert read_labelled(tab, **columns).texts == ('"nice', "poor")
    assert read_labelled(tab, **columns).labels == ("5", "1")


def test_a_folder_of_texts_for_each_class(tmp_path):
    write(tmp_path / "set" / "pos" / "b.txt", "very\nnice\n")
    write(tmp_path / "set" / "pos" / "a.txt", "nice")
    write(tmp_path / "set" / "neg" / "c.txt", "poor")
    write(tmp_path / "set" / "neg" / ".hidden", "")
    found = read_labelled(tmp_path / "set")
    assert list(zip(found.labels, found.texts, strict=True)) == [
        ("neg", "poor"),
        ("pos", "nice"),
        ("pos", "very nice "),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.tsv",
            "x\tone\nno tab here\n",
            "train: expected 'label<TAB>text', found no tab in '{}', line 2: 'no tab here'",
        ),
        ("a.tsv", "x\tone\n\ny\ttwo\n", "train: expected 'label<TAB>text', found no tab in '{}', line 2: ''"),
        ("a.tsv", "x\tone\ny\t  \n", "train: expected a text, found an empty one in '{}', line 2"),
        ("a.tsv", "\tone\n", "train: expected a label, found an empty one in '{}', line 1"),
        ("a.csv", "text,label\none\n", "train: expected 2 fields, found 1 in '{}', line 2"),
        ("a.csv", "text,label\none,x\n,y\n", "train: expected a text, found an empty one in '{}', line 3"),
        ("a.csv", "text,label\n", "train: expected labelled texts, found none in '{}'"),
        ("a.csv", "text,kind\none,x\n", "label_column: expected one of the columns 'text', 'kind' of '{}', line 1"),
        ("a.csv", 'text,label\n"one" two,x\n', "train: expected CSV, found '{}', line 2"),
        ("a.tsv", "\n\n", "train: expected 'label<TAB>text', found no tab in '{}', line 1: ''"),
        ("a.tsv", "", "train: expected a text, found nothing in '{}'"),
        ("a.tsv", b"x\t\xff\n", "train: expected UTF-8, found byte 0xff at offset 2 in '{}'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(DataError) as error:
        read_labelled(path)
    assert message.format(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_file_of_a_folder_is_named(tmp_path):
    write(tmp_path / "set" / "pos" / "a.txt", "nice")
    path = write(tmp_path / "set" / "pos" / "b.txt", "")
    with pytest.raises(DataError, match="expected a text, found an empty one in ") as error:
        read_labelled(tmp_path / "set")
    assert str(error.value).endswith(f"'{path}', line 1")


def test_folders_that_hold_no_classes(tmp_path):
    write(tmp_path / "flat" / "a.txt", "text")
    with pytest.raises(DataError, match="expected a folder for each class"):
        read_labelled(tmp_path / "flat")
    with pytest.raises(DataError, match="label_column: expected a CSV file as train, found the folder"):
        read_labelled(tmp_path / "flat", label_column="label")
    write(tmp_path / "set" / "pos" / "a.txt", "")
    with pytest.raises(DataError, match=r"a\.txt"):
        read_labelled(tmp_path / "set")


def examples(labels, texts=None):
    texts = texts or [f"text {number}" for number in range(len(labels))]
    places = [f"'f.tsv', line {number}" for number in range(1, len(labels) + 1)]
    return LabelledTexts("f.tsv", tuple(texts), tuple(labels), tuple(places))


def test_a_tenth_is_held_out_whatever_the_order():
    labels = [("x", "y")[number % 2] for number in range(2000)]
    train, dev = hold_out(examples(labels))
    assert 150 < len(dev) < 250
    assert all(is_held_out(text) for text in dev.texts)
    assert len(train) + len(dev) == 2000
    _, again = hold_out(examples(labels).select(reversed(range(2000))))
    assert set(again.texts) == set(dev.texts)
    with pytest.raises(DataError, match="dev: expected enough texts to hold out a tenth, found 2 in "):
        hold_out(examples(["x", "y"], ["same", "same"]))


def test_texts_that_differ_in_case_and_blanks_are_on_one_side():
    texts = [
        form.format(number)
        for number in range(100)
        for form in ("word{} is here", "Word{}  is here", "word{} IS here ")
    ]
    train, dev = hold_out(examples(["x", "y"] * 150, texts))
    kept, held = ({" ".join(text.lower().split()) for text in part.texts} for part in (train, dev))
    assert held
    assert not kept & held


def test_the_only_text_of_a_class_is_not_held_out():
    texts = [f"text {number}" for number in range(100)]
    rare = next(number for number, text in enumerate(texts) if is_held_out(text))
    labels = ["rare" if number == rare else "xy"[number % 2] for number in range(100)]
    train, dev = hold_out(examples(labels, texts))
    assert texts[rare] in train.texts
    assert len(dev) > 0
    assert "rare" not in dev.labels


def test_classes_are_those_of_the_training_texts():
    train = examples(["b", "a", "b"])
    assert check_classes(train, {"dev": examples(["a"])}) == ("a", "b")
    with pytest.raises(
        DataError, match=r"test: expected a label of the training texts \(a, b\), found 'c' in 'f.tsv', line 2"
    ):
        check_classes(train, {"dev": examples(["a"]), "test": examples(["a", "c"])})
    with pytest.raises(DataError, match="train: expected at least 2 classes, found only 'b', from '"):
        check_classes(examples(["b", "b"]), {})


def test_the_digest_is_that_of_labels_and_texts():
    first, second = examples(["a", "b"]), examples(["b", "a"])
    assert first.sha256 == examples(["a", "b"]).sha256
    assert first.sha256 != second.sha256
