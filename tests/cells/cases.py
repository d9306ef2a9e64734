"""The cells that the table of laws runs over, and the loop that it holds them to.

Every entry of `CELLS` with its defaults, variants of options, and the cells of `user_cells`. Sequences are T = 6,
B = 3, D = 2, H = 3, float64, drawn from fixed keys.
"""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from user_cells import FEATURES, HIDDEN, USER_CELLS, UserCell, draw, random

from rnn_jax import CELLS, Cell

STEPS, BATCH = 6, 3

# Options that change the equations: every law, or where only an activation is exchanged the equations alone.
VARIANTS = {
    "elman": ({"activation": "relu"},),
    "lstm": ({"activation": "relu", "gate_activation": "hard_sigmoid"},),
    "gru": ({"reset": "before"},),
}
ACTIVATIONS = {
    "elman": ({"activation": "sigmoid"}, {"activation": "hard_tanh"}, {"activation": "identity"}),
    "lstm": ({"activation": "softsign"},),
    "gru": ({"reset": "before", "activation": "relu"}, {"gate_activation": "hard_sigmoid"}),
    "jordan": ({"activation": "relu", "output_activation": "sigmoid"},),
}


def named(name, options):
    return name + (f"({', '.join(f'{k}={v}' for k, v in options.items())})" if options else "")


def with_options(options):
    return {named(name, chosen): (name, chosen) for name in CELLS for chosen in options(name)}


LAWFUL = with_options(lambda name: ({}, *VARIANTS.get(name, ())))
REGISTERED = LAWFUL | with_options(lambda name: ACTIVATIONS.get(name, ()))
ALL = (*LAWFUL, *USER_CELLS)


def seed(*words):
    return jax.random.key(zlib.crc32(" ".join(map(str, words)).encode()))


def perturbed(tree, key):
    """Every leaf moved a little, so that no bias is zero; counts by one."""
    generator = random(key)

    def move(leaf):
        leaf = np.asarray(leaf)
        if not is_inexact(leaf):
            return jnp.asarray(leaf + np.ones_like(leaf))
        noise = 0.3 * generator.standard_normal(leaf.shape)
        if np.iscomplexobj(leaf):
            noise = noise + 0.3j * generator.standard_normal(leaf.shape)
        return jnp.asarray(leaf + noise)

    return jax.tree.map(move, tree)


class Case:
    """One cell with parameters and sequences, which are drawn when they are first read: under x64."""

    def __init__(self, name: str):
        self.name = name
        if name in REGISTERED:
            registered, options = REGISTERED[name]
            cell = CELLS[registered](HIDDEN, dtype=jnp.float64, **options)
            self._user = UserCell(cell, lambda key: perturbed(cell.init(key, FEATURES), key), draw)
        else:
            self._user = USER_CELLS[name]
        self.cell: Any = self._user.cell

    @functools.cached_property
    def params(self):
        return self._user.params(seed(self.name, "params"))

    @functools.cached_property
    def inputs(self):
        return self._user.inputs(seed(self.name, "inputs"), (STEPS, BATCH))

    def initial(self, params, batch_shape=(BATCH,)):
        """The carry that a reset restores."""
        if self._user.carry is not None:
            return self._user.carry(batch_shape)
        return self.cell.initial_carry(params, batch_shape)

    @property
    def has_initial_carry(self) -> bool:
        return isinstance(self.cell, Cell)

    def carry(self, batch_shape=(BATCH,)):
        """A carry that is not the initial one, where the cell has one."""
        initial = self.initial(self.params, batch_shape)
        return perturbed(initial, seed(self.name, "carry")) if self.has_initial_carry else initial


@functools.cache
def case(name: str) -> Case:
    """The case of that name, made once."""
    return Case(name)


# Row 0: padding in the middle and at the end. Row 1: length 0. Row 2: whole.
MASK = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1]], bool)
# Row 0: a reset at a masked step. Row 1: a reset of what never runs. Row 2: two resets, one at the first step.
RESET = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]], bool)
EVERY, NEVER = np.ones((STEPS, BATCH), bool), np.zeros((STEPS, BATCH), bool)


def where(condition, x, y):
    """`where` with the condition standing for all the axes to its right: NumPy's, where all are."""
    choose = np.where if all(isinstance(part, np.ndarray) for part in (condition, x, y)) else jnp.where
    return choose(condition.reshape(condition.shape + (1,) * (jnp.ndim(x) - condition.ndim)), x, y)


def reference(case: Case, params, inputs, carry, mask, reset):
    """What `unroll` must compute, as a `lax.scan` that JAX differentiates: the oracle of the laws."""
    initial = case.initial(params) if case.has_initial_carry else carry

    def step(carry, xs):
        x, m, r = xs
        carry = jax.tree.map(functools.partial(where, r), initial, carry)
        new, y = case.cell(params, carry, x)
        y = jax.tree.map(lambda leaf: where(m, leaf, jnp.zeros_like(leaf)), y)
        return jax.tree.map(functools.partial(where, m), new, carry), y

    return jax.lax.scan(step, carry, (inputs, mask, reset))


def is_inexact(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def differentiable(tree):
    """The leaves that have gradients, and a function that puts others in their place."""
    leaves, structure = jax.tree.flatten(tree)
    places = [place for place, leaf in enumerate(leaves) if is_inexact(leaf)]

    def rebuild(new):
        filled = list(leaves)
        for place, leaf in zip(places, new, strict=True):
            filled[place] = leaf
        return jax.tree.unflatten(structure, filled)

    return [leaves[place] for place in places], rebuild


def assert_close(found, expected, tolerance=1e-12, message=""):
    """Equal structures, dtypes and shapes, and values within `tolerance` of the scale of each leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected), message
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.result_type(x) == jnp.result_type(y), message
        assert jnp.shape(x) == jnp.shape(y), message
        x, y = np.asarray(x), np.asarray(y)
        scale = max(1.0, float(np.abs(y).max(initial=0.0)))
        np.testing.assert_allclose(x, y, rtol=0.0, atol=tolerance * scale, err_msg=message)
