"""The forecaster of a multivariate series."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnn_jax.models.readout import RecurrentReadout
from rnn_jax.recurrence.packed import packed_products
from rnn_jax.typing import Carry, Mask, Params


class Forecaster(nn.Module):
    """The next row of a series from all rows so far.

        h_t = stack(h_tm1, x_t);   x̂_{t+1} = x_t + h_t W + b

    x is the series in units of its own: (value - centre) / scale, column by column. The network learns the change from
    one row to the next, so that a silent one says what persistence says.

    Attributes:
        columns: the names of the D columns.
        center: what is taken for zero in each column.
        scale: what is taken for one; as a rule the standard deviation over the rows trained on.
        cell: a cell as `rnn_jax.cells.make` reads it.
        hidden_size: H.
        num_layers: L.
        dropout: rate between layers.
        dtype: compute dtype of the matrix products.
    """

    columns: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    cell: str = "gru"
    hidden_size: int = 64
    num_layers: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        series: Float[Array, "T *B D"],
        carry: tuple[Carry, ...] | None = None,
        *,
        mask: Mask | None = None,
        deterministic: bool = True,
    ) -> tuple[tuple[Carry, ...], Float[Array, "T *B D"]]:
        """Read rows, forecast what follows each of them.

        Args:
            series: [T, B, D] or [T, D], standardised.
            carry: one carry a layer, from a call before; None at the start of a series.
            mask: False = padding.
            deterministic: True switches dropout off.

        Returns:
            (carry, forecasts [T, B, D], standardised); forecasts[t] belongs to row t + 1.
        """
        network = RecurrentReadout(
            len(self.columns),
            cell=self.cell,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            dropout=self.dropout,
            dtype=self.dtype,
            name="network",
        )
        carry, change = network(series, carry, mask=mask, deterministic=deterministic)
        return carry, series + change

    def standardise(self, values: Any) -> np.ndarray:
        """Values [..., D] as the network reads them, float32."""
        # In double precision: of a column far from zero, float32 would keep little but its centre.
        return ((np.asarray(values, np.float64) - self.center) / self.scale).astype(np.float32)

    def restore(self, standardised: Any) -> np.ndarray:
        """The inverse of `standardise`, float64."""
        return np.asarray(standardised, np.float64) * self.scale + self.center


@functools.partial(jax.jit, static_argnames=("model", "horizon"))
def free_run(
    model: Forecaster,
    variables: Params,
    series: Float[Array, "T *B D"],
    horizon: int,
    carry: tuple[Carry, ...] | None = None,
) -> tuple[tuple[Carry, ...], Float[Array, "N *B D"]]:
    """Read a series, then go on for `horizon` rows, each forecast read in its turn, in one compiled program.

    Args:
        model, variables: a forecaster and its parameters.
        series: [T, B, D], standardised, T >= 1.
        horizon: N >= 1.
        carry: from a call before, when the series goes on.

    Returns:
        (carry, forecasts [N, B, D], standardised); the carry has read all but the last forecast.

    Raises:
        ValueError: a horizon below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon: expected at least 1, found {horizon}")

    def step(state: tuple[Carry, Array], _: None) -> tuple[tuple[Carry, Array], Array]:
        carry, row = state
        result: Any = model.apply(variables, row[None], carry)
        return (result[0], result[1][0]), result[1][0]

    read: Any = model.apply(variables, series, carry)
    first = read[1][-1]
    state = (read[0], first)
    (after, _), rest = jax.lax.scan(packed_products(step, state, None, inference=True), state, length=horizon - 1)
    return after, jnp.concatenate([first[None], rest])
