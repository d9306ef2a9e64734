"""Padding never matters: one table of models, each shown the same example alone and padded every way.

A new model is tested by an entry in `MODELS`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax
from rnn_jax.layers import Bidirectional, OutputFeedback, Pooling, Stack
from rnn_jax.models import LanguageModel

SYMBOLS, FEATURES = 7, 3
LENGTH, STEPS = 4, 7

# One example padded on the right, on the left and inside; another example; nothing but padding.
PLACES = ([0, 1, 2, 3], [3, 4, 5, 6], [0, 2, 3, 6])
MASK = np.zeros((STEPS, 5), bool)
for column, places in enumerate(PLACES):
    MASK[places, column] = True
MASK[:, 3] = True


class Model(NamedTuple):
    """A model under test.

    Attributes:
        module: the Linen module.
        tokens: whether it reads symbols [T, B]; else features [T, B, 3].
        call: `(apply, inputs, mask) -> outputs`, where `apply` is `module.apply` with the parameters bound.
        outputs: "steps" [T, B, ...], of which true steps count, or "example" [B, ...].
    """

    module: nn.Module
    tokens: bool = False
    call: Callable[[Any, Any, Any], Any] = lambda apply, inputs, mask: apply(inputs, mask=mask)[1]
    outputs: str = "steps"


class Pooled(nn.Module):
    """Read from both ends, pool in every way."""

    @nn.compact
    def __call__(self, inputs, mask=None):
        _, outputs = Stack([ELMAN], bidirectional=True)(inputs, mask=mask)
        heads = [Pooling(kind)(outputs, mask) for kind in ("last", "mean", "max", "attention")]
        return jnp.concatenate([*heads, Pooling("last", bidirectional=True)(outputs, mask)], axis=-1)


def with_targets(apply, inputs, mask):
    """Targets that go with the inputs, so that they are padded together."""
    return apply(inputs, (jnp.abs(inputs[..., 0]) * 10).astype(jnp.int32) % SYMBOLS, mask=mask)[1]


ELMAN = rnn_jax.elman(4, recurrent_init="uniform")
GRU = rnn_jax.gru(4, recurrent_init="uniform")
LSTM = rnn_jax.lstm(3, recurrent_init="uniform")
# As wide as the inputs, so that residual connections go around the first layer too.
THREE = rnn_jax.elman(FEATURES, recurrent_init="uniform")

MODELS = {
    "stack": Model(Stack([LSTM, ELMAN], zoneout=0.2, learned_carry=True)),
    "bidirectional stack": Model(Stack([THREE, THREE], bidirectional=True, merge="sum", residual=True)),
    "two stacks": Model(Bidirectional(Stack([ELMAN, ELMAN], skip=True), Stack([GRU]))),
    "pooling": Model(Pooled(), call=lambda apply, inputs, mask: apply(inputs, mask=mask), outputs="example"),
    "output feedback": Model(OutputFeedback(Stack([ELMAN]), SYMBOLS, 2), call=with_targets),
    "language model": Model(LanguageModel(SYMBOLS, "elman", 4), tokens=True),
}


def draw_inputs(tokens):
    """The example [T, 1, ...], and the batch [T, 5, ...] with junk under its padding."""
    random = np.random.default_rng(0)
    if tokens:
        example, batch = random.integers(0, SYMBOLS, (LENGTH, 1)), random.integers(0, SYMBOLS, MASK.shape)
    else:
        example = random.normal(size=(LENGTH, 1, FEATURES)).astype(np.float32)
        batch = np.where(MASK[..., None], random.normal(size=(*MASK.shape, FEATURES)), 50.0).astype(np.float32)
    for column, places in enumerate(PLACES):
        batch[places, column] = example[:, 0]
    return jnp.asarray(example), jnp.asarray(batch)


def draw_params(model, inputs):
    """Normal numbers of the shapes that the model wants."""
    random = np.random.default_rng(1)

    def fill(leaf):
        return jnp.asarray(random.normal(0, 0.5, leaf.shape), leaf.dtype)

    def init(key):
        return model.module.init(key, *([inputs, jnp.zeros(inputs.shape[:2], jnp.int32)] if takes_two else [inputs]))

    takes_two = model.call is with_targets
    return jax.tree.map(fill, jax.eval_shape(init, jax.random.key(0)))


def losses_of(model, variables, inputs, mask, places):
    """For each column a sum over its true outputs with fixed weights, and those outputs."""

    def apply(*arguments, **options):
        return model.module.apply(variables, *arguments, **options)

    outputs = model.call(apply, inputs, mask)
    losses, shown = [], []
    for column, true in enumerate(places):
        own = outputs[np.asarray(true), column] if model.outputs == "steps" else outputs[column]
        losses.append(jnp.sum(own * jnp.sin(jnp.arange(1.0, own.size + 1)).reshape(own.shape)))
        shown.append(own)
    return jnp.stack(losses), shown


@pytest.mark.parametrize("name", MODELS)
def test_padding_never_matters(name):
    model = MODELS[name]
    example, batch = draw_inputs(model.tokens)
    variables = draw_params(model, example)

    def gradients(inputs, mask, places):
        """Outputs of each column, and the gradient of each column's loss."""

        def run(variables, features):
            return losses_of(model, variables, inputs if model.tokens else features, mask, places)

        features = jnp.zeros(()) if model.tokens else inputs
        losses, pull, outputs = jax.vjp(run, variables, features, has_aux=True)
        return outputs, jax.vmap(pull)(jnp.eye(len(losses)))

    (alone,), (of_params, of_inputs) = jax.jit(lambda x: gradients(x, None, [range(LENGTH)]))(example)
    columns = [*PLACES, range(STEPS), [0]]
    outputs, (params, inputs) = jax.jit(lambda x: gradients(x, jnp.asarray(MASK), columns))(batch)

    scale = max(1.0, *(float(np.abs(leaf).max()) for leaf in jax.tree.leaves((alone, of_params))))
    for column, places in enumerate(PLACES):
        np.testing.assert_allclose(outputs[column], alone, rtol=0, atol=1e-6 * scale)
        for found, expected in zip(jax.tree.leaves(params), jax.tree.leaves(of_params), strict=True):
            np.testing.assert_allclose(found[column], expected[0], rtol=0, atol=1e-6 * scale)
        if not model.tokens:
            found = np.asarray(inputs)[column]
            np.testing.assert_allclose(found[places, column], of_inputs[0, :, 0], rtol=0, atol=1e-6 * scale)
            # Nothing flows to the padding or to other examples.
            assert np.count_nonzero(found.any(-1)) == LENGTH

    # The example of padding alone: finite numbers, and no gradient to what it would have read.
    for leaf in jax.tree.leaves((outputs[4], params, inputs)):
        assert np.isfinite(leaf).all()
    assert model.tokens or not np.asarray(inputs)[4].any()
    assert np.abs(np.asarray(outputs[3])).max() > 0
