"""Cells as a user would write them, each straining the contract somewhere else.

`USER_CELLS` maps a name to a `UserCell`: the cell, how to draw its inputs, and its carry where it has none of its own.
Sizes are those of the tests: H = 3, D = 2, float64.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import sigmoid

from rnn_jax import Cell, from_function, lstm

HIDDEN, FEATURES = 3, 2


class UserCell(NamedTuple):
    """A cell under test."""

    cell: Any
    params: Callable[[Any], Any]
    inputs: Callable[[Any, tuple[int, ...]], Any]
    carry: Callable[[tuple[int, ...]], Any] | None = None


def random(key):
    """NumPy's generator: each of JAX's draws would be one more program to compile for every shape."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def weights(key, **shapes):
    generator = random(key)
    return {name: jnp.asarray(0.7 * generator.standard_normal(shape)) for name, shape in shapes.items()}


def zeros(batch_shape, *features, dtype=jnp.float64):
    return jnp.zeros((*batch_shape, *features), dtype)


def draw(key, leading, *features):
    return jnp.asarray(random(key).standard_normal((*leading, *(features or (FEATURES,)))))


def toss(key, shape):
    """True for every number above the median of as many."""
    numbers = random(key).random(shape)
    return jnp.asarray(numbers > np.median(numbers))


class Pair(NamedTuple):
    hidden: Any
    cell: Any


def split4(wide):
    return tuple(jnp.split(wide, 4, axis=-1))


def lstm_gates(cell, z):
    new = sigmoid(z[1]) * cell + sigmoid(z[0]) * jnp.tanh(z[2])
    return new, sigmoid(z[3]) * jnp.tanh(new)


def lstm_project(params, x):
    return split4(x @ params["input"] + params["bias"])


def lstm_recur(params, carry, projected):
    return tuple(a + b for a, b in zip(projected, split4(carry.hidden @ params["recurrent"]), strict=True))


def pair_carry(params, batch_shape):
    return Pair(zeros(batch_shape, HIDDEN), zeros(batch_shape, HIDDEN))


LSTM_SHAPES = {"input": (FEATURES, 4 * HIDDEN), "recurrent": (HIDDEN, 4 * HIDDEN), "bias": (4 * HIDDEN,)}


def initialiser(**shapes):
    return lambda key, input_size: weights(key, **shapes)


def bare_function(params, hidden, x):
    """A function, nothing more: no cell, no initial carry."""
    hidden = jnp.tanh(x @ params["input"] + hidden @ params["recurrent"])
    return hidden, hidden


def minimal_gated(params, hidden, x):
    """For `from_function`: written for one step, without a split."""
    both = jnp.concatenate([x, hidden], axis=-1) @ params["wide"] + params["bias"]
    gate, candidate = jnp.split(both, 2, axis=-1)
    hidden = hidden + sigmoid(gate) * (jnp.tanh(candidate) - hidden)
    return hidden, 2.0 * hidden


def peephole_update(params, carry, z):
    """Gates that look at the memory: `update` reads params."""
    input_gate = z[0] + params["peephole_input"] * carry.cell
    forget_gate = z[1] + params["peephole_forget"] * carry.cell
    cell = sigmoid(forget_gate) * carry.cell + sigmoid(input_gate) * jnp.tanh(z[2])
    hidden = sigmoid(z[3] + params["peephole_output"] * cell) * jnp.tanh(cell)
    return Pair(hidden, cell), hidden


PEEPHOLE_SHAPES = LSTM_SHAPES | {f"peephole_{gate}": (HIDDEN,) for gate in ("input", "forget", "output")}
PEEPHOLE = Cell(initialiser(**PEEPHOLE_SHAPES), pair_carry, lstm_project, lstm_recur, peephole_update)


def standardise(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)


def layer_norm_recur(params, carry, projected):
    """The product and the projected input stay apart, since the norm of the product belongs in `update`."""
    return {"projected": projected, "product": carry.hidden @ params["recurrent"]}


def layer_norm_update(params, carry, z):
    product = split4(standardise(z["product"]) * params["gain"] + params["shift"])
    cell, _ = lstm_gates(carry.cell, tuple(a + b for a, b in zip(z["projected"], product, strict=True)))
    gate = sigmoid(z["projected"][3] + product[3])
    hidden = gate * jnp.tanh(standardise(cell) * params["cell_gain"])
    return Pair(hidden, cell), hidden


