"""Models: Flax Linen modules, and word vectors, which are two tables."""

from rnn_jax.models.captioner import Captioner
from rnn_jax.models.classifier import Classifier, ClassifierEnsemble
from rnn_jax.models.drawer import Drawer
from rnn_jax.models.forecaster import Forecaster
from rnn_jax.models.language_model import LanguageModel
from rnn_jax.models.readout import RecurrentReadout
from rnn_jax.models.seq2seq import Seq2Seq
from rnn_jax.models.tagger import Tagger
from rnn_jax.models.vector_classifier import VectorClassifier
from rnn_jax.models.word_vectors import WordVectors

__all__ = [
    "Captioner",
    "Classifier",
    "ClassifierEnsemble",
    "Drawer",
    "Forecaster",
    "LanguageModel",
    "RecurrentReadout",
    "Seq2Seq",
    "Tagger",
    "VectorClassifier",
    "WordVectors",
]
