"""Scheduled sampling: while it trains, a decoder now and then reads what it would have written itself."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax.decoding.sampling import as_symbols
from rnn_jax.models.seq2seq import Seq2Seq
from rnn_jax.recurrence.packed import packed_products
from rnn_jax.typing import Key, Params

SCHEDULES = ("constant", "linear", "inverse_sigmoid")
UNITS = ("token", "sequence")


def teacher_forcing_rate(
    schedule: str, step: int | Int[Array, ""], lowest: float | int, steps: int
) -> Float[Array, ""]:
    """The share ε of true tokens among what the decoder reads in training step i.

        constant          ε = lowest
        linear            ε = max(lowest, 1 - i / steps)
        inverse_sigmoid   ε = max(lowest, k / (k + exp(i / k))), with k such that ε is one half at i = steps

    Args:
        schedule: one of `SCHEDULES`.
        step: i, the number of steps done.
        lowest: in [0, 1].
        steps: how long it takes.

    Raises:
        ValueError: an unknown schedule; `lowest` or `steps` out of range.

    Source: Bengio et al. 2015 (arXiv 1506.03099).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"teacher_forcing_schedule: expected one of {', '.join(SCHEDULES)}, found {schedule!r}")
    if not 0 <= lowest <= 1:
        raise ValueError(f"teacher_forcing: expected a number from 0 to 1, found {lowest}")
    if steps < 1:
        raise ValueError(f"teacher_forcing_steps: expected at least 1, found {steps}")
    done = jnp.asarray(step, jnp.float32)
    if schedule == "constant":
        return jnp.asarray(lowest, jnp.float32)
    if schedule == "linear":
        return jnp.maximum(lowest, 1 - done / steps)
    k = _inverse_sigmoid_constant(steps)
    # exp(i / k) = k at i = k log k, and a sigmoid does not overflow.
    return jnp.maximum(lowest, jax.nn.sigmoid(math.log(k) - done / k))


def _inverse_sigmoid_constant(steps: int) -> float:
    """k > 1 with k log k = steps, by Newton's method."""
    k = float(steps) + 1.0
    for _ in range(50):
        k -= (k * math.log(k) - steps) / (math.log(k) + 1)
    return k


def sampled_logits(
    model: Seq2Seq,
    variables: Params,
    source: Int[Array, "S B"],
    source_mask: Bool[Array, "S B"],
    inputs: Int[Array, "T B"],
    key: Key,
    *,
    rate: Float[Array, ""] | float | int,
    unit: str = "token",
    deterministic: bool = True,
) -> Float[Array, "T B V"]:
    """The logits of a target of which the decoder reads a share `rate`; the rest is drawn from its own predictions.

    One step after another, the vocabulary's product included: several times the work of teacher forcing.

    Args:
        model, variables: the model and its parameters.
        source, source_mask: see `Seq2Seq.encode`.
        inputs: [T, B], what teacher forcing would read; the first is always read.
        key: for the choices, the draws and dropout.
        rate: the probability of a true token; no gradient flows through a draw.
        unit: "token": each token is chosen for itself; "sequence": all of a sequence alike.
        deterministic: True switches dropout off.

    Raises:
        ValueError: an unknown unit.
    """
    if unit not in UNITS:
        raise ValueError(f"teacher_forcing_unit: expected one of {', '.join(UNITS)}, found {unit!r}")
    key_choice, key_draw, key_encoder, key_decoder = jax.random.split(key, 4)
    inputs = as_symbols(inputs)
    length, batch = inputs.shape
    choices = jax.random.uniform(key_choice, (length, batch) if unit == "token" else (1, batch)) < rate
    true = jnp.broadcast_to(choices, (length, batch)).at[:1].set(True)
    encoded: Any = model.apply(
        variables,
        source,
        source_mask,
        deterministic=deterministic,
        rngs={"dropout": key_encoder},
        method="encode",
    )

    def step(state: tuple[Any, Array], xs: tuple[Array, Array, Array]) -> tuple[tuple[Any, Array], Array]:
        (carry, drawn), (number, token, is_true) = state, xs
        result: Any = model.apply(
            variables,
            encoded,
            carry,
            jnp.where(is_true, token, drawn)[None],
            deterministic=deterministic,
            rngs={"dropout": jax.random.fold_in(key_decoder, number)},
            method="decode",
        )
        carry, logits, _ = result
        drawn = jax.random.categorical(jax.random.fold_in(key_draw, number), jax.lax.stop_gradient(logits[0]))
        return (carry, drawn.astype(token.dtype)), logits[0]

    steps = (jnp.arange(length), inputs, true)
    state = (encoded.carry, jnp.zeros(batch, inputs.dtype))
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), steps)
    _, logits = jax.lax.scan(packed_products(step, state, first, inference=True, turned=True), state, steps)
    return logits
