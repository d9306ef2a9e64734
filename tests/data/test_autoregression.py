"""Linear autoregression beside scikit-learn, and on a series that obeys one."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from rnn_jax.data.autoregression import LinearAutoregression
from rnn_jax.data.errors import DataError


def series(length=60):
    """x_{t+1} = b + x_t A_1 + x_{t-1} A_2, and noise that is part of it."""
    random = np.random.default_rng(0)
    values = list(random.normal(size=(2, 2)))
    first, second = np.array([[0.5, 0.2], [-0.3, 0.4]]), np.array([[0.1, 0.0], [0.2, -0.5]])
    for _ in range(length - 2):
        values.append(np.array([1.0, -2.0]) + values[-1] @ first + values[-2] @ second)
    return np.array(values), np.stack([first, second])


def test_a_linear_rule_is_found():
    values, rule = series(12)
    model = LinearAutoregression.fit(values, 2)
    np.testing.assert_allclose(model.weights, rule, atol=1e-6)
    np.testing.assert_allclose(model.intercept, [1, -2], atol=1e-6)
    np.testing.assert_allclose(model.one_step(values), values[2:], atol=1e-8)
    np.testing.assert_allclose(model.forecast(values[:4], 8), values[4:], atol=1e-6)


def test_it_is_the_least_squares_fit():
    values = np.random.default_rng(1).normal(size=(50, 3)).cumsum(axis=0)
    order = 4
    lags = np.array([values[t - order : t][::-1].ravel() for t in range(order, 50)])
    reference = LinearRegression().fit(lags, values[order:])
    model = LinearAutoregression.fit(values, order)
    np.testing.assert_allclose(model.one_step(values), reference.predict(lags), atol=1e-8)
    np.testing.assert_allclose(model.weights.reshape(12, 3), reference.coef_.T, atol=1e-8)


def test_many_series_are_continued_like_each():
    values = np.random.default_rng(2).normal(size=(40, 2))
    model = LinearAutoregression.fit(values, 3)
    starts = np.stack([values[:5], values[10:15], values[20:25]], axis=1)
    together = model.forecast(starts, 6)
    assert together.shape == (6, 3, 2)
    for index in range(3):
        np.testing.assert_allclose(together[:, index], model.forecast(starts[:, index], 6), atol=1e-12)
    np.testing.assert_allclose(together[0, 0], model.one_step(values[2:6])[0], atol=1e-12)


def test_the_order_is_the_one_that_validates_best():
    values = np.random.default_rng(3).normal(size=(300, 1))
    for step in range(3, 300):
        values[step] = 0.9 * values[step - 3] + 0.1 * values[step]
    train, valid = values[:150], values[150:]
    errors = {}
    for order in (1, 2, 4, 8, 10):
        fit = LinearAutoregression.fit(train, order)
        errors[order] = np.mean((fit.one_step(valid[10 - order :]) - valid[10:]) ** 2)
    assert LinearAutoregression.select(train, valid, 10).order == min(errors, key=errors.__getitem__)


@pytest.mark.parametrize("order", [0, 5])
def test_an_order_that_does_not_fit_is_refused(order):
    with pytest.raises(DataError, match=f"order: expected 1 to 4, below the number of rows, found {order}"):
        LinearAutoregression.fit(np.zeros((5, 1)), order)
