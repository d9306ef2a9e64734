"""The options of a stack: both ways, residual, skip, and what is random."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables
from untyped import untyped

import rnn_jax
from rnn_jax.cells import draw_zoneout, learned_carry, zoneout
from rnn_jax.layers import Bidirectional, Recurrent, Stack
from rnn_jax.layers.recurrent import cell_as_run
from rnn_jax.layers.weight_drop import recurrent_matrices

INPUTS = jax.random.normal(jax.random.key(0), (5, 2, 4))
MASK = jnp.arange(5)[:, None] < jnp.array([5, 3])
NOISE = {"dropout": jax.random.key(2)}
CELLS = [rnn_jax.elman(4), rnn_jax.elman(6), rnn_jax.elman(6)]


def build(**options):
    stack = Stack(CELLS, **options)
    return stack, draw_variables(stack, INPUTS)


def layer(variables, index, inputs, mask=MASK):
    return rnn_jax.unroll(CELLS[index], variables["params"][f"layer_{index}"]["cell"], inputs, mask=mask)[1]


def test_every_layer_both_ways():
    stack, variables = build(bidirectional=True, merge="mean")
    carries, outputs = stack.apply(variables, INPUTS, mask=MASK)
    below = INPUTS
    for index, cell in enumerate(CELLS):
        params = {"params": variables["params"][f"layer_{index}"]}
        carry, below = Bidirectional(cell, merge="mean").apply(params, below, mask=MASK)
        jax.tree.map(np.testing.assert_array_equal, carries[index], carry)
    np.testing.assert_array_equal(outputs, below)


def test_a_residual_goes_around_layers_that_keep_the_width():
    stack, variables = build(residual=True)
    first = layer(variables, 0, INPUTS) + jnp.where(MASK[..., None], INPUTS, 0)
    second = layer(variables, 1, first)
    expected = layer(variables, 2, second) + second
    np.testing.assert_allclose(stack.apply(variables, INPUTS, mask=MASK)[1], expected, rtol=1e-5, atol=1e-6)


def test_skip_connections_show_the_inputs_to_all_and_all_to_the_outputs():
    stack, variables = build(skip=True)
    first = layer(variables, 0, INPUTS)
    second = layer(variables, 1, jnp.concatenate([first, INPUTS], -1))
    third = layer(variables, 2, jnp.concatenate([second, INPUTS], -1))
    expected = jnp.concatenate([first, second, third], -1)
    np.testing.assert_allclose(stack.apply(variables, INPUTS, mask=MASK)[1], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"residual": True}, {"skip": True}, {"zoneout": (0.3,), "learned_carry": True}, {"dtype": jnp.bfloat16}],
    ids=str,
)
def test_steps_of_decoding_equal_the_whole_sequence(options):
    stack = Stack([rnn_jax.gru(4), rnn_jax.gru(4)], **options)
    variables = draw_variables(stack, INPUTS)
    carry, _ = stack.apply(variables, INPUTS[:0])
    final, expected = stack.apply(variables, INPUTS)
    for t, x in enumerate(INPUTS):
        projected = stack.apply(variables, x, method="project") if t % 2 else None
        carry, outputs = stack.apply(variables, carry, x, projected, method="step")
        np.testing.assert_allclose(outputs, expected[t], rtol=1e-5, atol=1e-6)
    for found, wanted in zip(jax.tree.leaves(carry), jax.tree.leaves(final), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"residual": True},
        {"skip": True, "reverse": True},
        {"bidirectional": True, "zoneout": 0.3, "learned_carry": True, "segment": 2},
        {"weight_drop": 0.5, "time_major": False},
        {"dtype": jnp.bfloat16},
    ],
    ids=str,
)
def test_the_rows_of_a_table_are_read_as_if_they_were_given(options):
    stack, variables = build(**options)
    table, symbols = INPUTS[:2, 0], jnp.arange(10).reshape(5, 2) % 3 % 2
    if "time_major" in options:
        symbols = symbols.T
    mask = None if "time_major" in options else MASK
    random = {"deterministic": False, "rngs": NOISE}
    apply = jax.jit(functools.partial(stack.apply, **random))
    found = apply(variables, symbols, mask=mask, table=table)
    expected = apply(variables, table[symbols], mask=mask)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_variational_dropout_draws_one_mask_a_sequence():
    identity = rnn_jax.from_function(
        lambda params, carry, x: (carry, x),
        lambda key, size: {},
        lambda params, shape: jnp.zeros((*shape, 1)),
        rank_polymorphic=True,
    )
    inputs = jnp.ones((5, 3, 40))

    def dropped(**options):
        stack = Stack([identity, identity], dropout=0.5, **options)
        params = {"params": {f"layer_{index}": {"cell": {}} for index in range(2)}}
        return stack.apply(params, inputs, deterministic=False, rngs=NOISE)[1]

    once, anew = dropped(variational=True), dropped()
    np.testing.assert_array_equal(once, jnp.broadcast_to(once[:1], once.shape))
    assert not np.array_equal(once[0, 0], once[0, 1])
    assert not np.array_equal(anew[0], anew[1])
    assert set(np.unique(once)) == {0.0, 2.0}


@pytest.mark.parametrize("time_major", [True, False])
def test_weight_drop_of_a_cell_that_knows_its_batch(time_major):
    cell = rnn_jax.elman(4)
    rigid = cell.replace(
        recur=lambda p, c, z: (z[0] + jnp.einsum("bh,hk->bk", c.hidden, p["recurrent"]),), rank_polymorphic=False
    )
    inputs = INPUTS if time_major else INPUTS.swapaxes(0, 1)
    outputs = []
    for each in (cell, rigid):
        layer = Recurrent(each, weight_drop=0.5, time_major=time_major)
        variables = draw_variables(Recurrent(cell), INPUTS)
        outputs.append(layer.apply(variables, inputs, deterministic=False, rngs=NOISE)[1])
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


def test_weight_drop_thins_the_recurrent_matrix_and_nothing_else():
    cell = rnn_jax.lstm(8)
    layer = Recurrent(cell, weight_drop=0.5)
    variables = draw_variables(layer, INPUTS)
    _, plain = layer.apply(variables, INPUTS)
    np.testing.assert_array_equal(plain, Recurrent(cell).apply(variables, INPUTS)[1])
    _, dropped = layer.apply(variables, INPUTS, deterministic=False, rngs=NOISE)
    # The carry before the first step is zero, so that step does not depend on the recurrent matrix.
    np.testing.assert_array_equal(dropped[0], plain[0])
    assert not np.allclose(dropped[1], plain[1])

    def loss(variables):
        return layer.apply(variables, INPUTS, deterministic=False, rngs=NOISE)[1].sum()

    gradient = jax.grad(loss)(variables)["params"]["cell"]
    share = np.mean(np.asarray(gradient["recurrent"]) == 0)
    assert 0.35 < share < 0.65
    assert np.all(np.asarray(gradient["input"]) != 0)

    # An oracle: the surviving elements doubled, the rest zero, and an ordinary layer.
    params = variables["params"]["cell"]
    thinned = params | {"recurrent": jnp.where(gradient["recurrent"] == 0, 0, 2 * params["recurrent"])}
    _, expected = rnn_jax.unroll(cell, thinned, INPUTS)
    np.testing.assert_allclose(dropped, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (rnn_jax.elman(4), {"recurrent"}),
        (rnn_jax.lstm(4), {"recurrent"}),
        (rnn_jax.gru(4), {"recurrent"}),
        (rnn_jax.gru(4, reset="before"), {"recurrent", "candidate"}),
        (learned_carry(rnn_jax.gru(4)), {"recurrent"}),
        # Handed all parameters, they read what they read.
        (rnn_jax.elman(4).replace(project=jax.jit(rnn_jax.elman(4).project)), {"recurrent"}),
        (rnn_jax.gru(4).replace(project=jax.checkpoint(rnn_jax.gru(4).project)), {"recurrent"}),
    ],
)
def test_recurrent_matrices_are_told_from_the_equations(cell, expected):
    params = jax.eval_shape(lambda key: cell.init(key, 4), jax.random.key(0))
    found = recurrent_matrices(cell, params, INPUTS)
    assert {name for name, flags in found.items() if any(jax.tree.leaves(flags))} == expected


def test_a_layer_with_zoneout_draws_masks_and_evaluates_the_expectation():
    cell, rate = rnn_jax.lstm(4), (0.3, 0.6)
    layer = Recurrent(cell, zoneout=rate)
    variables = draw_variables(layer, INPUTS)
    params, wrapped = variables["params"]["cell"], zoneout(cell, rate)
    _, expected = rnn_jax.unroll(wrapped, params, (INPUTS, None), mask=MASK)
    np.testing.assert_array_equal(layer.apply(variables, INPUTS, mask=MASK)[1], expected)
    _, one = layer.apply(variables, INPUTS, mask=MASK, deterministic=False, rngs=NOISE)
    _, same = layer.apply(variables, INPUTS, mask=MASK, deterministic=False, rngs=NOISE)
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, expected)
    assert not np.asarray(one)[~np.asarray(MASK)].any()
    masks = draw_zoneout(jax.random.key(0), cell, rate, params, (200, 50))
    assert [round(float(mask.mean()), 1) for mask in masks] == [0.3, 0.6]


def test_a_learned_carry_starts_as_the_cells_own():
    stack = Stack([rnn_jax.elman(4), rnn_jax.lstm(4)], learned_carry=True)
    started = jax.jit(stack.init)(jax.random.key(1), INPUTS)["params"]["layer_1"]["cell"]["initial_carry"]
    assert set(started) == {"hidden", "cell"}
    assert not any(np.asarray(leaf).any() for leaf in started.values())
    variables = draw_variables(stack, INPUTS)
    carry, _ = stack.apply(variables, INPUTS[:0])
    learned = variables["params"]["layer_1"]["cell"]["initial_carry"]
    for name in ("hidden", "cell"):
        np.testing.assert_array_equal(getattr(carry[1], name), jnp.tile(learned[name], (2, 1)))


def test_a_stack_without_options_costs_nothing():
    """The same jaxpr as layers that know none of them."""
    stack, variables = build()

    def by_hand(variables, inputs):
        outputs = inputs
        carries = []
        for index, cell in enumerate(CELLS):
            carry, outputs = Recurrent(cell).apply({"params": variables["params"][f"layer_{index}"]}, outputs)
            carries.append(carry)
        return tuple(carries), outputs

    found = jax.make_jaxpr(stack.apply)(variables, INPUTS)
    assert len(found.jaxpr.eqns) == len(jax.make_jaxpr(by_hand)(variables, INPUTS).jaxpr.eqns) == len(CELLS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.5}, r"dropout: expected a rate in \[0, 1\], found 1.5"),
        ({"weight_drop": -0.1}, r"weight_drop: expected a rate in \[0, 1\], found -0.1"),
        ({"zoneout": 1.0}, r"zoneout: expected one rate in \[0, 1\)"),
        ({"zoneout": (0.1, 0.2)}, r"zoneout: expected one rate in \[0, 1\), or one for each of 1 arrays"),
        ({"bidirectional": True, "merge": "none"}, "merge: expected one of concat, sum, mean, multiply, found 'none'"),
        ({"bidirectional": True, "reverse": True}, "reverse: expected False where bidirectional is True"),
        ({"residual": True, "skip": True}, "skip: expected False where residual is True"),
    ],
    ids=str,
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_stack_that_reads_backwards_does_not_decode():
    stack, variables = build(bidirectional=True)
    with pytest.raises(ValueError, match="step: expected a stack that runs forwards only"):
        stack.apply(variables, (None,) * 3, INPUTS[0], method="step")


def test_what_is_no_cell_is_refused():
    with pytest.raises(ValueError, match="cells: expected a sequence of cells, one a layer, found a single cell"):
        untyped(Stack._check)(SimpleNamespace(cells=rnn_jax.lstm(4)), None)
    for wrong in ("lstm", rnn_jax.lstm):
        with pytest.raises(ValueError, match=r"cell: expected a cell, such as rnn_jax.lstm\(128\), found"):
            untyped(cell_as_run)(wrong)


def test_a_rate_may_be_a_number_of_numpy():
    inputs = jnp.ones((3, 2, 4))
    one, other = (Stack([rnn_jax.lstm(4)], zoneout=rate) for rate in (0.25, np.float32(0.25)))
    variables = one.init(jax.random.key(0), inputs)
    np.testing.assert_array_equal(one.apply(variables, inputs)[1], other.apply(variables, inputs)[1])
