"""Sequences with a label for each element, and the arrays a tagger reads them as."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from rnn_jax.data.errors import DataError
from rnn_jax.data.vocabulary import UNKNOWN_CHARACTER, UNKNOWN_WORD, Vocabulary

# The names of the vocabularies, and of the arrays.
TOKENS, LABELS, CHARACTERS, FEATURES = "tokens", "labels", "characters", "features"

# A feature of its own: what the characters of a word look like.
CASINGS = ("lower", "capitalised", "upper", "mixed", "number", "with_digit", "other")

# A longer word is spelled by so many characters of its beginning and of its end.
SPELLED_BEGINNING, SPELLED_ENDING = 6, 10

_DIGITS = str.maketrans("123456789", "000000000")


@dataclasses.dataclass(frozen=True)
class TaggedSequence:
    """One sequence, such as a sentence.

    Attributes:
        tokens: T words; or a text, T characters.
        labels: T labels, or none where they are not known.
        features: T tuples of further columns.
        origin: the file, to name it in an error.
        line: the number of the line of the first token there; each of the others stands on the line after.
    """

    tokens: Sequence[str]
    labels: Sequence[str] = ()
    features: Sequence[tuple[str, ...]] = ()
    origin: str = ""
    line: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def key(self) -> str:
        """The tokens as one text: what `rnn_jax.data.is_held_out` goes by."""
        return " ".join(self.tokens)


def casing(word: str) -> str:
    """Which of `CASINGS` a word has."""
    if any(character.isdigit() for character in word):
        return "with_digit" if any(character.isalpha() for character in word) else "number"
    if not any(character.isalpha() for character in word):
        return "other"
    if word == word.lower():
        return "lower"
    if word == word.upper() and len(word) > 1:
        return "upper"
    return "capitalised" if word[1:] == word[1:].lower() else "mixed"


def normalised(word: str) -> str:
    """A word as it is looked up: in lower case, every digit 0. Casing and spelling keep what is lost."""
    return word.lower().translate(_DIGITS)


@dataclasses.dataclass(frozen=True)
class TagEncoder:
    """From tagged sequences to arrays of numbers and back.

    Attributes:
        vocabularies: "tokens" and "labels"; for words also "characters" if they are spelled, "casing", and one for each
            further column, "feature_1", "feature_2", ...
    """

    vocabularies: Mapping[str, Vocabulary]

    @classmethod
    def from_sequences(
        cls, sequences: Sequence[TaggedSequence], level: str, *, min_count: int = 1, spelled: bool = True
    ) -> "TagEncoder":
        """The vocabularies of a training set.

        Args:
            sequences: the training set.
            level: "word", or "char" where tokens are single characters: these have no spelling and no casing.
            min_count: rarer words are unknown.
            spelled: whether words are read character by character too.

        Raises:
            DataError: no sequences, only one label, or a label with blanks.
        """
        if not sequences:
            raise DataError("train: expected at least one sequence, found none")
        labels = sorted({label for sequence in sequences for label in sequence.labels})
        if len(labels) < 2:
            where = f" in {sequences[0].origin!r}" if sequences[0].origin else ""
            raise DataError(f"train: expected at least two labels, found only {', '.join(labels) or 'none'}{where}")
        for label in labels:
            if label.split() != [label]:
                raise DataError(f"train: expected labels without blanks, found {label!r}")
        vocabularies = {LABELS: _vocabulary(labels)}
        counts = Counter(token for sequence in sequences for token in sequence.tokens)
        if level == "char":
            vocabularies[TOKENS] = _characters(counts)
            return cls(vocabularies)
        if spelled:
            used = Counter(character for word, count in counts.items() for character in word * min(count, 2))
            vocabularies[CHARACTERS] = _characters(character for character, count in used.items() if count > 1)
        words: Counter[str] = Counter()
        for word, count in counts.items():
            words[normalised(word)] += count
        kept = sorted((word for word in words if words[word] >= min_count), key=lambda word: (-words[word], word))
        vocabularies[TOKENS] = _vocabulary(kept, UNKNOWN_WORD)
        vocabularies["casing"] = _vocabulary(CASINGS)
        for number in range(len(sequences[0].features[0]) if sequences[0].features else 0):
            values = {feature[number] for sequence in sequences for feature in sequence.features}
            vocabularies[f"feature_{number + 1}"] = _vocabulary(sorted(values), UNKNOWN_WORD)
        return cls(vocabularies)

    @property
    def feature_vocabularies(self) -> list[Vocabulary]:
        """Those of the features, in the order of the columns of the array."""
        return [one for name, one in self.vocabularies.items() if name not in (TOKENS, LABELS, CHARACTERS)]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels by their number."""
        return self.vocabularies[LABELS].symbols

    def arrays(
        self, sequences: Sequence[TaggedSequence], argument: str, labelled: bool = True
    ) -> dict[str, list[np.ndarray]]:
        """The fields of `rnn_jax.data.PaddedBatches`.

        Args:
            sequences: N of them.
            argument: what they were given as, to name it in an error.
            labelled: whether their labels are wanted.

        Returns:
            name -> N int32 arrays: "tokens" [T]; "labels" [T]; of words also "features" [T, F], and, if they are
            spelled, "characters" [T, C] with 0 behind the end of each word.

        Raises:
            DataError: a label that training did not have.
        """
        fields = {TOKENS: [self._numbers(TOKENS, self._looked_up(one)) for one in sequences]}
        if labelled:
            fields[LABELS] = [self._labels(one, argument) for one in sequences]
        if CHARACTERS in self.vocabularies:
            fields[CHARACTERS] = [np.stack([self._spell(word) for word in one.tokens]) for one in sequences]
        if "casing" in self.vocabularies:
            fields[FEATURES] = [self._features(one) for one in sequences]
        return fields

    def _looked_up(self, sequence: TaggedSequence) -> Sequence[str]:
        if self.vocabularies[TOKENS].level == "char":
            return sequence.tokens
        return [normalised(word) for word in sequence.tokens]

    def _numbers(self, name: str, symbols: Sequence[str]) -> np.ndarray:
        vocabulary = self.vocabularies[name]
        unknown = vocabulary.index[vocabulary.unknown] if vocabulary.unknown is not None else -1
        return np.array([vocabulary.index.get(symbol, unknown) for symbol in symbols], np.int32)

    def _labels(self, sequence: TaggedSequence, argument: str) -> np.ndarray:
        numbers = self._numbers(LABELS, sequence.labels)
        if (numbers < 0).any():
            at = int((numbers < 0).argmax())
            where = f" in line {sequence.line + at} of {sequence.origin!r}" if sequence.origin else ""
            raise DataError(
                f"{argument}: expected one of the {len(self.label_names)} labels of the training data, "
                f"found {sequence.labels[at]!r}{where}"
            )
        return numbers

    def _features(self, sequence: TaggedSequence) -> np.ndarray:
        columns = [self._numbers("casing", [casing(word) for word in sequence.tokens])]
        for number in range(len(self.feature_vocabularies) - 1):
            columns.append(self._numbers(f"feature_{number + 1}", [values[number] for values in sequence.features]))
        return np.stack(columns, axis=-1)

    @property
    def _spell(self):
        return _speller(self.vocabularies[CHARACTERS])


