"""The contract of `unroll` that is not a law of cells: what it computes by hand, refuses, compiles and keeps."""

import functools
import os
import re
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Var
from untyped import untyped

import rnn_jax
from rnn_jax import Cell, elman, gru, lstm, unroll
from rnn_jax.sweep import scan_counts


def no_params(key, input_size):
    return {}


ADD = Cell(
    no_params,
    lambda params, batch_shape: jnp.zeros(batch_shape),
    lambda params, x: x[..., 0],
    lambda params, total, x: x,
    lambda params, total, x: (total + x, (total + x)[..., None]),
)

INPUTS = jnp.asarray([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])[..., None]


def run(**options):
    """Running sums of 1, 2, 3, 4 and of 10, 20, 30, 40: the final sums, and the outputs of each row."""
    final, outputs = unroll(ADD, {}, INPUTS, **options)
    return np.asarray(final).tolist(), np.asarray(outputs)[..., 0].T.tolist()


def test_running_sums():
    assert run() == ([10, 100], [[1, 3, 6, 10], [10, 30, 60, 100]])
    assert run(carry=jnp.asarray([5.0, 0.0])) == ([15, 100], [[6, 8, 11, 15], [10, 30, 60, 100]])
    assert run(reverse=True) == ([10, 100], [[10, 9, 7, 4], [100, 90, 70, 40]])


def test_padding_is_skipped_wherever_it_lies():
    mask = jnp.asarray([[True, False], [False, True], [True, True], [True, False]])
    assert run(mask=mask) == ([8, 50], [[1, 0, 4, 8], [0, 20, 50, 0]])
    assert run(mask=mask, reverse=True) == ([8, 50], [[8, 0, 7, 4], [0, 50, 30, 0]])


def test_a_reset_restores_the_initial_carry_before_its_step():
    reset = jnp.asarray([[False, False], [False, True], [True, False], [False, False]])
    assert run(reset=reset, carry=jnp.asarray([5.0, 5.0])) == ([7, 90], [[6, 8, 3, 7], [15, 20, 50, 90]])
    assert run(reset=reset, reverse=True) == ([6, 30], [[6, 5, 3, 4], [30, 20, 70, 40]])


def test_a_reset_at_a_masked_step_still_resets():
    reset = jnp.asarray([[False, False], [False, True], [True, False], [False, False]])
    assert run(reset=reset, mask=~reset) == ([4, 70], [[1, 3, 0, 4], [10, 0, 30, 70]])


@pytest.mark.parametrize("segment", [1, 2, 3, 4, 9, "sqrt"])
@pytest.mark.parametrize("reverse", [False, True])
def test_segments_change_nothing(segment, reverse):
    mask = jnp.asarray([[True, False], [False, True], [True, True], [True, False]])
    assert run(segment=segment, mask=mask, reverse=reverse) == run(mask=mask, reverse=reverse)


def test_batch_major_is_the_transpose():
    mask = jnp.asarray([[True, False], [False, True], [True, True], [True, False]])
    expected_carry, expected = unroll(ADD, {}, INPUTS, mask=mask, reset=mask)
    carry, outputs = unroll(ADD, {}, INPUTS.swapaxes(0, 1), mask=mask.T, reset=mask.T, time_major=False)
    np.testing.assert_array_equal(carry, expected_carry)
    np.testing.assert_array_equal(outputs, expected.swapaxes(0, 1))


def test_two_batch_axes():
    doubled = jnp.stack([INPUTS, 2 * INPUTS], axis=1)
    final, outputs = unroll(ADD, {}, doubled)
    assert np.asarray(final).tolist() == [[10, 100], [20, 200]]
    assert outputs.shape == (4, 2, 2, 1)


def test_no_steps():
    final, outputs = unroll(lstm(3), lstm(3).init(jax.random.key(0), 2), jnp.zeros((0, 5, 2)))
    assert final.hidden.shape == final.cell.shape == (5, 3)
    assert outputs.shape == (0, 5, 3)
    assert not np.asarray(final.cell).any()


