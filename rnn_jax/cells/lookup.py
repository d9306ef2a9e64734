"""A cell that reads rows of a table."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.base import Cell, cell_factory
from rnn_jax.typing import Params, Projected, Tokens


def pays(rows: int, symbols: Tokens) -> bool:
    """Whether it takes less time to project each row of a table than each symbol that is read, gradients included.

    Of the products and their gradients alone, at half as many rows as symbols it takes three quarters of the time, at a
    twentieth a quarter (a CPU of 2 cores, jax 0.10.2); `benchmarks/lookup.py` times whole layers.
    """
    return 2 * rows <= math.prod(symbols.shape)


@cell_factory
def lookup(cell: Cell) -> Cell:
    """Let a cell read the numbers of rows of a table, such as an embedding.

        x_t = E[s_t],   project(x_t) = project(E)[s_t]

    What depends on the input alone is the same whenever a symbol comes again. Where it `pays`, that is taken once for
    each row, and its gradient too: V rows of matrix products in place of T·B. Else the rows are taken first.

    The parameters are {"cell": those of the cell, "table": E [V, D]}, the inputs integers [T, B] in 0..V-1; V and more
    read nan. `init` is that of the cell alone.

    Args:
        cell: any cell that reads one array.
    """

    def project(params: Params, symbols: Tokens) -> Projected:
        own, table = params["cell"], params["table"]
        # A function of one batch shape cannot be asked for all rows.
        if not (cell.rank_polymorphic and pays(len(table), symbols)):
            return cell.project(own, jnp.take(table, symbols, axis=0))
        return jax.tree.map(lambda rows: jnp.take(rows, symbols, axis=0), cell.project(own, table))

    def of_own(function: Callable[..., Any] | None) -> Any:
        return None if function is None else lambda params, *arguments: function(params["cell"], *arguments)

    return cell.replace(
        initial_carry=of_own(cell.initial_carry),
        project=project,
        recur=of_own(cell.recur),
        update=of_own(cell.update),
        readout=of_own(cell.readout),
        coefficients=of_own(cell.coefficients),
        feature_ndim=0,
    )
