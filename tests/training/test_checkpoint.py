"""Checkpoints hold every bit of a state, survive donation, and can be read without knowing what wrote them."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.training.checkpoint import CheckpointDamaged, CheckpointMismatch, Checkpoints, Progress
from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training.state import TrainState


@pytest.fixture
def checkpoints(tmp_path):
    found = Checkpoints(tmp_path / "checkpoints")
    yield found
    found.close()


def state_of(value, size=4):
    """A state of nested and odd parts, all of whose numbers are `value`."""
    params = {"layers": {"0": jnp.full((size, size), value), "low": jnp.full(3, value, jnp.bfloat16)}, "empty": {}}
    carry = (jnp.full(2, value), {"count": jnp.asarray(int(value)), "flag": jnp.asarray(True)}, ())
    optimizer = make_optimizer("adam", learning_rate=value, clip_norm=1.0)
    return TrainState.create(params, optimizer, carry=carry, key=jax.random.key(int(value)))


def plain(state):
    return jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(plain(one)), jax.tree.leaves(plain(other)), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def test_restores_every_leaf_and_the_key(checkpoints, tmp_path):
    checkpoints.save(state_of(5.0), Progress(step=7, seconds=1.5, best_step=3, best_values={"val_loss": 2.0}))
    checkpoints.wait()
    reader = Checkpoints(tmp_path / "checkpoints", create=False)
    assert reader.progress == Progress(step=7, seconds=1.5, best_step=3, best_values={"val_loss": 2.0})
    restored = reader.restore(state_of(0.0))
    assert_same(restored, state_of(5.0))
    draws = [jax.random.uniform(state.key) for state in (restored, state_of(5.0))]
    assert draws[0] == draws[1]
    reader.close()


def test_what_is_restored_is_as_free_to_move_as_its_like(checkpoints):
    checkpoints.save(state_of(5.0), Progress(step=1))
    free = state_of(0.0)
    bound = jax.device_put(free, jax.devices()[0])
    for like in (free, bound):
        restored = checkpoints.restore(like)
        assert_same(restored, state_of(5.0))
        for found, wanted in zip(jax.tree.leaves(restored.params), jax.tree.leaves(like.params), strict=True):
            assert found.committed == wanted.committed
            assert found.sharding == wanted.sharding


def test_parameters_are_read_without_an_example(checkpoints, tmp_path):
    checkpoints.save(state_of(1.0), Progress(step=1), best=True)
    checkpoints.save(state_of(2.0), Progress(step=2))
    for best, value in ((True, 1), (False, 2)):
        params = checkpoints.restore_params(best=best)
        assert set(params) == {"layers", "empty"}
        assert params["layers"]["low"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(params["layers"]["0"], np.full((4, 4), value, np.float32))


def test_only_the_last_and_the_best_are_kept(checkpoints, tmp_path):
    for number in range(1, 8):
        checkpoints.save(state_of(float(number)), Progress(step=10 * number), best=number in (2, 4))
    checkpoints.wait()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "7"]
    assert checkpoints.progress.best_save == 4
    assert_same(checkpoints.restore(state_of(0.0), best=True), state_of(4.0))
    assert_same(checkpoints.restore(state_of(0.0)), state_of(7.0))


def test_the_same_step_may_be_saved_again(checkpoints):
    checkpoints.save(state_of(1.0), Progress(step=10))
    checkpoints.save(state_of(1.0), Progress(step=10, evaluated_step=10), best=True)
    assert_same(checkpoints.restore(state_of(0.0), best=True), state_of(1.0))
    assert checkpoints.progress.evaluated_step == 10


def test_what_is_saved_is_the_state_at_that_moment_though_its_buffers_are_donated(checkpoints):
    """Training goes on in the same memory while the background thread still writes."""
    move = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    params = {"large": jnp.zeros((512, 512))}
    optimizer = make_optimizer("sgd", learning_rate=1.0)
    state = TrainState.create(params, optimizer, key=jax.random.key(0))
    for save in range(6):
        checkpoints.save(state, Progress(step=20 * save), best=save == 3)
        for _ in range(20):
            state = state.replace(params=move(state.params))
    for best, wanted in ((True, 60), (False, 100)):
        found = checkpoints.restore_params(best=best)["large"]
        assert found.min() == found.max() == wanted


def test_a_folder_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Checkpoints(tmp_path / "none", create=False)
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.progress is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.restore(state_of(1.0))
    checkpoints.close()


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({"table": jnp.zeros((8, 9))}, {}),
        ({"other": jnp.zeros((8, 8))}, {}),
        ({"table": jnp.zeros((8, 8))}, {"ema_decay": 0.9}),
    ],
)
def test_a_state_of_other_arrays_is_refused_in_one_line(checkpoints, params, options):
    def state(params, **options):
        optimizer = make_optimizer("adam", learning_rate=0.1, **options)
        return TrainState.create(params, optimizer, key=jax.random.key(0))

    checkpoints.save(state({"table": jnp.zeros((8, 8))}), Progress(step=1))
    with pytest.raises(CheckpointMismatch, match=r"\Aexpected the arrays .*, found others in [^\n]*\Z"):
        checkpoints.restore(state(params, **options))


@pytest.mark.parametrize(
    ("file", "left", "readable"),
    [
        ("progress/metadata", b"", set()),
        ("params/_METADATA", b"{", {"open"}),
        ("rest/_METADATA", None, {"open", "params"}),
    ],
)
def test_what_is_damaged_is_said_to_be(checkpoints, tmp_path, file, left, readable):
    checkpoints.save(state_of(1.0), Progress(step=1))
    checkpoints.wait()
    path = tmp_path / "checkpoints" / "1" / file
    if left is None:
        path.unlink()
    else:
        path.write_bytes(left)
    actions = {
        "open": lambda: Checkpoints(tmp_path / "checkpoints", create=False).close(),
        "state": lambda: checkpoints.restore(state_of(0.0)),
        "params": checkpoints.restore_params,
    }
    for name in actions if "open" in readable else ["open"]:
        if name in readable:
            actions[name]()
        else:
            with pytest.raises(CheckpointDamaged, match=r"\Acannot read [^\n]*checkpoints/1: damaged\Z"):
                actions[name]()


def test_what_a_dead_process_left_unfinished_is_cleared_by_training_and_left_by_a_reader(checkpoints, tmp_path):
    checkpoints.save(state_of(1.0), Progress(step=1))
    checkpoints.wait()
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    Checkpoints(tmp_path / "checkpoints", create=False).close()
    assert unfinished.exists()
    again = Checkpoints(tmp_path / "checkpoints")
    # Orbax may still be at it when the folder is open.
    for _ in range(500):
        if not unfinished.exists():
            break
        time.sleep(0.02)
    assert not unfinished.exists()
    assert again.progress == Progress(step=1)
    again.close()


def test_a_state_that_had_stopped_may_go_on(checkpoints):
    checkpoints.save(state_of(1.0).replace(finite=jnp.asarray(False)), Progress(step=1))
    assert bool(checkpoints.restore(state_of(0.0)).finite)


def test_says_nothing(checkpoints, capfd):
    checkpoints.save(state_of(1.0), Progress(step=1), best=True)
    checkpoints.restore(state_of(0.0))
    checkpoints.restore_params()
    assert capfd.readouterr() == ("", "")
