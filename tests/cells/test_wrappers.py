"""Zoneout, the learned carry and lookup, as wrappers of any cell."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import assert_close, case

from rnn_jax import CELLS, Cell, elman, gru, lstm, unroll
from rnn_jax.cells import draw_zoneout, learned_carry, lookup, zoneout

STEPS, BATCH, FEATURES, HIDDEN = 5, 2, 3, 4
RATE = 0.4

pytestmark = pytest.mark.usefixtures("x64")


def build(cell):
    params = cell.init(jax.random.key(0), FEATURES)
    inputs = jax.random.normal(jax.random.key(1), (STEPS, BATCH, FEATURES), jnp.float64)
    return params, inputs, draw_zoneout(jax.random.key(2), cell, RATE, params, (STEPS, BATCH))


def by_hand(name, params, inputs, keep):
    """The equations of zoneout around those of the cell, `keep` [T, B, H] in [0, 1] for each array of the carry."""
    step = oracles.ORACLES[name](jax.tree.map(np.asarray, params), {})
    outputs = np.zeros((STEPS, BATCH, HIDDEN))
    finals = []
    for row in range(BATCH):
        carry = tuple(np.zeros(HIDDEN) for _ in keep)
        for t in range(STEPS):
            new, _ = step(carry, np.asarray(inputs[t, row]))
            carry = tuple(
                d[t, row] * old + (1 - d[t, row]) * fresh for d, old, fresh in zip(keep, carry, new, strict=True)
            )
            outputs[t, row] = carry[0]
        finals.append(carry)
    return [np.stack(leaves) for leaves in zip(*finals, strict=True)], outputs


@pytest.mark.parametrize("name", ["elman", "lstm", "gru"])
def test_zoneout_equals_its_equations(name):
    cell = CELLS[name](HIDDEN, dtype=jnp.float64, recurrent_init="uniform")
    params, inputs, masks = build(cell)
    wrapped = zoneout(cell, RATE)
    drawn = [np.asarray(leaf, float) for leaf in jax.tree.leaves(masks)]
    expectation = [np.full((STEPS, BATCH, HIDDEN), RATE) for _ in drawn]
    for given, keep in ((masks, drawn), (None, expectation)):
        carry, outputs = unroll(wrapped, params, (inputs, given))
        expected_carry, expected = by_hand(name, params, inputs, keep)
        np.testing.assert_allclose(outputs, expected, atol=1e-13)
        for found, wanted in zip(jax.tree.leaves(carry), expected_carry, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-13)


def test_the_gradient_of_zoneout_is_that_of_plain_autodiff():
    cell = lstm(HIDDEN, dtype=jnp.float64, recurrent_init="uniform")
    params, inputs, masks = build(cell)
    mask = jnp.arange(STEPS)[:, None] < jnp.array([5, 3])

    def loss(params, inputs, gradient):
        wrapped = zoneout(learned_carry(cell), (RATE, 0.1))
        carry, outputs = unroll(wrapped, params, (inputs, masks), mask=mask, gradient=gradient)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(carry.cell)

    params = learned_carry(cell).init(jax.random.key(0), FEATURES)
    fast = jax.grad(loss, (0, 1))(params, inputs, "deferred")
    plain = jax.grad(loss, (0, 1))(params, inputs, "autodiff")
    for found, expected in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_rate_0_is_the_cell_itself():
    cell = gru(HIDDEN, dtype=jnp.float64, recurrent_init="uniform")
    params, inputs, _ = build(cell)
    wrapped = zoneout(cell, 0.0)
    masks = draw_zoneout(jax.random.key(2), cell, 0.0, params, (STEPS, BATCH))
    expected = unroll(cell, params, inputs)[1]
    np.testing.assert_array_equal(unroll(wrapped, params, (inputs, None))[1], expected)
    np.testing.assert_array_equal(unroll(wrapped, params, (inputs, masks))[1], expected)


def test_zoneout_reaches_a_readout_and_leaves_counters_alone():
    def update(params, carry, preactivations):
        return {"sum": carry["sum"] + preactivations, "steps": carry["steps"] + 1}, preactivations

    adder = Cell(
        init=lambda key, size: {},
        initial_carry=lambda params, shape: {"sum": jnp.zeros((*shape, 1)), "steps": jnp.zeros((*shape, 1), int)},
        project=lambda params, x: x,
        recur=lambda params, carry, projected: projected,
        update=update,
        readout=lambda params, carry, projected: 10 * carry["sum"],
    )
    carry, outputs = unroll(zoneout(adder, 0.5), {}, (jnp.ones((4, 1)), None))
    assert carry["steps"] == 4
    np.testing.assert_allclose(outputs[:, 0], [5.0, 10.0, 15.0, 20.0])


def test_a_learned_carry_is_where_every_sequence_starts():
    cell = learned_carry(lstm(HIDDEN, dtype=jnp.float64, recurrent_init="uniform"))
    params, inputs, _ = build(cell)
    params["initial_carry"] = {"hidden": jnp.arange(4.0), "cell": -jnp.arange(4.0)}
    start = cell.initial_carry(params, (BATCH,))
    np.testing.assert_array_equal(start.hidden, np.tile(np.arange(4.0), (BATCH, 1)))
    np.testing.assert_array_equal(unroll(cell, params, inputs)[1], unroll(cell, params, inputs, start)[1])
    gradient = jax.grad(lambda p: unroll(cell, p, inputs)[1].sum())(params)["initial_carry"]
    of_start = jax.grad(lambda c: unroll(cell, params, inputs, c)[1].sum())(start)
    np.testing.assert_allclose(gradient["cell"], of_start.cell.sum(0), atol=1e-13)


# With a readout, of one batch shape alone, with coefficients, of images, and those of the most use.
LOOKING_UP = ["jordan", "rowwise", "lru", "conv_lstm", "lstm", "gru(reset=before)"]
FEW_OR_MANY = [
    pytest.param(
        name,
        rows,
        marks=() if (rows == 4 and name not in ("rowwise", "conv_lstm")) or name == "lstm" else pytest.mark.slow,
    )
    for name in LOOKING_UP
    for rows in (4, 10)
]


@pytest.mark.parametrize(("name", "rows"), FEW_OR_MANY)
def test_a_cell_that_looks_up_is_the_cell_given_the_rows(name, rows):
    """6 steps of 3 sequences: products of 4 rows are taken for each row, those of 10 for each symbol."""
    plain = case(name)
    inputs = plain.inputs
    table = inputs.reshape(-1, *inputs.shape[2:])[:rows]
    symbols = np.random.default_rng(0).integers(0, rows, inputs.shape[:2])
    mask = np.arange(6)[:, None] < np.array([6, 4, 0])

    def looked_up(params, table):
        return unroll(lookup(plain.cell), {"cell": params, "table": table}, symbols, mask=mask, segment=3)

    def given(params, table):
        return unroll(plain.cell, params, table[symbols], mask=mask, segment=3)

    def with_gradients(run):
        def loss(params, table):
            result = run(params, table)
            return sum(jnp.sum(jnp.sin(leaf)).real for leaf in jax.tree.leaves(result[1])), result

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    found, expected = (with_gradients(run)(plain.params, table) for run in (looked_up, given))
    assert_close(found, expected)


@pytest.mark.parametrize(("rows", "projected"), [(7, 7), (8, 15)])
def test_each_row_is_projected_once_where_that_is_less(rows, projected):
    seen = []
    cell = gru(HIDDEN)

    def project(params, inputs):
        seen.append(inputs.shape)
        return cell.project(params, inputs)

    params = {"cell": cell.init(jax.random.key(0), FEATURES), "table": jnp.ones((rows, FEATURES))}
    jax.make_jaxpr(lambda s: unroll(lookup(cell.replace(project=project)), params, s))(jnp.zeros((5, 3), int))
    # On several devices, time and batch stay two axes.
    assert math.prod(seen[-1]) == projected * FEATURES


@pytest.mark.parametrize("rows", [2, 5])
def test_a_symbol_that_no_row_stands_for_is_not_taken_for_another(rows):
    cell = elman(HIDDEN)
    params = {"cell": cell.init(jax.random.key(0), FEATURES), "table": jnp.ones((rows, FEATURES))}
    symbols = jnp.array([[0, 0], [1, rows], [0, 0]])
    _, outputs = unroll(lookup(cell), params, symbols)
    np.testing.assert_array_equal(np.isnan(outputs).any(-1), [[False, False], [False, True], [False, True]])


def test_wrappers_are_cached():
    assert zoneout(elman(3), 0.1) is zoneout(elman(3), 0.1)
    assert learned_carry(elman(3)) is learned_carry(elman(3))


@pytest.mark.parametrize("rate", [-0.1, 1.0, (0.1,), (0.1, 0.2, 0.3)])
def test_errors_name_the_argument(rate):
    cell = lstm(HIDDEN, dtype=jnp.float64, recurrent_init="uniform")
    params, inputs, _ = build(cell)
    with pytest.raises(ValueError, match=r"zoneout: expected one rate in \[0, 1\), or one for each of 2 arrays"):
        unroll(zoneout(cell, rate), params, (inputs, None))