@lru_cache(maxsize=4)
def _speller(vocabulary: Vocabulary):
    """word -> int32 [C], each distinct word worked out once."""

    @lru_cache(maxsize=1 << 17)
    def spell(word: str) -> np.ndarray:
        if len(word) > SPELLED_BEGINNING + SPELLED_ENDING:
            word = word[:SPELLED_BEGINNING] + word[-SPELLED_ENDING:]
        spelled = np.zeros(SPELLED_BEGINNING + SPELLED_ENDING, np.int32)
        spelled[: len(word)] = vocabulary.encode(word) + 1
        return spelled

    return spell


def _characters(known: Iterable[str]) -> Vocabulary:
    """The characters, and before them the one for all others, which texts may hold as well."""
    return Vocabulary((UNKNOWN_CHARACTER, *sorted({*known} - {UNKNOWN_CHARACTER})), "char", UNKNOWN_CHARACTER)


def _vocabulary(symbols: Sequence[str], unknown: str | None = None) -> Vocabulary:
    """A vocabulary of words, the unknown first. A symbol with a blank of some alphabet in it stays unknown."""
    kept = [symbol for symbol in symbols if symbol != unknown and symbol.split() == [symbol]]
    return Vocabulary((*([] if unknown is None else [unknown]), *kept), "word", unknown)
