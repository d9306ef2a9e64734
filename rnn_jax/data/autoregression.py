"""Linear autoregression by least squares: what a forecaster has to beat."""

import dataclasses

import numpy as np

from rnn_jax.data.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False)
class LinearAutoregression:
    """The next row as a linear function of the last p rows.

        x̂_{t+1} = b + Σ_{k=1..p} x_{t+1-k} A_k

    Attributes:
        intercept: b [D].
        weights: A [p, D, D].
    """

    intercept: np.ndarray
    weights: np.ndarray

    @property
    def order(self) -> int:
        """p."""
        return len(self.weights)

    @classmethod
    def fit(cls, values: np.ndarray, order: int) -> "LinearAutoregression":
        """Minimise the sum of squared errors over a series [T, D]; the least-norm solution where there are several.

        Raises:
            DataError: T is not above the order.
        """
        if not 1 <= order < len(values):
            raise DataError(f"order: expected 1 to {len(values) - 1}, below the number of rows, found {order}")
        values, width = np.asarray(values, np.float64), values.shape[1]
        lags = _lags(values[:-1], order).reshape(len(values) - order, order * width)
        ones = np.ones((len(lags), 1))
        solution = np.linalg.lstsq(np.concatenate([ones, lags], axis=1), values[order:], rcond=None)[0]
        return cls(solution[0], solution[1:].reshape(order, width, width))

    @classmethod
    def select(cls, train: np.ndarray, valid: np.ndarray, longest: int) -> "LinearAutoregression":
        """Of the fits to `train` of orders 1, 2, 4, ... up to `longest`, the one with the least error on `valid`.

        Args:
            train: [T, D].
            valid: [longest + S, D]; the S last rows are forecast.
            longest: the largest order tried.
        """
        orders = sorted({min(2**power, longest) for power in range(longest.bit_length() + 1)})
        fits = [cls.fit(train, order) for order in orders]
        errors = [np.mean((fit.one_step(valid[longest - fit.order :]) - valid[longest:]) ** 2) for fit in fits]
        return fits[int(np.argmin(errors))]

    def one_step(self, values: np.ndarray) -> np.ndarray:
        """The forecasts of rows p..T-1 of a series [T, D], each from the rows before it: [T - p, D]."""
        return self.intercept + np.einsum("tkd,kde->te", _lags(values[:-1], self.order), self.weights)

    def forecast(self, values: np.ndarray, horizon: int) -> np.ndarray:
        """Go on from the end of series [T, ..., D] for N rows by its own forecasts: [N, ..., D].

        Raises:
            ValueError: the series is shorter than the order.
        """
        if len(values) < self.order:
            raise ValueError(f"values: expected at least {self.order} rows, found {len(values)}")
        rows = list(values[-self.order :])
        for _ in range(horizon):
            recent = np.stack(rows[: -self.order - 1 : -1])
            rows.append(self.intercept + np.einsum("k...d,kde->...e", recent, self.weights))
        return np.stack(rows[self.order :])


def _lags(values: np.ndarray, order: int) -> np.ndarray:
    """[T, D] -> [T - p + 1, p, D]: each row with the p - 1 rows before it, the latest first."""
    return np.stack([values[order - 1 - k : len(values) - k] for k in range(order)], axis=1)
