"""Axis legend and named shapes.

    T  time              B  batch (any number of axes, also none)
    D  input features    H  hidden units
    V  vocabulary        L  layers

Arrays over a sequence are time-major, `[T, B, D]`, unless an argument says otherwise.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Int, PyTree

Key = jax.Array
Params = dict[str, Any]
Carry = PyTree
Dtype = jnp.dtype | type | str

Inputs = PyTree
Projected = PyTree
Preactivations = PyTree

Features = Inexact[Array, "... D"]
Hidden = Inexact[Array, "... H"]
Tokens = Int[Array, "*TB"]
Logits = Float[Array, "*TB V"]
Mask = Bool[Array, "*TB"]
