"""The contract of a recurrent cell: a handful of pure functions.

A cell is split where the time loop wants it split: what depends on the input alone (`project`, run once for all T), the
matrix products of the hidden state (`recur`, one per step), and the elementwise rest (`update`). `rnn_jax.unroll` owns
the loop, masks, resets and gradients, so a cell is nothing but its equations.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array

from rnn_jax.typing import Carry, Dtype, Inputs, Key, Params, Preactivations, Projected


@runtime_checkable
class Init(Protocol):
    """Draw the parameters of a cell."""

    def __call__(self, key: Key, input_size: int, /) -> Params:
        """Draw the parameters.

        Args:
            key: a JAX random key.
            input_size: D, the features of one input step.

        Returns:
            A nested dict of arrays: `"input"` [D, gates·H], `"recurrent"` [H, gates·H], `"bias"` [gates·H], ...
        """
        ...


@runtime_checkable
class InitialCarry(Protocol):
    """The carry before the first step."""

    def __call__(self, params: Params, batch_shape: tuple[int, ...], /) -> Carry:
        """Make the carry that stands before the first step.

        Args:
            params: the cell's parameters; learned initial states live here, and the carry takes its dtype from them.
            batch_shape: the batch axes, `()` when there is none.

        Returns:
            A NamedTuple of arrays `[*batch_shape, H]`.
        """
        ...


@runtime_checkable
class Project(Protocol):
    """All that depends on the input alone."""

    def __call__(self, params: Params, inputs: Inputs, /) -> Projected:
        """Map inputs `[..., D]` to one array `[..., H]` per gate, for one step or for all steps at once."""
        ...


@runtime_checkable
class Recur(Protocol):
    """The matrix products of the carry."""

    def __call__(self, params: Params, carry: Carry, projected: Projected, /) -> Preactivations:
        """Add the recurrent products to the projected inputs: one matmul a step, affine in the carry if possible.

        Returns:
            One array `[..., H]` per gate (more where a gate's two parts must stay apart).
        """
        ...


@runtime_checkable
class Update(Protocol):
    """The gates."""

    def __call__(self, params: Params, carry: Carry, preactivations: Preactivations, /) -> tuple[Carry, Array]:
        """Apply the gates, elementwise.

        Returns:
            The new carry, of the same structure and dtypes, and the output `[..., H]`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Cell:
    """A recurrent cell: five pure functions.

        step(params, carry, projected) = update(params, carry, recur(params, carry, projected))
        cell(params, carry, x)         = step(params, carry, project(params, x))

    Every function is rank-polymorphic: the last `feature_ndim` axes are features, any axes before them are batch or
    time. Two optional functions let `unroll` do better:

    readout(params, carry, projected) -> output: the output as a function of the *new* carry, run once over all T after
        the loop; the output of `update` is then not used.
    coefficients(params, projected) -> (a, b): declares h_t = a_t ⊙ h_tm1 + b_t for every leaf of the carry (law: equals
        `step`), which permits an associative scan.

    `rank_polymorphic=False` marks functions that work only on the batch shape they were written for; `unroll` then
    vectorises them over time with `jax.vmap` in place of one flat axis.

    Not a NamedTuple, which would be a pytree of functions and could not be passed to `jax.jit`.
    """

    init: Init
    initial_carry: InitialCarry
    project: Project
    recur: Recur
    update: Update
    readout: Callable[[Params, Carry, Projected], Array] | None = None
    coefficients: Callable[[Params, Projected], tuple[Carry, Carry]] | None = None
    feature_ndim: int = 1
    rank_polymorphic: bool = True

    def replace(self, **changes: Any) -> "Cell":
        """The same cell with some of its functions replaced."""
        return dataclasses.replace(self, **changes)

    def step(self, params: Params, carry: Carry, projected: Projected) -> tuple[Carry, Any]:
        """One step from a projected input; returns (carry, output)."""
        new_carry, output = self.update(params, carry, self.recur(params, carry, projected))
        if self.readout is not None:
            output = self.readout(params, new_carry, projected)
        return new_carry, output

    def __call__(self, params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Any]:
        """One step from an input, as `jax.lax.scan` wants it: `scan(partial(cell, params), carry, xs)`."""
        return self.step(params, carry, self.project(params, inputs))


CellFunction = Callable[[Any, Carry, Inputs], tuple[Carry, Any]]


def from_function(
    function: CellFunction,
    init: Init,
    initial_carry: InitialCarry,
    *,
    feature_ndim: int = 1,
    rank_polymorphic: bool = False,
) -> Cell:
    """Make a cell of any pure function `(params, carry, inputs) -> (carry, output)`.

    The whole step counts as `update`: nothing is hoisted out of the loop, but weight gradients still leave it. Split
    the equations into `project`, `recur` and `update` for full speed.

    Args:
        function: one step.
        init: `(key, input_size) -> params`.
        initial_carry: `(params, batch_shape) -> carry`.
        feature_ndim: how many last axes of `inputs` are features.
        rank_polymorphic: whether `function` takes any number of leading axes.
    """
    return Cell(
        init=init,
        initial_carry=initial_carry,
        project=_project_nothing,
        recur=_recur_nothing,
        update=function,
        feature_ndim=feature_ndim,
        rank_polymorphic=rank_polymorphic,
    )


def _project_nothing(params: Params, inputs: Inputs) -> Projected:
    return inputs


def _recur_nothing(params: Params, carry: Carry, projected: Projected) -> Preactivations:
    return projected


F = TypeVar("F", bound=Callable[..., Cell])


def cell_factory(factory: F) -> F:
    """Cache a factory on its bound arguments, so that `lstm(256) is lstm(hidden_size=256)`.

    A cell is a static argument of the jitted loop: a new tuple of closures for each call of the factory would compile
    everything again (140 ms against 0.2 ms).

    Raises (from the wrapped factory):
        ValueError: hidden_size is not a positive integer, or an argument cannot be hashed.
    """
    signature = inspect.signature(factory)
    cached = functools.cache(lambda arguments: factory(**dict(arguments)))

    @functools.wraps(factory)
    def wrapper(*args: Any, **kwargs: Any) -> Cell:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if not isinstance(value, Hashable):
                raise ValueError(f"{name}: expected a hashable value, found {type(value).__name__}")
        size = bound.arguments.get("hidden_size", 1)
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"hidden_size: expected a positive integer, found {size!r}")
        if isinstance(size, np.integer):
            bound.arguments["hidden_size"] = int(size)
        return cached(tuple(bound.arguments.items()))

    return cast(F, wrapper)


