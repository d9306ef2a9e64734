"""Whole loops as machine code: what they compute is what `lax.scan` computes, and what they cannot be is said."""

import concurrent.futures
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from given import new, normal
from jax.test_util import check_grads

import rnn_jax
from rnn_jax.cells import CELLS, draw_zoneout, make, zoneout
from rnn_jax.recurrence import native
from rnn_jax.recurrence.fused import fused_scan
from rnn_jax.recurrence.loop import scan
from rnn_jax.recurrence.loop_code import LoopCode
from rnn_jax.recurrence.machine_code import Shape
from rnn_jax.recurrence.setting import way
from rnn_jax.recurrence.step_graph import plan

pytestmark = pytest.mark.skipif(way() == "xla", reason="no machine code on this machine")

# Those of AVX-512, AVX2 and NEON. LLVM makes shorter vectors of those that this processor does not have.
SHAPES = [Shape(16, 12), Shape(8, 6), Shape(4, 8)]


def unseen(cell):
    """The same cell, which no jitted function has seen."""
    return cell.replace(update=lambda *arguments: cell.update(*arguments))


def fused(body, carry, xs, length=None, reverse=False):
    """`lax.scan` as machine code, and that it was."""
    length = length or len(jax.tree.leaves(xs)[0])
    compiled = jax.jit(
        lambda carry, xs: fused_scan(body, carry, xs, length=length, reverse=reverse, turned=False)
    ).lower(carry, xs)
    assert "rnn_jax_loop_" in compiled.as_text()
    return compiled.compile()(carry, xs)


def check(body, carry, xs, length=None, *, rtol=1e-5, atol=1e-5, **how):
    """Fused equals `lax.scan`, in both directions; returns what it is."""
    expected = jax.jit(lambda carry, xs: jax.lax.scan(body, carry, xs, length, **how))(carry, xs)
    got = fused(body, carry, xs, length, **how)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
    return got


