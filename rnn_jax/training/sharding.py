"""Data parallelism: batches spread over devices, parameters on each of them."""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class BatchSharding:
    """How one batch is spread over the devices of a mesh; XLA adds the sum of the gradients by itself.

    Attributes:
        mesh: a mesh of one axis.
        batch_axis: the batch axis of the leaves of a batch, an int for all of them or a pytree (prefix) of ints:
            1 for time-major sequences [T, B]; None: whole on every device.
        carry_axis: the same for the carry, as a rule 0: [B, H].
    """

    mesh: Mesh
    batch_axis: Any = 1
    carry_axis: Any = 0

    @cached_property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @cached_property
    def block(self) -> Any:
        """The shardings of a block of batches, whose leaves have one more axis in front."""
        return self._along(self.batch_axis, 1)

    @cached_property
    def batch(self) -> Any:
        """The shardings of one batch."""
        return self._along(self.batch_axis, 0)

    @cached_property
    def state(self) -> TrainState:
        """The shardings of a training state."""
        whole = self.replicated
        carry = self._along(self.carry_axis, 0)
        return TrainState(step=whole, params=whole, opt_state=whole, carry=carry, key=whole, finite=whole)

    def place(self, state: TrainState) -> TrainState:
        """Move a state to where a training step expects it."""
        return jax.device_put(state, self.state)

    def _along(self, axes: Any, shift: int) -> Any:
        name = self.mesh.axis_names[0]

        def sharding(axis):
            spec = () if axis is None else (*[None] * (axis + shift), name)
            return NamedSharding(self.mesh, PartitionSpec(*spec))

        return jax.tree.map(sharding, axes, is_leaf=lambda axis: axis is None)


def batch_sharding(
    batch_size: int, *, devices: int | None = None, batch_axis: Any = 1, carry_axis: Any = 0
) -> BatchSharding | None:
    """Spread batches over all visible devices, or over the first `devices`; None where there is only one.

    Raises:
        ValueError: more devices than there are; a batch size that they do not divide.
    """
    visible = jax.devices()
    count = len(visible) if devices is None else devices
    if not 1 <= count <= len(visible):
        raise ValueError(f"devices: expected 1 to {len(visible)}, as many as are visible, found {count}")
    if batch_size % count:
        raise ValueError(
            f"batch_size: expected a multiple of {count}, the number of devices in use, found {batch_size}"
        )
    if count == 1:
        return None
    return BatchSharding(Mesh(np.array(visible[:count]), ("batch",)), batch_axis, carry_axis)