LAYER_NORM_SHAPES = LSTM_SHAPES | {"gain": (4 * HIDDEN,), "shift": (4 * HIDDEN,), "cell_gain": (HIDDEN,)}
LAYER_NORM = Cell(initialiser(**LAYER_NORM_SHAPES), pair_carry, lstm_project, layer_norm_recur, layer_norm_update)


def mogrifier_recur(params, carry, x):
    """Input and state gate each other before the product: nonlinear in the carry and in `projected`."""
    x = 2.0 * sigmoid(carry.hidden @ params["query"]) * x
    hidden = 2.0 * sigmoid(x @ params["response"]) * carry.hidden
    return split4(x @ params["input"] + hidden @ params["recurrent"] + params["bias"])


def lstm_update(params, carry, z):
    cell, hidden = lstm_gates(carry.cell, z)
    return Pair(hidden, cell), hidden


MOGRIFIER = Cell(
    initialiser(**LSTM_SHAPES, query=(HIDDEN, FEATURES), response=(FEATURES, HIDDEN)),
    pair_carry,
    lambda params, x: jnp.tanh(x) * params["bias"][0],
    mogrifier_recur,
    lstm_update,
)


def indrnn_initial_carry(params, batch_shape):
    """A learned initial state, and a carry that is a bare array."""
    return jnp.broadcast_to(params["initial"], (*batch_shape, HIDDEN))


def indrnn_update(params, hidden, z):
    hidden = jax.nn.relu(z)
    return hidden, hidden


INDRNN = Cell(
    initialiser(input=(FEATURES, HIDDEN), recurrent=(HIDDEN,), initial=(HIDDEN,)),
    indrnn_initial_carry,
    lambda params, x: x @ params["input"],
    lambda params, hidden, projected: projected + params["recurrent"] * hidden,
    indrnn_update,
)


def lru_eigenvalues(params):
    magnitude, phase = jnp.exp(-jnp.exp(params["log_decay"])), jnp.exp(params["log_phase"])
    return jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))


def lru_project(params, x):
    """The normalised input, complex, and the input itself for the skip connection of the readout."""
    real, imaginary = x @ params["input_real"], x @ params["input_imaginary"]
    scale = jnp.sqrt(1.0 - jnp.exp(-2.0 * jnp.exp(params["log_decay"])))
    return jax.lax.complex(scale * real, scale * imaginary), x


def lru_recur(params, state, projected):
    return lru_eigenvalues(params) * state + projected[0]


def lru_update(params, state, z):
    return z, jnp.real(z)


def lru_readout(params, state, projected):
    return jnp.real(state @ jax.lax.complex(params["output_real"], params["output_imaginary"])) + projected[1]


def lru_coefficients(params, projected):
    return jnp.broadcast_to(lru_eigenvalues(params), projected[0].shape), projected[0]


LRU_SHAPES = {
    "log_decay": (HIDDEN,),
    "log_phase": (HIDDEN,),
    "input_real": (FEATURES, HIDDEN),
    "input_imaginary": (FEATURES, HIDDEN),
    "output_real": (HIDDEN, FEATURES),
    "output_imaginary": (HIDDEN, FEATURES),
}
LRU = Cell(
    initialiser(**LRU_SHAPES),
    lambda params, batch_shape: zeros(batch_shape, HIDDEN, dtype=jnp.complex128),
    lru_project,
    lru_recur,
    lru_update,
    readout=lru_readout,
    coefficients=lru_coefficients,
)


class Counted(NamedTuple):
    hidden: Any
    count: Any


def counter_project(params, inputs):
    x, event = inputs
    return x @ params["input"], event


def counter_recur(params, carry, projected):
    z, event = projected
    return z + carry.hidden @ params["recurrent"], event


def counter_update(params, carry, z):
    """An integer in the carry, a boolean in the inputs, and parameters weighted by the count."""
    count = carry.count + z[1].astype(jnp.int32)
    weight = params["scale"] / (1.0 + count[..., None].astype(jnp.float64))
    hidden = jnp.tanh(z[0]) * weight + carry.hidden * jnp.where(z[1], 0.5, 1.0)[..., None]
    return Counted(hidden, count), {"hidden": hidden, "count": count}


COUNTER = Cell(
    initialiser(input=(FEATURES, HIDDEN), recurrent=(HIDDEN, HIDDEN), scale=(HIDDEN,)),
    lambda params, batch_shape: Counted(zeros(batch_shape, HIDDEN), zeros(batch_shape, dtype=jnp.int32)),
    counter_project,
    counter_recur,
    counter_update,
)


