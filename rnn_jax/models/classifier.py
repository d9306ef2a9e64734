"""The recurrent classifier: one answer for a whole sequence; and several of them that answer together."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax.cells import make
from rnn_jax.cells.base import accumulation_dtype
from rnn_jax.layers import Pooling, Stack, VariationalDropout, WordDropout


class Classifier(nn.Module):
    """P(class | x_1..x_T), read off the pooled outputs of a recurrent stack.

        e_t = E[x_t] + Σ_g S[piece_g(x_t)] / √G_t;   h_1..h_T = stack(e_1..e_T);   P = softmax(W pool(h_1..h_T) + b)

    with G_t the number of pieces of x_t. Padding may lie anywhere: with a mask, an example gives the same logits alone
    as in any batch.

    Attributes:
        vocabulary_size: V.
        classes: the names of the C classes, in the order of the logits.
        cell: a cell as `rnn_jax.cells.make` reads it.
        hidden_size: H.
        num_layers: L.
        bidirectional: whether each layer reads both ways, its outputs [h→; h←] of width 2H.
        pooling: "last", "mean", "max" or "attention", see `rnn_jax.layers.Pooling`.
        embedding_size: D.
        pieces: rows of S, the table of pieces of words (`rnn_jax.data.word_pieces`); 0: none.
        dropout: rate on the inputs, between layers (one mask a sequence) and on what is pooled.
        word_dropout: rate at which whole words become unknown.
        unknown: the number of the unknown symbol.
        dtype: compute dtype of the matrix products.
    """

    vocabulary_size: int
    classes: tuple[str, ...]
    cell: str = "lstm"
    hidden_size: int = 128
    num_layers: int = 1
    bidirectional: bool = False
    pooling: str = "max"
    embedding_size: int = 128
    pieces: int = 0
    dropout: float = 0.0
    word_dropout: float = 0.0
    unknown: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "T B"],
        mask: Bool[Array, "T B"] | None = None,
        pieces: Int[Array, "T B G"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B C"]:
        """Read whole sequences.

        Args:
            tokens: integers in 0..V-1.
            mask: False = padding.
            pieces: the numbers of the pieces of each word, 0 = none; wanted where the model has a table of them.
            deterministic: True switches dropout off.

        Returns:
            logits, float32 (float64, where the model computes in it).

        Raises:
            ValueError: `pieces` given without a table, or missing.
        """
        if (pieces is None) != (self.pieces == 0):
            raise ValueError(
                f"pieces: expected {'none' if self.pieces == 0 else 'those of each word'}, "
                f"found {'none' if pieces is None else 'some'}"
            )
        # Small vectors: a word that training has hardly seen says next to nothing.
        start = nn.initializers.normal(0.1)
        shown = WordDropout(self.word_dropout, self.unknown)(tokens, deterministic)
        inputs = nn.Embed(self.vocabulary_size, self.embedding_size, self.dtype, embedding_init=start, name="words")(
            shown
        )
        if pieces is not None:
            vectors = nn.Embed(self.pieces, self.embedding_size, self.dtype, embedding_init=start, name="pieces")(
                pieces
            )
            # A dropped word hides its pieces too.
            present = (pieces > 0) & (shown == tokens)[..., None]
            number = jnp.maximum(present.sum(-1, keepdims=True), 1).astype(vectors.dtype)
            inputs = inputs + jnp.where(present[..., None], vectors, 0).sum(-2) / jnp.sqrt(number)
        inputs = VariationalDropout(self.dropout)(inputs, deterministic)
        stack = Stack(
            [make(self.cell, self.hidden_size)] * self.num_layers,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            variational=True,
            dtype=self.dtype,
            name="stack",
        )
        _, outputs = stack(inputs, mask=mask, deterministic=deterministic)
        pooled = Pooling(self.pooling, bidirectional=self.bidirectional, name="pooling")(outputs, mask)
        pooled = nn.Dropout(self.dropout)(pooled, deterministic=deterministic)
        return nn.Dense(len(self.classes), dtype=self.dtype, name="readout")(pooled).astype(
            accumulation_dtype(self.dtype)
        )


class ClassifierEnsemble(Classifier):
    """Classifiers of one shape, each with parameters and dropout of its own, whose probabilities are averaged.

        P(class | x) = Σ_k P_k(class | x) / K

    On a few thousand texts the members err differently, and their mean less than any of them (Hansen & Salamon 1990).
    They run one after the other in one compiled loop; every parameter has a leading axis K.

    Attributes:
        members: K.
    """

    members: int = 4

    @nn.compact
    def member_logits(
        self,
        tokens: Int[Array, "T B"],
        mask: Bool[Array, "T B"] | None = None,
        pieces: Int[Array, "T B G"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "K B C"]:
        """The logits of every member: what training takes the loss of. Arguments as for `Classifier`."""

        def one(network: Classifier, carry: tuple[()], _: None) -> tuple[tuple[()], Array]:
            return carry, network(tokens, mask, pieces, deterministic=deterministic)

        fields = [field.name for field in dataclasses.fields(Classifier) if field.name not in ("parent", "name")]
        network = Classifier(**{name: getattr(self, name) for name in fields}, name="member")
        each = nn.scan(
            one, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=self.members
        )
        return each(network, (), None)[1]

    def __call__(
        self,
        tokens: Int[Array, "T B"],
        mask: Bool[Array, "T B"] | None = None,
        pieces: Int[Array, "T B G"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B C"]:
        """The log-probabilities of the mean. Arguments as for `Classifier`."""
        logits = self.member_logits(tokens, mask, pieces, deterministic=deterministic)
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - math.log(self.members)
