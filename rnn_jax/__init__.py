"""Recurrent networks as pure functions in JAX.

Write the equations of a cell as pure functions; `unroll` makes of them a fast, differentiable, maskable layer.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rnn_jax import cells
from rnn_jax.cells import CELLS, Cell, elman, from_function, gru, jordan, lstm
from rnn_jax.recurrence.teacher_forcing import teacher_forced
from rnn_jax.unroll import unroll

if TYPE_CHECKING:
    from rnn_jax.training.run import load

__all__ = [
    "CELLS",
    "Cell",
    "cells",
    "elman",
    "from_function",
    "gru",
    "jordan",
    "load",
    "lstm",
    "teacher_forced",
    "unroll",
]


def __getattr__(name: str) -> Any:
    # `load` brings Orbax and the models along, seconds that a script with cells alone need not spend; so do some of the
    # subpackages.
    if name == "load":
        from rnn_jax.training.run import load

        return load
    if name in ("crf", "data", "decoding", "layers", "losses", "models", "sweep", "training"):
        return importlib.import_module(f"rnn_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
