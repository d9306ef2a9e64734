"""The forecaster: units, persistence, running free."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.models import Forecaster
from rnn_jax.models.forecaster import free_run

SERIES = jax.random.normal(jax.random.key(1), (7, 3, 2))


@pytest.fixture(scope="module")
def trained():
    model = Forecaster(("a", "b"), center=(1e9, -2.0), scale=(1.0, 0.25), hidden_size=4)
    return model, model.init(jax.random.key(0), SERIES)


def test_units_go_and_come_back(trained):
    model, _ = trained
    values = np.array([[1e9 + 0.5, -2.0], [1e9 - 2, -1.5]])
    standardised = model.standardise(values)
    assert standardised.dtype == np.float32
    np.testing.assert_array_equal(standardised, [[0.5, 0], [-2, 2]])
    np.testing.assert_array_equal(model.restore(jnp.asarray(standardised)), values)


def test_a_silent_network_is_persistence(trained):
    model, variables = trained
    _, forecasts = model.apply(jax.tree.map(jnp.zeros_like, variables), SERIES)
    np.testing.assert_array_equal(forecasts, SERIES)


def test_running_free_reads_its_own_forecasts(trained):
    model, variables = trained
    carry, forecasts = free_run(model, variables, SERIES, 5)
    assert forecasts.shape == (5, 3, 2)
    read_carry, read = model.apply(variables, jnp.concatenate([SERIES, forecasts[:-1]]))
    np.testing.assert_allclose(read[-5:], forecasts, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, read_carry)


def test_one_row_ahead_is_the_last_forecast_of_the_call(trained):
    model, variables = trained
    np.testing.assert_allclose(
        free_run(model, variables, SERIES, 1)[1][0], model.apply(variables, SERIES)[1][-1], atol=1e-6
    )


def test_a_horizon_of_nothing_is_named(trained):
    model, variables = trained
    with pytest.raises(ValueError, match="horizon: expected at least 1, found 0"):
        free_run(model, variables, SERIES, 0)
