"""The tagger: a label for every element of a sequence."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax import crf, losses
from rnn_jax.cells import make
from rnn_jax.crf import Transitions
from rnn_jax.layers import Spelling, Stack, VariationalDropout, WordDropout
from rnn_jax.recurrence.rows import over_rows


class Tagger(nn.Module):
    """Labels of words or characters, each in the light of all that stands before and behind it.

        x_t = [E[token_t]; spelling(characters_t); F_1[feature_t1]; F_2[feature_t2]; ...]
        h_t = stack of bidirectional recurrent layers over x;   e_t = h_t W + b

        softmax:  P(y | x) = Π_t softmax(e_t)[y_t]
        crf:      P(y | x) = exp s(y) / Σ_y' exp s(y'), with s of `rnn_jax.crf` from e and learned transitions

    Attributes:
        labels: K.
        vocabulary_size: V.
        embedding_size: the width of E.
        cell: a cell as `rnn_jax.cells.make` reads it.
        hidden_size: H of each direction.
        num_layers: L.
        characters: the number of characters that words are spelled with; 0: tokens are not spelled.
        character_filters: the width of the spelling, see `rnn_jax.layers.Spelling`.
        features: the number of values of each further feature of a token.
        feature_size: the width of each F.
        crf: a linear-chain CRF in place of independent softmaxes.
        dropout: rate on x, between layers and on h, one mask a sequence (Gal & Ghahramani 2016, arXiv 1512.05287). It
            serves taggers better than masks drawn anew at each step (Reimers & Gurevych 2017, arXiv 1707.06799).
        word_dropout: the share of tokens that are read as unknown in training, so that unknown ones are learned.
        unknown: the token that stands for unknown ones.
        dtype: compute dtype of the matrix products.

    Source: Huang, Xu & Yu 2015 (arXiv 1508.01991); Ma & Hovy 2016 (arXiv 1603.01354).
    """

    labels: int
    vocabulary_size: int
    embedding_size: int = 100
    cell: str = "lstm"
    hidden_size: int = 128
    num_layers: int = 1
    characters: int = 0
    character_filters: int = 50
    features: tuple[int, ...] = ()
    feature_size: int = 20
    crf: bool = True
    dropout: float = 0.5
    word_dropout: float = 0.0
    unknown: int = 0
    dtype: str = "float32"

    def setup(self) -> None:
        """Make the parts."""
        self.embedding = self._table(self.vocabulary_size, self.embedding_size)
        if self.characters:
            self.spelling = Spelling(self.characters, self.character_filters, dtype=self.dtype)
        self.feature_tables = [self._table(size, self.feature_size) for size in self.features]
        self.stack = Stack(
            [make(self.cell, self.hidden_size)] * self.num_layers,
            dropout=self.dropout,
            variational=True,
            bidirectional=True,
            dtype=self.dtype,
        )
        self.hide_words = WordDropout(self.word_dropout, self.unknown)
        self.drop_inputs, self.drop_outputs = VariationalDropout(self.dropout), VariationalDropout(self.dropout)
        self.readout = nn.Dense(self.labels, dtype=self.dtype)
        if self.crf:
            between = self.param("transitions", nn.initializers.zeros, (self.labels, self.labels), jnp.float32)
            first, last = (
                self.param(name, nn.initializers.zeros, (self.labels,), jnp.float32) for name in ("first", "last")
            )
            self.transitions = Transitions(between, first, last)

    def _table(self, size: int, width: int) -> nn.Embed:
        # Short vectors: a rare word, which keeps the one it was drawn, must not drown what is known of it.
        return nn.Embed(size, width, dtype=self.dtype, embedding_init=nn.initializers.normal(1 / math.sqrt(width)))

    def __call__(
        self,
        tokens: Int[Array, "T B"],
        *,
        mask: Bool[Array, "T B"] | None = None,
        characters: Int[Array, "T B C"] | None = None,
        features: Int[Array, "T B F"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "T B K"]:
        """Score every label of every token.

        Args:
            tokens: integers in 0..V-1.
            mask: False = padding, wherever it lies.
            characters: the spelling of each token, ids from 1 on, 0 behind its end; if the model has `characters`.
            features: the further features of each token; if the model has `features`.
            deterministic: True switches dropout off.

        Returns:
            The emissions e, in float32: logits of a softmax, or the input of `rnn_jax.crf`.

        Raises:
            ValueError: `characters` or `features` given to a model without, or not given to one with them.
        """
        if (characters is not None) != bool(self.characters):
            found, wanted = ("none", "some") if characters is None else ("some", "none")
            raise ValueError(f"characters: expected {wanted}, as the model was made, found {found}")
        given = 0 if features is None else features.shape[-1]
        if given != len(self.features):
            raise ValueError(f"features: expected {len(self.features)} a token, found {given}")
        parts = [self.embedding(self.hide_words(tokens, deterministic=deterministic))]
        if characters is not None:
            parts.append(self.spelling(characters))
        if features is not None:
            parts += [table(features[..., number]) for number, table in enumerate(self.feature_tables)]
        inputs = self.drop_inputs(jnp.concatenate(parts, axis=-1), deterministic=deterministic)
        _, outputs = self.stack(inputs, mask=mask, deterministic=deterministic)
        outputs = self.drop_outputs(outputs, deterministic=deterministic)
        return over_rows(self.readout, outputs).astype(jnp.float32)

    def loss(
        self, emissions: Float[Array, "T B K"], labels: Int[Array, "T B"], mask: Bool[Array, "T B"] | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """-log P(y | x) in nats, and the number of labels."""
        if self.crf:
            return crf.negative_log_likelihood(emissions, labels, self.transitions, mask)
        return losses.cross_entropy(emissions, labels, mask)

    def decode(self, emissions: Float[Array, "T B K"], mask: Bool[Array, "T B"] | None = None) -> Int[Array, "T B"]:
        """The likeliest labels, 0 where masked."""
        if self.crf:
            return crf.viterbi(emissions, self.transitions, mask)[0]
        best = emissions.argmax(axis=-1).astype(jnp.int32)
        return best if mask is None else jnp.where(mask, best, 0)

    def learn(
        self, tokens: Int[Array, "T B"], labels: Int[Array, "T B"], **inputs
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`loss` of what `__call__` makes of tokens; `inputs` are its further arguments."""
        return self.loss(self(tokens, **inputs), labels, inputs.get("mask"))

    def tag(self, tokens: Int[Array, "T B"], **inputs) -> Int[Array, "T B"]:
        """`decode` of what `__call__` makes of tokens; `inputs` are its further arguments."""
        return self.decode(self(tokens, **inputs), inputs.get("mask"))
