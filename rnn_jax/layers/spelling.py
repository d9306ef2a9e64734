"""A vector for every word from the characters it is spelled with."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rnn_jax.typing import Dtype


class Spelling(nn.Module):
    """Convolution over the characters of a word, then the largest value of each filter.

        u_c = relu(W [e_{c-1}; e_c; e_{c+1}] + b),   v = max_c u_c

    with e_c the embedding of character c, zero outside the word. What the filters find (an ending, a capital, a digit)
    serves words that training never saw.

    Attributes:
        symbols: the number of characters; the ids are 1..symbols, 0 is no character.
        filters: F.
        embedding_size: the width of e.
        reach: how many characters on each side a filter sees.
        dtype: compute dtype of the matrix product.

    Source: dos Santos & Zadrozny 2014; Ma & Hovy 2016 (arXiv 1603.01354). Differs: relu.
    """

    symbols: int
    filters: int
    embedding_size: int = 30
    reach: int = 1
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, characters: Int[Array, "*TB C"]) -> Float[Array, "*TB F"]:
        """Read words.

        Args:
            characters: the ids of each word's characters, 0 behind its end.

        Returns:
            v; zero for a word without characters.
        """
        written = characters > 0
        scale = math.sqrt(1 / self.embedding_size)
        table = nn.Embed(self.symbols + 1, self.embedding_size, embedding_init=nn.initializers.normal(scale))
        embedded = jnp.where(written[..., None], table(characters), 0)
        # One flat matrix product: XLA:CPU is slow at convolutions of a few channels.
        length = characters.shape[-1]
        around = jnp.pad(embedded, [(0, 0)] * (characters.ndim - 1) + [(self.reach, self.reach), (0, 0)])
        window = [around[..., shift : shift + length, :] for shift in range(2 * self.reach + 1)]
        flat = jnp.concatenate(window, axis=-1).reshape(-1, len(window) * self.embedding_size)
        found = nn.relu(nn.Dense(self.filters, dtype=self.dtype)(flat)).reshape(*characters.shape, self.filters)
        # relu is never below 0, so 0 is no value of its own.
        return jnp.where(written[..., None], found, 0).max(axis=-2, initial=0)