Activation = Callable[[Array], Array]

ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "softsign": jax.nn.soft_sign,
}


def resolve_activation(activation: str | Activation, argument: str = "activation") -> Activation:
    """Turn a name of `ACTIVATIONS` into its function; a function is taken as it is.

    Raises:
        ValueError: unknown name.
    """
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"{argument}: expected one of {', '.join(ACTIVATIONS)}, found {activation!r}")
    return ACTIVATIONS[activation]


def accumulation_dtype(dtype: Dtype) -> Dtype:
    """The dtype of sums, gates and carries under weights of `dtype`: float32 for the half precisions, else `dtype`."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def reads(function: Callable[..., Any], params: Params, *arguments: Any) -> list[bool]:
    """For each leaf of the parameters, whether what `function(params, *arguments)` gives depends on it.

    A leaf that is only handed on, to a jitted function that makes no use of it, is not read.
    """
    jaxpr = jax.make_jaxpr(function)(params, *arguments).jaxpr
    used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    return used[: len(jax.tree.leaves(params))]


def lone_cpu() -> bool:
    """Whether JAX computes on one CPU device and nothing else."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def widen(array: Array) -> Array:
    """A bias or other elementwise parameter in the dtype of the sums it is added to."""
    return array.astype(accumulation_dtype(array.dtype))


def cast_weights(params: Params, dtype: Dtype) -> Params:
    """Cast the matrices to the compute dtype, once before the loop; vectors (biases, norms) keep theirs."""
    return jax.tree.map(
        lambda p: p.astype(dtype) if p.ndim > 1 and jnp.isdtype(p.dtype, "real floating") else p, params
    )


def matmul(inputs: Array, weights: Array) -> Array:
    """`inputs @ weights`: operands in the dtype of the weights, the sum in `accumulation_dtype`.

    Shapes: `[..., D]`, `[D, H]` -> `[..., H]`.
    """
    product = _product_turned_for_gradient if _turning_pays(inputs, weights) else _product
    return product(inputs.astype(weights.dtype), weights)


def _product(inputs: Array, weights: Array) -> Array:
    dimensions = (((inputs.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(inputs, weights, dimensions, preferred_element_type=accumulation_dtype(weights.dtype))


def _turning_pays(inputs: Array, weights: Array) -> bool:
    """Whether the gradient of the weights, x.T @ dy, is faster with x turned in memory first.

    Where the rows of dy lie a multiple of 8 KB apart, a column of it falls into few sets of a CPU's cache, and XLA's
    product over the rows of both takes 1.2 times as long at a width of 2,048 and 1.7 times at 4,096. At other widths
    turning gains little or loses (AMD EPYC, 2 cores, jax 0.10.2, 512 to 8,192 rows).
    """
    rows, width = math.prod(inputs.shape[:-1]), weights.shape[-1]
    if weights.dtype != jnp.float32 or weights.ndim != 2 or rows < 1024 or width % 2048 != 0:
        return False
    # Asked last: who asks starts JAX's backend, and a step on a few rows may be traced before several processes join.
    return lone_cpu()


@jax.custom_jvp
def _product_turned_for_gradient(inputs: Array, weights: Array) -> Array:
    return _product(inputs, weights)


@_product_turned_for_gradient.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """d(x W) = dx W + (xᵀ)ᵀ dW, where xᵀ lies in memory so: without the barrier XLA would cancel the turns."""
    (inputs, weights), (d_inputs, d_weights) = primals, tangents
    turned = jax.lax.optimization_barrier(inputs.reshape(-1, inputs.shape[-1]).T)
    from_weights = jax.lax.dot_general(turned, d_weights, (((0,), (0,)), ((), ())))
    output = _product_turned_for_gradient(inputs, weights)
    return output, _product(d_inputs, weights) + from_weights.reshape(output.shape)


def split_gates(wide: Array, gates: int) -> tuple[Array, ...]:
    """Cut the last axis into `gates` equal blocks."""
    return tuple(jnp.split(wide, gates, axis=-1))


def project_gates(inputs: Array, weights: Array, bias: Array, gates: int) -> tuple[Array, ...]:
    """`inputs @ weights + bias`, one array `[..., H]` per gate."""
    return split_gates(matmul(inputs, weights) + widen(bias), gates)


def zero_carry(recurrent: Array, batch_shape: tuple[int, ...], hidden_size: int) -> Array:
    """Zeros `[*batch_shape, H]` in the accumulation dtype of the recurrent weights."""
    return jnp.zeros((*batch_shape, hidden_size), accumulation_dtype(recurrent.dtype))
