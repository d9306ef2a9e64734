"""Numbers in words: English to other languages, exactly checkable."""

import numpy as np

from rnn_jax.data.errors import DataError
from rnn_jax.data.padded import split_by_key
from rnn_jax.data.pairs import Pairs, make_pairs

LANGUAGES = ("fr", "de")


def spell(number: int, language: str) -> str:
    """A number in words, such as `spell(21, "fr") == "vingt et un"`."""
    # Imported here: it takes a while, and few experiments spell.
    from num2words import num2words

    return num2words(number, lang=language)


def marked(language: str, text: str) -> str:
    """A source sentence with the mark that asks for its translation into `language`: "fr: twenty-one"."""
    return f"{language}: {text}"


def number_words(count: int, largest: int = 999_999, seed: int = 0) -> tuple[Pairs, Pairs, Pairs]:
    """Numbers from English into every one of `LANGUAGES`, the language named by a mark in the source.

    Numbers of few digits are as frequent as those of many, as far as there are that many: each is drawn by first
    drawing its number of digits. A tenth of the numbers, told from the number alone, is held out, in all languages: one
    half of it to validate, the other to test.

    Args:
        count: the number of pairs to draw, held-out ones included; a number occurs once.
        largest: the greatest number.
        seed: of the draw.

    Returns:
        (training, validation, test).

    Raises:
        DataError: `count` or `largest` too small for all three.
    """
    if count < 1 or largest < 1:
        raise DataError(f"pairs: expected at least 1 pair of numbers up to at least 1, found {count} up to {largest}")
    random = np.random.default_rng(seed)
    wanted = min(-(-count // len(LANGUAGES)), largest + 1)
    numbers: dict[int, None] = {}
    digits = len(str(largest))
    while len(numbers) < wanted:
        highest = np.minimum(10 ** random.integers(1, digits + 1, wanted), largest + 1)
        drawn = (random.random(wanted) * highest).astype(int).tolist()
        numbers |= dict.fromkeys(drawn)
    parts: tuple[list[tuple[str, str]], ...] = ([], [], [])
    for number in list(numbers)[:wanted]:
        side = split_by_key(str(number))
        source = spell(number, "en")
        parts[side].extend((marked(language, source), spell(number, language)) for language in LANGUAGES)
    if not all(parts):
        raise DataError(f"pairs: expected enough to train, validate and test, found {count}")
    training, validation, test = map(make_pairs, parts)
    return training, validation, test