def draw_counter(key, leading):
    return draw(key, leading), toss(key, leading)


PROJECTION = 2


def projected_update(params, carry, z):
    """The state is a projection of the memory: a product inside `update`."""
    cell, hidden = lstm_gates(carry.cell, z)
    hidden = hidden @ params["projection"]
    return Pair(hidden, cell), hidden


PROJECTED = Cell(
    initialiser(**(LSTM_SHAPES | {"recurrent": (PROJECTION, 4 * HIDDEN), "projection": (HIDDEN, PROJECTION)})),
    lambda params, batch_shape: Pair(zeros(batch_shape, PROJECTION), zeros(batch_shape, HIDDEN)),
    lstm_project,
    lstm_recur,
    projected_update,
)

SPACE = (3, 2)


def convolve(x, kernel):
    flat = x.reshape(-1, *x.shape[-3:])
    out = jax.lax.conv_general_dilated(flat, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


CONV_LSTM = Cell(
    initialiser(input=(3, 3, 1, 8), recurrent=(3, 3, 2, 8), bias=(8,)),
    lambda params, batch_shape: Pair(zeros(batch_shape, *SPACE, 2), zeros(batch_shape, *SPACE, 2)),
    lambda params, x: split4(convolve(x, params["input"]) + params["bias"]),
    lambda params, carry, projected: tuple(
        a + b for a, b in zip(projected, split4(convolve(carry.hidden, params["recurrent"])), strict=True)
    ),
    lstm_update,
    feature_ndim=3,
)


def zoneout(inner):
    """Wrap a cell so that it keeps, where its second input says so, the old value of each unit."""

    def project(params, inputs):
        x, keep = inputs
        return inner.project(params, x), keep

    def recur(params, carry, projected):
        return inner.recur(params, carry, projected[0]), projected[1]

    def update(params, carry, z):
        new, _ = inner.update(params, carry, z[0])
        kept = jax.tree.map(partial(jnp.where, z[1]), carry, new)
        return kept, kept.hidden

    return inner.replace(project=project, recur=recur, update=update)


def draw_zoneout(key, leading):
    return draw(key, leading), toss(key, (*leading, HIDDEN))


ADD_ONE = Cell(
    lambda key, input_size: {},
    lambda params, batch_shape: zeros(batch_shape),
    lambda params, x: x,
    lambda params, count, x: x,
    lambda params, count, x: (count + 1.0, x + count[..., None]),
)

ROWWISE = Cell(
    initialiser(gate=(FEATURES,), value=(FEATURES,), feedback=()),
    lambda params, batch_shape: zeros(batch_shape),
    lambda params, x: (x @ params["gate"], x @ params["value"]),
    lambda params, carry, projected: (projected[0] + params["feedback"] * carry, projected[1]),
    lambda params, carry, z: (sigmoid(z[0]) * carry + z[1], (sigmoid(z[0]) * carry + z[1])[..., None]),
)

INNER = lstm(HIDDEN, dtype=jnp.float64)
MINIMAL = from_function(
    minimal_gated,
    initialiser(wide=(FEATURES + HIDDEN, 2 * HIDDEN), bias=(2 * HIDDEN,)),
    lambda params, batch_shape: zeros(batch_shape, HIDDEN),
)


def of(cell, inputs=draw):
    return UserCell(cell, lambda key: cell.init(key, FEATURES), inputs)


USER_CELLS = {
    "bare_function": UserCell(
        bare_function,
        lambda key: weights(key, input=(FEATURES, HIDDEN), recurrent=(HIDDEN, HIDDEN)),
        draw,
        lambda batch_shape: zeros(batch_shape, HIDDEN) + 0.3,
    ),
    "from_function": of(MINIMAL),
    "peephole": of(PEEPHOLE),
    "layer_norm": of(LAYER_NORM),
    "mogrifier": of(MOGRIFIER),
    "indrnn": of(INDRNN),
    "lru": of(LRU),
    "counter": of(COUNTER, draw_counter),
    "projected": of(PROJECTED),
    "conv_lstm": of(CONV_LSTM, lambda key, leading: draw(key, leading, *SPACE, 1)),
    "zoneout": of(zoneout(INNER), draw_zoneout),
    "add_one": of(ADD_ONE),
    "rowwise": of(ROWWISE),
}
