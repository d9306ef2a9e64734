"""Recurrent layers: one cell over time, and a stack of them."""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, ArrayLike

from rnn_jax.cells.base import Cell, cast_weights
from rnn_jax.typing import Carry, Dtype, Inputs, Params
from rnn_jax.unroll import unroll


class Recurrent(nn.Module):
    """One recurrent layer: `unroll` with the cell's parameters held by Flax.

    Attributes:
        cell: the cell, e.g. `rnn_jax.lstm(256)`.
        reverse: run from the last step to the first.
        time_major: False: [B, T, ...] in place of [T, B, ...].
        segment: see `rnn_jax.unroll`.
        dtype: compute dtype of the matrix products; None for the dtype of the parameters. The carry and the gates stay
            in float32 under a half precision.
    """

    cell: Cell
    reverse: bool = False
    time_major: bool = True
    segment: int | str | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        carry: Carry | None = None,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
    ) -> tuple[Carry, Array]:
        """Run over a sequence.

        Args:
            inputs: [T, B, D].
            carry: the carry before the first step; None for the cell's initial carry.
            mask, reset: [T, B] bool, see `rnn_jax.unroll`.

        Returns:
            (carry, outputs [T, B, H]).
        """
        input_size = jax.tree.leaves(inputs)[0].shape[-1]
        params: Params = self.param("cell", self.cell.init, input_size)
        if self.dtype is not None:
            params = cast_weights(params, self.dtype)
        return unroll(
            self.cell,
            params,
            inputs,
            carry,
            mask=mask,
            reset=reset,
            reverse=self.reverse,
            time_major=self.time_major,
            segment=self.segment,
        )


class Stack(nn.Module):
    """Recurrent layers on top of each other, each reading the outputs of the one below.

    Attributes:
        cells: one cell a layer; widths and families may differ.
        dropout: rate applied to the outputs of every layer but the last, drawn anew at each step (Zaremba, Sutskever &
            Vinyals 2014, arXiv 1409.2329: never on the recurrent connection). Needs the "dropout" random stream.
        time_major, segment, dtype: see `Recurrent`.
    """

    cells: Sequence[Cell]
    dropout: float = 0.0
    time_major: bool = True
    segment: int | str | None = None
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
    ) -> tuple[tuple[Carry, ...], Array]:
        """Run over a sequence.

        Args:
            inputs: [T, B, D].
            carry: one carry a layer; None for the initial carries.
            mask, reset: [T, B] bool, see `rnn_jax.unroll`.
            deterministic: True switches dropout off.

        Returns:
            (one carry a layer, outputs of the last layer [T, B, H]).

        Raises:
            ValueError: no cells, or not one carry a layer.
        """
        if not self.cells:
            raise ValueError("cells: expected at least one cell, found none")
        if carry is not None and len(carry) != len(self.cells):
            raise ValueError(f"carry: expected one a layer, {len(self.cells)}, found {len(carry)}")
        carries = []
        outputs = inputs
        for index, cell in enumerate(self.cells):
            if index > 0:
                outputs = nn.Dropout(self.dropout)(outputs, deterministic=deterministic)
            layer = Recurrent(
                cell, time_major=self.time_major, segment=self.segment, dtype=self.dtype, name=f"layer_{index}"
            )
            new_carry, outputs = layer(outputs, None if carry is None else carry[index], mask=mask, reset=reset)
            carries.append(new_carry)
        return tuple(carries), outputs
