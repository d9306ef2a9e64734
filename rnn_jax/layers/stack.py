"""Recurrent layers on top of each other."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from rnn_jax.cells.base import Cell, cast_weights
from rnn_jax.cells.zoneout import Rates
from rnn_jax.layers.bidirectional import MERGES, Bidirectional
from rnn_jax.layers.dropout import time_axis
from rnn_jax.layers.recurrent import Recurrent, cell_as_run
from rnn_jax.recurrence.loop import select, zeros_like
from rnn_jax.typing import Carry, Dtype, Inputs, Params, Projected


class Stack(nn.Module):
    """Recurrent layers on top of each other, each reading the outputs of the one below.

        h^0 = x,   h^l = layer_l(drop(h^{l-1}))                 l = 1..L
        h^l = layer_l(drop(h^{l-1})) + h^{l-1}                  residual, where both have one width
        h^l = layer_l([drop(h^{l-1}); x]),  y = [h^1; ...; h^L]    skip

    Attributes:
        cells: one cell a layer; widths and families may differ.
        dropout: rate applied to the outputs of every layer but the last, drawn anew at each step (Zaremba, Sutskever &
            Vinyals 2014, arXiv 1409.2329: never on the recurrent connection). Needs the "dropout" random stream.
        time_major, segment, dtype: see `Recurrent`.
        reverse: run every layer from the last step to the first.
        bidirectional: every layer is `Bidirectional`, its merged outputs what the next one reads.
        merge: of the two directions; any but "none".
        residual: add a layer's input to its output wherever their widths agree, also around the first layer; nothing
            is added elsewhere. Dropout stays off that path (He et al. 2016; Wu et al. 2016, arXiv 1609.08144).
        skip: every layer above the first reads the inputs too, and the outputs of all layers, side by side, are the
            output (Graves 2013, arXiv 1308.0850).
        variational: `dropout` draws one mask for a whole sequence (Gal & Ghahramani 2016, arXiv 1512.05287).
        weight_drop, zoneout, learned_carry: see `Recurrent`.
    """

    cells: Sequence[Cell]
    dropout: float = 0.0
    time_major: bool = True
    segment: int | str | None = None
    dtype: Dtype | None = None
    reverse: bool = False
    bidirectional: bool = False
    merge: str = "concat"
    residual: bool = False
    skip: bool = False
    variational: bool = False
    weight_drop: float = 0.0
    zoneout: Rates = 0.0
    learned_carry: bool = False

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
    ) -> tuple[tuple[Carry, ...], Array]:
        """Run over a sequence.

        Args:
            inputs: [T, B, D].
            carry: one carry a layer, a pair (forward, backward) where layers are bidirectional; None for the initial
                carries.
            mask, reset: [T, B] bool, see `rnn_jax.unroll` and `Bidirectional`.
            deterministic: True switches dropout and weight drop off, and zoneout to its expectation.
            table: [V, D], rows of which are read, see `Recurrent`.

        Returns:
            (one carry a layer, outputs of the last layer [T, B, H]).

        Raises:
            ValueError: no cells, not one carry a layer, or options that contradict each other.
        """
        self._check(carry)
        carries = []
        outputs = vectors = inputs
        if table is not None and (self.residual or self.skip):
            # What is added to outputs, or stands beside them.
            outputs = vectors = jnp.take(table, inputs, axis=0)
        everything = []
        for index, cell in enumerate(self.cells):
            below, shown = outputs, inputs
            if index > 0:
                # One mask for all steps where it is broadcast along time.
                shared = (time_axis(outputs, self.time_major),) if self.variational else ()
                shown = nn.Dropout(self.dropout, broadcast_dims=shared)(outputs, deterministic=deterministic)
            if self.skip and index > 0:
                shown = jnp.concatenate([shown, vectors.astype(shown.dtype)], axis=-1)
            new_carry, outputs = self._layer(cell, f"layer_{index}")(
                shown,
                None if carry is None else carry[index],
                mask=mask,
                reset=reset,
                deterministic=deterministic,
                table=table if index == 0 else None,
            )
            carries.append(new_carry)
            if self.residual and outputs.shape == below.shape:
                outputs = outputs + below.astype(outputs.dtype)
                # What lies under the padding of the inputs must not show.
                outputs = outputs if mask is None else select(jnp.asarray(mask), outputs, zeros_like(outputs))
            everything.append(outputs)
        return tuple(carries), jnp.concatenate(everything, axis=-1) if self.skip else outputs

    def project(self, inputs: Inputs) -> Projected:
        """What the first layer makes of inputs `[..., D]`, for `step`."""
        cell, params = self._at_evaluation(0)
        return cell.project(params, self._as_read(inputs))

    def step(
        self, carry: Sequence[Carry], inputs: Inputs, projected: Projected | None = None
    ) -> tuple[tuple[Carry, ...], Array]:
        """One step of decoding: `__call__` on inputs `[B, D]` of one step, everything random switched off.

        Args:
            carry: one a layer.
            inputs: [B, D].
            projected: `project(inputs)`, where it is known already.

        Returns:
            (one carry a layer, outputs [B, H]).

        Raises:
            ValueError: the stack runs backwards or both ways, which decoding cannot.
        """
        if self.reverse or self.bidirectional:
            raise ValueError("step: expected a stack that runs forwards only")
        carries = []
        outputs = inputs
        everything = []
        for index, layer_carry in enumerate(carry):
            below, (cell, params) = outputs, self._at_evaluation(index)
            if index > 0 or projected is None:
                shown = jnp.concatenate([below, inputs.astype(below.dtype)], axis=-1) if self.skip and index else below
                projected = cell.project(params, self._as_read(shown))
            layer_carry, outputs = cell.step(params, layer_carry, projected)
            carries.append(layer_carry)
            if self.residual and outputs.shape == below.shape:
                outputs = outputs + below.astype(outputs.dtype)
            everything.append(outputs)
        return tuple(carries), jnp.concatenate(everything, axis=-1) if self.skip else outputs

    def _layer(self, cell: Cell, name: str) -> Any:
        options: dict[str, Any] = {
            "time_major": self.time_major,
            "segment": self.segment,
            "dtype": self.dtype,
            "weight_drop": self.weight_drop,
            "zoneout": self.zoneout,
            "learned_carry": self.learned_carry,
        }
        if self.bidirectional:
            return Bidirectional(Recurrent(cell, **options, parent=None), merge=self.merge, name=name)
        return Recurrent(cell, reverse=self.reverse, **options, name=name)

    def _at_evaluation(self, index: int) -> tuple[Cell, Params]:
        """The cell of a layer as it runs, and its parameters in the compute dtype."""
        params = self.variables["params"][f"layer_{index}"]["cell"]
        cell = cell_as_run(self.cells[index], self.zoneout, self.learned_carry)
        return cell, params if self.dtype is None else cast_weights(params, self.dtype)

    def _as_read(self, inputs: Inputs) -> Inputs:
        return (inputs, None) if self.zoneout else inputs

    def _check(self, carry: Sequence[Carry] | None) -> None:
        if isinstance(self.cells, Cell):
            raise ValueError("cells: expected a sequence of cells, one a layer, found a single cell")
        if not self.cells:
            raise ValueError("cells: expected at least one cell, found none")
        if carry is not None and len(carry) != len(self.cells):
            raise ValueError(f"carry: expected one a layer, {len(self.cells)}, found {len(carry)}")
        for name in ("dropout", "weight_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a rate in [0, 1], found {getattr(self, name)!r}")
        if self.bidirectional and self.reverse:
            raise ValueError("reverse: expected False where bidirectional is True, found True")
        if self.bidirectional and self.merge not in MERGES[:-1]:
            raise ValueError(f"merge: expected one of {', '.join(MERGES[:-1])}, found {self.merge!r}")
        if self.residual and self.skip:
            raise ValueError("skip: expected False where residual is True, found True")
