"""The laws that every cell obeys, registered or written by a user: a new cell is tested by being registered.

The reference throughout is either the papers' equations in NumPy or a plain `lax.scan` that JAX differentiates itself.
The reference is compiled once a cell, on the longest sequence; shorter ones reach it as padded ones, reversed ones as
flipped ones, and a missing carry as a reset at the first step.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from cases import (
    ALL,
    BATCH,
    EVERY,
    LAWFUL,
    MASK,
    NEVER,
    REGISTERED,
    RESET,
    STEPS,
    assert_close,
    case,
    differentiable,
    is_inexact,
    reference,
    where,
)
from jax.test_util import check_grads
from user_cells import FEATURES, HIDDEN

from rnn_jax import CELLS, unroll

pytestmark = pytest.mark.usefixtures("x64")

every_cell = pytest.mark.parametrize("name", ALL)
# What a cell's own equations do not touch: those that differ most in form each time.
every_form = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in (*LAWFUL, "counter", "conv_lstm", "lru") else pytest.mark.slow) for n in ALL],
)
every_registered_cell = pytest.mark.parametrize("name", LAWFUL)
every_factory = pytest.mark.parametrize("name", CELLS)

# Second derivatives and the numerical check take long to compile: gates, and a matrix product in the update; other
# registered cells and the hardest of the rest show little more.
FAST_AND_DEEP = ("lstm", "jordan")
DEEP = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST_AND_DEEP else pytest.mark.slow)
        for name in (*CELLS, "peephole", "mogrifier", "lru")
    ],
)


def weigh(weights, results):
    """A real number that depends on every floating leaf of `results`."""
    pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(results), strict=True)
    return sum(jnp.real(jnp.sum(w * leaf)) for w, leaf in pairs if is_inexact(leaf))


def wave(leaf, frequency):
    """Numbers of the leaf's shape, complex where it is."""
    values = np.sin(frequency * np.arange(leaf.size)).reshape(leaf.shape)
    return values + 1j * values[::-1] if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else values


def draw_weights(results):
    """Weights for `weigh`, around 1.5 in no particular order."""
    return jax.tree.map(lambda leaf: 1.5 + 0.5 * wave(leaf, 7.0), results)


def gradients(run, arguments, weights):
    """Results of `run(*arguments)`, and the gradients of their weighted sum with respect to all floating arguments."""
    leaves, rebuild = differentiable(arguments)

    def loss(leaves):
        results = run(*rebuild(leaves))
        return weigh(weights, results), results

    found, results = jax.grad(loss, has_aux=True)(leaves)
    return results, rebuild(found)


@functools.cache
def reference_gradients(name):
    """`(params, inputs, carry, mask, reset, weights) -> (results, gradients)`, compiled once."""

    def run(params, inputs, carry, mask, reset, weights):
        plain = functools.partial(reference, case(name), mask=mask, reset=reset)
        return gradients(plain, (params, inputs, carry), weights)

    return jax.jit(run)


@functools.cache
def forward(name):
    """`(params, inputs, carry, mask, reset) -> (carry, outputs)`, compiled once for each set of shapes."""
    cell = case(name).cell
    return jax.jit(lambda p, x, c, mask, reset: unroll(cell, p, x, c, mask=mask, reset=reset))


def compare(found, expected, message):
    """Results and gradients, where integer leaves are themselves."""
    assert_close(found[0], expected[0], 1e-13, f"{message}: results")
    assert_close(found[1], expected[1], 1e-12, f"{message}: gradients")


def on_host(tree):
    """The same in NumPy, which cuts and turns without compiling a program for every shape."""
    return jax.tree.map(np.asarray, tree)


def flip(tree):
    return jax.tree.map(lambda leaf: leaf[::-1], on_host(tree))


@every_factory
def test_every_registered_cell_has_an_oracle(name):
    assert name in oracles.ORACLES, f"write the equations of {name} in tests/oracles.py"


@pytest.mark.parametrize("name", REGISTERED)
def test_equals_the_equations_of_its_paper(name):
    this = case(name)
    factory, options = REGISTERED[name]
    step = oracles.ORACLES[factory](jax.tree.map(np.asarray, this.params), options)
    for carry, mask, reset in ((this.initial(this.params), EVERY, NEVER), (this.carry(), MASK, RESET)):
        leaves, initial = (tuple(np.asarray(x) for x in jax.tree.leaves(c)) for c in (carry, this.initial(this.params)))
        expected_carry, expected = oracles.run(step, leaves, initial, np.asarray(this.inputs), mask, reset)
        final, outputs = forward(name)(this.params, this.inputs, carry, mask, reset)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-13)
        for found, wanted in zip(jax.tree.leaves(final), expected_carry, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)


