"""Optimisers against their equations in NumPy, and what hyper-parameters as arrays are for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax.training.optimizers import OPTIMIZERS, averages, make_optimizer

RATE = 0.1


def sgd(p, g, t, memory):
    return p - RATE * g


def momentum(p, g, t, memory):
    memory["m"] = 0.9 * memory.get("m", 0) + g
    return p - RATE * memory["m"]


def adagrad(p, g, t, memory):
    memory["a"] = memory.get("a", 0) + g * g
    return p - RATE * g / np.sqrt(memory["a"] + 1e-8)


def rmsprop(p, g, t, memory):
    memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g * g
    return p - RATE * g / (np.sqrt(memory["v"]) + 1e-8)


def adam(p, g, t, memory):
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g * g
    return p - RATE * (memory["m"] / (1 - 0.9**t)) / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-8)


EQUATIONS = {"sgd": sgd, "momentum": momentum, "adagrad": adagrad, "rmsprop": rmsprop, "adam": adam, "adamw": adam}


def minimise(optimizer, params, gradient, noise):
    @jax.jit
    def step(params, state, noise):
        updates, state = optimizer.update(gradient(params) + noise, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    trace = []
    for row in noise:
        params, state = step(params, state, row)
        trace.append(params)
    return trace


# Without it the gradient vanishes, and where a rule divides by its size, rounding decides.
NOISE = np.random.default_rng(0).normal(size=(1000, 3))


def test_clips_the_norm_of_several_dtypes():
    optimizer = make_optimizer("sgd", learning_rate=1.0, clip_norm=1.0)
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0], jnp.bfloat16)}
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(gradient), gradient)
    np.testing.assert_allclose(updates["a"], [-0.6, 0], rtol=1e-2)
    np.testing.assert_allclose(updates["b"], [-0.8], rtol=1e-2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_the_equations_over_1000_steps(name):
    start, curvature = np.array([1.0, -2.0, 0.5]), np.array([0.3, 1.0, 0.02])
    trace = minimise(make_optimizer(name, learning_rate=RATE), jnp.asarray(start), lambda p: curvature * p, NOISE)
    p, memory = start, {}
    for t, found in enumerate(trace, 1):
        p = EQUATIONS[name](p, curvature * p + NOISE[t - 1], t, memory)
        np.testing.assert_allclose(found, p, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_adagrad_is_the_one_of_optax_with_an_empty_accumulator():
    """min-char-rnn: elements clipped to ±5, p -= 0.1 g / sqrt(sum of g² + 1e-8)."""

    def gradient(p):
        return jnp.array([40.0, 1.0, 0.0]) * p

    ours = make_optimizer("adagrad", learning_rate=0.1, clip_value=5.0)
    theirs = optax.chain(optax.clip(5.0), optax.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-8))
    start = jnp.array([1.0, -1.0, 1.0])
    quiet = np.zeros((1000, 3))
    for one, other in zip(
        minimise(ours, start, gradient, quiet), minimise(theirs, start, gradient, quiet), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


def test_clips_elements_then_the_norm():
    optimizer = make_optimizer("sgd", learning_rate=1.0, clip_value=3.0, clip_norm=1.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    gradient = {"a": jnp.array([300.0, -4.0]), "b": jnp.array(0.0)}
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], -np.array([3.0, -3.0]) / np.sqrt(18), rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_matrices_only_and_towards_zero(name):
    optimizer = make_optimizer(name, learning_rate=0.5, weight_decay=0.1, clip_norm=1e-3)
    params = {"matrix": jnp.full((2, 2), 4.0), "bias": jnp.full(2, 4.0)}
    updates, _ = jax.jit(optimizer.update)(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["matrix"], -0.5 * 0.1 * 4.0, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_numbers_are_arrays_by_name_and_none_is_absent():
    optimizer = make_optimizer("adam", learning_rate=1, clip_norm=5, clip_value=None)
    found = optimizer.init(jnp.zeros(3)).hyperparams  # pyright: ignore[reportAttributeAccessIssue]
    assert set(found) == {"learning_rate", "clip_norm", "beta1", "beta2", "epsilon"}
    assert all(value.dtype == jnp.float32 for value in found.values())


def test_hyperparameters_can_be_vmapped():
    """Three learning rates and clips in one program equal three programs."""
    rates, clips = jnp.array([0.1, 0.01, 1.0]), jnp.array([1.0, 0.1, 10.0])
    optimizer = make_optimizer("momentum", learning_rate=0.0, clip_norm=1.0, weight_decay=0.1)
    params, gradient = jnp.ones((2, 2)), jnp.full((2, 2), 3.0)

    def once(rate, clip):
        state = optimizer.init(params)
        state = state._replace(hyperparams=state.hyperparams | {"learning_rate": rate, "clip_norm": clip})
        return optimizer.update(gradient, state, params)[0]

    alone = []
    for rate, clip in zip(rates, clips, strict=True):
        single = make_optimizer("momentum", learning_rate=float(rate), clip_norm=float(clip), weight_decay=0.1)
        alone.append(jax.jit(single.update)(gradient, single.init(params), params)[0])
    np.testing.assert_allclose(jax.jit(jax.vmap(once))(rates, clips), np.stack(alone), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamm", {}, "optimizer: expected one of sgd, .*; found 'adamm'"),
        ("sgd", {"beta1": 0.5}, "options clip_value, clip_norm, weight_decay, ema_decay; found 'beta1'"),
    ],
)
def test_unknown_names_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, learning_rate=0.1, **options)


def test_keeps_a_running_mean_of_the_parameters():
    """a_t = d_t a_tm1 + (1 - d_t) p_t in float64 NumPy, d_t = min(0.8, t / (9 + t)); the updates are as without it."""
    options = {"learning_rate": 0.1, "weight_decay": 0.3}
    optimizer, plain = make_optimizer("adam", ema_decay=0.8, **options), make_optimizer("adam", **options)
    params = {"matrix": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    state, plain_state = optimizer.init(params), plain.init(params)
    expected = jax.tree.map(np.float64, params)
    assert averages(plain_state) == []
    update, plain_update = jax.jit(optimizer.update), jax.jit(plain.update)
    for step in range(1, 60):
        gradient = jax.tree.map(lambda p, step=step: np.cos(p * step), params)
        updates, state = update(gradient, state, params)
        plain_updates, plain_state = plain_update(gradient, plain_state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.8, step / (9 + step))
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.float64(p), expected, params)
        for one, other in zip(jax.tree.leaves(updates), jax.tree.leaves(plain_updates), strict=True):
            np.testing.assert_array_equal(one, other)
    (average,) = averages(state)
    for name, wanted in expected.items():
        np.testing.assert_allclose(average[name], wanted, rtol=1e-5)
        assert np.abs(average[name] - params[name]).max() > 1e-2
