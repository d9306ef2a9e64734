"""The recurrent language model."""

import functools
import math
import operator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnn_jax import decoding, losses
from rnn_jax.cells import make
from rnn_jax.decoding import DecodeStep
from rnn_jax.layers import Stack, VariationalDropout
from rnn_jax.models.embedding import embedded
from rnn_jax.models.readout import dense_weights
from rnn_jax.recurrence.rows import over_rows
from rnn_jax.typing import Carry, Key, Logits, Mask, Params, Projected, Tokens


class LanguageModel(nn.Module):
    """P(x_1..x_T) as a product of conditionals, each read off a recurrent state.

        e_t = one-hot(x_t) or E[x_t];   h_t = stack(h_tm1, e_t);   P(x_{t+1} | x_1..x_t) = softmax(h_t W + b)

    Attributes:
        vocabulary_size: V.
        cell: a cell as `rnn_jax.cells.make` reads it, e.g. "gru" or "gru(reset=before)".
        hidden_size: H, or one width a layer.
        num_layers: L, when `hidden_size` is one number.
        input: "onehot" feeds the symbols themselves, "embedding" a learned table E [V, embedding_size].
        embedding_size: None for the width of the first layer.
        tie_embeddings: W = Eᵀ (Press & Wolf 2017, arXiv 1608.05859; Inan et al. 2017, arXiv 1611.01462), after a linear
            map to `embedding_size` where the last layer has another width.
        dropout: rate on the input, between layers and before the softmax (Zaremba et al. 2014, arXiv 1409.2329).
        variational_dropout: `dropout` draws one mask for a whole sequence.
        weight_drop, zoneout, residual: see `rnn_jax.layers.Stack`.
        dtype: compute dtype of the matrix products.
    """

    vocabulary_size: int
    cell: str = "lstm"
    hidden_size: int | tuple[int, ...] = 256
    num_layers: int = 1
    input: str = "embedding"
    embedding_size: int | None = None
    tie_embeddings: bool = False
    dropout: float = 0.0
    variational_dropout: bool = False
    weight_drop: float = 0.0
    zoneout: float = 0.0
    residual: bool = False
    dtype: str = "float32"

    @property
    def is_random(self) -> bool:
        """Whether training needs the "dropout" random stream."""
        return bool(self.dropout or self.weight_drop or self.zoneout)

    @property
    def widths(self) -> tuple[int, ...]:
        """H of each layer."""
        return (self.hidden_size,) * self.num_layers if isinstance(self.hidden_size, int) else tuple(self.hidden_size)

    def setup(self) -> None:
        """Make the parts.

        Raises:
            ValueError: an unknown `input`, or tied embeddings without an embedding.
        """
        if self.input not in ("onehot", "embedding"):
            raise ValueError(f"input: expected 'onehot' or 'embedding', found {self.input!r}")
        if self.tie_embeddings and self.input == "onehot":
            raise ValueError("tie_embeddings: expected input='embedding', found input='onehot'")
        width = self.embedding_size or self.widths[0]
        if self.input == "embedding":
            # Inputs of unit variance: a recurrent layer learns several times faster from them than from Flax's default
            # of variance 1 / width, which suits a matrix that is tied to the softmax.
            scale = 1 / math.sqrt(width) if self.tie_embeddings else 1.0
            self.embedding = nn.Embed(
                self.vocabulary_size, width, dtype=self.dtype, embedding_init=nn.initializers.normal(scale)
            )
        self.stack = Stack(
            [make(self.cell, width) for width in self.widths],
            dropout=self.dropout,
            variational=self.variational_dropout,
            weight_drop=self.weight_drop,
            zoneout=self.zoneout,
            residual=self.residual,
            dtype=self.dtype,
        )
        self.drop = VariationalDropout(self.dropout) if self.variational_dropout else nn.Dropout(self.dropout)
        if not self.tie_embeddings:
            self.readout = nn.Dense(self.vocabulary_size, dtype=self.dtype)
        else:
            self.readout_bias = self.param("readout_bias", nn.initializers.zeros, (self.vocabulary_size,), jnp.float32)
            # Without parameters where it is not called.
            self.to_embedding = nn.Dense(width, use_bias=False, dtype=self.dtype)

    def embed(self, tokens: Tokens) -> Float[Array, "*TB D"]:
        """The input of the first layer."""
        if self.input == "embedding":
            return self.embedding(tokens)
        return jax.nn.one_hot(tokens, self.vocabulary_size, dtype=self.dtype)

    def logits(self, outputs: Float[Array, "*TB H"]) -> Logits:
        """Unnormalised log-probabilities of the next symbol, in float32, from the outputs of the last layer."""

        def of_rows(rows: Array) -> Array:
            if self.tie_embeddings:
                return self.embedding.attend(self._to_embedding(rows)).astype(jnp.float32) + self.readout_bias
            return self.readout(rows).astype(jnp.float32)

        return over_rows(of_rows, outputs)

    def __call__(
        self,
        tokens: Tokens,
        carry: tuple[Carry, ...] | None = None,
        *,
        mask: Mask | None = None,
        reset: Mask | None = None,
        deterministic: bool = True,
    ) -> tuple[tuple[Carry, ...], Logits]:
        """Read tokens, predict what follows each of them.

        Training, evaluation and decoding are this one call: token by token, with the carry handed on, it gives what it
        gives for the whole sequence.

        Args:
            tokens: [T, B] or [T], integers in 0..V-1.
            carry: one carry a layer, from a call before; None at the start of a text.
            mask: False = padding.
            reset: True forgets everything before that token (packed texts).
            deterministic: True switches off what is random.

        Returns:
            (carry, logits [T, B, V]); logits[t] belongs to token t + 1.
        """
        carry, outputs = self._read(tokens, carry, mask, reset, deterministic)
        return carry, self.logits(outputs)

    def _read(
        self, tokens: Tokens, carry: Any, mask: Mask | None, reset: Mask | None, deterministic: bool
    ) -> tuple[tuple[Carry, ...], Array]:
        """`__call__` without its last product: what the logits are read off, in their place."""
        inputs, table = embedded(self.embed, self.vocabulary_size, tokens, self.drop, deterministic)
        carry, outputs = self.stack(inputs, carry, mask=mask, reset=reset, deterministic=deterministic, table=table)
        return carry, self.drop(outputs, deterministic=deterministic)

    def loss(
        self,
        tokens: Tokens,
        targets: Tokens,
        carry: tuple[Carry, ...] | None = None,
        *,
        mask: Mask | None = None,
        reset: Mask | None = None,
        deterministic: bool = True,
    ) -> tuple[tuple[Carry, ...], tuple[Float[Array, ""], Float[Array, ""]]]:
        """`losses.cross_entropy` of the logits that `__call__` gives, without holding them: for large vocabularies.

        Args:
            tokens, carry, mask, reset, deterministic: see `__call__`; what is padding counts nothing.
            targets: [T, B] or [T], what follows each token.

        Returns:
            (carry, (sum in nats, number of targets)).
        """
        carry, outputs = self._read(tokens, carry, mask, reset, deterministic)
        if self.tie_embeddings:
            outputs = self._to_embedding(outputs)
            kernel, bias = self.embedding.embedding.T, self.readout_bias
        else:
            kernel, bias = dense_weights(self.readout, outputs)
        return carry, losses.linear_cross_entropy(outputs, kernel, bias, targets, mask, dtype=self.dtype)

    def _to_embedding(self, outputs: Array) -> Array:
        return outputs if outputs.shape[-1] == self.embedding.features else over_rows(self.to_embedding, outputs)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> tuple[Carry, ...]:
        """The carry at the start of a text, one a layer."""
        carry, _ = self(jnp.zeros((0, *batch_shape), jnp.int32))
        return carry

    def input_table(self) -> Projected:
        """What the first layer makes of each symbol of the vocabulary: one array [V, H] per gate."""
        return self.stack.project(self.embed(jnp.arange(self.vocabulary_size)))

    def decode(
        self, table: Projected, carry: tuple[Carry, ...], tokens: Int[Array, "*B"]
    ) -> tuple[tuple[Carry, ...], Float[Array, "*B V"]]:
        """`__call__` for one token of each sequence, the first layer's input products looked up in `input_table`."""
        projected = jax.tree.map(lambda x: x[tokens], table)
        carry, outputs = self.stack.step(carry, self.embed(tokens), projected)
        return carry, self.logits(outputs)

    def log_prob(
        self,
        sequence: Int[Array, "T *B"],
        carry: tuple[Carry, ...] | None = None,
        *,
        mask: Bool[Array, "T *B"] | None = None,
    ) -> Float[Array, "*B"]:
        """Log-likelihood of a sequence given its first symbol, in nats.

            log P(x_2..x_T | x_1) = Σ_{t=2..T} log P(x_t | x_1..x_{t-1})

        Args:
            sequence: [T, B] or [T]; a start symbol in front makes it the likelihood of the whole.
            carry: what was read before, as for `__call__`.
            mask: False = padding, wherever it lies: it is as if those symbols were not there.
        """
        _, logits = self(sequence[:-1], carry, mask=None if mask is None else mask[:-1])
        targets = sequence[1:]
        counted = jnp.ones(targets.shape, bool)
        if mask is not None:
            # What follows padding is predicted from the last symbol before it; the first symbol of all is given.
            steps = jnp.arange(len(targets), dtype=jnp.int32).reshape(-1, *[1] * (targets.ndim - 1))
            before = jax.lax.cummax(jnp.where(mask[:-1], steps, -1))
            logits = jnp.take_along_axis(logits, jnp.maximum(before, 0)[..., None], axis=0)
            counted = mask[1:] & (before >= 0)

        def of_one(logits: Array, targets: Array, mask: Array) -> Array:
            return -losses.cross_entropy(logits, targets, mask)[0]

        for _ in range(targets.ndim - 1):
            of_one = jax.vmap(of_one, in_axes=1)
        return of_one(logits, targets, counted)