@every_cell
def test_unroll_equals_a_python_loop(name):
    this = case(name)
    step = jax.jit(this.cell)
    inputs, start = on_host(this.inputs), on_host(this.carry())
    initial = on_host(this.initial(this.params)) if this.has_initial_carry else start
    carry, outputs = start, []
    for t in range(STEPS):
        x = jax.tree.map(lambda leaf: leaf[t], inputs)  # noqa: B023
        carry = jax.tree.map(functools.partial(where, RESET[t]), initial, carry)
        new, y = on_host(step(this.params, carry, x))
        keep = functools.partial(where, MASK[t])
        outputs.append(jax.tree.map(lambda leaf: keep(leaf, np.zeros_like(leaf)), y))  # noqa: B023
        carry = jax.tree.map(keep, new, carry)
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *outputs)
    assert_close(forward(name)(this.params, this.inputs, this.carry(), MASK, RESET), (carry, expected), 1e-13)


class Setting(NamedTuple):
    """A way of calling `unroll`, on the first `steps` steps."""

    steps: int = STEPS
    batched: bool = True
    masked: bool = True
    given_carry: bool = True
    options: dict[str, Any] = {}  # noqa: RUF012


SETTINGS = {
    "masked": Setting(),
    "backwards": Setting(given_carry=False, options={"reverse": True, "time_major": False, "segment": 3}),
    "unbatched": Setting(steps=2, batched=False, masked=False),
    "one_step": Setting(steps=1, given_carry=False),
    "no_steps": Setting(steps=0),
}
MORE_SETTINGS = {
    "whole": Setting(masked=False, given_carry=False),
    "unbatched_backwards": Setting(batched=False, masked=False, options={"reverse": True, "time_major": False}),
    "segments": Setting(given_carry=False, options={"segment": 4}),
    "single_steps": Setting(options={"segment": 1}),
    "autodiff": Setting(options={"gradient": "autodiff", "reverse": True, "segment": 4}),
    "one_step_backwards": Setting(steps=1, options={"reverse": True, "time_major": False}),
    "no_steps_unbatched": Setting(steps=0, batched=False, given_carry=False, options={"segment": "sqrt"}),
}
# How `unroll` is called seldom matters to a cell: the registered ones and the oddest of the others go every way.
EVERY_WAY = (*CELLS, "counter")
GRADIENTS = [
    pytest.param(name, setting, marks=() if name in EVERY_WAY or setting == "masked" else pytest.mark.slow)
    for name in ALL
    for setting in SETTINGS
]
GRADIENTS += [
    pytest.param(name, setting, marks=() if name in ("lstm", "counter") else pytest.mark.slow)
    for name in ("lstm", "layer_norm", "counter", "indrnn")
    for setting in MORE_SETTINGS
]


