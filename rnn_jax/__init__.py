"""Recurrent networks as pure functions in JAX."""
