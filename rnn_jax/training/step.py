"""One training step, jitted, and several of them in one dispatch."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from rnn_jax.training.sharding import BatchSharding


@runtime_checkable
class Loss(Protocol):
    """What is minimised: loss_sum / count, the mean over what the batch holds."""

    def __call__(self, params: Any, carry: Any, batch: Any, key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """Evaluate one batch.

        Args:
            params: the parameters; the gradient is taken with respect to them.
            carry: what the previous batch handed on; no gradient flows through it. () if there is nothing.
            batch: one batch, a pytree of arrays.
            key: this step's PRNG key, for dropout.

        Returns:
            ((loss_sum, count), carry): scalars, as the functions of `losses` give them (a count of 0 is taken for 1:
            a batch of padding has no gradient), and the carry for the next batch, in the same structure and dtypes.
        """
        ...


TrainStep = Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation, *, sharding: BatchSharding | None = None
) -> TrainStep:
    """Build `train_step(state, block, learning_rates) -> (state, metrics)`.

    A block is K batches, stacked along a leading axis in every leaf, and learning_rates [K] the rate of each; the K
    steps run in one dispatch. The state's buffers are donated: use the state that is returned, not the one given.
    metrics are arrays [K]: `loss` (loss_sum / count), `count`, and the global norms `grad_norm` (before clipping),
    `param_norm` and `update_norm` (both after the step). Nothing waits for the device until one of them is read.

    A step whose loss or gradient is not finite changes nothing but `state.finite`, and neither does any later one.

    Args:
        loss: see `Loss`.
        optimizer: from `make_optimizer`: its state has the array `hyperparams["learning_rate"]`.
        sharding: how batches are spread over devices; None: one device.
    """

    def mean_loss(params, carry, batch, key):
        (loss_sum, count), carry = loss(params, carry, batch, key)
        return loss_sum / jnp.where(count == 0, jnp.ones_like(count), count), (count, carry)

    def one(state, inputs):
        batch, learning_rate = inputs
        key = jax.random.fold_in(state.key, state.step)
        gradient = jax.value_and_grad(mean_loss, has_aux=True)
        (value, (count, carry)), grads = gradient(state.params, state.carry, batch, key)
        opt_state = state.opt_state
        learning_rate = learning_rate.astype(opt_state.hyperparams["learning_rate"].dtype)
        opt_state = opt_state._replace(hyperparams=opt_state.hyperparams | {"learning_rate": learning_rate})
        updates, opt_state = optimizer.update(grads, opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(grads)
        finite = state.finite & jnp.isfinite(value) & jnp.isfinite(grad_norm)
        after = state.replace(step=state.step + 1, params=params, opt_state=opt_state, carry=carry)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state).replace(finite=finite)
        metrics = {
            "loss": value,
            "count": count,
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(state.params),
            "update_norm": optax.tree.norm(updates),
        }
        return state, metrics

    def train_step(state, block, learning_rates):
        if len(learning_rates) > 1:
            return jax.lax.scan(one, state, (block, learning_rates))
        # A loop of one step would cost its compilation and copies of the state.
        state, metrics = one(state, (jax.tree.map(lambda leaf: leaf[0], block), learning_rates[0]))
        return state, jax.tree.map(lambda value: value[None], metrics)

    if sharding is None:
        return jax.jit(train_step, donate_argnums=0)
    return _Sharded(train_step, sharding)


class _Sharded:
    """A training step over the devices of a mesh, compiled for the shardings of the first state it is given."""

    def __init__(self, train_step: TrainStep, sharding: BatchSharding):
        self._train_step = train_step
        self._sharding = sharding
        self._jitted: Any = None

    def __call__(self, state: Any, block: Any, learning_rates: Any) -> tuple[Any, dict[str, Any]]:
        if self._jitted is None:
            placed, whole = self._sharding.state(state), self._sharding.replicated
            self._jitted = jax.jit(
                self._train_step,
                donate_argnums=0,
                in_shardings=(placed, self._sharding.block, whole),
                out_shardings=(placed, whole),
            )
        return self._jitted(state, self._sharding.place_block(block), learning_rates)
