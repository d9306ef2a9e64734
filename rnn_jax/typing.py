"""Axis legend and named shapes.

    T  time              B  batch (any number of axes, also none)
    D  input features    H  hidden units
    V  vocabulary        L  layers

Arrays over a sequence are time-major, `[T, B, D]`, unless an argument says otherwise.
"""

from typing import Any, TypeAlias

import jax
from jaxtyping import Array, Bool, Float, Int

Key: TypeAlias = jax.Array
Dtype: TypeAlias = Any
Params: TypeAlias = dict[str, Any]

# Pytrees whose structure the cell chooses.
Carry: TypeAlias = Any
Inputs: TypeAlias = Any
Projected: TypeAlias = Any
Preactivations: TypeAlias = Any

Tokens: TypeAlias = Int[Array, "*TB"]
Logits: TypeAlias = Float[Array, "*TB V"]
Mask: TypeAlias = Bool[Array, "*TB"]
