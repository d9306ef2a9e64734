"""Layers are tried once each on a few numbers: compile them at XLA's lowest level of optimisation."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation():
    """Halve the time that compilation takes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
