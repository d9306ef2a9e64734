"""One class for a sequence of vectors."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.cells import make
from rnn_jax.layers import Pooling, Stack
from rnn_jax.typing import Mask


class VectorClassifier(nn.Module):
    """P(class | x_1..x_T) for vectors x_t, such as the rows of an image.

        h_1..h_T = stack(x_1..x_T);   P(class | x_1..x_T) = softmax(pooling(h_1..h_T) W + b)

    Attributes:
        classes: the number of classes.
        cell: a cell as `rnn_jax.cells.make` reads it.
        hidden_size: H, of each direction.
        num_layers: L.
        bidirectional: read each layer both ways.
        pooling: see `rnn_jax.layers.Pooling`.
        dropout: rate between layers and before the softmax.
        dtype: compute dtype of the matrix products.
    """

    classes: int
    cell: str = "lstm"
    hidden_size: int = 128
    num_layers: int = 1
    bidirectional: bool = False
    pooling: str = "last"
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "T B D"], *, mask: Mask | None = None, deterministic: bool = True
    ) -> Float[Array, "B classes"]:
        """Logits of the classes.

        Args:
            inputs: [T, B, D].
            mask: [T, B], False = padding.
            deterministic: True switches dropout off.
        """
        cells = [make(self.cell, self.hidden_size) for _ in range(self.num_layers)]
        stack = Stack(cells, dropout=self.dropout, bidirectional=self.bidirectional, dtype=self.dtype)
        _, outputs = stack(inputs, mask=mask, deterministic=deterministic)
        pooled = Pooling(self.pooling, bidirectional=self.bidirectional)(outputs, mask)
        pooled = nn.Dropout(self.dropout)(pooled, deterministic=deterministic)
        return nn.Dense(self.classes, dtype=self.dtype)(pooled).astype(jnp.float32)