@pytest.mark.parametrize(("name", "setting"), GRADIENTS)
def test_gradients_equal_plain_autodiff(name, setting):
    """Params, inputs and initial carry, on the fast path, with padding, resets, reversal and segments."""
    this, how = case(name), (SETTINGS | MORE_SETTINGS)[setting]
    reverse, swap = how.options.get("reverse", False), not how.options.get("time_major", True) and how.batched
    given = how.given_carry or not this.has_initial_carry

    # The sequence as the reference meets it: whole, time-major, forwards; what is cut off is masked.
    inside = np.arange(STEPS)[:, None] < how.steps
    if not how.batched:
        inside = inside & (np.arange(BATCH) == 0)
    mask, reset = (MASK, RESET) if how.masked else (EVERY, NEVER)
    shown_reset = reset & inside
    carry = this.carry()
    results = jax.eval_shape(functools.partial(reference, this), this.params, this.inputs, carry, mask, reset)
    weights = draw_weights(results)
    full = jax.tree.map(lambda w: where(inside, w, np.zeros_like(w)), weights[1])
    ordered = flip if reverse else lambda tree: tree

    def cut(tree):
        """What `unroll` is shown of a whole time-major sequence."""
        tree = on_host(tree)
        tree = jax.tree.map(lambda leaf: leaf[: how.steps] if how.batched else leaf[: how.steps, 0], tree)
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), tree) if swap else tree

    def cut_carry(tree):
        return tree if how.batched else jax.tree.map(lambda leaf: leaf[0], on_host(tree))

    order_mask, order_reset = ordered(mask & inside), ordered(shown_reset).copy()
    if not given:
        # In reverse the padding that the reference adds comes first, and a reset acts there all the same.
        order_reset[0] = True
    first = np.arange(BATCH) == 0
    carry_weights = weights[0] if how.batched else jax.tree.map(lambda w: where(first, w, np.zeros_like(w)), weights[0])
    expected_results, expected = reference_gradients(name)(
        this.params, ordered(this.inputs), carry, order_mask, order_reset, (carry_weights, ordered(full))
    )
    expected_carry, expected_outputs = expected_results
    expected_results = cut_carry(expected_carry), cut(ordered(expected_outputs))

    def run(params, inputs, carry):
        extra = {"mask": cut(mask), "reset": cut(reset)} if how.masked else {}
        return unroll(this.cell, params, inputs, carry if given else None, **extra, **how.options)

    arguments = (this.params, cut(this.inputs), cut_carry(carry))
    found = jax.jit(functools.partial(gradients, run))(arguments, (cut_carry(weights[0]), cut(weights[1])))
    compare(
        found,
        (expected_results, (expected[0], cut(ordered(expected[1])), cut_carry(expected[2]))),
        f"{name}, {setting}",
    )


@every_cell
def test_padding_leaves_no_trace(name):
    """Outputs are zero, the carry stands still, and what lies under the padding does not matter."""
    this = case(name)
    run = forward(name)
    final, outputs = run(this.params, this.inputs, this.carry(), MASK, NEVER)
    for leaf in jax.tree.leaves(outputs):
        assert not np.asarray(leaf)[~MASK].any()

    def spoil(leaf):
        junk = np.full_like(leaf, 1000.0) if is_inexact(leaf) else ~leaf
        return where(MASK, leaf, junk)

    assert_close(
        run(this.params, jax.tree.map(spoil, on_host(this.inputs)), this.carry(), MASK, NEVER), (final, outputs), 0.0
    )

    # The true steps of each row moved to the front: the same carry, the same outputs in the same order.
    order = np.argsort(~MASK, axis=0, kind="stable")

    def pack(tree):
        return jax.tree.map(lambda leaf: leaf[order, np.arange(BATCH)], on_host(tree))

    packed_final, packed = run(this.params, pack(this.inputs), this.carry(), pack(MASK), NEVER)
    assert_close((packed_final, packed), (final, pack(outputs)), 1e-14)


@every_cell
def test_a_sequence_of_length_zero_returns_its_initial_carry(name):
    this = case(name)
    final, outputs = forward(name)(this.params, this.inputs, this.carry(), NEVER, NEVER)
    assert_close(final, this.carry(), 0.0)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(outputs))


@every_form
def test_a_sequence_may_be_run_in_two_parts(name):
    this, k = case(name), 4
    first, second = (
        jax.tree.map(lambda leaf, part=part: leaf[part], on_host(this.inputs)) for part in (slice(k), slice(k, None))
    )
    run = forward(name)
    # A bare function restarts from the carry that it was given, which differs in the second part.
    reset = RESET if this.has_initial_carry else NEVER
    whole = run(this.params, this.inputs, this.carry(), MASK, reset)
    carry, outputs = run(this.params, first, this.carry(), MASK[:k], reset[:k])
    carry, rest = run(this.params, second, carry, MASK[k:], reset[k:])
    assert_close((carry, jax.tree.map(lambda *parts: np.concatenate(parts), outputs, rest)), whole, 1e-14)


@every_cell
def test_a_reset_is_a_fresh_start(name):
    this, t = case(name), 2
    reset = NEVER.copy()
    reset[t] = True
    start = this.initial(this.params) if this.has_initial_carry else this.carry()
    final, outputs = forward(name)(this.params, this.inputs, this.carry(), EVERY, reset)
    fresh = jax.tree.map(lambda leaf: leaf[t:], on_host(this.inputs))
    fresh_final, fresh_outputs = forward(name)(this.params, fresh, start, EVERY[t:], NEVER[t:])
    assert_close((final, jax.tree.map(lambda y: y[t:], on_host(outputs))), (fresh_final, fresh_outputs), 1e-14)


