"""DropConnect on recurrent matrices, drawn once for a whole sequence."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PyTree

from rnn_jax.cells.base import Cell, reads
from rnn_jax.typing import Carry, Inputs, Params, Projected


class WeightDrop(nn.Module):
    """Drop elements of the recurrent matrices, the same ones at every step and for every sequence of the batch.

        R' = M ⊙ R / (1 - p),   M ~ Bernoulli(1 - p)

    It acts on the parameters before the loop, so the loop and its speed stay as they are. Needs the "dropout" random
    stream.

    Attributes:
        cell: the cell whose parameters they are.
        rate: p.

    Source: Wan et al. 2013 (DropConnect); Merity, Keskar & Socher 2018 (arXiv 1708.02182).
    """

    cell: Cell
    rate: float

    @nn.compact
    def __call__(self, params: Params, inputs: Inputs, deterministic: bool) -> Params:
        """The parameters with their recurrent matrices thinned out.

        Args:
            params: of the cell.
            inputs: [B, D], what the cell is to read at one step; only shapes matter.
            deterministic: True changes nothing.
        """
        if deterministic:
            return params

        def drop(leaf: Any, recurrent: bool) -> Any:
            return nn.Dropout(self.rate)(leaf, deterministic=False) if recurrent else leaf

        return jax.tree.map(drop, params, recurrent_matrices(self.cell, params, inputs))


def recurrent_matrices(cell: Cell, params: Params, inputs: Inputs) -> PyTree:
    """Which parameters are recurrent matrices: those of two or more axes that only `recur` or `update` reads.

    Args:
        cell: any cell. One made by `from_function` projects nothing, so all its matrices count.
        params: its parameters.
        inputs: [B, D], one step of the cell; only shapes matter.

    Returns:
        A tree of bool like `params`.
    """
    first = jax.tree.leaves(inputs)[0]
    batch_shape = first.shape[: first.ndim - cell.feature_ndim]
    carry, projected = jax.eval_shape(
        lambda p, x: (cell.initial_carry(p, batch_shape), cell.project(p, x)), params, inputs
    )

    def step(params: Params, carry: Carry, projected: Projected) -> tuple[Carry, Any]:
        return cell.update(params, carry, cell.recur(params, carry, projected))

    read_by_step = reads(step, params, carry, projected)
    read_by_project = reads(cell.project, params, inputs)
    flags = [
        leaf.ndim > 1 and in_step and not in_project
        for leaf, in_step, in_project in zip(jax.tree.leaves(params), read_by_step, read_by_project, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), flags)
