"""Loops on packed matrices: the products are those of NumPy, the loops those of XLA."""

import concurrent.futures
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from given import new, normal
from jax.test_util import check_grads

import rnn_jax
from rnn_jax.decoding import beam_search, greedy, sample
from rnn_jax.recurrence import native, packed
from rnn_jax.recurrence.loop import scan
from rnn_jax.recurrence.machine_code import Shape, source
from rnn_jax.recurrence.setting import way

pytestmark = pytest.mark.skipif(way() == "xla", reason="no packed products on this machine")


@functools.partial(jax.jit, static_argnames="axis")
def product(x, w, axis=0):
    return packed.packed_dot(x, w, packed.pack(w, axis), axis=axis)


def run_counted(function, *arguments):
    """How often a compiled function calls the machine code, and what it gives."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled.as_text().count(f'custom_call_target="{native.target()}"'), compiled(*arguments)


@pytest.mark.parametrize(
    ("rows", "depth", "width"),
    [
        *((rows, 3, 31) for rows in (1, 2, 5, 6, 7, 12, 13, 25)),
        *((7, *shape) for shape in ((1, 1), (65, 7), (2, 16), (64, 65))),
    ],
)
def test_equals_numpy(rows, depth, width):
    x, w = normal(rows, depth), normal(depth, width, seed=1)
    expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    np.testing.assert_allclose(product(x, w), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(product(x, w.T, axis=1), product(x, w))


@pytest.mark.parametrize("rows", [239, 240, 241, 500])
def test_more_rows_than_one_block(rows):
    x, w = normal(rows, 40), normal(40, 50, seed=1)
    np.testing.assert_allclose(product(x, w), np.asarray(x, np.float64) @ np.asarray(w, np.float64), atol=1e-4)


def test_a_row_does_not_depend_on_the_others():
    """A sentence decodes in a batch exactly as alone."""
    x, w = normal(41, 300), normal(300, 333, seed=1)
    every = product(x, w)
    for first, last in ((0, 1), (3, 5), (7, 20), (40, 41)):
        np.testing.assert_array_equal(product(x[first:last], w), every[first:last])


def test_threads_share_the_work_of_many_calls():
    """Large products are divided among XLA's threads; several of them run at once."""
    x, w = normal(64, 256), normal(256, 1000, seed=1)
    loop = jax.jit(
        lambda x, p: jax.lax.scan(lambda c, _: (c, packed.packed_dot(x + c, w, p, axis=0)), 0.0, length=50)[1]
    )
    panels = packed.pack(w, 0)
    expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for outputs in pool.map(lambda _: loop(x, panels), range(16)):
            np.testing.assert_allclose(outputs, np.broadcast_to(expected, outputs.shape), atol=1e-3)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_gradients(axis, both):
    x, w = normal(3, 4, 5), normal(*((5, 6) if axis == 0 else (6, 5)), seed=1)

    def function(x, w):
        packs = (packed.pack(w, axis), *((packed.pack(w, 1 - axis),) if both else ()))
        return jnp.tanh(packed.packed_dot(x, w, *packs, axis=axis))

    def plain(x, w):
        return jnp.tanh(x @ (w if axis == 0 else w.T))

    check_grads(jax.jit(function), (x, w), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)
    gradients = (jax.jit(jax.grad(lambda x, w, f=f: (f(x, w) ** 2).sum(), (0, 1)))(x, w) for f in (function, plain))
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, None), (1, None), (None, 0), (0, 0)])
def test_vmap(axes):
    x = normal(2, 3, 5) if axes[0] is not None else normal(3, 5)
    w = normal(5, 6, seed=1) if axes[1] is None else normal(2 if axes[0] is None else x.shape[axes[0]], 5, 6, seed=1)
    count, got = run_counted(jax.vmap(product, axes), x, w)
    np.testing.assert_allclose(got, jax.vmap(jnp.matmul, axes)(x, w), rtol=1e-4, atol=1e-5)
    assert count == 1


def test_nothing_to_multiply():
    w = normal(5, 6)
    assert product(jnp.zeros((0, 5)), w).shape == (0, 6)
    assert jax.jit(jax.vmap(product, (0, None)))(jnp.zeros((0, 3, 5)), w).shape == (0, 3, 6)
    assert jax.jit(jax.vmap(product))(jnp.zeros((0, 3, 5)), jnp.zeros((0, 5, 6))).shape == (0, 3, 6)
    np.testing.assert_array_equal(product(jnp.zeros((3, 0)), jnp.zeros((0, 6))), np.zeros((3, 6)))


