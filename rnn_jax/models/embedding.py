"""What a stack reads of symbols: their vectors, or their numbers and the table that these stand in."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from rnn_jax.cells.lookup import pays
from rnn_jax.layers import VariationalDropout
from rnn_jax.typing import Tokens


def embedded(
    embed: Callable[[Array], Array],
    size: int,
    tokens: Tokens,
    drop: nn.Dropout | VariationalDropout,
    deterministic: bool,
) -> tuple[Array, Array | None]:
    """The `inputs` and the `table` of a stack that reads tokens.

    Args:
        embed: integers to their vectors.
        size: V.
        tokens: integers in 0..V-1.
        drop: dropout of the vectors. While it acts, no two vectors of a symbol are the same, and there is no table.
        deterministic: True switches it off.

    Returns:
        (vectors, None), or (tokens, the vectors of all V symbols) where `rnn_jax.cells.lookup` takes less time.
    """
    if (drop.rate and not deterministic) or not pays(size, tokens):
        return drop(embed(tokens), deterministic=deterministic), None
    return tokens, embed(jnp.arange(size))