def test_a_bare_function_is_a_cell():
    def leak(params, carry, x):
        carry = params["keep"] * carry + x
        return carry, {"value": carry, "double": 2 * carry}

    params = {"keep": jnp.asarray(0.5)}
    carry, outputs = unroll(leak, params, INPUTS, jnp.ones((2, 1)))
    expected_carry, expected = jax.lax.scan(functools.partial(leak, params), jnp.ones((2, 1)), INPUTS)
    np.testing.assert_allclose(carry, expected_carry)
    jax.tree.map(np.testing.assert_allclose, outputs, expected)


@pytest.mark.parametrize("features", [(), (2,), (2, 3, 1)])
def test_the_mask_says_which_axes_of_a_bare_function_are_its_batch(features):
    """Down to none at all, one number a step."""

    def add(params, carry, x):
        return carry + x, carry + x

    inputs = jnp.arange(1.0, 5)[:, None] * jnp.ones((4, 2))
    inputs = inputs.reshape(4, 2, *[1] * len(features)) * jnp.ones(features)
    mask = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], bool)
    total, _ = unroll(add, {}, inputs, jnp.zeros((2, *features)), mask=mask)
    np.testing.assert_array_equal(
        total, np.broadcast_to(np.reshape([7.0, 8.0], (2, *[1] * len(features))), total.shape)
    )
    assert unroll(add, {}, jnp.arange(4.0), jnp.zeros(()))[1].tolist() == [0, 1, 3, 6]
    with pytest.raises(ValueError, match=r"inputs: expected .*, found shape \(\)"):
        unroll(add, {}, jnp.zeros(()), jnp.zeros(()))


def test_a_bare_function_is_traced_once():
    traces = []

    def add(params, carry, x):
        traces.append(None)
        return carry + x, carry

    unroll(add, {}, INPUTS, jnp.zeros((2, 1)))
    first = len(traces)
    unroll(add, {}, 2 * INPUTS, jnp.ones((2, 1)))
    assert len(traces) == first


def test_masks_may_be_numpy_arrays():
    mask = np.array([[True, False], [False, True], [True, True], [True, False]])
    assert run(mask=mask) == run(mask=jnp.asarray(mask))


def test_what_does_not_fit_a_cell_is_named():
    cell = lstm(np.int64(3))
    assert cell is lstm(3)
    params, inputs = cell.init(jax.random.key(0), 2), jnp.ones((4, 1, 2))
    zeros = jnp.zeros((1, 3))
    with pytest.raises(ValueError, match=r"carry: expected LSTMCarry\(.*, found \('float32"):
        unroll(cell, params, inputs, (zeros, zeros))
    with pytest.raises(ValueError, match=r"inputs, params: a step cannot .*\[4, 1, 5\]"):
        unroll(cell, params, jnp.ones((4, 1, 5)))
    with pytest.raises(ValueError, match="params: the cell's initial_carry does not take them"):
        unroll(cell, {}, inputs)
    without_bias = {name: leaf for name, leaf in params.items() if name != "bias"}
    with pytest.raises(ValueError, match=r"params: a step of the cell does not take them: KeyError\('bias'\)"):
        unroll(cell, without_bias, inputs)