@every_cell
def test_reverse_is_each_true_sequence_reversed(name):
    """Each row by its own length, whichever side the padding is on."""
    this, lengths = case(name), np.array([4, 0, 6])
    mask = np.arange(STEPS)[:, None] < lengths
    order = np.where(mask, np.maximum(lengths - 1, 0) - np.arange(STEPS)[:, None], np.arange(STEPS)[:, None])

    def turn(tree):
        return jax.tree.map(lambda leaf: leaf[order, np.arange(BATCH)], on_host(tree))

    backwards = jax.jit(lambda p, x, c, m: unroll(this.cell, p, x, c, mask=m, reverse=True))
    final, outputs = backwards(this.params, this.inputs, this.carry(), mask)
    turned_final, turned = forward(name)(this.params, turn(this.inputs), this.carry(), mask, NEVER)
    assert_close((final, outputs), (turned_final, turn(turned)), 1e-14)
    flipped_final, flipped = forward(name)(this.params, flip(this.inputs), this.carry(), flip(mask), NEVER)
    assert_close((final, outputs), (flipped_final, flip(flipped)), 1e-14)


@every_form
def test_batched_equals_vmapped(name):
    """The batch axis by `vmap` of an unbatched call; parameters mapped too."""
    this = case(name)
    carry, mask, reset = this.carry(), jnp.asarray(MASK), jnp.asarray(RESET)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf, -leaf]), on_host(this.params))

    def single(params, inputs, carry, mask, reset):
        return unroll(this.cell, params, inputs, carry, mask=mask, reset=reset)

    both = jax.vmap(jax.vmap(single, (None, 1, 0, 1, 1), (0, 1)), (0, None, None, None, None), axis_size=3)
    finals, outputs = on_host(jax.jit(both)(stacked, this.inputs, carry, mask, reset))
    for row in range(3):
        params = jax.tree.map(lambda leaf: leaf[row], stacked)  # noqa: B023
        expected = forward(name)(params, this.inputs, carry, mask, reset)
        found = jax.tree.map(lambda leaf: leaf[row], (finals, outputs))  # noqa: B023
        assert_close(found, expected, 1e-13)


@every_registered_cell
def test_functions_take_any_leading_axes(name):
    """None, a batch, time and batch: each equals the mapped single row."""
    this = case(name)
    everywhere = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (STEPS, *leaf.shape)), this.carry())
    new, outputs = this.cell(this.params, everywhere, this.inputs)
    single = functools.partial(this.cell, this.params)
    assert_close(jax.vmap(single)(everywhere, this.inputs), (new, outputs), 1e-14)
    assert_close(jax.vmap(jax.vmap(single))(everywhere, this.inputs), (new, outputs), 1e-14)
    for batch_shape in ((), (2,), (STEPS, BATCH)):
        shapes = jax.tree.map(lambda leaf: leaf.shape[:-1], this.initial(this.params, batch_shape))
        assert set(shapes) == {batch_shape}


@every_cell
def test_a_cell_is_the_body_of_a_scan(name):
    this = case(name)
    found = jax.lax.scan(functools.partial(this.cell, this.params), this.carry(), this.inputs)
    assert_close(forward(name)(this.params, this.inputs, this.carry(), EVERY, NEVER), found, 1e-13)


