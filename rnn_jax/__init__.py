"""Recurrent networks as pure functions in JAX.

Write the equations of a cell as pure functions; `unroll` makes of them a fast, differentiable, maskable layer.
"""

from rnn_jax.cells import CELLS, Cell, elman, from_function, gru, lstm
from rnn_jax.unroll import unroll

__all__ = ["CELLS", "Cell", "elman", "from_function", "gru", "lstm", "unroll"]
