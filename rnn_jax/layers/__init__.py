"""Flax Linen layers around `unroll`."""

from rnn_jax.layers.recurrent import Recurrent, Stack

__all__ = ["Recurrent", "Stack"]
