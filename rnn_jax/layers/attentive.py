"""Decoder cells that attend inside the loop, because what they read feeds back into their input.

Their parameters hold the memory too, under "memory": it is the same at every step, and its gradient is taken with those
of the weights. Where attention does not feed back, none of this is needed: it is computed for all steps after the loop.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnn_jax.cells.base import Cell, from_function, matmul, widen, zero_carry
from rnn_jax.layers.attention import Attention
from rnn_jax.typing import Carry, Inputs, Key, Params, Preactivations, Projected

_GLOROT = jax.nn.initializers.glorot_uniform()


class AttentiveCarry(NamedTuple):
    """The carry of the cell and its last output, which is the next query."""

    cell: Carry
    output: Array


class FeedingCarry(NamedTuple):
    """The carry of each layer and the last attentional vector."""

    cells: tuple[Carry, ...]
    feed: Array


@functools.cache
def attentive(cell: Cell, attention: Attention, hidden_size: int, memory_size: int) -> Cell:
    """A cell that reads the memory before each step.

        c_t = attention(s_tm1);   s_t = cell(s_tm1, [x_t; c_t]);   y_t = (s_t, c_t)

    Args:
        cell: the recurrent cell.
        attention: how the memory is read.
        hidden_size: H, the width of the cell's output.
        memory_size: M, the width of the memory's values.

    Source: Bahdanau, Cho & Bengio 2015 (arXiv 1409.0473).
    """

    def init(key: Key, input_size: int) -> Params:
        key_cell, key_attention = jax.random.split(key)
        return {
            "cell": cell.init(key_cell, input_size + memory_size),
            "attention": attention.init(key_attention, hidden_size, memory_size),
        }

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> AttentiveCarry:
        carry = cell.initial_carry(params["cell"], batch_shape)
        dtype = jax.tree.leaves(carry)[0].dtype
        return AttentiveCarry(carry, jnp.zeros((*batch_shape, hidden_size), dtype))

    def project(params: Params, inputs: Inputs) -> Projected:
        return inputs

    # Not affine in the carry. Deferred gradients would repeat its products twice; `unroll(gradient="autodiff")` once.
    def recur(params: Params, carry: AttentiveCarry, projected: Projected) -> Preactivations:
        context, _ = attention(params["attention"], params["memory"], carry.output)
        inputs = cell.project(params["cell"], jnp.concatenate([projected, context], axis=-1))
        preactivations = cell.recur(params["cell"], carry.cell, inputs)
        return preactivations, context, inputs if cell.readout is not None else ()

    def update(params: Params, carry: AttentiveCarry, preactivations: Any) -> tuple[AttentiveCarry, Any]:
        inner, context, inputs = preactivations
        new_carry, output = cell.update(params["cell"], carry.cell, inner)
        if cell.readout is not None:
            output = cell.readout(params["cell"], new_carry, inputs)
        return AttentiveCarry(new_carry, output), (output, context)

    return Cell(init, initial_carry, project, recur, update, rank_polymorphic=cell.rank_polymorphic)


@functools.cache
def input_feeding(
    cells: tuple[Cell, ...], attention: Attention, hidden_size: int, memory_size: int, feed_size: int
) -> Cell:
    """Layers of cells whose input is joined by what was attended to at the step before.

        s_t = cells(s_tm1, [x_t; f_tm1]);   c_t = attention(s_t);   f_t = tanh([c_t; s_t] W + b);   y_t = (f_t, s_t)

    Args:
        cells: one a layer, all of width H.
        attention: how the memory is read.
        hidden_size: H.
        memory_size: M, the width of the memory's values.
        feed_size: the width of f.

    Source: Luong, Pham & Manning 2015 (arXiv 1508.04025).
    """

    def init(key: Key, input_size: int) -> Params:
        key_attention, key_combine, *keys = jax.random.split(key, 2 + len(cells))
        widths = [input_size + feed_size] + [hidden_size] * (len(cells) - 1)
        return {
            "cells": {
                f"layer_{index}": cell.init(key, width)
                for index, (cell, key, width) in enumerate(zip(cells, keys, widths, strict=True))
            },
            "attention": attention.init(key_attention, hidden_size, memory_size),
            "combine": _GLOROT(key_combine, (memory_size + hidden_size, feed_size), jnp.float32),
            "combine_bias": jnp.zeros(feed_size, jnp.float32),
        }

    def initial_carry(params: Params, batch_shape: tuple[int, ...]) -> FeedingCarry:
        carries = tuple(
            cell.initial_carry(params["cells"][f"layer_{index}"], batch_shape) for index, cell in enumerate(cells)
        )
        return FeedingCarry(carries, zero_carry(params["combine"], batch_shape, feed_size))

    def step(params: Params, carry: FeedingCarry, inputs: Inputs) -> tuple[FeedingCarry, tuple[Array, Array]]:
        outputs = jnp.concatenate([inputs, carry.feed], axis=-1)
        carries = []
        for index, (cell, layer_carry) in enumerate(zip(cells, carry.cells, strict=True)):
            layer_carry, outputs = cell(params["cells"][f"layer_{index}"], layer_carry, outputs)
            carries.append(layer_carry)
        context, _ = attention(params["attention"], params["memory"], outputs)
        joined = jnp.concatenate([context, outputs], axis=-1)
        feed = jnp.tanh(matmul(joined, params["combine"]) + widen(params["combine_bias"]))
        return FeedingCarry(tuple(carries), feed), (feed, outputs)

    polymorphic = all(cell.rank_polymorphic for cell in cells)
    return from_function(step, init, initial_carry, rank_polymorphic=polymorphic)
