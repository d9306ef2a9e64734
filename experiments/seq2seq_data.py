"""What the sequence-to-sequence experiment translates: its tasks, its files, and sentences as numbers."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.flags import FlagError

if TYPE_CHECKING:
    from rnn_jax.data import Pairs

FILES = "files"


class Task(NamedTuple):
    """What a task is like unless flags say otherwise: tokens, size of the vocabulary, number of pairs."""

    tokens: str
    vocab_size: int | None = None
    pairs: int | None = None


TASKS = {
    "numbers": Task("bpe", 400, 24_000),
    "add": Task("char", None, 200_000),
    "reverse": Task("word", None, 40_000),
    "copy": Task("word", None, 40_000),
    "multi30k": Task("bpe", 6_000),
    FILES: Task("bpe", 8_000),
}

_PARALLEL = ("train_source", "train_target", "dev_source", "dev_target", "test_source", "test_target")
_TSV = ("train", "dev", "test")


class Corpus(NamedTuple):
    """The pairs of a run.

    Attributes:
        name: of the task, or the path of the training file.
        train, valid, test: the pairs.
        skipped: how many were left out because a side of them was empty.
    """

    name: str
    train: "Pairs"
    valid: "Pairs"
    test: "Pairs"
    skipped: int


def task_of(config: Any) -> tuple[str, Task]:
    """The task: that of the files where there are any.

    Raises:
        FlagError: flags for files that do not go together.
    """
    parallel = [name for name in _PARALLEL if getattr(config, name) is not None]
    columns = [name for name in _TSV if getattr(config, name) is not None]
    if config.swap and not columns:
        raise FlagError("--swap: expected --train=PATH of pairs in two columns, found none")
    if not parallel and not columns:
        return config.task, TASKS[config.task]
    if parallel and columns:
        raise FlagError(f"--{columns[0]}: expected pairs in one file or in two, found --{parallel[0]} too")
    for name in parallel:
        other = name.replace("source", "target") if "source" in name else name.replace("target", "source")
        if other not in parallel:
            raise FlagError(f"--{other}: expected the file that goes with --{name}, found none")
    if "train" not in columns and "train_source" not in parallel:
        raise FlagError("--train: expected pairs to train on (or --train_source and --train_target), found none")
    return FILES, TASKS[FILES]


def load_corpus(config: Any) -> Corpus:
    """The pairs that the flags ask for.

    Raises:
        FlagError, DataError: bad flags, bad files.
    """
    from rnn_jax.data import hold_out
    from rnn_jax.data.named_pairs import multi30k
    from rnn_jax.data.number_words import number_words
    from rnn_jax.data.symbol_tasks import addition, symbols

    name, task = task_of(config)
    # A tenth of what is drawn is held out.
    count = round((config.pairs or task.pairs or 0) / 0.9)
    dev = test = None
    if name == "numbers":
        train, dev, test = number_words(count, config.largest)
    elif name == "add":
        train, dev, test = addition(count, config.digits)
    elif name in ("reverse", "copy"):
        train, dev, test = symbols(name, count, config.longest)
    elif name == "multi30k":
        train, test = multi30k()
    else:
        train, dev, test = _read(config, "train"), _read(config, "dev"), _read(config, "test")
        name = str(config.train or config.train_source)
    skipped = sum(pairs.skipped for pairs in (train, dev, test) if pairs is not None)
    # Before any is held out: what differs by its case alone is the same sentence.
    train, dev, test = (None if pairs is None else _cased(config, pairs) for pairs in (train, dev, test))
    # `task_of` has seen to it that there are pairs to train on.
    assert train is not None
    if dev is None or test is None:
        train, cut_dev, cut_test = hold_out(train, config.held_out, validation=dev is None, testing=test is None)
        dev, test = dev or cut_dev, test or cut_test
    assert dev is not None
    assert test is not None
    return Corpus(name, train, dev, test, skipped)


def _read(config: Any, part: str) -> "Pairs | None":
    from rnn_jax.data import read_parallel, read_tsv

    path = getattr(config, part)
    if path is not None:
        pairs = read_tsv(path, part)
        return pairs.swapped() if config.swap else pairs
    names = (f"{part}_source", f"{part}_target")
    source, target = (getattr(config, name) for name in names)
    return None if source is None else read_parallel(source, target, names)


def _cased(config: Any, pairs: "Pairs") -> "Pairs":
    return pairs.map(str.lower) if config.lowercase else pairs


def tokens_of(config: Any) -> str:
    """ "word", "char" or "bpe"."""
    return config.tokens or task_of(config)[1].tokens


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of the pairs: sentences to numbers and back.

    Attributes:
        vocabulary: a `rnn_jax.data.Vocabulary` or `Subwords`.
        tokens: "word": punctuation is set apart, as `set_marks_apart` does it; "char" or "bpe".
        lowercase: whether sentences are lower-cased.
        reverse: whether the symbols stand in reversed order, before the end mark.
    """

    vocabulary: Any
    tokens: str
    lowercase: bool = False
    reverse: bool = False

    @classmethod
    def learn(cls, config: Any, lines: Sequence[str], reverse: bool = False) -> "Side":
        """The side whose vocabulary is that of training sentences."""
        from rnn_jax.data import Subwords, Vocabulary, set_marks_apart

        tokens, size = tokens_of(config), config.vocab_size or task_of(config)[1].vocab_size
        if tokens == "bpe":
            if size is None:
                raise FlagError("--vocab_size: expected a number of subwords for --tokens=bpe, found none")
            vocabulary = Subwords.learn(lines, size)
        else:
            text = "".join(f"{set_marks_apart(line) if tokens == 'word' else line}\n" for line in lines)
            # A limit makes room for a symbol that stands for unknown characters.
            limit = config.vocab_size or 0x110000
            vocabulary = Vocabulary.from_text(text, tokens, limit, config.min_count)
            if vocabulary.unknown is not None and vocabulary.encode("\n")[0] == vocabulary.index[vocabulary.unknown]:
                raise FlagError(
                    f"--vocab_size, --min_count: expected to keep the end of a line among the symbols, which ends "
                    f"{len(lines):,} sentences, found {len(vocabulary):,} others more frequent"
                )
        return cls(vocabulary, tokens, config.lowercase, reverse)

    @property
    def end(self) -> int:
        """The symbol that starts and ends a sentence: that of a line's end."""
        return int(self.vocabulary.encode("\n")[0])

    def encode(self, lines: Iterable[str]) -> list[np.ndarray]:
        """Every sentence as int32 ids with the end mark last; blanks around it do not count."""
        from rnn_jax.data import set_marks_apart

        prepared = []
        for line in lines:
            line = line.replace("\n", " ").strip()
            line = line.lower() if self.lowercase else line
            prepared.append(set_marks_apart(line) if self.tokens == "word" else line)
        if not prepared:
            return []
        ids = self.vocabulary.encode("".join(f"{line}\n" for line in prepared))
        ends = np.flatnonzero(ids == self.end) + 1
        sentences = np.split(ids, ends[:-1])
        return [np.append(one[-2::-1], one[-1]) for one in sentences] if self.reverse else sentences

    def decode(self, ids: np.ndarray) -> str:
        """The sentence of ids, up to the first end mark."""
        from rnn_jax.data import join_marks

        ends = np.flatnonzero(ids == self.end)
        ids = ids[: ends[0]] if len(ends) else ids
        text = self.vocabulary.decode(ids[::-1] if self.reverse else ids)
        return join_marks(text) if self.tokens == "word" else text

    def symbols(self, ids: np.ndarray) -> list[str]:
        """The symbols, one by one, for a plot."""
        return ["end" if number == self.end else self.vocabulary.symbols[number] for number in ids.tolist()]
