"""The recipe of min-char-rnn, written out by hand in NumPy, and the same training done with the library.

On the letters of a text the recipe is chaotic: Adagrad's first updates are ±0.1 however small the gradient, and two
runs whose first weights differ by 1e-15 have nothing in common after 50 updates. So the trace of 1,000 updates is
compared on a text of three symbols, where such a difference stays below 1e-8, and the letters are compared at points
along the trace of the NumPy run.
"""

import codecs
import contextlib
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import elman, losses, unroll
from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training.state import TrainState
from rnn_jax.training.step import make_train_step

with contextlib.redirect_stdout(io.StringIO()):
    import this

HIDDEN, STEPS, LEARNING_RATE, CLIP = 100, 25, 0.1, 5.0

# The Zen of Python: short enough for the text to begin again, and the state with it, many times.
LETTERS = codecs.decode(this.s, "rot13")
OUTLINE = "".join("e" if c in "eE" else "x" if c.isalpha() else " " for c in LETTERS)


def encode(text):
    """The codes of its symbols, and how many there are."""
    symbols = sorted(set(text))
    return np.array([symbols.index(symbol) for symbol in text]), len(symbols)


def windows(codes, updates):
    """The position of each update's first input, and whether the text begins again there."""
    position = 0
    for update in range(updates):
        restart = update == 0 or position + STEPS + 1 >= len(codes)
        position = 0 if restart else position
        yield position, restart
        position += STEPS


def initial_weights(size):
    """Everything from N(0, 0.01²), biases zero; rows are inputs."""
    random = np.random.default_rng(0)
    return {
        "Wxh": 0.01 * random.standard_normal((size, HIDDEN)),
        "Whh": 0.01 * random.standard_normal((HIDDEN, HIDDEN)),
        "bh": np.zeros(HIDDEN),
        "Why": 0.01 * random.standard_normal((HIDDEN, size)),
        "by": np.zeros(size),
    }


def loss_and_gradients(weights, inputs, targets, h):
    """One window forwards and backwards: summed cross entropy in nats, its gradients, and the last state."""
    states, probabilities, loss = [h], [], 0.0
    for x, target in zip(inputs, targets, strict=True):
        h = np.tanh(weights["Wxh"][x] + h @ weights["Whh"] + weights["bh"])
        scores = h @ weights["Why"] + weights["by"]
        p = np.exp(scores - scores.max())
        p /= p.sum()
        loss -= np.log(p[target])
        states.append(h)
        probabilities.append(p)
    gradients = {name: np.zeros_like(value) for name, value in weights.items()}
    dh_next = np.zeros(HIDDEN)
    for t in reversed(range(STEPS)):
        dscores = probabilities[t].copy()
        dscores[targets[t]] -= 1.0
        gradients["Why"] += np.outer(states[t + 1], dscores)
        gradients["by"] += dscores
        dh = weights["Why"] @ dscores + dh_next
        dz = (1.0 - states[t + 1] ** 2) * dh
        gradients["bh"] += dz
        gradients["Wxh"][inputs[t]] += dz
        gradients["Whh"] += np.outer(states[t], dz)
        dh_next = weights["Whh"] @ dz
    return loss, gradients, h


def by_hand(codes, size, updates):
    """Train. Yields each update's weights and state before it, its loss and its gradients."""
    weights = initial_weights(size)
    memory = {name: np.zeros_like(value) for name, value in weights.items()}
    h = np.zeros(HIDDEN)
    for position, restart in windows(codes, updates):
        h = np.zeros(HIDDEN) if restart else h
        inputs, targets = codes[position : position + STEPS], codes[position + 1 : position + STEPS + 1]
        loss, gradients, last = loss_and_gradients(weights, inputs, targets, h)
        yield weights, h, loss, gradients
        h, weights = last, dict(weights)
        for name, gradient in gradients.items():
            clipped = np.clip(gradient, -CLIP, CLIP)
            memory[name] += clipped**2
            weights[name] = weights[name] - LEARNING_RATE * clipped / np.sqrt(memory[name] + 1e-8)


def to_params(weights):
    return {
        "cell": {"input": weights["Wxh"], "recurrent": weights["Whh"], "bias": weights["bh"]},
        "readout": {"weights": weights["Why"], "bias": weights["by"]},
    }


def library_loss(cell, size, params, carry, batch, key):
    inputs = jax.nn.one_hot(batch["inputs"], size, dtype=jnp.float64)
    carry, hidden = unroll(cell, params["cell"], inputs, carry, reset=batch["reset"])
    logits = hidden @ params["readout"]["weights"] + params["readout"]["bias"]
    total, count = losses.cross_entropy(logits, batch["targets"])
    return (total, jnp.ones_like(count)), carry  # the recipe sums over the window where others take the mean


def blocks(codes, updates):
    """Every window as a batch of one sequence: [updates, T, 1]."""
    positions, restarts = (np.array(column) for column in zip(*windows(codes, updates), strict=True))
    index = positions[:, None, None] + np.arange(STEPS)[:, None]
    reset = np.zeros(index.shape, bool)
    reset[:, 0, 0] = restarts
    return {"inputs": codes[index], "targets": codes[index + 1], "reset": reset}


@pytest.mark.usefixtures("x64")
def test_a_thousand_updates_have_the_same_losses():
    """The whole of it in one dispatch: unroll, loss, clipping, Adagrad, the carry from window to window."""
    updates = 1000
    codes, size = encode(OUTLINE)
    expected = np.array([loss for _, _, loss, _ in by_hand(codes, size, updates)])

    cell = elman(HIDDEN, dtype=jnp.float64)
    params = jax.tree.map(jnp.asarray, to_params(initial_weights(size)))
    optimizer = make_optimizer("adagrad", learning_rate=LEARNING_RATE, clip_value=CLIP)
    carry = cell.initial_carry(params["cell"], (1,))
    state = TrainState.create(params, optimizer, carry=carry, key=jax.random.key(0))
    train_step = make_train_step(functools.partial(library_loss, cell, size), optimizer)
    _, metrics = train_step(state, blocks(codes, updates), np.full(updates, LEARNING_RATE))

    assert metrics["loss"].dtype == np.float64
    np.testing.assert_allclose(metrics["loss"], expected, rtol=0, atol=1e-6)
    assert np.isclose(expected[0], STEPS * np.log(size), rtol=0.01)
    assert expected[-50:].mean() < 0.8 * expected[0]


@pytest.mark.usefixtures("x64")
def test_losses_and_gradients_along_the_way():
    """All letters, from the weights and the state that the NumPy run has reached."""
    updates = 1000
    codes, size = encode(LETTERS)
    cell = elman(HIDDEN, dtype=jnp.float64)

    @jax.jit
    def ours(params, hidden, batch):
        carry = cell.initial_carry(params["cell"], (1,))._replace(hidden=hidden[None])
        loss = functools.partial(library_loss, cell, size, carry=carry, batch=batch, key=None)
        return jax.value_and_grad(lambda p: loss(p)[0][0])(params)

    block = blocks(codes, updates)
    for update, (weights, h, loss, gradients) in enumerate(by_hand(codes, size, updates)):
        if update % 20 == 0:
            batch = jax.tree.map(lambda leaf: leaf[update], block)  # noqa: B023
            found, found_gradients = ours(to_params(weights), h, batch)
            np.testing.assert_allclose(found, loss, rtol=1e-12)
            for x, y in zip(jax.tree.leaves(found_gradients), jax.tree.leaves(to_params(gradients)), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-11 * max(1.0, np.abs(y).max()))
