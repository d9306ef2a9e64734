"""The state that one training step hands to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rnn_jax.training.optimizers import averages, with_average


class TrainState(flax.struct.PyTreeNode):
    """All that training changes; with the data and the schedule it determines the rest of a run.

    Attributes:
        step: int32 scalar, the number of steps done.
        params: pytree of arrays.
        opt_state: the optimiser's state; its `hyperparams` are arrays by name (see `optimizers`).
        carry: what the loss hands from one batch to the next (truncated BPTT: the recurrent carry), or ().
        key: JAX PRNG key, the same in every step: step number s draws from `fold_in(key, s)`.
        finite: bool scalar; False after a loss or gradient that was not finite. From then on the state stands still.
    """

    # Any: as pytrees go, a state also holds shapes, shardings or a further axis.
    step: Any
    params: Any
    opt_state: Any
    carry: Any
    key: Any
    finite: Any

    @classmethod
    def create(
        cls, params: Any, optimizer: optax.GradientTransformation, *, carry: Any = (), key: jax.Array
    ) -> "TrainState":
        """The state before the first step. Takes copies: a training step donates its state's buffers."""
        params, carry, key = jax.tree.map(jnp.copy, (params, carry, key))
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            carry=carry,
            key=key,
            finite=jnp.ones((), bool),
        )

    @property
    def evaluated(self) -> Any:
        """What is evaluated, shown and used later: the running mean of `params` where the optimiser keeps one."""
        return next(iter(averages(self.opt_state)), self.params)

    def swapped(self) -> "TrainState":
        """`params` and their running mean in each other's place, where there is one; twice is not at all."""
        return self.replace(params=self.evaluated, opt_state=with_average(self.opt_state, self.params))


def parameter_count(params: Any) -> int:
    """The number of scalars in a pytree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
