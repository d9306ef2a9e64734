"""One vector for a whole sequence: heads over masked outputs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnn_jax.recurrence.checks import check_mask
from rnn_jax.recurrence.rows import over_rows
from rnn_jax.typing import Mask

KINDS = ("last", "mean", "max", "attention")


class Pooling(nn.Module):
    """Make of the outputs of a sequence one vector, from its true steps alone.

        last        y_{t*},   t* the last true step, wherever padding lies
        mean        Σ_t m_t y_t / Σ_t m_t
        max         max_t y_t over true steps, feature by feature
        attention   Σ_t a_t y_t,   a = softmax over true steps of v·tanh(y_t W + b)

    An example without any true step gives zeros, and no gradient.

    Attributes:
        kind: one of the four.
        bidirectional: for "last": the second half of the features was read from the end (`Bidirectional` with
            merge="concat" and equal widths), so its last step is the first true one; at the other end it has seen one
            step only.
        attention_size: width of the tanh layer of "attention"; None for H.

    Source: attention: Yang et al. 2016 (Hierarchical Attention Networks); Lin et al. 2017 (arXiv 1703.03130) with one
    row.
    """

    kind: str = "last"
    bidirectional: bool = False
    attention_size: int | None = None

    @nn.compact
    def __call__(self, outputs: Float[Array, "T *B H"], mask: Mask | None = None) -> Float[Array, "*B H"]:
        """Pool outputs `[T, B, H]` over time.

        Args:
            outputs: [T, B, H].
            mask: [T, B] bool, False = padding; None counts every step.

        Returns:
            [B, H].

        Raises:
            ValueError: unknown `kind`; a mask of another shape or dtype; an odd number of features where they come in
                two halves.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {self.kind!r}")
        check_mask(mask, outputs.shape[:-1])
        mask = jnp.ones(outputs.shape[:-1], bool) if mask is None else mask
        where = mask[..., None]
        outputs = jnp.where(where, outputs, 0)
        if self.kind == "last":
            return self._last(outputs, mask)
        if self.kind == "mean":
            return outputs.sum(0) / jnp.maximum(where.sum(0, dtype=outputs.dtype), 1)
        if self.kind == "max":
            lowest = jnp.finfo(outputs.dtype).min
            highest = jnp.where(where, outputs, lowest).max(0, initial=lowest)
            return jnp.where(where.any(0), highest, 0)
        return (self._attention(outputs, mask)[..., None] * outputs).sum(0)

    def _last(self, outputs: Array, mask: Array) -> Array:
        if outputs.shape[0] == 0:
            return outputs.sum(0)
        last = outputs.shape[0] - 1 - jnp.argmax(mask[::-1], axis=0)
        if not self.bidirectional:
            return _at(outputs, last)
        if outputs.shape[-1] % 2:
            raise ValueError(f"bidirectional: expected two halves of one width, found {outputs.shape[-1]} features")
        forward, backward = jnp.split(outputs, 2, axis=-1)
        return jnp.concatenate([_at(forward, last), _at(backward, jnp.argmax(mask, axis=0))], axis=-1)

    def _attention(self, outputs: Array, mask: Array) -> Array:
        """The weights [T, B]; zeros where there is no true step."""
        to_hidden = nn.Dense(self.attention_size or outputs.shape[-1], name="hidden")
        to_score = nn.Dense(1, use_bias=False, name="score")
        scores = over_rows(lambda rows: to_score(jnp.tanh(to_hidden(rows))), outputs)[..., 0]
        lowest = jnp.finfo(scores.dtype).min
        scores = jnp.where(mask, scores, lowest)
        highest = jax.lax.stop_gradient(scores.max(0, initial=lowest))
        weights = jnp.where(mask, jnp.exp(scores - highest), 0)
        total = weights.sum(0)
        return weights / jnp.where(total > 0, total, 1)


def _at(outputs: Array, step: Array) -> Array:
    """outputs[step] of every example."""
    return jnp.take_along_axis(outputs, step[None, ..., None], axis=0)[0]
