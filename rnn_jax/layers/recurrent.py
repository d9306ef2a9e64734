"""One cell over time."""

import flax.linen as nn
import jax
from jaxtyping import Array, ArrayLike, PyTree

from rnn_jax.cells.base import Cell, cast_weights
from rnn_jax.cells.learned_carry import learned_carry
from rnn_jax.cells.lookup import lookup
from rnn_jax.cells.zoneout import Rates, draw_zoneout, zoneout
from rnn_jax.layers.dropout import time_axis
from rnn_jax.layers.weight_drop import WeightDrop
from rnn_jax.recurrence.teacher_forcing import teacher_forced
from rnn_jax.typing import Carry, Dtype, Inputs, Params
from rnn_jax.unroll import unroll


def cell_as_run(cell: Cell, zoneout_rate: Rates = 0.0, learned: bool = False, looks_up: bool = False) -> Cell:
    """The cell that a layer with these options hands to `unroll`; with zoneout it takes `(x, masks)`."""
    if not isinstance(cell, Cell):
        raise ValueError(f"cell: expected a cell, such as rnn_jax.lstm(128), found {cell!r}")
    cell = learned_carry(cell) if learned else cell
    cell = lookup(cell) if looks_up else cell
    return zoneout(cell, zoneout_rate) if zoneout_rate else cell


class Recurrent(nn.Module):
    """One recurrent layer: `unroll` with the cell's parameters held by Flax.

    Attributes:
        cell: the cell, e.g. `rnn_jax.lstm(256)`.
        reverse: run from the last step to the first.
        time_major: False: [B, T, ...] in place of [T, B, ...].
        segment: see `rnn_jax.unroll`.
        dtype: compute dtype of the matrix products; None for the dtype of the parameters. The carry and the gates stay
            in float32 under a half precision.
        weight_drop: share of the elements of the recurrent matrices to drop; see `WeightDrop`.
        zoneout: share of the units of the carry that keep their value, or a tuple with one for each array of the
            carry; see `rnn_jax.cells.zoneout`.
        learned_carry: make the initial carry a parameter; see `rnn_jax.cells.learned_carry`.

    `weight_drop` and `zoneout` need the "dropout" random stream.
    """

    cell: Cell
    reverse: bool = False
    time_major: bool = True
    segment: int | str | None = None
    dtype: Dtype | None = None
    weight_drop: float = 0.0
    zoneout: Rates = 0.0
    learned_carry: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        carry: Carry | None = None,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        deterministic: bool = True,
        targets: PyTree | None = None,
        table: Array | None = None,
    ) -> tuple[Carry, Array]:
        """Run over a sequence.

        Args:
            inputs: [T, B, D].
            carry: the carry before the first step; None for the cell's initial carry.
            mask, reset: [T, B] bool, see `rnn_jax.unroll`.
            deterministic: True switches weight drop off, and zoneout to its expectation.
            targets: [T, B, O], the true outputs, for a cell whose carry is its last output: each step then sees the
                true one before it, and there is no loop; see `rnn_jax.teacher_forced`. The layer must run forwards and
                be time-major.
            table: [V, D]; `inputs` are then the numbers of its rows that are read, integers [T, B], see
                `rnn_jax.cells.lookup`.

        Returns:
            (carry, outputs [T, B, H]).

        Raises:
            ValueError: `cell` is none; `targets` for a layer that runs backwards or is not time-major.
        """
        if targets is not None and (self.reverse or not self.time_major):
            raise ValueError("targets: expected a layer that runs forwards and is time-major")
        cell = cell_as_run(self.cell, self.zoneout, self.learned_carry, table is not None)
        first, vectors = jax.tree.leaves(inputs)[0], inputs if table is None else table
        params: Params = self.param("cell", cell.init, jax.tree.leaves(vectors)[0].shape[-1])
        if self.dtype is not None:
            params = cast_weights(params, self.dtype)
        if self.weight_drop:
            params = WeightDrop(self.cell, self.weight_drop)(params, self._one_step(inputs, table), deterministic)
        if table is not None:
            params = {"cell": params, "table": table}
        if self.zoneout:
            masks = None
            if not deterministic:
                leading = first.shape[: first.ndim - cell.feature_ndim]
                masks = draw_zoneout(self.make_rng("dropout"), cell, self.zoneout, params, leading)
            inputs = (inputs, masks)
        if targets is not None:
            return teacher_forced(cell, params, inputs, targets, carry, mask=mask, reset=reset)
        return unroll(
            cell,
            params,
            inputs,
            carry,
            mask=mask,
            reset=reset,
            reverse=self.reverse,
            time_major=self.time_major,
            segment=self.segment,
        )

    def _one_step(self, inputs: Inputs, table: Array | None) -> Inputs:
        """Shapes and dtypes of what the cell reads at one step."""
        rank = self.cell.feature_ndim if table is None else 0
        vector = () if table is None else table.shape[-1:]
        axis = time_axis(jax.tree.leaves(inputs)[0], self.time_major, rank)

        def without_time(x: Array) -> jax.ShapeDtypeStruct:
            shape = (*x.shape[:axis], *x.shape[axis + 1 :], *vector)
            return jax.ShapeDtypeStruct(shape, x.dtype if table is None else table.dtype)

        return jax.tree.map(without_time, inputs)
