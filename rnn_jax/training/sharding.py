"""Data parallelism: batches spread over the devices of all processes, parameters on each of them or spread as well."""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.training.state import TrainState

# Elements of the smallest array worth spreading: below, gathering it costs more than keeping it whole.
SMALLEST_SHARDED = 2**14


@dataclasses.dataclass(frozen=True)
class BatchSharding:
    """How one batch is spread over the devices of a mesh; XLA adds the sum of the gradients by itself.

    Attributes:
        mesh: a mesh of one axis.
        batch_axis: the batch axis of the leaves of a batch, an int for all of them or a pytree (prefix) of ints:
            1 for time-major sequences [T, B]; None: whole on every device.
        carry_axis: the same for the carry, as a rule 0: [B, H].
        shard_params: whether large parameters, and what the optimiser keeps for each, are spread too: along the
            longest axis that the devices divide. XLA gathers them where a step needs them.
    """

    mesh: Mesh
    batch_axis: Any = 1
    carry_axis: Any = 0
    shard_params: bool = False

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

    @property
    def spans_processes(self) -> bool:
        """Whether some devices belong to other processes."""
        return any(device.process_index != jax.process_index() for device in self.mesh.devices.flat)

    def state(self, like: TrainState) -> TrainState:
        """The shardings of a training state of these shapes."""
        whole = self.replicated
        return TrainState(
            step=whole,
            params=jax.tree.map(self._of_parameter, like.params),
            opt_state=jax.tree.map(self._of_parameter, like.opt_state),
            carry=self._along(self.carry_axis, 0),
            key=whole,
            finite=whole,
        )

    def place(self, state: TrainState) -> TrainState:
        """Move a state, the same in every process, to where a training step expects it."""
        shardings = self.state(state)
        if not self.spans_processes:
            return jax.device_put(state, shardings)
        data = state.replace(key=jax.random.key_data(state.key))
        placed = self._spread(data, shardings)
        key = jax.random.wrap_key_data(placed.key, impl=jax.random.key_impl(state.key))
        return placed.replace(key=key)

    def place_block(self, block: Any) -> Any:
        """Hand every device its part of a block of batches, NumPy arrays that are the same in every process."""
        return self._spread(block, self.block) if self.spans_processes else block

    def whole(self, tree: Any) -> Any:
        """A spread pytree as a process can use it alone: as it is, unless devices of other processes hold parts."""
        if not self.spans_processes:
            return tree
        gathered = jax.jit(lambda leaves: leaves, out_shardings=self.replicated)(tree)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), gathered)

    def _of_parameter(self, leaf: Any) -> NamedSharding:
        size = self.mesh.size
        shape = np.shape(leaf)
        axes = [axis for axis, length in enumerate(shape) if length % size == 0 and length > 0]
        if not self.shard_params or not axes or np.prod(shape) < SMALLEST_SHARDED:
            return self.replicated
        longest = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, self.mesh.axis_names[0]))

    def _spread(self, tree: Any, shardings: Any) -> Any:
        def spread(sharding: NamedSharding, leaves: Any) -> Any:
            def one(leaf: Any) -> jax.Array:
                array = np.asarray(leaf)
                return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

            return jax.tree.map(one, leaves)

        return jax.tree.map(spread, shardings, tree)

    def _along(self, axes: Any, shift: int) -> Any:
        name = self.mesh.axis_names[0]

        def sharding(axis):
            spec = () if axis is None else (*[None] * (axis + shift), name)
            return NamedSharding(self.mesh, PartitionSpec(*spec))

        return jax.tree.map(sharding, axes, is_leaf=lambda axis: axis is None)


def chosen_devices(count: int | None) -> list[Any]:
    """The first `count` of all visible devices; None: all.

    Raises:
        ValueError: there are fewer; or not all, where several processes use them.
    """
    visible = jax.devices()
    count = len(visible) if count is None else count
    if jax.process_count() > 1 and count != len(visible):
        raise ValueError(f"devices: expected {len(visible)}, as several processes use all they have, found {count}")
    if not 1 <= count <= len(visible):
        raise ValueError(f"devices: expected 1 to {len(visible)}, as many as are visible, found {count}")
    return visible[:count]


def batch_sharding(
    batch_size: int,
    *,
    devices: int | None = None,
    batch_axis: Any = 1,
    carry_axis: Any = 0,
    shard_params: bool = False,
) -> BatchSharding | None:
    """Spread batches over all visible devices, or over the first `devices`; None where there is only one.

    Args:
        batch_size: of a whole batch, over all devices.
        devices: how many to use; several processes use all of theirs.
        batch_axis: see `BatchSharding`, as for the others.
        carry_axis: see there.
        shard_params: see there.

    Raises:
        ValueError: more devices than there are; a batch size that they do not divide.
    """
    chosen = chosen_devices(devices)
    count = len(chosen)
    if batch_size % count:
        below = batch_size // count * count
        near = " or ".join(str(size) for size in (below, below + count) if size)
        raise ValueError(
            f"batch_size: expected a multiple of {count}, the number of devices in use, such as {near}, "
            f"found {batch_size}"
        )
    if count == 1:
        return None
    return BatchSharding(Mesh(np.array(chosen), ("batch",)), batch_axis, carry_axis, shard_params)
