"""Flax Linen models."""

from rnn_jax.models.language_model import LanguageModel

__all__ = ["LanguageModel"]
