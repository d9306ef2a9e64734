"""A recurrent decoder under a context vector: from one vector to a sequence."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.cells import Cell, make
from rnn_jax.layers import Stack
from rnn_jax.recurrence.rows import over_rows
from rnn_jax.typing import Carry, Logits, Mask, Tokens

CONTEXTS = ("input", "state", "both")


class ConditionalDecoder(nn.Module):
    """P(y_1..y_T | c) as a product of conditionals, each read off a recurrent state that knows c.

        x_t = [E[y_tm1]; c]                             context = "input" or "both"; else x_t = E[y_tm1]
        h_0 = h_init + tanh(c W_0 + b_0)                context = "state" or "both"; else h_0 = h_init
        h_t = stack(h_tm1, x_t);   P(y_t | y_1..y_tm1, c) = softmax(h_t W + b)

    c [C] is the context, h_init the cell's own initial carry. With "state" every leaf of the carry of every layer has
    its own rows of W_0. At each step: Cho et al. 2014 (arXiv 1406.1078); as the initial state: Sutskever et al. 2014
    (arXiv 1409.3215).

    Attributes:
        vocabulary_size: V.
        cell: a cell as `rnn_jax.cells.make` reads it.
        hidden_size: H.
        num_layers: L.
        embedding_size: width of E.
        context: "input", "state" or "both".
        dropout: rate on the inputs, between layers and before the softmax.
        dtype: compute dtype of the matrix products.
    """

    vocabulary_size: int
    cell: str = "gru"
    hidden_size: int = 128
    num_layers: int = 1
    embedding_size: int = 32
    context: str = "both"
    dropout: float = 0.0
    dtype: str = "float32"

    def setup(self) -> None:
        """Make the parts.

        Raises:
            ValueError: an unknown `context`; a cell whose carry is not of real numbers, where the context is to be its
                initial state.
        """
        if self.context not in CONTEXTS:
            raise ValueError(f"context: expected one of {', '.join(CONTEXTS)}, found {self.context!r}")
        cells = [make(self.cell, self.hidden_size) for _ in range(self.num_layers)]
        self.embedding = nn.Embed(
            self.vocabulary_size, self.embedding_size, dtype=self.dtype, embedding_init=nn.initializers.normal(1.0)
        )
        self.stack = Stack(cells, dropout=self.dropout, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.readout = nn.Dense(self.vocabulary_size, dtype=self.dtype)
        if self.context != "input":
            leaves = [jax.tree.leaves(_carry_of_one(cell)) for cell in cells]
            if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for layer in leaves for leaf in layer):
                raise ValueError(f"context: expected 'input', as the state of {self.cell} is not all real numbers")
            self.to_carry = [nn.Dense(sum(math.prod(leaf.shape) for leaf in layer)) for layer in leaves]

    def begin(self, context: Float[Array, "*B C"], extras: Float[Array, "T *B E"] | None = None) -> tuple[Carry, ...]:
        """The carry before the first step, one a layer; `extras` only says how wide they are."""
        nothing = jnp.zeros((0, *context.shape[:-1]), jnp.int32)
        inputs = self._inputs(nothing, context, None if extras is None else extras[:0])
        carries, _ = self.stack(inputs)
        if self.context == "input":
            return carries
        begun = []
        for carry, layer in zip(carries, self.to_carry, strict=True):
            leaves, structure = jax.tree.flatten(carry)
            values = jnp.tanh(layer(context).astype(jnp.float32))
            new = []
            for leaf in leaves:
                shape = leaf.shape[context.ndim - 1 :]
                value, values = jnp.split(values, [math.prod(shape)], axis=-1)
                new.append(leaf + value.reshape(*context.shape[:-1], *shape).astype(leaf.dtype))
            begun.append(jax.tree.unflatten(structure, new))
        return tuple(begun)

    def __call__(
        self,
        tokens: Tokens,
        context: Float[Array, "*B C"],
        carry: tuple[Carry, ...] | None = None,
        *,
        extras: Float[Array, "T *B E"] | None = None,
        mask: Mask | None = None,
        deterministic: bool = True,
    ) -> tuple[tuple[Carry, ...], Logits]:
        """Read y_0..y_{T-1}, predict what follows each of them: all at once in training, one by one in decoding.

        Args:
            tokens: [T, B], integers in 0..V-1.
            context: [B, C].
            carry: from a call before; None for `begin(context, extras)`.
            extras: [T, B, E], further input features of each step, such as its position.
            mask: False = padding.
            deterministic: True switches dropout off.

        Returns:
            (carry, logits [T, B, V]).
        """
        if carry is None:
            carry = self.begin(context, extras)
        inputs = self.drop(self._inputs(tokens, context, extras), deterministic=deterministic)
        carry, outputs = self.stack(inputs, carry, mask=mask, deterministic=deterministic)
        outputs = self.drop(outputs, deterministic=deterministic)
        return carry, over_rows(self.readout, outputs).astype(jnp.float32)

    def _inputs(self, tokens: Array, context: Array, extras: Array | None) -> Array:
        parts = [self.embedding(tokens)]
        if self.context != "state":
            parts.append(jnp.broadcast_to(context, (len(tokens), *context.shape)).astype(self.dtype))
        if extras is not None:
            parts.append(extras.astype(self.dtype))
        return jnp.concatenate(parts, axis=-1)


def _carry_of_one(cell: Cell) -> Carry:
    """Shapes and dtypes of the carry of a single sequence."""
    return jax.eval_shape(lambda: cell.initial_carry(cell.init(jax.random.key(0), 1), ()))
