"""Time and batch as one axis, or as they are: the same numbers."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import cells, unroll
from rnn_jax.recurrence.rows import one_axis_pays, over_rows


def test_rows_of_a_sequence():
    kernel = np.random.default_rng(0).normal(size=(3, 4))
    sequence = np.random.default_rng(1).normal(size=(5, 2, 3))
    shapes = []

    def product(rows):
        shapes.append(rows.shape)
        return rows @ kernel

    assert one_axis_pays() == (jax.default_backend() == "cpu" and jax.device_count() == 1)
    np.testing.assert_allclose(over_rows(product, jnp.asarray(sequence)), sequence @ kernel, rtol=1e-5, atol=1e-6)
    assert shapes == [(10, 3) if one_axis_pays() else (5, 2, 3)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("elman", "lstm") else ()) for name in cells.CELLS]
)
def test_both_axes_as_they_are(name, monkeypatch):
    """Several devices need it; one gives the same with it."""
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 3)), jnp.float32)
    found = []
    for devices in (1, 2):
        monkeypatch.setattr("rnn_jax.cells.base.jax.device_count", lambda devices=devices: devices)
        cell = cells.CELLS[name](4)
        params = cell.init(jax.random.key(0), 3)
        loss = jax.jit(jax.grad(lambda p, x, cell=cell: jnp.square(unroll(cell, p, x)[1]).sum(), argnums=(0, 1)))
        # What it knows of the number of devices is not among its arguments.
        sys.modules["rnn_jax.unroll"]._unroll.clear_cache()
        text = str(jax.make_jaxpr(loss)(params, inputs))
        found.append((loss(params, inputs), "[10," in text.replace("f32", "").replace(" ", "")))
    (one, flat), (other, spread) = found
    assert flat or not cell.rank_polymorphic
    assert not spread
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)
