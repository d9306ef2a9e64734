"""A bigram model of a rule, small enough to train in milliseconds: symbol s is followed by s + 1."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training.state import TrainState

SYMBOLS = 8


@dataclasses.dataclass
class Batches:
    """Batch of 2 sequences of 5 symbols: int32 [T, B]; `on_block(step, count)` is called first."""

    steps_per_epoch: int = 10
    seconds: float = 0.0
    on_block: Callable[[int, int], None] | None = None

    def block(self, step, count):
        if self.on_block is not None:
            self.on_block(step, count)
        time.sleep(self.seconds * count)
        return np.stack(
            [np.random.default_rng(s).integers(0, SYMBOLS, (5, 2), np.int32) for s in range(step, step + count)]
        )


def loss(params, carry, batch, key):
    """Sees the key (a random temperature) and the carry (a count of the batches, which reduces its effect)."""
    temperature = 1 + jax.random.uniform(key) / (10 + carry)
    log_probabilities = jax.nn.log_softmax(params["table"][batch] * temperature)
    picked = jnp.take_along_axis(log_probabilities, (batch[..., None] + 1) % SYMBOLS, -1)
    return (-picked.sum(), jnp.asarray(batch.size, jnp.float32)), carry + 1


def evaluate(params):
    symbols = np.arange(SYMBOLS)
    return {"val_loss": float(-jax.nn.log_softmax(params["table"])[symbols, (symbols + 1) % SYMBOLS].mean())}


def optimizer(learning_rate=0.1):
    return make_optimizer("adam", learning_rate=learning_rate, clip_norm=1.0)


def new_state():
    params = {"table": jnp.zeros((SYMBOLS, SYMBOLS))}
    return TrainState.create(params, optimizer(), carry=jnp.zeros(()), key=jax.random.key(3))


def identical(one, other):
    """Whether two states hold the same bits."""
    one, other = (state.replace(key=jax.random.key_data(state.key)) for state in (one, other))
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, other)))
