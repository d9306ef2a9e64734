"""Public sets of labelled texts, from small stand-ins for the published files."""

import hashlib
import io
import tarfile

import pytest

from rnn_jax.data import DataError, RemoteFile, labelled_sets, load_labelled_set


def place(cache, file, data):
    """Put the bytes where the cache expects `file`; what stands in for it has their digest."""
    path = cache / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return RemoteFile(file.path, (), len(data), hashlib.sha256(data).hexdigest())


def test_sst2(tmp_path, monkeypatch):
    texts = {"train": "1 a stirring film\n0 dull .\n", "dev": "0 café\n"}
    files = {split: place(tmp_path, file, texts[split].encode()) for split, file in labelled_sets._SST2.items()}
    monkeypatch.setattr(labelled_sets, "_SST2", files)
    found = load_labelled_set("sst2", cache=tmp_path)
    assert found.train.texts == ("a stirring film", "dull .")
    assert found.train.labels == ("positive", "negative")
    assert found.dev.texts == ("café",)
    assert found.test is None


def test_imdb(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in {
            "aclImdb/train/pos/1_9.txt": "Great.<br /><br />Really.",
            "aclImdb/train/neg/0_2.txt": "Poor",
            "aclImdb/train/unsup/0_0.txt": "?",
            "aclImdb/test/neg/0_1.txt": "Bad",
            "aclImdb/README": "read me",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setattr(labelled_sets, "_IMDB", place(tmp_path, labelled_sets._IMDB, buffer.getvalue()))
    found = load_labelled_set("imdb", cache=tmp_path)
    assert found.train.texts == ("Poor", "Great.  Really.")
    assert found.train.labels == ("negative", "positive")
    assert found.dev is None
    assert found.test.texts == ("Bad",)


def test_a_name_that_is_none():
    with pytest.raises(DataError, match="train: expected one of imdb, sst2, found 'sst5'"):
        load_labelled_set("sst5")