def test_threads_that_come_first_at_once_share_one_code():
    code = (
        "import concurrent.futures\n"
        "from rnn_jax.recurrence import native\n"
        "with concurrent.futures.ThreadPoolExecutor(8) as pool:\n"
        "    print(len(set(pool.map(lambda _: native.target(), range(8)))), len(native._kept))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "1"]


def test_a_large_product_for_each_of_many_matrices():
    x, w = normal(7, 33, 90), normal(7, 90, 130, seed=1)
    expected = np.einsum("vmk,vkn->vmn", *(np.asarray(a, np.float64) for a in (x, w)))
    np.testing.assert_allclose(jax.jit(jax.vmap(product))(x, w), expected, atol=1e-3)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_of_vmap(axes):
    x = normal(*(2,) * (axes[0] is not None), 3, 4, 5)
    w = normal(*(2,) * (axes[1] is not None), 3, 5, 6, seed=1)
    got = jax.vmap(jax.vmap(product), axes)(x, w)
    np.testing.assert_allclose(got, jax.vmap(jax.vmap(jnp.matmul), axes)(x, w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("both", [False, True])
def test_gradients_under_vmap(both):
    x, w = normal(2, 3, 5), normal(2, 5, 6, seed=1)

    def function(x, w):
        packs = (packed.pack(w, 0), *((packed.pack(w, 1),) if both else ()))
        return jnp.tanh(packed.packed_dot(x, w, *packs, axis=0))

    check_grads(jax.jit(jax.vmap(function)), (x, w), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


def test_finds_the_products_of_a_body(tiny):
    w, v = normal(4, 6), normal(4, 6, seed=1)

    def body(x):
        y = jax.jit(lambda x, w: x @ w)(x, w)  # within a function of its own
        z = y @ v.T  # by a transpose
        return z @ jnp.outer(z[0], z[0]) + (x[0] @ w)[:4] + jnp.dot(w.T, w)[:1, :1]  # no matrix of before; one row

    x = normal(3, 4, seed=2)
    assert run_counted(packed.packed_products(body, x), x)[0] == 2
    np.testing.assert_allclose(packed.packed_products(body, x)(x), body(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int32])
def test_leaves_other_dtypes(tiny, dtype):
    w = normal(4, 4).astype(dtype)

    def body(x):
        return x @ w

    assert packed.packed_products(body, normal(3, 4).astype(dtype)) is body


def test_leaves_small_matrices():
    w = normal(4, 4)

    def body(x):
        return x @ w

    assert packed.packed_products(body, normal(3, 4)) is body


def test_keeps_structure_and_what_is_no_product(tiny):
    w = normal(4, 4)

    def body(state, xs):
        a, b = state["a"], state["b"]
        return {"a": a @ w, "b": b + 1}, (xs, jax.nn.relu(a), None)

    state, xs = {"a": normal(3, 4), "b": jnp.asarray(2)}, (normal(3), jax.random.key(0))
    got, expected = packed.packed_products(body, state, xs)(state, xs), body(state, xs)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    np.testing.assert_allclose(got[0]["a"], expected[0]["a"], rtol=1e-5, atol=1e-6)
    assert got[0]["b"] == 3
    assert got[1][0][1] == xs[1]


def test_scan_packs_before_the_loop(tiny, setting):
    """The panels are made once: no loop computes them."""
    setting("packed")
    w = normal(8, 8)

    def run(carry, w):
        return scan(lambda c, _: (jnp.tanh(c @ w), None), carry, None, length=5, reverse=False, weights=w)[0]

    jaxpr = jax.make_jaxpr(run)(normal(2, 8), w)
    (loop,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    inside = [equation.primitive.name for equation in loop.params["jaxpr"].jaxpr.eqns]
    assert inside.count("packed_dot") == 1
    assert "dot_general" not in inside
    assert "reshape" not in inside


CELLS = {"lstm": lambda: new(rnn_jax.lstm, 16), "jordan": lambda: new(rnn_jax.cells.jordan, 16)}


@pytest.mark.parametrize("gradient", ["deferred", "autodiff"])
@pytest.mark.parametrize("name", CELLS)
def test_unroll_is_that_of_xla(tiny, setting, name, gradient):
    """Outputs, final carry and all gradients, with masks and resets."""
    mask = jnp.asarray(np.random.default_rng(3).random((6, 5)) < 0.7)
    reset = jnp.asarray(np.random.default_rng(4).random((6, 5)) < 0.2)
    x = normal(6, 5, 3)

    def run():
        cell = CELLS[name]()
        params = cell.init(jax.random.key(0), 3)

        def loss(params, x):
            carry, outputs = rnn_jax.unroll(cell, params, x, mask=mask, reset=reset, gradient=gradient)
            return sum((leaf**2).sum() for leaf in jax.tree.leaves((carry, outputs)))

        return run_counted(jax.value_and_grad(loss, (0, 1)), params, x)

    setting("xla")
    none, expected = run()
    setting("packed")
    some, got = run()
    assert none == 0
    assert some >= 2
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_second_derivatives_of_unroll(tiny):
    cell = new(rnn_jax.lstm, 4)
    params, x = cell.init(jax.random.key(0), 3), normal(3, 2, 3)
    outputs = jax.jit(lambda p: rnn_jax.unroll(cell, p, x)[1])
    check_grads(outputs, (params,), order=2, modes=("rev",), atol=2e-2, rtol=2e-2)


def test_each_of_a_sweep_has_its_own_matrices(tiny):
    cell = new(rnn_jax.gru, 8)
    x = normal(4, 3, 5)
    params = jax.vmap(lambda key: cell.init(key, 5))(jax.random.split(jax.random.key(0), 3))

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: (rnn_jax.unroll(cell, p, x)[1] ** 2).sum())(params)

    got = jax.jit(jax.vmap(gradient))(params)
    expected = [gradient(jax.tree.map(lambda p, i=i: p[i], params)) for i in range(3)]
    for a, *b in zip(jax.tree.leaves(got), *map(jax.tree.leaves, expected), strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decode", ["greedy", "sample", "beam"])
def test_decoding(tiny, setting, decode):
    def run():
        cell = new(rnn_jax.lstm, 16)
        params = cell.init(jax.random.key(0), 8)
        table, readout = normal(11, 8), 3 * normal(16, 11, seed=1)

        def step(carry, tokens):
            carry, output = cell(params, carry, table[tokens])
            return carry, output @ readout

        tokens, carry = jnp.arange(4), cell.initial_carry(params, (4,))
        call = {
            "greedy": lambda: greedy(step, carry, tokens, 7)[1],
            "sample": lambda: sample(step, carry, tokens, 7, jax.random.key(1))[1],
            "beam": lambda: beam_search(step, carry, tokens, 7, end=10, beam_size=3).tokens,
        }[decode]
        return run_counted(call)

    setting("xla")
    none, expected = run()
    setting("packed")
    some, got = run()
    assert none == 0
    assert some == 3
    np.testing.assert_array_equal(got, expected)


def test_without_jit(tiny):
    w = normal(4, 4)
    with jax.disable_jit():
        carry, _ = scan(lambda c, _: (c @ w, None), normal(3, 4), None, length=3, reverse=False, weights=w)
    np.testing.assert_allclose(carry, normal(3, 4) @ w @ w @ w, rtol=1e-4)


# Those of AVX-512, AVX2 and NEON. LLVM makes shorter vectors of those that this processor does not have.
SHAPES = [Shape(16, 12), Shape(8, 6), Shape(4, 8)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_tiles_of_other_processors(shape, monkeypatch):
    """The same program at their numbers of lanes and rows, of one tile, of some, and of enough for two threads."""
    monkeypatch.setattr(native, "tile_shape", lambda: shape)
    rows_of_tiles = (1, shape.rows - 1, shape.rows, shape.rows + 1, 2 * shape.rows + 5)
    cases = [(rows, 37, 2 * shape.columns + 3) for rows in rows_of_tiles] + [(241, 30, 50), (40, 200, 333)]
    for rows, depth, width in cases:
        x, w = normal(rows, depth), normal(depth, width, seed=1)
        multiply = jax.jit(lambda x, w: packed.packed_dot(x, w, packed.pack(w, 0), axis=0))
        assert native.target() in multiply.lower(x, w).as_text()
        expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
        np.testing.assert_allclose(multiply(x, w), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_has_its_code(shape):
    module = native.llvm.parse_assembly(source(shape))
    module.verify()
    names = {function.name for function in module.functions if not function.is_declaration}
    assert {f"tile{rows}" for rows in range(1, shape.rows + 1)} | {"panels", "handler"} <= names