def good_params():
    return lstm(3).init(jax.random.key(0), 2)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("mask", {"mask": jnp.ones((4, 3), bool)}),
        ("mask", {"mask": jnp.ones((4, 5))}),
        ("mask", {"mask": jnp.ones((4,), bool)}),
        ("mask", {"mask": jnp.ones((4,), bool), "time_major": False}),
        ("reset", {"reset": jnp.ones((5, 4), bool)}),
        ("reset", {"reset": jnp.ones((4, 5), jnp.int32)}),
        ("carry", {"carry": lstm(3).initial_carry(good_params(), (4,))}),
        ("carry", {"carry": lstm(4).initial_carry(lstm(4).init(jax.random.key(0), 2), (5,))}),
        ("inputs", {"inputs": jnp.zeros((4,))}),
        ("inputs", {"inputs": ()}),
        ("inputs", {"inputs": (jnp.zeros((4, 5, 2)), jnp.zeros((5, 5, 2)))}),
        ("segment", {"segment": 0}),
        ("segment", {"segment": -3}),
        ("segment", {"segment": True}),
        ("method", {"method": "associative"}),
        ("carry", {"cell": lambda params, carry, x: (carry, x)}),
    ],
)
def test_a_bad_argument_is_named(argument, change):
    arguments = {"cell": lstm(3), "params": good_params(), "inputs": jnp.zeros((4, 5, 2))} | change
    with pytest.raises(ValueError, match=rf"^{argument}: ") as caught:
        unroll(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argument", ["segment", "gradient", "method"])
def test_an_unknown_choice_is_named(argument):
    """Past the annotations, which only the tests enforce."""
    call = untyped(unroll)
    with pytest.raises(ValueError, match=rf"^{argument}: .*found 'other'"):
        call(lstm(3), good_params(), jnp.zeros((4, 5, 2)), **{argument: "other"})


def test_a_counter_of_all_sequences_has_no_padding():
    def count(params, carry, x):
        return carry + 1, x

    assert unroll(count, {}, INPUTS, jnp.int32(0))[0] == len(INPUTS)
    for name in ("mask", "reset"):
        with pytest.raises(ValueError, match=r"^carry: expected leaves that begin with the axes of the batch \[2\]"):
            unroll(count, {}, INPUTS, jnp.int32(0), **{name: jnp.ones(INPUTS.shape[:2], bool)})


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("method", ["loop", "associative"])
def test_the_readout_of_a_linear_recurrence(steps, method):
    """Its outputs have one form, however many steps there are."""

    def decay(params, projected):
        return jnp.full_like(projected, params["decay"]), projected

    def update(params, carry, preactivations):
        return preactivations, None

    cell = Cell(
        init=lambda key, features, dtype=jnp.float32: {"decay": jnp.asarray(0.5, dtype)},
        initial_carry=lambda params, batch_shape: jnp.zeros((*batch_shape, 1)),
        project=lambda params, inputs: inputs,
        recur=lambda params, carry, projected: params["decay"] * carry + projected,
        update=update,
        readout=lambda params, carry, projected: jnp.concatenate([carry, projected], axis=-1),
        coefficients=decay,
    )
    _, outputs = unroll(cell, cell.init(jax.random.key(0), 1), INPUTS[:steps], method=method)
    assert outputs.shape == (steps, *INPUTS.shape[1:-1], 2)


def test_a_step_must_keep_the_form_of_its_carry():
    def grow(params, carry, x):
        return jnp.concatenate([carry, carry], axis=-1), x

    with pytest.raises(ValueError, match=r"^carry: one step turns"):
        unroll(grow, {}, INPUTS, jnp.zeros((2, 1)))


def equations(jaxpr, name):
    """All equations of a primitive that contribute to a result, at any depth."""
    found, needed = [], {v for v in jaxpr.outvars if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if needed.isdisjoint(equation.outvars):
            continue
        needed |= {v for v in equation.invars if isinstance(v, Var)}
        found += [equation] if equation.primitive.name == name else []
        for inner in inner_jaxprs(equation):
            found += equations(inner, name)
    return found[::-1]


def inner_jaxprs(equation):
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def training_jaxpr(cell, steps=7, **options):
    params = cell.init(jax.random.key(0), 2)
    inputs = jnp.zeros((steps, 5, 2))

    def loss(params, inputs):
        carry, outputs = unroll(cell, params, inputs, **options)
        return jnp.mean(outputs**2) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(carry))

    return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, inputs).jaxpr


def carried_shapes(scan):
    """Shapes of what a scan hands from step to step."""
    start, count = scan_counts(scan)
    return [v.aval.shape for v in scan.invars[start : start + count]]


CELLS = {"elman": elman(3), "lstm": lstm(3), "gru": gru(3)}


@pytest.mark.parametrize("name", CELLS)
def test_each_loop_holds_one_product_and_no_weight_gradient(name):
    cell = CELLS[name]
    weights = {leaf.shape for leaf in jax.tree.leaves(cell.init(jax.random.key(0), 2))}
    weights |= {shape[::-1] for shape in weights}
    forward, backward = equations(training_jaxpr(cell), "scan")
    for loop in (forward, backward):
        assert len(equations(loop.params["jaxpr"].jaxpr, "dot_general")) == 1
        assert not weights & set(carried_shapes(loop))
    # The same reading of plain autodiff finds what is to be avoided, so it can find it.
    _, plain = equations(training_jaxpr(cell, gradient="autodiff"), "scan")
    assert weights & set(carried_shapes(plain))
    assert len(equations(plain.params["jaxpr"].jaxpr, "dot_general")) > 1