def test_functions_are_those_of_numpy():
    """exp, tanh and the logistic function to a few units in the last place, at their ends and beyond them too."""
    ends = [0.0, -0.0, 1e-30, -1e-30, 0.624, 0.626, 88.0, 88.7, 89.0, -87.0, -87.3, -200.0, 1e30, -1e30]
    x = np.concatenate([np.linspace(-20, 20, 4000), np.linspace(-1, 1, 4000), ends, [np.inf, -np.inf, np.nan]])
    x = x[: x.size // 31 * 31].reshape(-1, 31).astype(np.float32)
    x = np.concatenate([x, np.resize(np.float32([*ends, np.inf, -np.inf, np.nan]), (1, 31))])

    def body(carry, x):
        return carry, (jnp.exp(x), jnp.tanh(x), jax.nn.sigmoid(x))

    _, results = fused(body, (), jnp.asarray(x)[None])
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        wanted = (np.exp(wide), np.tanh(wide), 1 / (1 + np.exp(-wide)))
        for got, expected in zip(results, wanted, strict=True):
            # Numbers below float32's smallest normal one may be 0.
            np.testing.assert_allclose(got[0], expected.astype(np.float32), rtol=4e-7, atol=1.2e-38)


def test_large_exponents():
    """e⁸⁸·⁷ is a float32, though 2¹²⁸ is none."""
    x = jnp.full((1, 2, 8), 88.7, jnp.float32)
    _, (result,) = fused(lambda carry, x: (carry, (jnp.exp(x),)), (), x)
    np.testing.assert_allclose(result, np.exp(np.float64(np.float32(88.7))), rtol=4e-7)


OPERATIONS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / (2 + y),
    "max": jnp.maximum,
    "min": jnp.minimum,
    "neg": lambda x, y: -x,
    "abs": lambda x, y: jnp.abs(x),
    "sqrt": lambda x, y: jnp.sqrt(jnp.abs(x)),
    "square": lambda x, y: jnp.square(x),
    "one_minus_square": lambda x, y: jax.jvp(jnp.tanh, (x,), (y,))[1],
    "cube": lambda x, y: x**3,
    "seventh": lambda x, y: x**7,
    "inverse": lambda x, y: (2 + jnp.abs(x)) ** -2,
    "relu": lambda x, y: jax.nn.relu(x),
    "hard_tanh": lambda x, y: jax.nn.hard_tanh(x),
    "hard_sigmoid": lambda x, y: jax.nn.hard_sigmoid(x),
    "soft_sign": lambda x, y: jax.nn.soft_sign(x),
    "silu": lambda x, y: jax.nn.silu(x),
    "greater": lambda x, y: jnp.where(x > y, x, 1.0),
    "greater_equal": lambda x, y: jnp.where(x >= y, x, 1.0),
    "less": lambda x, y: jnp.where(x < y, x, 1.0),
    "less_equal": lambda x, y: jnp.where(x <= y, x, 1.0),
    "equal": lambda x, y: jnp.where(x == x, 1.0, y),
    "not_equal": lambda x, y: jnp.where(x != y, x, y),
    "logic": lambda x, y: jnp.where(((x > 0) & (y > 0)) | ~(x > -1), x, y),
    "as_number": lambda x, y: (x > y).astype(jnp.float32) * y,
    "as_condition": lambda x, y: jnp.where(jnp.maximum(x, 0).astype(bool), y, 2.0),
    "lost": lambda x, y: x + jax.lax.stop_gradient(y),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    operation = OPERATIONS[name]

    def body(carry, x):
        return 0.5 * operation(x, carry), (operation(carry, x),)

    check(body, normal(3, 9), normal(4, 3, 9, seed=1))


def test_no_number_stays_none():
    """A NaN goes through every function and comparison as it does in XLA."""
    x = jnp.asarray([[1.0, np.nan, -np.inf, np.inf]] * 2, jnp.float32)[None]
    for name in ("max", "min", "relu", "hard_tanh", "greater", "equal", "not_equal", "abs", "as_condition"):
        check(lambda carry, x, op=OPERATIONS[name]: (carry, (op(x, jnp.ones_like(x)),)), (), x)


@pytest.mark.parametrize("rows", [2, 6, 7, 13])
@pytest.mark.parametrize("width", [1, 8, 15, 33])
def test_products_of_any_size(rows, width):
    """A product of a carry, and one of something computed, at the edges of tiles and panels."""
    w, v = normal(width, 2 * width), normal(width, width, seed=1)

    def square(carry, x):
        one, two = jnp.split(carry @ w, 2, axis=-1)
        return 0.1 * jnp.tanh(carry) + 0.3 * (jnp.tanh(one) * two + x) @ v / width, one

    check(square, normal(rows, width), normal(3, rows, width, seed=2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [2, 3, 10])
def test_time_runs_either_way(length, reverse):
    w = normal(6, 6)
    x = normal(length, 4, 6, seed=1)
    check(lambda h, x: (jnp.tanh(h @ w + x), (h, x * h)), normal(4, 6, seed=2), x, reverse=reverse)


def test_carries_of_all_kinds():
    """One that changes, one that stays, two that change places, one that is an input."""
    w = normal(6, 6)
    carry = {name: normal(4, 6, seed=seed) for seed, name in enumerate(("h", "kept", "left", "right", "last"))}

    def body(c, x):
        h = jnp.tanh(c["h"] @ w + c["kept"])
        after = {"h": h, "kept": c["kept"], "left": c["right"], "right": c["left"], "last": x}
        return after, (c["left"], c["last"] + h, jnp.zeros_like(h), x)

    check(body, carry, normal(5, 4, 6, seed=9))


def test_arrays_along_rows_columns_and_neither():
    """Masks, biases and numbers, inside the loop and from without."""
    w, bias, rate, of_row = normal(6, 6), normal(6), jnp.float32(0.5), normal(4, seed=3)
    fixed, wide = normal(4, 6, seed=4), normal(1, 6, seed=5)
    xs = {
        "x": normal(5, 4, 6, seed=6),
        "mask": jnp.asarray(np.random.default_rng(0).random((5, 4)) < 0.5),
        "drop": jnp.asarray(np.random.default_rng(1).random((5, 4, 6)) < 0.5),
        "column": normal(5, 6, seed=7),
        "number": normal(5, seed=8),
        "row": normal(5, 4, 1, seed=9),
    }

    def body(h, x):
        z = h @ w + bias + x["column"] + of_row[:, None] * fixed + wide + x["row"]
        z = jnp.where(x["drop"], jnp.tanh(rate * z), x["number"] * x["x"])
        return jnp.where(x["mask"][:, None], z, h), z

    check(body, normal(4, 6, seed=10), xs)


def test_slices_and_concatenations():
    """Columns taken apart and put together, in front of products and behind them."""
    w, bias = normal(9, 12), normal(12)

    def body(carry, x):
        both = jnp.concatenate([carry[:, 3:], x], axis=1)
        z = jnp.tanh(both @ w + bias)
        padded = jnp.pad(z[:, 6:9], ((0, 0), (3, 0)))
        return jnp.concatenate([z[:, :3], z[:, 9:]], axis=1) + padded, (z, jnp.split(z, 4, axis=1)[2])

    check(body, normal(4, 6, seed=1), normal(5, 4, 6, seed=2))


def test_a_product_of_some_columns_of_an_array():
    w = normal(3, 6)
    check(lambda h, x: (jnp.tanh(h[:, :3] @ w + x), None), normal(4, 6), normal(5, 4, 6, seed=1))


def test_matrices_as_they_stand_and_turned():
    """The same matrix, as large as the batch, multiplied by both ways and added."""
    w = normal(4, 4)
    barrier = jax.lax.optimization_barrier(w.T)
    check(lambda h, x: (jnp.tanh(h @ w + x @ barrier.T + h @ w.T + w), None), normal(4, 4), normal(5, 4, 4, seed=1))


def test_a_chain_of_products():
    """Each waits for all columns of the one before; what is computed early is kept for later."""
    w, v, u = (normal(20, 20, seed=seed) / 5 for seed in range(3))

    def body(h, x):
        early = jnp.exp(-jnp.square(h)) * x
        one = jnp.tanh(h @ w + x)
        two = jnp.tanh(one @ v) * early
        return jnp.tanh(jnp.where(h > 0, two @ u, early) + one), (two, early @ w)

    check(body, normal(9, 20, seed=4), normal(6, 9, 20, seed=5))


REASONS = {
    "reduce_sum": lambda h, w: h @ w - h.sum(-1, keepdims=True),
    "cumsum": lambda h, w: jnp.cumsum(h @ w, axis=1),
    "a product of another kind": lambda h, w: h @ (h.T @ h),
    "transpose": lambda h, w: (h @ w) + h[:3].T[:1, :1] * 0,
    "sin": lambda h, w: jnp.sin(h @ w),
    "dtype": lambda h, w: (h @ w).astype(jnp.float16).astype(jnp.float32),
    "slice": lambda h, w: h @ w + jnp.concatenate([h[1:], h[:1]]),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_be_fused_says_why(reason, tiny, setting, caplog):
    w, h = normal(4, 4), normal(3, 4)
    body = REASONS[reason]

    def run():
        step = jax.jit(
            lambda h, w: scan(lambda h, _: (body(h, w), None), h, None, length=3, reverse=False, weights=w)[0]
        )
        return step(h, w)

    found = {"dtype": "float16"}.get(reason, reason)
    with caplog.at_level(logging.DEBUG, "rnn_jax.recurrence.loop"):
        got = run()
    assert found in caplog.text
    expected = functools.reduce(lambda h, _: body(h, w), range(3), h)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    setting("fused")
    with pytest.raises(ValueError, match=f"RNN_JAX_LOOPS: fused loops were demanded: .*{found}"):
        run()


@pytest.mark.parametrize("rows", [1, 0])
def test_a_batch_of_one_or_none_is_left_to_xla(tiny, rows):
    cell = new(rnn_jax.gru, 8)
    params, x = cell.init(jax.random.key(0), 3), normal(4, rows, 3)
    text = jax.jit(lambda p: rnn_jax.unroll(cell, p, x)[1]).lower(params).as_text()
    assert "rnn_jax_loop" not in text


SPECS = [
    *CELLS,
    "elman(activation=relu)",
    "gru(reset=before)",
    "lstm(gate_activation=hard_sigmoid, activation=softsign)",
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_cells_are_those_of_xla(tiny, setting, spec, masked):
    """Outputs, final carry and all gradients of every registered cell, every loop of which is fused, either way."""
    random = np.random.default_rng(3)
    mask = jnp.asarray(random.random((6, 5)) < 0.7) if masked else None
    reset = jnp.asarray(random.random((6, 5)) < 0.2) if masked else None
    x = normal(6, 5, 3)

    def run():
        cell = unseen(make(spec, 16))
        params = cell.init(jax.random.key(0), 3)

        def loss(params, x):
            carry, outputs = rnn_jax.unroll(cell, params, x, mask=mask, reset=reset, reverse=masked)
            return sum((leaf**2).sum() for leaf in jax.tree.leaves((carry, outputs)))

        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(params, x).compile()
        return compiled.as_text().count('custom_call_target="rnn_jax_loop_'), compiled(params, x)

    setting("xla")
    none, expected = run()
    setting("fused")
    both, got = run()
    assert (none, both) == (0, 2)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_zoneout_takes_its_masks_along(tiny, setting):
    inner = new(rnn_jax.lstm, 8)
    params, x = inner.init(jax.random.key(0), 3), normal(4, 5, 3)
    masks = draw_zoneout(jax.random.key(1), inner, 0.5, params, (4, 5))

    def run():
        cell = zoneout(unseen(inner), 0.5)
        return jax.jit(jax.grad(lambda x: (rnn_jax.unroll(cell, params, (x, masks))[1] ** 2).sum()))(x)

    setting("fused")
    got = run()
    setting("xla")
    np.testing.assert_allclose(got, run(), rtol=1e-4, atol=1e-5)


def test_second_derivatives(tiny, setting):
    setting("fused")
    cell = new(rnn_jax.lstm, 4)
    params, x = cell.init(jax.random.key(0), 3), normal(3, 2, 3)
    outputs = jax.jit(lambda p: rnn_jax.unroll(cell, p, x)[1])
    check_grads(outputs, (params,), order=2, modes=("rev",), atol=2e-2, rtol=2e-2)


def test_forward_mode(tiny, setting):
    setting("fused")
    cell = new(rnn_jax.gru, 4)
    params, x = cell.init(jax.random.key(0), 3), normal(3, 2, 3)
    outputs = jax.jit(lambda p: rnn_jax.unroll(cell, p, x, gradient="autodiff")[1])
    check_grads(outputs, (params,), order=1, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


def test_runs_of_a_sweep(tiny):
    """`vmap` takes the loop by `lax.scan`, on packed matrices."""
    cell = new(rnn_jax.gru, 8)
    x = normal(4, 3, 5)
    params = jax.vmap(lambda key: cell.init(key, 5))(jax.random.split(jax.random.key(0), 3))

    def gradient(params):
        return jax.grad(lambda p: (rnn_jax.unroll(cell, p, x)[1] ** 2).sum())(params)

    got = jax.jit(jax.vmap(gradient))(params)
    expected = [jax.jit(gradient)(jax.tree.map(lambda p, i=i: p[i], params)) for i in range(3)]
    for a, *b in zip(jax.tree.leaves(got), *map(jax.tree.leaves, expected), strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-4, atol=1e-5)


def test_segments_and_no_jit(tiny, setting):
    cell = new(rnn_jax.lstm, 8)
    params, x = cell.init(jax.random.key(0), 3), normal(4, 5, 3)

    def loss(params, segment):
        return (rnn_jax.unroll(cell, params, x, segment=segment)[1] ** 2).sum()

    setting("fused")
    gradients = [jax.grad(loss)(params, segment) for segment in (None, 2)]
    with jax.disable_jit():
        gradients.append(jax.grad(loss)(params, None))
    for other in gradients[1:]:
        for a, b in zip(jax.tree.leaves(gradients[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_threads_share_many_loops():
    """Large steps are divided among XLA's threads, several loops at once, and give the same numbers each time."""
    cell = new(rnn_jax.lstm, 128)
    params, x = cell.init(jax.random.key(0), 40), normal(20, 50, 40)
    gradient = jax.jit(jax.grad(lambda p: (rnn_jax.unroll(cell, p, x)[1] ** 2).sum())).lower(params).compile()
    assert gradient.as_text().count("rnn_jax_loop_") >= 2
    first = gradient(params)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for other in pool.map(lambda _: gradient(params), range(16)):
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_vectors_of_other_processors(shape, monkeypatch):
    """The same loops at their numbers of lanes and rows."""
    monkeypatch.setattr(native, "tile_shape", lambda: shape)
    for rows, width in ((2, 3), (shape.rows + 1, shape.columns + 5), (3 * shape.rows + 1, 2 * shape.columns)):
        w, v = normal(width, 2 * width) / width**0.5, normal(width, width, seed=1) / width**0.5

        def body(h, x, w=w, v=v):
            one, two = jnp.split(h @ w, 2, axis=1)
            return jnp.tanh(one + x[0]) * jax.nn.sigmoid(two), jnp.where(x[1][:, None], jnp.exp(-two), h) @ v

        mask = jnp.asarray(np.random.default_rng(0).random((4, rows)) < 0.5)
        check(body, normal(rows, width, seed=2), (normal(4, rows, width, seed=3), mask))


def test_few_panels_are_cut_by_rows():
    """So that many threads find work: every row is in one block of each phase."""
    w = normal(16, 64)
    closed = jax.make_jaxpr(lambda h, x: (jnp.tanh((h @ w)[:, :16] + x), ()))(normal(900, 16), normal(900, 16))
    found = plan(closed.jaxpr, 1)
    code = LoopCode(found, Shape(8, 6), 4, reverse=False)
    (phase,) = found.phases
    assert code.blocks(phase) > code.panels
    assert code.rows_of_part(phase) % 6 == 0
    check(lambda h, x: (jnp.tanh((h @ w)[:, :16] + x), ()), normal(900, 16), normal(4, 900, 16, seed=1))
