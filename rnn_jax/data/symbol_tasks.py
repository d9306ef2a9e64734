"""Made-up translations of strings of symbols: addition, reversal, copying."""

from collections.abc import Callable

import numpy as np

from rnn_jax.data.errors import DataError
from rnn_jax.data.padded import split_by_key
from rnn_jax.data.pairs import Pairs, make_pairs

SYMBOLS = 50


def addition(count: int, digits: int = 3, seed: int = 0) -> tuple[Pairs, Pairs, Pairs]:
    """Sums of two numbers: "12+345" to "357".

    Either number has 1 to `digits` digits, each as likely as far as there are pairs: all are different, and of short
    numbers there are few.

    Args:
        count: the number of pairs, held-out ones included; fewer where there are no more.
        digits: of the longest number.
        seed: of the draw.

    Returns:
        (training, validation, test): a tenth is held out, told from the pair alone.
    """
    random = np.random.default_rng(seed)
    highest = 10 ** random.integers(1, digits + 1, (count, 2))
    numbers = (random.random((count, 2)) * highest).astype(int).tolist()
    return _split([(f"{first}+{second}", str(first + second)) for first, second in numbers], count)


def symbols(task: str, count: int, longest: int = 25, seed: int = 0) -> tuple[Pairs, Pairs, Pairs]:
    """Strings of 1 to `longest` of 50 symbols, to be written backwards ("reverse") or as they are ("copy").

    Args:
        task: "reverse" or "copy".
        count: the number of strings, held-out ones included.
        longest: the most symbols.
        seed: of the draw.

    Returns:
        (training, validation, test): a tenth is held out, told from the string alone.

    Raises:
        DataError: another task.
    """
    changes: dict[str, Callable[[list[str]], list[str]]] = {"reverse": lambda s: s[::-1], "copy": lambda s: s}
    if task not in changes:
        raise DataError(f"task: expected one of {', '.join(changes)}, found {task!r}")
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    strings = [random.integers(0, SYMBOLS, length).astype(str).tolist() for length in lengths]
    return _split([(" ".join(string), " ".join(changes[task](string))) for string in strings], count)


def _split(pairs: list[tuple[str, str]], count: int) -> tuple[Pairs, Pairs, Pairs]:
    parts: tuple[list[tuple[str, str]], ...] = ([], [], [])
    for source, target in dict.fromkeys(pairs):
        parts[split_by_key(source)].append((source, target))
    if not all(parts):
        raise DataError(f"pairs: expected enough to train, validate and test, found {count}")
    training, validation, test = map(make_pairs, parts)
    return training, validation, test
