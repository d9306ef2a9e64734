"""Two layers over the same sequence, one from each end."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from rnn_jax.cells.base import Cell
from rnn_jax.layers.dropout import time_axis
from rnn_jax.layers.recurrent import Recurrent
from rnn_jax.typing import Carry, Dtype, Inputs

MERGES = ("concat", "sum", "mean", "multiply", "none")


def merge_directions(merge: str, forward: Array, backward: Array) -> Array | tuple[Array, Array]:
    """Put the outputs of two directions together.

    Args:
        merge: "concat" [..., H_f + H_b]; "sum", "mean", "multiply" [..., H], elementwise; "none": the pair.
        forward, backward: [..., H].

    Raises:
        ValueError: unknown `merge`, or widths that differ where they must not.
    """
    if merge not in MERGES:
        raise ValueError(f"merge: expected one of {', '.join(MERGES)}, found {merge!r}")
    if merge == "none":
        return forward, backward
    if merge == "concat":
        return jnp.concatenate([forward, backward], axis=-1)
    if forward.shape[-1] != backward.shape[-1]:
        raise ValueError(
            f"merge: {merge!r} expected two directions of one width, found {forward.shape[-1]} and {backward.shape[-1]}"
        )
    if merge == "multiply":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "mean" else 1.0)


class Bidirectional(nn.Module):
    """One layer from the first step to the last, one from the last to the first, and their outputs merged step by step.

        y_t = merge(→h_t, ←h_t)

    A direction is a cell, a `Recurrent` with options, or a whole `Stack`: then each stack runs one way through all its
    layers and the two meet at the top, while `Stack(bidirectional=True)` merges after each layer. Parameters are in
    "forward_layer" and "backward_layer".

    Attributes:
        forward: what runs from the first step to the last.
        backward: what runs from the last to the first, of any family and, for some merges, any width; None for the same
            as `forward`, with parameters of its own.
        merge: see `merge_directions`.
        dtype: compute dtype, where the directions are cells; layers bring their own.

    Source: Schuster & Paliwal 1997; Graves & Schmidhuber 2005.
    """

    forward: Cell | nn.Module
    backward: Cell | nn.Module | None = None
    merge: str = "concat"
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        carry: Sequence[Carry] | None = None,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        deterministic: bool = True,
        table: Array | None = None,
    ) -> tuple[tuple[Carry, Carry], Array | tuple[Array, Array]]:
        """Run over a sequence, both ways.

        Args:
            inputs: [T, B, D].
            carry: (forward, backward): the carry before the first step, and the one behind the last; None for the
                initial ones.
            mask: [T, B] bool, False = padding, wherever it lies.
            reset: [T, B] bool, True = a new text begins here: the forward direction starts afresh before that step, the
                backward one before the step in front of it.
            deterministic: True switches off what is random.
            table: [V, D], rows of which are read, see `Recurrent`.

        Returns:
            ((forward, backward), outputs [T, B, ...]): the carry after the last step, the one in front of the first,
            and the merged outputs; the pair of outputs when `merge="none"`.

        Raises:
            ValueError: see `merge_directions`; a dtype beside layers; not a pair of carries.
        """
        if carry is not None and len(carry) != 2:
            raise ValueError(f"carry: expected a pair, (forward, backward), found {len(carry)}")
        forward = self._layer(self.forward, "forward_layer", False)
        backward = self._layer(self.forward if self.backward is None else self.backward, "backward_layer", True)
        forward_carry, backward_carry = (None, None) if carry is None else carry
        # A layer of one's own need not know of tables.
        rows = {} if table is None else {"table": table}
        forward_carry, forward_outputs = forward(
            inputs, forward_carry, mask=mask, reset=reset, deterministic=deterministic, **rows
        )
        ends = _ends(reset, backward.time_major)
        backward_carry, backward_outputs = backward(
            inputs, backward_carry, mask=mask, reset=ends, deterministic=deterministic, **rows
        )
        return (forward_carry, backward_carry), merge_directions(self.merge, forward_outputs, backward_outputs)

    def _layer(self, direction: Any, name: str, reverse: bool) -> Any:
        if isinstance(direction, Cell):
            return Recurrent(direction, reverse=reverse, dtype=self.dtype, name=name)
        if self.dtype is not None:
            raise ValueError(f"dtype: expected None beside layers, which have their own, found {self.dtype!r}")
        return direction.copy(name=name, reverse=reverse)


def _ends(reset: ArrayLike | None, time_major: bool) -> Array | None:
    """Where texts end, given where they begin: a step is the last of its text if the next begins one."""
    if reset is None:
        return None
    reset = jnp.asarray(reset)
    axis = time_axis(reset, time_major, feature_ndim=0)
    length = reset.shape[axis]
    moved = jax.lax.slice_in_dim(reset, min(1, length), length, axis=axis)
    last = jnp.zeros_like(jax.lax.slice_in_dim(reset, 0, min(1, length), axis=axis))
    return jnp.concatenate([moved, last], axis=axis)
