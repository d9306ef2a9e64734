"""A generated task: judgements in English in which negation and contrast decide what the words alone do not tell."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from rnn_jax.data.labelled import LabelledTexts

Option = TypeVar("Option")

CLASSES = ("negative", "neutral", "positive")

_SUBJECTS = (
    "the film", "the plot", "the cast", "the music", "the ending", "the script", "the dialogue", "the first act",
    "this story", "her performance", "his direction", "the camera work", "the whole thing", "the second half",
)  # fmt: skip
_ADJECTIVES = {
    1: ("brilliant", "charming", "funny", "moving", "clever", "gripping", "beautiful", "fresh", "witty", "superb"),
    0: ("short", "long", "french", "animated", "silent", "loud", "slow", "quiet", "traditional", "simple"),
    -1: ("dull", "clumsy", "boring", "predictable", "awful", "messy", "flat", "silly", "tedious", "ugly"),
}
_DEGREES = ("", "", "", "very", "really", "rather", "truly", "quite")

# Each frame of a clause, and whether it turns the judgement round. Words such as "not", "but" and "nothing" occur in
# frames of both kinds, so that no single one of them tells.
_PLAIN = ("{s} is {a}", "{s} is {a}", "i found {s} {a}", "{s} is nothing if not {a}", "nobody can deny that {s} is {a}")
_TURNED = (
    "{s} is not {a}",
    "{s} is never {a}",
    "{s} is anything but {a}",
    "nobody would call {s} {a}",
    "i found nothing {a} in {s}",
    "it is not true that {s} is {a}",
)

# Each way to join two clauses, and what the whole says.
_JOINED: tuple[tuple[str, Callable[[int, int], int]], ...] = (
    ("{x} but {y}", lambda x, y: y),
    ("although {x} , {y}", lambda x, y: y),
    ("{x} , although {y}", lambda x, y: x),
    ("even if {x} , {y}", lambda x, y: y),
    ("{x} , even if {y}", lambda x, y: x),
    ("{x} and {y}", lambda x, y: int(np.sign(x + y))),
)


def grammar_texts(count: int, seed: int = 0) -> LabelledTexts:
    """Different sentences, the classes equally often.

    A clause says of a subject that it is, or is not, something good, bad or neither; three of ten clauses are negated,
    in one of several ways. Three of five sentences join two clauses: by a contrast, in which the main clause or the one
    after "but" decides, or by "and", where good and bad make neutral.

    Args:
        count: N, at most a few hundred thousand.
        seed: any integer.
    """
    random = np.random.default_rng(seed % 2**64)
    found: dict[str, str] = {}
    while len(found) < count:
        wanted = len(found) % len(CLASSES) - 1
        text, value = _sentence(random)
        if value == wanted:
            found.setdefault(f"{text} .", CLASSES[value + 1])
    texts = tuple(found)
    places = tuple(f"generated sentence {number}" for number in range(1, count + 1))
    return LabelledTexts("builtin", texts, tuple(found[text] for text in texts), places)


def _sentence(random: np.random.Generator) -> tuple[str, int]:
    first, x = _clause(random)
    if random.random() < 0.4:
        return first, x
    second, y = _clause(random)
    frame, meaning = _choice(random, _JOINED)
    return frame.format(x=first, y=second), meaning(x, y)


def _clause(random: np.random.Generator) -> tuple[str, int]:
    value = int(random.integers(-1, 2))
    turned = random.random() < 0.3
    degree, adjective = _choice(random, _DEGREES), _choice(random, _ADJECTIVES[value])
    frame = _choice(random, _TURNED if turned else _PLAIN)
    clause = frame.format(s=_choice(random, _SUBJECTS), a=f"{degree} {adjective}".strip())
    return clause, -value if turned else value


def _choice(random: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(random.integers(len(options)))]
