"""A recurrent network with a linear readout: real-valued sequences in, real-valued sequences out."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.cells import make
from rnn_jax.layers import Stack
from rnn_jax.recurrence.rows import over_rows
from rnn_jax.typing import Carry, Mask


class RecurrentReadout(nn.Module):
    """A recurrent state, read off at every step.

        h_t = stack(h_tm1, x_t);   y_t = h_t W + b

    Attributes:
        features: F, the numbers to say at each step.
        cell: a cell as `rnn_jax.cells.make` reads it, e.g. "gru" or "elman(activation=relu)".
        hidden_size: H.
        num_layers: L.
        dropout: rate between layers.
        dtype: compute dtype of the matrix products.
    """

    features: int
    cell: str = "lstm"
    hidden_size: int = 64
    num_layers: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "T *B D"],
        carry: tuple[Carry, ...] | None = None,
        *,
        mask: Mask | None = None,
        deterministic: bool = True,
    ) -> tuple[tuple[Carry, ...], Float[Array, "T *B F"]]:
        """Read a sequence.

        Args:
            inputs: [T, B, D] or [T, D].
            carry: one carry a layer, from a call before; None at the start.
            mask: False = padding.
            deterministic: True switches dropout off.

        Returns:
            (carry, outputs [T, B, F]), the outputs in float32.
        """
        cells = [make(self.cell, self.hidden_size)] * self.num_layers
        stack = Stack(cells, dropout=self.dropout, dtype=self.dtype, name="stack")
        carry, hidden = stack(inputs, carry, mask=mask, deterministic=deterministic)
        readout = nn.Dense(self.features, dtype=self.dtype, name="readout")
        return carry, over_rows(readout, hidden).astype(jnp.float32)


def dense_weights(dense: nn.Dense, inputs: Float[Array, "*B H"]) -> tuple[Float[Array, "H V"], Float[Array, "V"]]:
    """The matrix and the bias of a layer of a bound module, drawn for such inputs where they do not yet exist."""
    if dense.is_initializing():
        dense(inputs[:0])
    weights = dense.variables["params"]
    return weights["kernel"], weights["bias"]