def test_a_matmul_in_update_costs_one_more_product_a_step():
    cell = gru(3, reset="before")
    weights = {leaf.shape for leaf in jax.tree.leaves(cell.init(jax.random.key(0), 2))}
    for loop in equations(training_jaxpr(cell), "scan"):
        assert len(equations(loop.params["jaxpr"].jaxpr, "dot_general")) <= 3
        assert not weights & set(carried_shapes(loop))


def test_gradients_of_gates_leave_the_loop_as_one_array_that_stays_one():
    cell = lstm(3)
    params = cell.init(jax.random.key(0), 2)
    gradient = jax.grad(lambda params, inputs: jnp.mean(unroll(cell, params, inputs)[1] ** 2), argnums=(0, 1))
    text = jax.jit(gradient).lower(params, jnp.zeros((7, 5, 2))).compile().as_text()
    steps = re.findall(r"= f32\[((?:7,5|35),[0-9]+)\]\S* concatenate\(", text)
    assert "f32[7,5,12]" in text
    assert steps == []


def test_gates_that_are_numbers():
    two = Cell(
        lambda key, input_size: {"decay": jnp.ones(()), "scale": jnp.ones(())},
        lambda params, batch_shape: jnp.zeros(batch_shape),
        lambda params, x: (x[..., 0], x[..., 0] ** 2),
        lambda params, h, x: (x[0] + params["decay"] * h, x[1] * params["scale"]),
        lambda params, h, z: (jnp.tanh(z[0]) * z[1], (jnp.tanh(z[0]) * z[1])[..., None]),
    )

    def loss(params, inputs, gradient):
        return jnp.mean(unroll(two, params, inputs, gradient=gradient)[1] ** 2)

    params, inputs = {"decay": jnp.asarray(0.5), "scale": jnp.asarray(2.0)}, jnp.sin(jnp.arange(24.0)).reshape(4, 6, 1)
    differentiate = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    for batch in (inputs, inputs[:, 0], inputs.reshape(4, 2, 3, 1)):
        found, expected = (differentiate(params, batch, gradient) for gradient in ("deferred", "autodiff"))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), found, expected)


@pytest.mark.parametrize("gradient", ["deferred", "autodiff"])
def test_one_step_has_no_loop(gradient):
    jaxpr = training_jaxpr(lstm(3), steps=1, gradient=gradient)
    assert not equations(jaxpr, "scan")
    assert not equations(jaxpr, "while")
    assert equations(jaxpr, "dot_general")


def test_half_precision_multiplies_in_half_and_sums_in_single():
    cell = lstm(3, dtype=jnp.bfloat16)
    params = cell.init(jax.random.key(0), 2)
    jaxpr = jax.make_jaxpr(lambda p, x: unroll(cell, p, x))(params, jnp.zeros((7, 5, 2), jnp.bfloat16)).jaxpr
    products = equations(jaxpr, "dot_general")
    assert {v.aval.dtype.name for e in products for v in e.invars} == {"bfloat16"}
    assert {v.aval.dtype.name for e in products for v in e.outvars} == {"float32"}
    (loop,) = equations(jaxpr, "scan")
    start, count = scan_counts(loop)
    carried = loop.invars[start : start + count]
    assert {v.aval.dtype.name for v in carried if v.aval.shape} == {"float32"}


def test_half_precision_is_near_single():
    cell, half = lstm(8), lstm(8, dtype=jnp.bfloat16)
    params = cell.init(jax.random.key(0), 4)
    inputs = jax.random.normal(jax.random.key(1), (7, 5, 4))
    cast = functools.partial(jax.tree.map, lambda leaf: leaf.astype(jnp.bfloat16))

    def loss(cell, params, inputs):
        return jnp.mean(unroll(cell, params, inputs)[1] ** 2)

    expected = jax.jit(jax.grad(functools.partial(loss, cell)))(params, inputs)
    found = jax.jit(jax.grad(functools.partial(loss, half)))(cast(params), cast(inputs))
    for name, leaf in found.items():
        assert leaf.dtype == jnp.bfloat16
        scale = float(jnp.abs(expected[name]).max())
        np.testing.assert_allclose(leaf.astype(jnp.float32), expected[name], atol=0.05 * scale)


