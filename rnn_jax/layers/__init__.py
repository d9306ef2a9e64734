"""Flax Linen layers around `unroll`."""

from rnn_jax.layers.bidirectional import Bidirectional
from rnn_jax.layers.dropout import VariationalDropout, WordDropout
from rnn_jax.layers.output_feedback import OutputFeedback
from rnn_jax.layers.pooling import Pooling
from rnn_jax.layers.recurrent import Recurrent
from rnn_jax.layers.spelling import Spelling
from rnn_jax.layers.stack import Stack
from rnn_jax.layers.weight_drop import WeightDrop

__all__ = [
    "Bidirectional",
    "OutputFeedback",
    "Pooling",
    "Recurrent",
    "Spelling",
    "Stack",
    "VariationalDropout",
    "WeightDrop",
    "WordDropout",
]
