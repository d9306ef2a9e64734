"""Teacher forcing of an output recurrence: all steps at once, equal to one after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import jordan, lstm, teacher_forced, unroll
from rnn_jax.cells import JordanCarry, make
from rnn_jax.layers import Recurrent

STEPS, BATCH, FEATURES, HIDDEN, OUTPUTS = 6, 3, 2, 5, 4
CELL = jordan(HIDDEN, output_size=OUTPUTS, output_activation="tanh", recurrent_init="uniform", dtype=jnp.float64)

# Row 0: padding inside and at the end. Row 1: in front, with a reset behind it. Row 2: whole, two resets.
MASK = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]], bool)
RESET = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]], bool)

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def example():
    keys = jax.random.split(jax.random.key(0), 4)
    params = CELL.init(keys[0], FEATURES)
    inputs = jax.random.normal(keys[1], (STEPS, BATCH, FEATURES), jnp.float64)
    targets = jax.random.normal(keys[2], (STEPS, BATCH, OUTPUTS), jnp.float64)
    carry = JordanCarry(jax.random.normal(keys[3], (BATCH, OUTPUTS), jnp.float64))
    return params, inputs, targets, carry


def one_by_one(params, inputs, targets, carry, mask, reset):
    """A step after another, each leaving its target for the next."""

    def step(before, xs):
        x, target, m, r = xs
        before = jnp.where(r[:, None], 0.0, before)
        _, y = CELL(params, JordanCarry(before), x)
        return jnp.where(m[:, None], target, before), jnp.where(m[:, None], y, 0.0)

    final, outputs = jax.lax.scan(step, carry.output, (inputs, targets, mask, reset))
    return JordanCarry(final), outputs


def squared_error(results, targets, mask):
    return jnp.sum(jnp.where(mask[..., None], results[1] - targets, 0.0) ** 2) + jnp.sum(jnp.sin(results[0].output))


def test_results_and_gradients_equal_those_of_step_by_step(example):
    def at_once(params, inputs, targets, carry):
        results = teacher_forced(CELL, params, inputs, targets, carry, mask=MASK, reset=RESET)
        return squared_error(results, targets, MASK), results

    def in_turn(params, inputs, targets, carry):
        results = one_by_one(params, inputs, targets, carry, MASK, RESET)
        return squared_error(results, targets, MASK), results

    found, expected = (jax.jit(jax.grad(f, (0, 1, 2, 3), has_aux=True))(*example) for f in (at_once, in_turn))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("mask", "reset"), [(None, None), (MASK, None), (None, RESET)])
def test_masks_and_resets_each_by_itself(example, mask, reset):
    params, inputs, targets, carry = example
    found = teacher_forced(CELL, params, inputs, targets, carry, mask=mask, reset=reset)
    every, never = np.ones((STEPS, BATCH), bool), np.zeros((STEPS, BATCH), bool)
    expected = one_by_one(*example, every if mask is None else mask, never if reset is None else reset)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-13)


def primitives(jaxpr):
    """The names of all primitives of a jaxpr, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def test_training_has_no_loop(example):
    params, inputs, targets, _ = example
    layer = Recurrent(CELL)

    def forced(params):
        _, outputs = layer.apply({"params": {"cell": params}}, inputs, mask=MASK, reset=RESET, targets=targets)
        return jnp.sum((outputs - targets) ** 2)

    def free(params):
        return jnp.sum((unroll(CELL, params, inputs)[1] - targets) ** 2)

    def loops(loss):
        jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr
        return {"scan", "while", "fori_loop"} & set(primitives(jaxpr))

    assert loops(forced) == set()
    assert loops(free) == {"scan"}
    # What the compiler makes of it has none either.
    assert "while" not in jax.jit(jax.value_and_grad(forced)).lower(params).compile().as_text()


def test_its_own_outputs_for_targets_are_the_free_run(example):
    params, inputs, _, carry = example
    final, outputs = unroll(CELL, params, inputs, carry, mask=MASK, reset=RESET)
    forced_final, forced = teacher_forced(CELL, params, inputs, outputs, carry, mask=MASK, reset=RESET)
    np.testing.assert_allclose(forced, outputs, atol=1e-13)
    np.testing.assert_allclose(forced_final.output, final.output, atol=1e-13)


def test_the_output_may_be_a_distribution(example):
    _, inputs, _, _ = example
    cell = jordan(HIDDEN, output_size=3, output_activation=jax.nn.softmax, recurrent_init="uniform", dtype=jnp.float64)
    params = cell.init(jax.random.key(0), FEATURES)
    np.testing.assert_allclose(unroll(cell, params, inputs)[1].sum(-1), 1.0)
    assert make("jordan(output_size=3)", 5) is jordan(5, output_size=3)


def test_no_steps(example):
    params, inputs, targets, carry = example
    final, outputs = teacher_forced(CELL, params, inputs[:0], targets[:0], carry, mask=MASK[:0], reset=RESET[:0])
    np.testing.assert_array_equal(final.output, carry.output)
    assert outputs.shape == (0, BATCH, OUTPUTS)


def test_errors_name_the_argument(example):
    params, inputs, targets, carry = example
    for wrong in (JordanCarry(carry.output[:, :2]), (carry.output,)):
        with pytest.raises(ValueError, match=r"carry: expected JordanCarry\(.*found"):
            teacher_forced(CELL, params, inputs, targets, wrong)
    for name, wrong in (("mask", MASK[:, :1]), ("mask", MASK.astype(float)), ("reset", MASK[:-1])):
        with pytest.raises(ValueError, match=rf"{name}: expected bool \[6, 3\], found"):
            teacher_forced(CELL, params, inputs, targets, carry, **{name: wrong})
    with pytest.raises(ValueError, match=r"targets: expected the form of the carry at every step, \[\(6, 3, 4\)\]"):
        teacher_forced(CELL, params, inputs, targets[..., :2])
    cell = lstm(OUTPUTS)
    with pytest.raises(ValueError, match="targets: expected the form of the carry"):
        teacher_forced(cell, cell.init(jax.random.key(0), FEATURES), inputs, targets)
    with pytest.raises(ValueError, match="targets: expected a layer that runs forwards"):
        Recurrent(CELL, reverse=True).init(jax.random.key(0), inputs, targets=targets)
    with pytest.raises(ValueError, match="output_size: expected a positive integer or None, found 0"):
        jordan(4, output_size=0)
