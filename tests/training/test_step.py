"""The training step: means, several steps in one dispatch, and a loss that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training.state import TrainState, parameter_count
from rnn_jax.training.step import make_train_step


@pytest.fixture(scope="module")
def train_step():
    return make_train_step(toy.loss, toy.optimizer())


def test_equals_a_step_written_out(train_step):
    batch, rate = toy.Batches().block(0, 1), 0.05
    start = toy.new_state()

    def mean(params):
        (total, count), _ = toy.loss(params, start.carry, batch[0], jax.random.fold_in(start.key, 0))
        return total / count

    value, grads = jax.value_and_grad(mean)(start.params)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = adam.update(grads, adam.init(start.params))
    expected = optax.apply_updates(start.params, updates)

    state, metrics = train_step(toy.new_state(), batch, np.array([rate]))
    np.testing.assert_allclose(state.params["table"], expected["table"], rtol=1e-5)
    assert int(state.step) == 1
    assert float(state.carry) == 1
    for name, wanted in {
        "loss": value,
        "count": 10,
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(expected),
        "update_norm": optax.tree.norm(updates),
    }.items():
        np.testing.assert_allclose(metrics[name], [wanted], rtol=1e-5)


def test_several_steps_in_one_dispatch_are_the_same_bits(train_step, optimized):
    train_step = optimized(train_step)
    rates = np.linspace(0.1, 0.01, 8)
    one, one_loss = toy.new_state(), []
    for step in range(8):
        one, metrics = train_step(one, toy.Batches().block(step, 1), rates[step : step + 1])
        one_loss.extend(metrics["loss"].tolist())
    many, metrics = train_step(toy.new_state(), toy.Batches().block(0, 8), rates)
    assert toy.identical(one, many)
    assert one_loss == metrics["loss"].tolist()


def test_one_step_has_no_loop():
    step = make_train_step(toy.loss, toy.optimizer())

    def loops(count):
        rates = np.zeros(count)
        jaxpr = jax.make_jaxpr(step)(toy.new_state(), toy.Batches().block(0, count), rates)
        return str(jaxpr).count("scan[")

    assert loops(1) == 0
    assert loops(2) == 1


def test_donates_its_state_and_keeps_the_initial_parameters(train_step):
    params = {"table": jnp.zeros((toy.SYMBOLS, toy.SYMBOLS))}
    before = TrainState.create(params, toy.optimizer(), carry=jnp.zeros(()), key=jax.random.key(0))
    train_step(before, toy.Batches().block(0, 1), np.array([0.1]))
    assert before.params["table"].is_deleted()
    assert not params["table"].is_deleted()


def test_does_not_compile_twice(train_step):
    state, _ = train_step(toy.new_state(), toy.Batches().block(0, 1), np.array([0.1]))
    size = train_step._cache_size()
    train_step(state, toy.Batches().block(1, 1), np.array([0.2]))
    assert train_step._cache_size() == size


def masked_mean(params, carry, batch, key):
    values, mask = batch
    return (jnp.where(mask, params * values, 0).sum(), mask.sum(dtype=jnp.float32)), carry


def test_the_mean_is_over_what_is_counted():
    step = make_train_step(masked_mean, make_optimizer("sgd", learning_rate=1.0))
    state = TrainState.create(jnp.ones(()), make_optimizer("sgd", learning_rate=1.0), key=jax.random.key(0))
    values = np.array([[1.0, 2.0, 30.0]], np.float32)
    state, metrics = step(state, (values, np.array([[True, True, False]])), np.array([1.0]))
    assert metrics["loss"].tolist() == [1.5]
    assert float(state.params) == 1 - 1.5
    state, metrics = step(state, (values, np.zeros((1, 3), bool)), np.array([1.0]))
    assert metrics["loss"].tolist() == [0.0]
    assert float(state.params) == 1 - 1.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("count", [1, 4])
def test_a_step_that_is_not_finite_changes_nothing_nor_does_a_later_one(bad, count):
    optimizer = make_optimizer("momentum", learning_rate=0.1)
    step = make_train_step(masked_mean, optimizer)
    state = TrainState.create(jnp.ones(()), optimizer, key=jax.random.key(0))
    values, mask = np.ones((12, 1), np.float32), np.ones((12, 1), bool)
    values[6] = bad
    seen = []
    for start in range(0, 12, count):
        block = values[start : start + count], mask[start : start + count]
        state, metrics = step(state, block, np.full(count, 0.1))
        seen.extend(np.isfinite(metrics["loss"]).tolist())
    assert seen.index(False) == 6
    assert not bool(state.finite)
    good = TrainState.create(jnp.ones(()), optimizer, key=jax.random.key(0))
    good, _ = step(good, (values[:6], mask[:6]), np.full(6, 0.1))
    assert toy.identical(good.replace(finite=state.finite), state)


def test_a_gradient_that_is_not_finite_counts_too():
    def loss(params, carry, batch, key):
        return (jnp.sqrt(params * batch).sum(), jnp.ones(())), carry

    optimizer = make_optimizer("sgd", learning_rate=0.1)
    state = TrainState.create(jnp.ones(()), optimizer, key=jax.random.key(0))
    state, metrics = make_train_step(loss, optimizer)(state, np.zeros((1, 2), np.float32), np.array([0.1]))
    assert np.isfinite(metrics["loss"]).all()
    assert float(state.params) == 1
    assert not bool(state.finite)


def test_can_be_vmapped_over_members_of_a_sweep(train_step):
    rates = np.array([[0.1, 0.05], [0.01, 0.02]])
    block = toy.Batches().block(0, 2)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), toy.new_state())
    members, metrics = jax.jit(jax.vmap(train_step, in_axes=(0, None, 0)))(members, block, rates)
    for index in range(2):
        alone, alone_metrics = train_step(toy.new_state(), block, rates[index])
        np.testing.assert_allclose(members.params["table"][index], alone.params["table"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(metrics["loss"][index], alone_metrics["loss"], rtol=1e-5)


def test_parameter_count():
    assert parameter_count({"a": jnp.zeros((2, 3)), "b": [jnp.zeros(())]}) == 7