def decode_step(model: LanguageModel, variables: Params) -> DecodeStep:
    """The model as a step of `rnn_jax.decoding`: the input products of all V symbols are taken before the loop."""
    table = model.apply(variables, method="input_table")

    def step(carry: Carry, tokens: Array) -> tuple[Carry, Array]:
        return model.apply(variables, table, carry, tokens, method="decode")  # pyright: ignore[reportReturnType]

    return step


def continue_text(
    model: LanguageModel,
    variables: Params,
    prompt: Int[Array | np.ndarray, "T B"],
    length: int,
    key: Key,
    *,
    carry: tuple[Carry, ...] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> tuple[tuple[Carry, ...], Int[Array, "N B"]]:
    """Read a prompt, then sample `length` symbols, in one compiled program.

    Args:
        model, variables: a language model and its parameters.
        prompt: [T, B], T >= 1.
        length: N.
        key: a JAX random key.
        carry: from a call before, when the prompt continues its text.
        temperature, top_k, top_p: see `rnn_jax.decoding.sample`.

    Returns:
        (carry, tokens [N, B]); the carry has read all but the last token, so `prompt=tokens[-1:]` with it goes on.

    Raises:
        ValueError: a prompt of another shape; `temperature`, `top_k` or `top_p` out of range (where their value is
            known).
    """
    decoding.check_sampling(temperature, top_k, top_p)
    if np.ndim(prompt) != 2 or len(prompt) < 1:
        raise ValueError(f"prompt: expected [T, B] with T >= 1, found {list(np.shape(prompt))}")
    top_k = None if top_k is None else operator.index(top_k)
    return _continue_text(model, variables, prompt, length, key, carry, temperature, top_k, top_p)


@functools.partial(jax.jit, static_argnames=("model", "length", "top_k"))
def _continue_text(
    model: LanguageModel,
    variables: Params,
    prompt: Array,
    length: int,
    key: Key,
    carry: tuple[Carry, ...] | None,
    temperature: float | Array,
    top_k: int | None,
    top_p: float | Array | None,
) -> tuple[tuple[Carry, ...], Array]:
    carry, _ = model.apply(variables, prompt[:-1], carry)  # pyright: ignore[reportAssignmentType]
    step = decode_step(model, variables)
    return decoding.sample(step, carry, prompt[-1], length, key, temperature=temperature, top_k=top_k, top_p=top_p)
