"""Dropout with one mask a sequence, dropout of whole words, and rates that are known only inside a program."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.typing import Tokens


class TracedRate(float):
    """A rate of dropout that is traced, so that one program serves many: `model.clone(dropout=TracedRate(rate))`.

    It takes the place of a number in every module that hands it to Flax's Dropout, which subtracts it from 1, or to
    `WordDropout`. Whether there is any dropout is decided before a program is compiled: in comparisons it lies between
    0 and 1. Used in any other way it is nan, which no training survives unnoticed.
    """

    rate: Any

    def __new__(cls, rate: Any) -> "TracedRate":  # noqa: D102
        made = super().__new__(cls, "nan")
        made.rate = rate
        return made

    def __rsub__(self, other: Any) -> Any:
        return other - self.rate

    def __ge__(self, other: Any) -> bool:
        return other <= 0

    def __le__(self, other: Any) -> bool:
        return other >= 1


def time_axis(sequence: Array, time_major: bool, feature_ndim: int = 1) -> int:
    """Which axis is time: the first, but the second of sequences [B, T, D] that are not time-major; [T, D] have one."""
    return 0 if time_major or sequence.ndim == 1 + feature_ndim else 1


class VariationalDropout(nn.Module):
    """Dropout whose mask is drawn once a sequence and used at every step.

        y_t = m ⊙ x_t / (1 - p),   m ~ Bernoulli(1 - p)   [B, D]

    Needs the "dropout" random stream.

    Attributes:
        rate: p.
        time_major: False: sequences are [B, T, D].

    Source: Gal & Ghahramani 2016 (arXiv 1512.05287). Differs: for what enters or leaves a layer; the recurrent
    connection has `WeightDrop`.
    """

    rate: float
    time_major: bool = True

    @nn.compact
    def __call__(self, inputs: Float[Array, "*TB D"], deterministic: bool) -> Float[Array, "*TB D"]:
        """Drop features of `[T, B, D]`; with `deterministic` nothing happens."""
        axis = time_axis(inputs, self.time_major)
        return nn.Dropout(self.rate, broadcast_dims=(axis,))(inputs, deterministic=deterministic)


class WordDropout(nn.Module):
    """Exchange words for the unknown one, each by itself, so that a model learns what to do without them.

    Needs the "dropout" random stream.

    Attributes:
        rate: the share of words that are lost.
        unknown: the number that stands for a word not known.

    Source: Bowman et al. 2016 (arXiv 1511.06349).
    """

    rate: float
    unknown: int

    @nn.compact
    def __call__(self, tokens: Tokens, deterministic: bool) -> Tokens:
        """Lose some of the tokens, of any shape; with `deterministic` nothing happens."""
        if deterministic or self.rate == 0:
            return tokens
        # A `TracedRate` can be subtracted from 1, and no more.
        lost = jax.random.bernoulli(self.make_rng("dropout"), 1 - (1 - self.rate), tokens.shape)
        return jnp.where(lost, jnp.asarray(self.unknown, tokens.dtype), tokens)
