"""Data parallelism: eight devices give what one gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnn_jax.training.sharding import batch_sharding

EIGHT = """
import jax, jax.numpy as jnp, numpy as np
from rnn_jax.training.checkpoint import Checkpoints, Progress
from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training import sharding as rules
from rnn_jax.training.sharding import batch_sharding
from rnn_jax.training.state import TrainState
from rnn_jax.training.step import make_train_step

T, B, V, H = 5, 16, 8, 4
rules.SMALLEST_SHARDED = V * H

def loss(params, carry, batch, key):
    def step(hidden, token):
        hidden = jnp.tanh(params["input"][token] + hidden @ params["recurrent"])
        return hidden, hidden
    carry, outputs = jax.lax.scan(step, carry, batch["tokens"])
    scores = jax.nn.log_softmax(outputs @ params["output"])
    losses = -jnp.take_along_axis(scores, batch["tokens"][..., None], -1)[..., 0] * batch["weights"]
    keep = jax.random.bernoulli(key, 0.9, losses.shape)
    return (jnp.where(keep, losses, 0).sum(), keep.sum(dtype=jnp.float32)), carry

draw = np.random.default_rng(0)
params = {"input": draw.normal(size=(V, H)), "recurrent": draw.normal(size=(H, H)), "output": draw.normal(size=(H, V))}
params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
weights = draw.random((6, B), np.float32)
block = {"tokens": draw.integers(0, V, (6, T, B), np.int32), "weights": weights, "scale": np.ones(6)}
optimizer = make_optimizer("adam", learning_rate=0.1, clip_norm=1.0, ema_decay=0.9)

def train(sharding, folder):
    state = TrainState.create(params, optimizer, carry=jnp.zeros((B, H)), key=jax.random.key(0))
    if sharding is not None:
        state = sharding.place(state)
    step = make_train_step(loss, optimizer, sharding=sharding)
    first = jax.tree.map(lambda leaf: leaf[:1], block)
    state, _ = step(state, first, np.array([0.1]))
    checkpoints = Checkpoints(folder)
    checkpoints.save(state, Progress(step=1))
    state = checkpoints.restore(state)
    checkpoints.close()
    state, metrics = step(state, jax.tree.map(lambda leaf: leaf[1:], block), np.full(5, 0.1))
    size = step._cache_size() if sharding is None else step._jitted._cache_size()
    assert size == 2, size
    return state, metrics

assert len(jax.devices()) == 8
one, one_metrics = train(batch_sharding(B, devices=1), "one")
assert not np.allclose(one.evaluated["input"], one.params["input"])
for shard_params in (False, True):
    axes = {"tokens": 1, "weights": 0, "scale": None}
    many, many_metrics = train(batch_sharding(B, batch_axis=axes, shard_params=shard_params), f"many {shard_params}")
    assert many.carry.sharding.shard_shape(many.carry.shape) == (2, H)
    for tree in (many.params, many.evaluated):
        assert tree["input"].sharding.is_fully_replicated != shard_params
    assert many.step.sharding.is_fully_replicated
    for name in one_metrics:
        np.testing.assert_allclose(many_metrics[name], one_metrics[name], rtol=1e-4, err_msg=name)
    for found, wanted in ((many.params, one.params), (many.evaluated, one.evaluated), (many.carry, one.carry)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, wanted)

# A layer and its gradient: nothing of a sequence is gathered, the gradients of the parameters are added up once.
from rnn_jax import cells, unroll

mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
whole, spread = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in ((), (None, "batch")))
for name in ("elman", "lstm", "gru"):
    cell = cells.CELLS[name](H)
    weights = cell.init(jax.random.key(0), 3)
    inputs = draw.normal(size=(T, B, 3)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda p, x: jnp.square(unroll(cell, p, x)[1]).sum(), argnums=(0, 1)))
    arguments = jax.device_put(weights, whole), jax.device_put(inputs, spread)
    program = gradient.lower(*arguments).compile()
    text = program.as_text()
    assert "all-gather" not in text and text.count(" all-reduce(") == 1, name
    found, wanted = program(*arguments), gradient(weights, inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found, wanted)
for bad in ({"batch_size": 12}, {"batch_size": 16, "devices": 9}):
    try:
        batch_sharding(**bad)
    except ValueError as error:
        print(error)
"""


def test_eight_devices_give_what_one_gives(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-W", "error", "-c", EIGHT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "batch_size: expected a multiple of 8, the number of devices in use, such as 8 or 16, found 12",
        "devices: expected 1 to 8, as many as are visible, found 9",
    ]


def test_one_device_needs_no_mesh():
    assert batch_sharding(5) is None
    with pytest.raises(ValueError, match="devices: expected 1 to 1, as many as are visible, found 2"):
        batch_sharding(4, devices=2)
