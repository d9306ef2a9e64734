"""Corpora: where a text comes from, how it is split, and what a bad one says."""

import dataclasses
import gzip
import hashlib
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest

from rnn_jax.data import (
    NAMED_SETS,
    Corpus,
    DataError,
    NamedSet,
    Part,
    RemoteFile,
    load_corpus,
    opening,
    read_text,
    stdin_lines,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("0123456789" * 10)
    return path


def cached(folder, path, body):
    """A file that lies in the cache already, so that no network is asked."""
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(body)
    return RemoteFile(path, ("http://127.0.0.1:9/",), len(body), hashlib.sha256(body).hexdigest())


def test_the_builtin_text():
    corpus = load_corpus("builtin")
    assert corpus.name == "builtin"
    assert corpus.test is None
    whole = corpus.train + corpus.valid
    assert corpus.sizes == {"train": len(whole) * 9 // 10, "valid": len(whole) - len(whole) * 9 // 10}
    assert len(whole) > 400_000
    assert whole.endswith("\n")
    assert not whole.endswith("\n\n")
    assert load_corpus("builtin") == corpus


def test_without_the_builtin_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="corpus: expected Python's documentation texts"):
        load_corpus("builtin")


def test_the_last_tenth_validates(text_file):
    corpus = load_corpus(str(text_file))
    assert corpus.name == str(text_file)
    assert (corpus.train, corpus.valid, corpus.test) == ("0123456789" * 9, "0123456789", None)
    assert corpus.sha256 == {
        "train": hashlib.sha256(corpus.train.encode()).hexdigest(),
        "valid": hashlib.sha256(corpus.valid.encode()).hexdigest(),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(corpus, "name", "other")  # noqa: B010 (a type checker refuses the plain assignment)


@pytest.mark.parametrize("percent", range(2, 99))
def test_fractions_are_not_off_by_rounding(text_file, percent):
    assert load_corpus(text_file, valid_fraction=percent / 100).sizes == {"train": 100 - percent, "valid": percent}


def test_words_are_not_torn(tmp_path):
    (tmp_path / "text").write_text("one two three four five\n")
    # 24 characters; the middle lies in "three"
    assert load_corpus(tmp_path / "text", valid_fraction=0.5).train == "one two thre"
    words = load_corpus(tmp_path / "text", valid_fraction=0.5, level="word")
    assert (words.train, words.valid) == ("one two three ", "four five\n")


def test_own_files_for_validation_and_test(text_file, tmp_path):
    (tmp_path / "valid").write_text("v")
    (tmp_path / "test").write_text("tt")
    corpus = load_corpus(text_file, valid=tmp_path / "valid", test=str(tmp_path / "test"))
    assert (corpus.train, corpus.valid, corpus.test) == ("0123456789" * 10, "v", "tt")
    assert corpus.sizes == {"train": 100, "valid": 1, "test": 2}
    assert set(corpus.sha256) == {"train", "valid", "test"}


def test_a_set_with_a_file_for_each_split(tmp_path, monkeypatch):
    train, valid, test = (Part(cached(tmp_path, f"s/{split}", split.encode())) for split in ("train", "valid", "test"))
    monkeypatch.setitem(NAMED_SETS, "s", NamedSet("s", train, valid, test))
    corpus = load_corpus("s", cache=tmp_path)
    assert (corpus.name, corpus.train, corpus.valid, corpus.test) == ("s", "train", "valid", "test")
    (tmp_path / "own").write_text("own")
    assert load_corpus("s", cache=tmp_path, valid=tmp_path / "own").valid == "own"
    assert load_corpus("s", cache=tmp_path, test=tmp_path / "own").test == "own"


def test_a_set_that_is_cut_from_an_archive(tmp_path, monkeypatch):
    body = b"aa bb cc dd \xc3\xa9\r\n"
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("inside", body)
    part = Part(cached(tmp_path, "s/s.zip", (tmp_path / "made.zip").read_bytes()), "inside")
    monkeypatch.setitem(NAMED_SETS, "s", NamedSet("s", part, cuts=(4, 7)))
    corpus = load_corpus("s", cache=tmp_path)
    assert (corpus.train, corpus.valid, corpus.test) == ("aa b", "b c", "c dd é\n")
    words = load_corpus("s", cache=tmp_path, level="word")
    assert (words.train, words.valid, words.test) == ("aa bb ", "cc ", "dd é\n")
    monkeypatch.setitem(NAMED_SETS, "s", NamedSet("s", part, cuts=(4, 7), encoding="latin-1"))
    assert load_corpus("s", cache=tmp_path).test == "c dd \xc3\xa9\r\n"


def test_a_name_means_the_set_and_a_path_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ptb", "builtin"):
        Path(name).write_text("this is a file of that name")
        assert load_corpus("./" + name).train.startswith("this is")
    assert not load_corpus("builtin").train.startswith("this is")
    monkeypatch.setitem(NAMED_SETS, "ptb", NamedSet("ptb", Part(cached(tmp_path, "s/x", b"the public set"))))
    assert load_corpus("ptb", cache=tmp_path).train.startswith("the public")


def test_offline_says_what_where_and_what_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    file = dataclasses.replace(NAMED_SETS["shakespeare"].train.file, addresses=("http://127.0.0.1:9/input.txt",))
    monkeypatch.setitem(NAMED_SETS, "shakespeare", NamedSet("shakespeare", Part(file)))
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_corpus("shakespeare")
    assert time.monotonic() - started < 20
    message = str(caught.value)
    assert "\n" not in message
    for said in ("shakespeare/input.txt (1.1 MB)", "http://127.0.0.1:9/input.txt", str(tmp_path), "--corpus=PATH"):
        assert said in message


@pytest.mark.skipif(not SHARED.exists(), reason="the shared texts are not at hand")
def test_the_shared_texts_have_the_published_checksums(tmp_path, monkeypatch):
    for name, inside in (
        ("shakespeare/input.txt", "tinyshakespeare/input.txt"),
        ("ptb/ptb.train.txt", "ptb/train.txt"),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(SHARED / inside)
    corpus = load_corpus("shakespeare", cache=tmp_path)
    assert corpus.sizes == {"train": 1_003_854, "valid": 111_540}
    assert len(set(corpus.train)) == 65
    # the file that is missing is asked for; the one that is there is not
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"could not fetch ptb/ptb\.valid\.txt"):
        load_corpus("ptb", cache=tmp_path)


def test_texts_are_read_as_they_are(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n\xe2\x80\xa8 \xef\xbb\xbf")
    assert read_text(path) == "a\nb\rc\n\u2028 \ufeff"
    (tmp_path / "text.gz").write_bytes(gzip.compress("größe\r\n".encode()))
    assert read_text(str(tmp_path / "text.gz")) == "größe\n"


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.txt").write_text("home")
    assert read_text("~/x.txt") == "home"


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("no.txt", None, "valid: expected a file, found none at '.*no.txt'"),
        ("folder", "folder", "valid: expected a file, found a folder at '.*folder'"),
        ("a.txt/b.txt", "in a file", "valid: cannot read '.*b.txt': Not a directory"),
        ("null\0byte", None, "valid: cannot read .*null byte"),
        ("x" * 300, None, "valid: cannot read .*name too long"),
        ("e.txt", b"", "valid: expected a text, found nothing in '.*e.txt'"),
        ("bom.txt", b"\xef\xbb\xbf", "valid: expected a text, found nothing"),
        ("e.gz", gzip.compress(b"", mtime=0), "valid: expected a text, found nothing"),
        ("l.txt", b"caf\xe9 au lait", "valid: expected UTF-8, found byte 0xe9 at offset 3 in '.*l.txt'"),
        ("m.txt", b"\xef\xbb\xbfcaf\xe9", "valid: expected UTF-8, found byte 0xe9 at offset 6"),
        ("u.txt", "utf-16".encode("utf-16"), "valid: expected UTF-8, found byte 0xff at offset 0"),
        ("h.gz", b"not gzip", "valid: expected a whole gzip file at '.*h.gz': Not a gzipped file"),
        ("t.gz", gzip.compress(b"whole" * 100, mtime=0)[:-12], "valid: expected a whole gzip file"),
        ("c.gz", gzip.compress(b"ab" * 9, mtime=0)[:-8] + b"\0" * 8, "valid: expected a whole gzip file at .*CRC"),
        ("d.gz", gzip.compress(b"whole" * 100, mtime=0)[:12] + b"\xff" * 30, "valid: expected a whole gzip file"),
    ],
)
def test_unreadable_texts(tmp_path, name, body, message):
    path = os.path.join(tmp_path, name)
    if body == "folder":
        os.mkdir(path)
    elif body == "in a file":
        (tmp_path / "a.txt").touch()
    elif body is not None:
        Path(path).write_bytes(body)
    with pytest.raises(DataError, match=message) as caught:
        read_text(path, "valid")
    assert "\n" not in str(caught.value)


def test_forbidden_texts(text_file, monkeypatch):
    def forbid(name, mode):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(opening, "open", forbid, raising=False)  # root may read everything, so chmod would show nothing
    with pytest.raises(DataError, match=r"test: no permission to read '.*text\.txt'"):
        read_text(text_file, "test")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shakespere", "found 'shakespere'; did you mean shakespeare\\?"),
        ("PTB", "did you mean ptb"),
        ("txt8", "did you mean text8"),
        ("qqq", "expected a file or one of builtin, enwik8, ptb, shakespeare, text8, wikitext2, found 'qqq'$"),
        ("", "expected a file or one of builtin.* found ''"),
        ("ptb.txt", "expected a file, found none at 'ptb.txt'"),
        ("./qqq", "expected a file, found none at './qqq'"),
        (".", "expected a file, found a folder"),
    ],
)
def test_unknown_names(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^corpus: " + message.lstrip("^") if message.startswith("exp") else message):
        load_corpus(spec)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_out_of_range(text_file, fraction):
    with pytest.raises(DataError, match="valid_fraction: expected a number between 0 and 1, both excluded, found"):
        load_corpus(text_file, valid_fraction=fraction)


@pytest.mark.parametrize(
    ("text", "level"), [("a", "char"), ("abc", "char"), ("0123456789", "char"), ("oneword", "word")]
)
def test_texts_too_short_to_split(tmp_path, text, level):
    (tmp_path / "short.txt").write_text(text)
    with pytest.raises(DataError, match=f"corpus: expected enough text .* valid_fraction=0.1, found {len(text)} char"):
        load_corpus(tmp_path / "short.txt", level=level)


def test_arguments_are_named(text_file, tmp_path):
    with pytest.raises(DataError, match=r"^valid: expected a file"):
        load_corpus(text_file, valid=tmp_path / "no.txt")
    with pytest.raises(DataError, match=r"^test: expected a file"):
        load_corpus(text_file, test=tmp_path / "no.txt")
    with pytest.raises(DataError, match=r"^level: expected one of char, word"):
        load_corpus(text_file, level="byte")


def test_sizes_follow_the_texts():
    assert Corpus("x", "abc", "de", None, {}).sizes == {"train": 3, "valid": 2}


def test_lines_of_standard_input(stdin):
    stdin("\ufeffgröße\r\nb")
    assert list(stdin_lines("score")) == ["größe\n", "b"]
    stdin(b"a\ncaf\xe9\n")
    lines = stdin_lines("score")
    assert next(lines) == "a\n"
    with pytest.raises(
        DataError, match="score: expected UTF-8, found byte 0xe9 at offset 3 in line 2 of standard input"
    ):
        next(lines)
