"""Sentences as words: punctuation split off, so that it can be put back exactly."""

import re

# Stands before a token that follows the one before it without a blank.
JOINER = "\uffed"

_TOKEN = re.compile(r"\w+|[^\w\s]")


def set_marks_apart(text: str) -> str:
    """Words and marks, each set apart by blanks; a mark of its own tells which were not.

    `join_marks(set_marks_apart(text)) == text`, but for runs of blanks, which become one, and the joiner itself, which
    is taken out.

    >>> set_marks_apart("A man, smiling (twice).")
    'A man ￭, smiling (￭twice ￭) ￭.'
    """
    words = []
    for chunk in text.replace(JOINER, "").split():
        for match in _TOKEN.finditer(chunk):
            words.append(("" if match.start() == 0 else JOINER) + match.group())
    return " ".join(words)


def join_marks(text: str) -> str:
    """The inverse of `set_marks_apart`."""
    return text.replace(f" {JOINER}", "").replace(JOINER, "")


def count_words(text: str) -> int:
    """The number of words and marks."""
    return len(_TOKEN.findall(text))
