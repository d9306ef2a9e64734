"""Output feedback: a step that sees the symbol before it, the true one in training, the model's own in generation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnn_jax.recurrence.loop import select
from rnn_jax.recurrence.rows import over_rows
from rnn_jax.recurrence.teacher_forcing import delayed
from rnn_jax.typing import Carry, Logits, Mask, Params, Tokens


class FeedbackCarry(NamedTuple):
    """The carries of the layers, and the last symbol y; V stands for the start of a sequence."""

    layers: tuple[Carry, ...]
    token: Array


class OutputFeedback(nn.Module):
    """P(y | x) for two sequences of one length, without taking the y_t for independent given x.

        P(y_1..y_T | x_1..x_T) = Π_t P(y_t | y_1..y_{t-1}, x_1..x_t)
        h_t = stack(h_tm1, [x_t; E[y_tm1]]),   P(y_t | ...) = softmax(h_t W + b)

    With the true y_tm1 (training) the whole sequence is one call; `feedback_step` draws y instead. Where x_t comes from
    a `Bidirectional` layer, every factor sees all of x.

    Attributes:
        stack: a `Stack` that runs forwards.
        vocabulary_size: V.
        embedding_size: width of E [V + 1, E]; its last row stands for the start.
        dtype: compute dtype of the softmax layer.

    Source: Jordan 1986 and Williams & Zipser 1989, of the output recurrence and its teacher.
    """

    stack: nn.Module
    vocabulary_size: int
    embedding_size: int
    dtype: Any = None

    def setup(self) -> None:
        """Make the parts."""
        self.embedding = nn.Embed(
            self.vocabulary_size + 1, self.embedding_size, embedding_init=nn.initializers.normal(1.0)
        )
        self.readout = nn.Dense(self.vocabulary_size, dtype=self.dtype)

    def __call__(
        self,
        inputs: Float[Array, "T *B D"],
        targets: Int[Array, "T *B"],
        carry: FeedbackCarry | None = None,
        *,
        mask: Mask | None = None,
        reset: Mask | None = None,
        deterministic: bool = True,
    ) -> tuple[FeedbackCarry, Logits]:
        """All factors of P(targets | inputs) at once.

        Args:
            inputs: [T, B, D].
            targets: [T, B] in 0..V-1; anything where the mask is False.
            carry: from a call before; None at the start of a sequence.
            mask: False = padding: the step after it sees the last true target.
            reset: True = a new sequence begins here.
            deterministic: True switches off what is random.

        Returns:
            (carry, logits [T, B, V]); logits[t] belongs to targets[t].
        """
        # V itself, too, has to find room.
        targets = targets.astype(jnp.int32)
        start = jnp.full(targets.shape[1:], self.vocabulary_size, jnp.int32)
        token, layers = (start, None) if carry is None else (carry.token, carry.layers)
        token, previous = delayed(targets, token, mask=mask, reset=reset, reset_carry=start)
        layers, outputs = self.stack(  # pyright: ignore[reportCallIssue]
            self._beside(inputs, previous), layers, mask=mask, reset=reset, deterministic=deterministic
        )
        return FeedbackCarry(layers, token), self._logits(outputs)

    def step(
        self, layers: tuple[Carry, ...], inputs: Float[Array, "*B D"], previous: Int[Array, "*B"]
    ) -> tuple[tuple[Carry, ...], Float[Array, "*B V"]]:
        """One factor: (carries of the layers, logits [B, V]) after `inputs` [B, D] and the symbol before."""
        layers, outputs = self.stack.step(layers, self._beside(inputs, previous))
        return layers, self._logits(outputs)

    def log_prob(
        self,
        inputs: Float[Array, "T *B D"],
        targets: Int[Array, "T *B"],
        carry: FeedbackCarry | None = None,
        *,
        mask: Mask | None = None,
    ) -> Float[Array, "*B"]:
        """log P(targets | inputs) of every example, in nats; masked steps count nothing."""
        _, logits = self(inputs, targets, carry, mask=mask)
        # A target under the padding may be no symbol at all.
        targets = targets if mask is None else jnp.where(mask, targets, 0)
        factors = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        return (factors if mask is None else jnp.where(mask, factors, 0)).sum(0)

    def initial_carry(self, batch_shape: tuple[int, ...], input_size: int) -> FeedbackCarry:
        """The carry at the start of a sequence."""
        carry, _ = self(jnp.zeros((0, *batch_shape, input_size)), jnp.zeros((0, *batch_shape), jnp.int32))
        return carry

    def _beside(self, inputs: Array, previous: Tokens) -> Array:
        """[x_t; E[y_tm1]]."""
        return jnp.concatenate([inputs, self.embedding(previous).astype(inputs.dtype)], axis=-1)

    def _logits(self, outputs: Array) -> Array:
        return over_rows(self.readout, outputs).astype(jnp.float32)


class _Position(NamedTuple):
    """What `feedback_step` hands on: the carry, and the step that comes next, for each example."""

    carry: FeedbackCarry
    time: Array


def feedback_step(
    layer: OutputFeedback,
    variables: Params,
    inputs: Float[Array, "T *B D"],
    *,
    carry: FeedbackCarry | None = None,
    mask: Bool[Array, "T *B"] | None = None,
) -> tuple[Callable[[Any, Array], tuple[Any, Array]], Any, Int[Array, "*B"]]:
    """Generation: what `rnn_jax.decoding` wants in order to draw y given x.

        step, carry, tokens = feedback_step(layer, variables, inputs)
        _, drawn = decoding.sample(step, carry, tokens, len(inputs), key)        # [T, B]

    Every step sees the symbol that was drawn before it. Under the padding of `mask` the carry stands still and what is
    drawn means nothing.

    Args:
        layer, variables: an `OutputFeedback` and its parameters.
        inputs: x [T, B, D].
        carry: from a call of the layer, when x and y go on; None at their start.
        mask: [T, B] bool, False = padding.

    Returns:
        (step, carry, tokens): the step of a decoder, and the two things that it starts from. At most T steps.
    """
    start: Any = carry
    if carry is None:
        start = layer.apply(variables, inputs.shape[1:-1], inputs.shape[-1], method="initial_carry")

    columns = jnp.indices(inputs.shape[1:-1], sparse=True)

    # Several hypotheses of an example may each have a time: [K, B].
    def at(sequence: Array, time: Array) -> Array:
        return sequence.at[time, *columns].get(mode="fill")

    def step(position: _Position, tokens: Array) -> tuple[_Position, Array]:
        (layers, token), time = position
        # What was drawn at a step of padding is not part of the sequence.
        counts = True if mask is None else (time == 0) | at(mask, jnp.maximum(time - 1, 0))
        token = jnp.where(counts, tokens, token)
        result: Any = layer.apply(variables, layers, at(inputs, time), token, method="step")
        new_layers, logits = result
        layers = new_layers if mask is None else select(at(mask, time), new_layers, layers)
        return _Position(FeedbackCarry(layers, token), time + 1), logits

    return step, _Position(start, jnp.zeros(inputs.shape[1:-1], jnp.int32)), start.token
