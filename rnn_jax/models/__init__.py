"""Models: Flax Linen modules, and word vectors, which are two tables."""

from rnn_jax.models.classifier import Classifier, ClassifierEnsemble
from rnn_jax.models.forecaster import Forecaster
from rnn_jax.models.language_model import LanguageModel
from rnn_jax.models.readout import RecurrentReadout
from rnn_jax.models.tagger import Tagger
from rnn_jax.models.word_vectors import WordVectors

__all__ = [
    "Classifier",
    "ClassifierEnsemble",
    "Forecaster",
    "LanguageModel",
    "RecurrentReadout",
    "Tagger",
    "WordVectors",
]
