"""Attention: a decoder's query picks from what an encoder has read."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rnn_jax.cells.base import matmul, widen
from rnn_jax.recurrence.loop import scan
from rnn_jax.typing import Key, Params

# Far below any score, and still a number: a column that is padding throughout must not give nan.
_NEVER = -1e30
_GLOROT = jax.nn.initializers.glorot_uniform()


class Memory(NamedTuple):
    """What attention reads. Batch-major: each sequence's products then read one block of memory.

    Attributes:
        values: [B, S, M], the encoder's outputs.
        keys: [B, S, A], what queries are compared with.
        mask: [B, S], False = padding.
    """

    values: Float[Array, "B S M"]
    keys: Float[Array, "B S A"]
    mask: Bool[Array, "B S"]


@dataclasses.dataclass(frozen=True)
class Attention:
    """A way to score queries against keys: three pure functions.

        a_ts = softmax_s(score(q_t, k_s)) over the s that are no padding;   c_t = Σ_s a_ts v_s

    Attributes:
        init: (key, query_size Q, memory_size M) -> params.
        keys: (params, values [..., M]) -> keys [..., A], taken once for a whole source.
        scores: (params, query [R, B, Q], keys [B, S, A]) -> [R, B, S].
    """

    init: Callable[[Key, int, int], Params]
    keys: Callable[[Params, Array], Array]
    scores: Callable[[Params, Array, Array], Array]

    def remember(self, params: Params, outputs: Float[Array, "S B M"], mask: Bool[Array, "S B"]) -> Memory:
        """Lay an encoder's outputs out for attention."""
        values = outputs.swapaxes(0, 1)
        flat = values.reshape(-1, values.shape[-1])
        keys = self.keys(params, flat)
        return Memory(values, keys.reshape(*values.shape[:-1], keys.shape[-1]), mask.T)

    def __call__(
        self, params: Params, memory: Memory, query: Float[Array, "*R Q"]
    ) -> tuple[Float[Array, "*R M"], Float[Array, "*R S"]]:
        """Attend.

        Args:
            params: from `init`.
            memory: from `remember`, of B sequences.
            query: [..., B, Q], or [N, Q] with N a multiple of B whose rows run through the B sequences in turn: time
                steps, hypotheses or both may stand in front of the batch.

        Returns:
            (contexts [..., B, M], weights [..., B, S]); the weights of padding are 0.
        """
        batch, _, width = memory.values.shape
        *leading, size = query.shape
        queries = query.reshape(math.prod(leading) // max(batch, 1), batch, size)
        scores = self.scores(params, queries, memory.keys)
        weights = jnp.where(memory.mask, jax.nn.softmax(jnp.where(memory.mask, scores, _NEVER), axis=-1), 0)
        contexts = jnp.einsum("rbs,bsm->rbm", weights, memory.values)
        return contexts.reshape(*leading, width), weights.reshape(*leading, weights.shape[-1])


@functools.cache
def bahdanau(size: int) -> Attention:
    """Additive attention.

        score(q, h_s) = vᵀ tanh(q W_q + b + h_s W_k)

    Args:
        size: A, the width of the hidden layer.

    Source: Bahdanau, Cho & Bengio 2015 (arXiv 1409.0473).
    """

    def init(key: Key, query_size: int, memory_size: int) -> Params:
        key_query, key_memory, key_score = jax.random.split(key, 3)
        return {
            "query": _GLOROT(key_query, (query_size, size), jnp.float32),
            "memory": _GLOROT(key_memory, (memory_size, size), jnp.float32),
            "bias": jnp.zeros(size, jnp.float32),
            "score": _GLOROT(key_score, (size, 1), jnp.float32),
        }

    def keys(params: Params, values: Array) -> Array:
        return matmul(values, params["memory"])

    def scores(params: Params, query: Array, keys: Array) -> Array:
        projected = matmul(query, params["query"]) + widen(params["bias"])

        def score(query: Array) -> Array:
            return matmul(jnp.tanh(query[..., None, :] + keys), params["score"])[..., 0]

        if jax.default_backend() != "cpu":
            return jax.checkpoint(score)(projected)

        # The hidden layer of one query a sequence, [B, S, A], fits a CPU's cache; that of all T queries would go to
        # memory and back for each operation, and be kept for the gradient.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def one(carry: tuple[()], query: Array) -> tuple[tuple[()], Array]:
            return carry, score(query)

        return scan(one, (), projected, length=len(projected), reverse=False)[1]

    return Attention(init, keys, scores)


@functools.cache
def luong_dot() -> Attention:
    """score(q, h_s) = qᵀ h_s, for Q = M; its `init` raises ValueError for other widths.

    Source: Luong, Pham & Manning 2015 (arXiv 1508.04025).
    """

    def init(key: Key, query_size: int, memory_size: int) -> Params:
        if query_size != memory_size:
            raise ValueError(
                f"attention: expected an encoder of the decoder's width for luong_dot, "
                f"found {memory_size} and {query_size}"
            )
        return {}

    def keys(params: Params, values: Array) -> Array:
        return values

    return Attention(init, keys, _dot)


@functools.cache
def luong_general() -> Attention:
    """score(q, h_s) = qᵀ W h_s / √Q.

    The root is not in the paper; it takes no score away, for W is free. Without it scores of wide layers start so far
    apart that the softmax picks one place and passes almost no gradient, and a step of Adam throws them further.

    Source: Luong, Pham & Manning 2015 (arXiv 1508.04025); the root: Vaswani et al. 2017 (arXiv 1706.03762).
    """

    def init(key: Key, query_size: int, memory_size: int) -> Params:
        return {"memory": _GLOROT(key, (memory_size, query_size), jnp.float32)}

    def keys(params: Params, values: Array) -> Array:
        return matmul(values, params["memory"]) / params["memory"].shape[-1] ** 0.5

    return Attention(init, keys, _dot)


def _dot(params: Params, query: Array, keys: Array) -> Array:
    return jnp.einsum("rbq,bsq->rbs", query, keys)


ATTENTIONS: dict[str, Callable[[int], Attention]] = {
    "bahdanau": bahdanau,
    "luong_dot": lambda size: luong_dot(),
    "luong_general": lambda size: luong_general(),
}


def make_attention(name: str, size: int) -> Attention:
    """The attention of that name; `size` is the width A of what is additive.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ATTENTIONS:
        raise ValueError(f"attention: expected one of {', '.join(ATTENTIONS)}, found {name!r}")
    return ATTENTIONS[name](size)
