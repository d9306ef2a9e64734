"""Sequence to sequence: an encoder reads, a decoder writes, with attention or without."""

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax import losses
from rnn_jax.cells import make
from rnn_jax.cells.base import Cell, cast_weights
from rnn_jax.decoding import DecodeStep, Hypotheses, beam_search
from rnn_jax.layers import Pooling, Stack
from rnn_jax.layers.attention import Memory, make_attention
from rnn_jax.layers.attentive import AttentiveCarry, FeedingCarry, attentive, input_feeding
from rnn_jax.models.embedding import embedded
from rnn_jax.models.readout import dense_weights
from rnn_jax.recurrence.rows import over_rows
from rnn_jax.typing import Carry, Logits, Mask, Params, Tokens
from rnn_jax.unroll import unroll

CONTEXTS = ("state", "input", "both")


class Encoded(NamedTuple):
    """What the decoder is given of a source.

    Attributes:
        memory: for attention, or None.
        summary: [B, M], the encoder's last outputs, for a decoder that reads them at each step; or None.
        carry: the decoder's carry before its first symbol.
    """

    memory: Memory | None
    summary: Float[Array, "B M"] | None
    carry: Any


class Seq2Seq(nn.Module):
    """P(y_1..y_T | x_1..x_S), read off a decoder that starts where an encoder ended.

        h_1..h_S = encoder(x_1..x_S);   s_0 = bridge(h's final carry)
        none:      s_t = decoder(s_tm1, y_tm1);                         P(y_t | ...) = softmax(s_t W)
        luong:     s_t = decoder(s_tm1, y_tm1);  c_t = attention(s_t);   f_t = tanh([c_t; s_t] W_f);  softmax(f_t W)
        ... with input feeding:  s_t = decoder(s_tm1, [y_tm1; f_tm1])
        bahdanau:  c_t = attention(s_tm1);  s_t = decoder(s_tm1, [y_tm1; c_t]);  f_t, softmax as above

    Where nothing feeds back, the decoder's layers run over all T steps with their input products taken before the loop,
    and attention follows for all T at once; input feeding and Bahdanau's attention go step by step. In every case the
    product with the vocabulary follows the loop: one matrix product for all steps, which `loss` takes in parts that fit
    the caches where the logits are many. With several layers, Bahdanau's attention belongs to the first of them; the
    others read [s_t; c_t] after its loop (Wu et al. 2016, arXiv 1609.08144).

    Attributes:
        source_size, target_size: the sizes of the vocabularies.
        cell: of encoder and decoder, as `rnn_jax.cells.make` reads it.
        hidden_size: H, the width of a decoder layer.
        num_layers: of the encoder and of the decoder; each decoder layer starts from its encoder layer.
        bidirectional: the encoder reads both ways, each direction with half of its width.
        encoder_size: M, the width of an encoder layer, both directions together; None for H. Where it is not H, a
            learned linear map bridges every array of the carry.
        embedding_size: of both embeddings; None for H.
        attention: "none" or a key of `rnn_jax.layers.attention.ATTENTIONS`.
        input_feeding: feed f_tm1 back, for luong_dot and luong_general.
        context: how the source enters beside attention: "state": the decoder starts from the encoder's final carry
            (Sutskever et al. 2014, arXiv 1409.3215); "input": it reads the encoder's last outputs at each step (Cho et
            al. 2014, arXiv 1406.1078); or "both".
        tie_embeddings: the matrix of the softmax is the target embedding's.
        dropout: rate on the embeddings, between layers and before the softmax; with input feeding not between layers.
        dtype: compute dtype of the matrix products.
    """

    source_size: int
    target_size: int
    cell: str = "lstm"
    hidden_size: int = 256
    num_layers: int = 1
    bidirectional: bool = True
    encoder_size: int | None = None
    embedding_size: int | None = None
    attention: str = "luong_general"
    input_feeding: bool = False
    context: str = "state"
    tie_embeddings: bool = False
    dropout: float = 0.0
    dtype: str = "float32"

    def setup(self) -> None:
        """Make the parts.

        Raises:
            ValueError: options that do not fit together; the message names them.
        """
        if self.context not in CONTEXTS:
            raise ValueError(f"context: expected one of {', '.join(CONTEXTS)}, found {self.context!r}")
        if self.input_feeding and not self.attention.startswith("luong"):
            raise ValueError(f"input_feeding: expected attention luong_dot or luong_general, found {self.attention}")
        width = self.encoder_size or self.hidden_size
        if self.bidirectional and width % 2:
            name = "encoder_size" if self.encoder_size else "hidden_size"
            raise ValueError(f"{name}: expected an even number for a bidirectional encoder, found {width}")
        embedding_size = self.embedding_size or self.hidden_size
        encoder_cell = make(self.cell, width // 2 if self.bidirectional else width)
        decoder_cell = make(self.cell, self.hidden_size)
        written = jax.eval_shape(lambda key: _one_step(decoder_cell, key), jax.random.key(0))
        if getattr(written, "shape", None) != (self.hidden_size,):
            raise ValueError(f"cell: expected an output of {self.hidden_size} numbers, hidden_size, found {self.cell}")
        # Of unit variance, see LanguageModel; a matrix shared with the softmax must be smaller.
        scale = 1 / math.sqrt(embedding_size) if self.tie_embeddings else 1.0

        def embedding(size: int, scale: float) -> nn.Embed:
            return nn.Embed(size, embedding_size, dtype=self.dtype, embedding_init=nn.initializers.normal(scale))

        self.source_embedding = embedding(self.source_size, 1.0)
        self.target_embedding = embedding(self.target_size, scale)
        self.drop = nn.Dropout(self.dropout)
        self.encoder = Stack(
            [encoder_cell] * self.num_layers,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            dtype=self.dtype,
        )
        if self.context != "input":
            self.bridge = self._make_bridge(encoder_cell, decoder_cell)

        input_size = embedding_size + (width if self.context != "state" else 0)
        readout_size = embedding_size if self.tie_embeddings else self.hidden_size
        upper = [decoder_cell] * self.num_layers
        if self.attention != "none":
            self.scoring = make_attention(self.attention, self.hidden_size)
        if self.input_feeding:
            self.loop = input_feeding(tuple(upper), self.scoring, self.hidden_size, width, readout_size)
            self.param("decoder_loop", self.loop.init, input_size)
        elif self.attention == "bahdanau":
            self.loop = attentive(decoder_cell, self.scoring, self.hidden_size, width)
            self.param("decoder_loop", self.loop.init, input_size)
            upper = upper[1:]
        elif self.attention != "none":
            self.param("attention", self.scoring.init, self.hidden_size, width)
        if upper and not self.input_feeding:
            self.decoder = Stack(upper, dropout=self.dropout, dtype=self.dtype)
        if not self.input_feeding and (self.attention != "none" or readout_size != self.hidden_size):
            self.combine = nn.Dense(readout_size, dtype=self.dtype)
        self.last = Pooling("last", bidirectional=self.bidirectional)
        if self.tie_embeddings:
            self.readout_bias = self.param("readout_bias", nn.initializers.zeros, (self.target_size,), jnp.float32)
        else:
            self.readout = nn.Dense(self.target_size, dtype=self.dtype)

    def _make_bridge(self, encoder_cell: Any, decoder_cell: Any) -> list[list[nn.Dense | None]]:
        """A map for every array of a layer's carry whose widths differ."""

        def leaves(cell: Any) -> list[Any]:
            def carry(key: Array) -> Carry:
                return cell.initial_carry(cell.init(key, 1), ())

            return jax.tree.leaves(jax.eval_shape(carry, jax.random.key(0)))

        directions = 2 if self.bidirectional else 1
        maps: list[list[nn.Dense | None]] = []
        for _ in range(self.num_layers):
            row: list[nn.Dense | None] = []
            for given, wanted in zip(leaves(encoder_cell), leaves(decoder_cell), strict=True):
                if given.ndim != 1 or not jnp.issubdtype(given.dtype, jnp.inexact):
                    raise ValueError(f"cell: expected a carry of vectors, to start the decoder from, found {self.cell}")
                row.append(None if given.shape[0] * directions == wanted.shape[0] else nn.Dense(wanted.shape[0]))
            maps.append(row)
        return maps

    def _bridged(self, carry: Carry, layer: int) -> Carry:
        """The decoder's carry of a layer from the encoder's (a pair of them where it reads both ways)."""
        if self.bidirectional:
            carry = jax.tree.map(lambda forward, backward: jnp.concatenate([forward, backward], axis=-1), *carry)
        leaves, structure = jax.tree.flatten(carry)
        mapped = [
            leaf if dense is None else dense(leaf) for leaf, dense in zip(leaves, self.bridge[layer], strict=True)
        ]
        return jax.tree.unflatten(structure, mapped)

    def encode(self, source: Int[Array, "S B"], mask: Bool[Array, "S B"], *, deterministic: bool = True) -> Encoded:
        """Read the sources.

        Args:
            source: [S, B], tokens.
            mask: [S, B], False = padding, wherever it lies.
            deterministic: True switches dropout off.
        """
        inputs, table = embedded(self.source_embedding, self.source_size, source, self.drop, deterministic)
        carries, outputs = self.encoder(inputs, mask=mask, deterministic=deterministic, table=table)
        memory = None
        if self.attention != "none":
            memory = self.scoring.remember(self._scoring_params(), outputs, mask)
        summary = None
        if self.context != "state":
            summary = self.last(outputs, mask)
        return Encoded(memory, summary, self._first_carry(carries, source.shape[1]))

    def _first_carry(self, carries: Any, batch: int) -> Any:
        starts = self.context != "input"
        bridged = [self._bridged(carry, layer) for layer, carry in enumerate(carries)] if starts else []
        if self.input_feeding:
            carry: FeedingCarry = self.loop.initial_carry(self._loop_params(), (batch,))
            return carry._replace(cells=tuple(bridged)) if starts else carry
        if self.attention != "bahdanau":
            return tuple(bridged) if starts else self._fresh_carry(self.num_layers, batch)
        first: AttentiveCarry = self.loop.initial_carry(self._loop_params(), (batch,))
        if not starts:
            return first, self._fresh_carry(self.num_layers - 1, batch)
        # The first query is the state that the decoder starts from: the first array of a carry, by our convention.
        return AttentiveCarry(bridged[0], jax.tree.leaves(bridged[0])[0]), tuple(bridged[1:])

    def _fresh_carry(self, layers: int, batch: int) -> tuple[Carry, ...]:
        cell = make(self.cell, self.hidden_size)
        fresh = jax.eval_shape(lambda key: cell.initial_carry(cell.init(key, 1), (batch,)), jax.random.key(0))
        return (jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), fresh),) * layers

    def _loop_params(self) -> Params:
        # Not an attribute: Flax would freeze it.
        return cast_weights(self.get_variable("params", "decoder_loop"), self.dtype)

    def _attend(self, encoded: Encoded, queries: Array) -> tuple[Array, Array]:
        """Contexts and weights of queries [T, ..., B, H]."""
        assert encoded.memory is not None
        return self.scoring(self._scoring_params(), encoded.memory, queries)

    def _scoring_params(self) -> Params:
        if self.input_feeding or self.attention == "bahdanau":
            return self._loop_params()["attention"]
        return cast_weights(self.get_variable("params", "attention"), self.dtype)

    def decode(
        self, encoded: Encoded, carry: Any, tokens: Int[Array, "T *K B"], *, deterministic: bool = True
    ) -> tuple[Any, Float[Array, "T *K B V"], Float[Array, "T *K B S"] | None]:
        """Read target tokens, predict what follows each of them.

        Training, evaluation and decoding are this one call: token by token, with the carry handed on, it gives what it
        gives for the whole target.

        Args:
            encoded: from `encode`.
            carry: `encoded.carry`, or that of a call before.
            tokens: [T, B], or [T, K, B] for K hypotheses of each source.
            deterministic: True switches dropout off.

        Returns:
            (carry, logits [T, B, V], attention weights [T, B, S] or None): those of step t belong to token t + 1.
        """
        carry, vectors, weights = self._read(encoded, carry, tokens, deterministic)
        return carry, self._logits(vectors), weights

    def _read(self, encoded: Encoded, carry: Any, tokens: Array, deterministic: bool) -> tuple[Any, Array, Any]:
        """`decode` without its last product: what the logits are read off, in their place."""
        table = None
        if self.input_feeding or self.attention == "bahdanau" or encoded.summary is not None:
            inputs = self.drop(self.target_embedding(tokens), deterministic=deterministic)
        else:
            inputs, table = embedded(self.target_embedding, self.target_size, tokens, self.drop, deterministic)
        if encoded.summary is not None:
            summary = jnp.broadcast_to(encoded.summary, (*tokens.shape, encoded.summary.shape[-1]))
            inputs = jnp.concatenate([inputs, summary.astype(inputs.dtype)], axis=-1)
        weights = None
        if self.input_feeding:
            params = self._loop_params() | {"memory": encoded.memory}
            carry, (vectors, outputs) = unroll(self.loop, params, inputs, carry, gradient="autodiff")
            _, weights = self._attend(encoded, outputs)
        elif self.attention == "bahdanau":
            params = self._loop_params() | {"memory": encoded.memory}
            first, upper = carry
            before = first.output
            # Deferred gradients would read the memory twice more.
            first, (outputs, contexts) = unroll(self.loop, params, inputs, first, gradient="autodiff")
            # The loop does not keep its weights: that this is computed again costs nothing where it is not used.
            queries = jnp.concatenate([before[None], outputs])[: len(outputs)]
            _, weights = self._attend(encoded, queries)
            if self.num_layers > 1:
                joined = self.drop(jnp.concatenate([outputs, contexts], axis=-1), deterministic=deterministic)
                upper, outputs = self.decoder(joined, upper, deterministic=deterministic)
            carry = (first, upper)
            vectors = self._combined(jnp.concatenate([contexts, outputs], axis=-1))
        else:
            carry, vectors = self.decoder(inputs, carry, deterministic=deterministic, table=table)
            if self.attention != "none":
                contexts, weights = self._attend(encoded, vectors)
                vectors = jnp.concatenate([contexts, vectors], axis=-1)
            if hasattr(self, "combine"):
                vectors = self._combined(vectors)
        return carry, self.drop(vectors, deterministic=deterministic), weights

    def _combined(self, vectors: Array) -> Array:
        return over_rows(lambda rows: jnp.tanh(self.combine(rows)), vectors)

    def _logits(self, vectors: Array) -> Array:
        def of_rows(rows: Array) -> Array:
            if self.tie_embeddings:
                return self.target_embedding.attend(rows).astype(jnp.float32) + self.readout_bias
            return self.readout(rows).astype(jnp.float32)

        return over_rows(of_rows, vectors)

    def __call__(
        self,
        source: Int[Array, "S B"],
        source_mask: Bool[Array, "S B"],
        inputs: Int[Array, "T B"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "T B V"]:
        """Teacher forcing: the logits of the whole target, each from the true tokens before it.

        Args:
            source, source_mask: [S, B], see `encode`.
            inputs: [T, B], the target shifted by one: its start symbol first, its last symbol missing.
            deterministic: True switches dropout off.
        """
        encoded = self.encode(source, source_mask, deterministic=deterministic)
        return self.decode(encoded, encoded.carry, inputs, deterministic=deterministic)[1]

    def loss(
        self,
        source: Int[Array, "S B"],
        source_mask: Bool[Array, "S B"],
        inputs: Int[Array, "T B"],
        targets: Int[Array, "T B"],
        target_mask: Bool[Array, "T B"] | None = None,
        *,
        label_smoothing: float | int = 0.0,
        deterministic: bool = True,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """`losses.cross_entropy` of the logits that `__call__` gives, without holding them: for large vocabularies.

        Args:
            source, source_mask, inputs: see `__call__`.
            targets: [T, B], what follows each of `inputs`.
            target_mask: [T, B], False = padding.
            label_smoothing: see `losses.cross_entropy`.
            deterministic: True switches dropout off.

        Returns:
            (sum in nats, number of targets).
        """
        encoded = self.encode(source, source_mask, deterministic=deterministic)
        _, vectors, _ = self._read(encoded, encoded.carry, inputs, deterministic)
        if self.tie_embeddings:
            kernel, bias = self.target_embedding.embedding.T, self.readout_bias
        else:
            kernel, bias = dense_weights(self.readout, vectors)
        return losses.linear_cross_entropy(
            vectors, kernel, bias, targets, target_mask, label_smoothing=label_smoothing, dtype=self.dtype
        )

    def log_prob(
        self,
        source: Int[Array, "S B"],
        source_mask: Bool[Array, "S B"],
        target: Int[Array, "T B"],
        target_mask: Bool[Array, "T B"],
        start: int,
    ) -> Float[Array, "B"]:
        """log P(target | source) in nats, the target's end mark included, its start symbol not."""
        logits = self(source, source_mask, shift(target, start))

        def of_one(logits: Logits, target: Tokens, mask: Mask) -> Array:
            return -losses.cross_entropy(logits, target, mask)[0]

        return jax.vmap(of_one, in_axes=1)(logits, target, target_mask)


def _one_step(cell: Cell, key: Array) -> Any:
    """What a cell puts out, for its shape."""
    params = cell.init(key, 1)
    return cell(params, cell.initial_carry(params, ()), jnp.zeros(1))[1]


def shift(target: Int[Array, "T B"], start: int) -> Int[Array, "T B"]:
    """What a decoder reads to predict `target`: the start symbol, then all but the last."""
    return jnp.concatenate([jnp.full_like(target[:1], start), target[:-1]])


def decode_step(model: Seq2Seq, variables: Params, encoded: Encoded, *, keep_weights: bool = False) -> DecodeStep:
    """The decoder as a step of `rnn_jax.decoding`, for one or for several hypotheses of each source.

    Its carry is that of `Seq2Seq.decode`; with `keep_weights` a pair of it and the attention weights of the last step.
    """

    def step(state: Any, tokens: Array) -> tuple[Any, Array]:
        carry = state[0] if keep_weights else state
        result: Any = model.apply(variables, encoded, carry, tokens[None], method="decode")
        carry, logits, weights = result
        return (carry, weights[0]) if keep_weights else carry, logits[0]

    return step


@functools.partial(
    jax.jit,
    static_argnames=("model", "length", "end", "beam_size", "n_best", "length_penalty", "coverage_penalty"),
)
def translate(
    model: Seq2Seq,
    variables: Params,
    source: Int[Array, "S B"],
    source_mask: Bool[Array, "S B"],
    *,
    end: int,
    length: int,
    beam_size: int = 5,
    n_best: int = 1,
    length_penalty: float | int = 0.0,
    coverage_penalty: float | int = 0.0,
) -> Hypotheses:
    """Encode, then search, in one compiled program.

    Args:
        model, variables: the model and its parameters.
        source, source_mask: [S, B], see `Seq2Seq.encode`.
        end: the symbol that starts and ends a target.
        length: the most symbols of a hypothesis.
        beam_size, n_best, length_penalty, coverage_penalty: see `rnn_jax.decoding.beam_search`.

    Returns:
        The `n_best` hypotheses of each source, the best first.

    Raises:
        ValueError: a coverage penalty of a model without attention; and see `rnn_jax.decoding.beam_search`.
    """
    encoded: Any = model.apply(variables, source, source_mask, method="encode")
    covers = coverage_penalty != 0
    if covers and model.attention == "none":
        raise ValueError("coverage_penalty: expected a model with attention, found attention=none")
    carry = encoded.carry
    if covers:
        carry = (carry, jnp.zeros((source.shape[1], source.shape[0]), encoded.memory.values.dtype))
    return beam_search(
        decode_step(model, variables, encoded, keep_weights=covers),
        carry,
        jnp.full(source.shape[1], end, jnp.int32),
        length,
        end=end,
        beam_size=beam_size,
        n_best=n_best,
        length_penalty=length_penalty,
        coverage_penalty=coverage_penalty,
        attention=(lambda state: state[1]) if covers else None,
        source_mask=source_mask if covers else None,
    )


@functools.partial(jax.jit, static_argnames="model")
def attention_weights(
    model: Seq2Seq,
    variables: Params,
    source: Int[Array, "S B"],
    source_mask: Bool[Array, "S B"],
    inputs: Int[Array, "T B"],
) -> Float[Array, "T B S"]:
    """Where the decoder looks while it predicts each target symbol, given those before it.

    Raises:
        ValueError: a model without attention.
    """
    if model.attention == "none":
        raise ValueError("attention: expected a model with attention, found none")
    encoded: Any = model.apply(variables, source, source_mask, method="encode")
    result: Any = model.apply(variables, encoded, encoded.carry, inputs, method="decode")
    return result[2]
