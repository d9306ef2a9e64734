"""The generated sentences, judged anew by a reader of their own."""

import re
from collections import Counter

import pytest

from rnn_jax.data import grammar_texts
from rnn_jax.data.grammar import CLASSES

POSITIVE = ["brilliant", "charming", "funny", "moving", "clever", "gripping", "beautiful", "fresh", "witty", "superb"]
NEGATIVE = ["dull", "clumsy", "boring", "predictable", "awful", "messy", "flat", "silly", "tedious", "ugly"]


def judge(text):
    """The class of a sentence, by cutting it at its conjunctions and counting negations."""
    text = text.removesuffix(" .")
    for pattern, chosen in (
        (r"(?:although|even if) (?P<x>.*) , (?P<y>.*)", "y"),
        (r"(?P<x>.*) , (?:although|even if) (?P<y>.*)", "x"),
        (r"(?P<x>.*)(?<! anything) but (?P<y>.*)", "y"),
        (r"(?P<x>.*) and (?P<y>.*)", "xy"),
    ):
        if match := re.fullmatch(pattern, text):
            total = sum(clause(match[part]) for part in chosen)
            return CLASSES[(total > 0) - (total < 0) + 1]
    return CLASSES[clause(text) + 1]


def clause(text):
    words = text.split()
    value = any(word in POSITIVE for word in words) - any(word in NEGATIVE for word in words)
    if "nothing if not" in text or "can deny that" in text:
        return value
    turned = any(sign in text for sign in ("not", "never", "anything but", "nobody would call", "found nothing"))
    return -value if turned else value


def test_labels_are_what_a_reader_would_say():
    found = grammar_texts(2000)
    wrong = [(text, label) for text, label in zip(found.texts, found.labels, strict=True) if judge(text) != label]
    assert not wrong


def test_sentences_are_different_and_the_classes_equally_frequent():
    found = grammar_texts(999)
    assert len(set(found.texts)) == 999
    assert set(Counter(found.labels).values()) == {333}


def test_a_seed_gives_the_same_sentences_and_another_seed_others():
    assert grammar_texts(50) == grammar_texts(50)
    assert grammar_texts(50, seed=1) != grammar_texts(50)
    assert grammar_texts(20).texts == grammar_texts(50).texts[:20]


@pytest.mark.parametrize("words", [1, 2])
def test_a_bag_of_words_fails(words):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    found = grammar_texts(4000)
    bag = make_pipeline(CountVectorizer(ngram_range=(1, words)), LogisticRegression(max_iter=1000))
    bag.fit(found.texts[:3000], found.labels[:3000])
    assert bag.score(found.texts[3000:], found.labels[3000:]) < 0.8