def test_segments_need_less_memory(optimized):
    cell = lstm(256)
    params = jax.eval_shape(lambda key: cell.init(key, 256), jax.random.key(0))

    def temporary(segment):
        def loss(params, inputs):
            return jnp.mean(unroll(cell, params, inputs, segment=segment)[0].hidden ** 2)

        compiled = optimized(jax.grad(loss)).lower(params, jax.ShapeDtypeStruct((4096, 32, 256), jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary("sqrt") <= 0.2 * temporary(None)


def test_gradients_pass_through_a_learned_initial_carry():
    cell = elman(3)
    learned = cell.replace(
        init=lambda key, size: cell.init(key, size) | {"initial": jnp.full((3,), 0.5)},
        initial_carry=lambda p, batch_shape: rnn_jax.cells.ElmanCarry(
            jnp.broadcast_to(p["initial"], (*batch_shape, 3))
        ),
    )
    params = learned.init(jax.random.key(0), 2)
    inputs = jax.random.normal(jax.random.key(1), (4, 5, 2))

    def loss(gradient, params):
        reset = jnp.zeros((4, 5), bool).at[2, 1].set(True)
        return jnp.sum(unroll(learned, params, inputs, reset=reset, gradient=gradient)[1] ** 2)

    fast, plain = (jax.jit(jax.grad(functools.partial(loss, kind)))(params) for kind in ("deferred", "autodiff"))
    assert np.abs(fast["initial"]).min() > 0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), fast, plain)


@pytest.mark.parametrize("gradient", ["deferred", "autodiff"])
def test_a_readout_never_reads_the_zeros_of_the_padding(gradient):
    """h / |h| has no gradient at 0, and no step computes it there."""
    plain = elman(3)

    def direction(params, carry, projected):
        return carry.hidden / jnp.sqrt(jnp.sum(carry.hidden**2, axis=-1, keepdims=True)) @ params["readout"]

    cell = plain.replace(
        init=lambda key, size: plain.init(key, size) | {"readout": jnp.array([[1.0], [-2.0], [0.5]])},
        update=lambda p, c, z: (new := plain.update(p, c, z)[0], direction(p, new, None)),
        readout=direction,
    )
    params = cell.init(jax.random.key(0), 2)
    inputs = jax.random.normal(jax.random.key(1), (5, 2, 2))
    mask = jnp.array([[0, 1], [1, 0], [0, 1], [1, 1], [1, 0]], bool)

    def loss(params, cell, **options):
        return jnp.sum(unroll(cell, params, inputs, mask=mask, **options)[1] ** 2)

    found = jax.grad(loss)(params, cell, gradient=gradient)
    expected = jax.grad(loss)(params, cell.replace(readout=None), gradient="autodiff")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)


def test_forward_mode_needs_the_plain_path():
    cell, inputs = elman(3), jnp.ones((4, 5, 2))
    params = cell.init(jax.random.key(0), 2)

    def outputs(gradient, inputs):
        return unroll(cell, params, inputs, gradient=gradient)[1]

    _, tangent = jax.jvp(functools.partial(outputs, "autodiff"), (inputs,), (inputs,))
    step = 1e-2
    difference = (outputs("deferred", inputs * (1 + step)) - outputs("deferred", inputs * (1 - step))) / (2 * step)
    np.testing.assert_allclose(tangent, difference, atol=1e-3)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(functools.partial(outputs, "deferred"), (inputs,), (inputs,))


def test_public_names():
    assert Counter(rnn_jax.cells.CELLS) == Counter(rnn_jax.CELLS)
    assert callable(rnn_jax.unroll)
    assert callable(rnn_jax.sweep.sweep)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rnn_jax.nothing  # noqa: B018
    for name, factory in rnn_jax.CELLS.items():
        assert getattr(rnn_jax, name) is factory
        assert isinstance(factory(4), Cell)


