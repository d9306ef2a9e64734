"""Decoding over any decode step: greedy, sampled, beam search."""

from rnn_jax.decoding.beam import Hypotheses, beam_search
from rnn_jax.decoding.sampling import (
    DecodeStep,
    check_sampling,
    filter_top_k,
    filter_top_p,
    greedy,
    sample,
    warp,
)

__all__ = [
    "DecodeStep",
    "Hypotheses",
    "beam_search",
    "check_sampling",
    "filter_top_k",
    "filter_top_p",
    "greedy",
    "sample",
    "warp",
]
