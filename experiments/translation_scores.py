"""How good translations are: sacreBLEU, chrF and exact match."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from experiments.flags import FlagError


class Scores(NamedTuple):
    """The scores of a set of translations.

    Attributes:
        bleu: sacreBLEU, 0 to 100: 13a tokens, lower-cased.
        chrf: chrF2, 0 to 100, lower-cased.
        exact_match: the share that equals its reference, letter by letter.
        signatures: what sacreBLEU calls the way each was computed, by the name of the metric.
    """

    bleu: float
    chrf: float
    exact_match: float
    signatures: dict[str, str]

    @property
    def metrics(self) -> dict[str, float]:
        """As `result.json` names them."""
        return {"test_bleu": self.bleu, "test_chrf": self.chrf, "test_exact_match": self.exact_match}

    def __str__(self) -> str:
        return (
            f"BLEU {self.bleu:.2f}  chrF {self.chrf:.2f}  exact match {self.exact_match:.4f}\n"
            f"{self.signatures['test_bleu']}"
        )


def score(hypotheses: Sequence[str], references: Sequence[str], argument: str = "bleu_of") -> Scores:
    """Compare translations with their references, as text.

    Raises:
        FlagError: not as many of one as of the other (how many each).
    """
    from sacrebleu.metrics import BLEU, CHRF  # pyright: ignore[reportPrivateImportUsage]

    if len(hypotheses) != len(references):
        raise FlagError(
            f"--{argument}: expected {len(references):,} lines, as many as there are references, found "
            f"{len(hypotheses):,}"
        )
    bleu = BLEU(lowercase=True, tokenize="13a")
    chrf = CHRF(lowercase=True)
    found = bleu.corpus_score(hypotheses, [references]), chrf.corpus_score(hypotheses, [references])
    exact = sum(a == b for a, b in zip(hypotheses, references, strict=True)) / max(1, len(references))
    signatures = {"test_bleu": str(bleu.get_signature()), "test_chrf": str(chrf.get_signature())}
    return Scores(float(found[0].score), float(found[1].score), exact, signatures)


def exact_match_by_length(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> dict[int, float]:
    """The share of exact translations among sources of each number of words."""
    hits: dict[int, list[bool]] = defaultdict(list)
    for source, hypothesis, reference in zip(sources, hypotheses, references, strict=True):
        hits[len(source.split())].append(hypothesis == reference)
    return {length: sum(found) / len(found) for length, found in sorted(hits.items())}