def test_a_bare_function_of_two_axes_without_a_batch_in_front_needs_to_know_which():
    def add(params, carry, x):
        return carry + x, carry + x

    inputs = jnp.array([[1.0, 2.0], [10.0, 20.0]])
    with pytest.raises(ValueError, match="mask: expected one, to tell"):
        unroll(add, {}, inputs, jnp.zeros(2), time_major=False)
    by_batch, _ = unroll(add, {}, inputs, jnp.zeros(2), time_major=False, mask=jnp.ones((2, 2), bool))
    by_time, _ = unroll(add, {}, inputs, jnp.zeros(2), time_major=False, mask=jnp.ones(2, bool))
    assert by_batch.tolist() == [3, 30]
    assert by_time.tolist() == [11, 22]


@pytest.mark.parametrize(
    ("name", "options"), [("gru", {}), ("lstm", {"segment": 2}), ("elman", {"gradient": "autodiff"}), ("jordan", {})]
)
@pytest.mark.parametrize("masked", [False, True])
def test_within_shard_map_it_makes_its_own_carry(name, options, masked):
    """What differs between devices is part of the types: a loop must end with the types it began with."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    whole, spread = jax.P(), jax.P(None, "batch")
    cell = rnn_jax.CELLS[name](5)
    params, inputs = cell.init(jax.random.key(0), 3), jnp.ones((6, 4, 3))

    def run(params, inputs):
        return unroll(cell, params, inputs, mask=inputs[..., 0] > 0 if masked else None, **options)[1]

    mapped = jax.shard_map(run, mesh=mesh, in_specs=(whole, spread), out_specs=spread)
    gradient = jax.eval_shape(jax.grad(lambda *arguments: mapped(*arguments).sum()), params, inputs)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)


WITHIN_SHARD_MAP = """
import jax, jax.numpy as jnp, numpy as np, rnn_jax
from jax.sharding import Mesh, PartitionSpec as P
from rnn_jax import crf, losses

mesh = Mesh(np.array(jax.devices()), ("batch",))
assert mesh.size == 2
inputs = jax.random.normal(jax.random.key(1), (6, 4, 3))


def check(function, inputs, params=(), out=P(None, "batch"), summed=False):
    def loss(params, inputs, function):
        return (function(params, inputs) ** (1 if summed else 2)).sum()

    spread = jax.shard_map(function, mesh=mesh, in_specs=(P(), P(None, "batch")), out_specs=out)
    if not summed:
        np.testing.assert_allclose(spread(params, inputs), function(params, inputs), rtol=1e-5, atol=1e-6)
    found, expected = (jax.grad(loss, (0, 1))(params, inputs, one) for one in (spread, function))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), found, expected)


for name, options in [("gru", {}), ("lstm", {"segment": 2}), ("elman", {"gradient": "autodiff"}), ("jordan", {})]:
    cell = rnn_jax.CELLS[name](5)
    params = cell.init(jax.random.key(0), 3)
    check(lambda p, x: rnn_jax.unroll(cell, p, x, **options)[1], inputs, params)
    check(lambda p, x: rnn_jax.unroll(cell, p, x, mask=x[..., 0] > 0, **options)[1], inputs, params)

transitions = crf.Transitions(0.1 * jnp.ones((3, 3)), jnp.ones(3), jnp.arange(3.0))
check(lambda p, x: crf.log_partition(x, p), inputs, transitions, P("batch"))
check(lambda p, x: crf.marginals(x, p), inputs, transitions)

losses._AT_ONCE["cpu"] = 8
kernel = jax.random.normal(jax.random.key(2), (3, 7))


def loss(kernel, vectors):
    targets = jnp.zeros(vectors.shape[:-1], int)
    return losses.linear_cross_entropy(vectors, kernel, jnp.arange(7.0), targets)[0][None]


check(loss, inputs, kernel, P("batch"), summed=True)
"""


@pytest.mark.slow
def test_within_shard_map_each_device_runs_its_part_of_the_batch():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", WITHIN_SHARD_MAP], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