@every_registered_cell
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_structure_and_dtypes_of_the_carry_are_kept(name, dtype):
    factory, options = REGISTERED[name]
    cell = CELLS[factory](HIDDEN, dtype=jnp.dtype(dtype), **options)

    def run(key, inputs):
        params = cell.init(key, FEATURES)
        return params, cell.initial_carry(params, (BATCH,)), *unroll(cell, params, inputs)

    inputs = jax.ShapeDtypeStruct((STEPS, BATCH, FEATURES), dtype)
    params, initial, final, outputs = jax.eval_shape(run, jax.random.key(0), inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    assert final == initial
    state = jnp.dtype("float32" if dtype == "bfloat16" else dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves((final, outputs))} == {state}
    assert outputs.shape == (STEPS, BATCH, HIDDEN)


@every_registered_cell
def test_a_second_call_does_not_compile(name):
    this = case(name)
    factory, options = REGISTERED[name]
    compilations = []

    def listen(event, duration, **_):
        compilations.append(event)

    def call(inputs):
        cell = CELLS[factory](hidden_size=HIDDEN, dtype=jnp.float64, **options)
        return unroll(cell, this.params, inputs)

    call(this.inputs)
    other = 2.0 * this.inputs
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        call(other)
        assert compilations == []
        call(this.inputs[:, :2])
        assert compilations != []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@every_factory
def test_equal_factory_calls_return_the_same_cell(name):
    assert CELLS[name](HIDDEN) is CELLS[name](hidden_size=HIDDEN)
    assert CELLS[name](HIDDEN) is not CELLS[name](HIDDEN + 1)


@DEEP
def test_gradients_equal_differences(name):
    """`check_grads` on the fast path, and in both modes on the plain one."""
    this = case(name)
    leaves, rebuild = differentiable((this.params, this.inputs, this.carry()))
    mask, reset = jnp.asarray(MASK), jnp.asarray(RESET)

    def loss(gradient):
        def run(leaves):
            params, inputs, carry = rebuild(leaves)
            results = unroll(this.cell, params, inputs, carry, mask=mask, reset=reset, gradient=gradient)
            return weigh(draw_weights(results), results)

        return jax.jit(run)

    check_grads(loss("deferred"), (leaves,), order=1, modes=["rev"], rtol=1e-6)
    check_grads(loss("autodiff"), (leaves,), order=1, modes=["fwd"], rtol=1e-6)


@DEEP
def test_second_derivatives(name):
    """Hessian-vector products on the fast path, reverse over reverse and forward over reverse."""
    this = case(name)
    leaves, rebuild = differentiable((this.params, this.inputs, this.carry()))
    mask, reset = jnp.asarray(MASK), jnp.asarray(RESET)
    vector = [0.1 * wave(leaf, 3.0) for leaf in leaves]

    def fast(leaves):
        params, inputs, carry = rebuild(leaves)
        return energy(unroll(this.cell, params, inputs, carry, mask=mask, reset=reset))

    def plain(leaves):
        return energy(reference(this, *rebuild(leaves), mask, reset))

    def energy(results):
        return sum(jnp.sum(jnp.real(leaf * jnp.conj(leaf))) for leaf in jax.tree.leaves(results) if is_inexact(leaf))

    def forward_over_reverse(function):
        return lambda leaves: jax.jvp(jax.grad(function), (leaves,), (vector,))[1]

    def reverse_over_reverse(leaves):
        return jax.grad(lambda x: weigh(vector, jax.grad(fast)(x)))(leaves)

    expected = jax.jit(forward_over_reverse(plain))(leaves)
    over_forward, over_reverse = jax.jit(lambda x: (forward_over_reverse(fast)(x), reverse_over_reverse(x)))(leaves)
    assert_close(over_forward, expected, 1e-11)
    # A real function of complex parameters: JAX's reverse mode gives conjugates, so only real cells compare directly.
    if not any(jnp.iscomplexobj(leaf) for leaf in leaves):
        assert_close(over_reverse, expected, 1e-11)


@pytest.mark.parametrize("name", [n for n in ALL if getattr(case(n).cell, "coefficients", None)])
@pytest.mark.parametrize("reverse", [False, True])
def test_coefficients_declare_the_step(name, reverse):
    """h_t = a_t ⊙ h_tm1 + b_t, and the associative scan over them, with its gradients, equals the loop."""
    this = case(name)
    projected = this.cell.project(this.params, this.inputs)
    a, b = this.cell.coefficients(this.params, projected)
    carries = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (STEPS, *leaf.shape)), this.carry())
    expected, _ = this.cell.step(this.params, carries, projected)
    assert_close(jax.tree.map(lambda a, h, b: a * h + b, a, carries, b), expected, 1e-13)

    mask, reset = jnp.asarray(MASK), jnp.asarray(RESET)

    def run(method, params, inputs, carry):
        return unroll(this.cell, params, inputs, carry, mask=mask, reset=reset, reverse=reverse, method=method)

    arguments = (this.params, this.inputs, this.carry())
    weights = draw_weights(jax.eval_shape(functools.partial(run, "loop"), *arguments))
    found, expected = (
        jax.jit(functools.partial(gradients, functools.partial(run, method)))(arguments, weights)
        for method in ("associative", "loop")
    )
    assert_close(found, expected, 1e-12)
