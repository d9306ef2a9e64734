"""Loops whose products read matrices that were laid out for them once, before the loop.

A product of a few rows by a matrix spends most of its time on the matrix: XLA:CPU reads it row by row or copies it into
the order its registers want, at each step anew. A loop's matrices stay what they are, so here they are *packed* before
the loop, and the body's products read panels of consecutive numbers:

    y = x w,   packed[p, k, j] = w[k, pP + j]   (or w[pP + j, k], where the loop multiplies by the transpose)

Nothing here knows any cell: a body is traced, its products by closed-over matrices are found in what it traced to, and
it runs as before but for those. The machine code is in `rnn_jax.recurrence.machine_code`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend import core
from jax.extend.core import primitives
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, PyTree

from rnn_jax.recurrence import native
from rnn_jax.recurrence.setting import way

# Below so many numbers a matrix is left to XLA: its products are too short for a call of their own to pay.
SMALLEST_MATRIX = 2**12


AnyArray = Array | np.ndarray

packed_dot_p = core.Primitive("packed_dot")


def _dot(x: AnyArray, w: AnyArray, axis: int, batched: bool = False) -> Array:
    """The product of the last axis of x and axis `axis` of w; `batched`: for each member of their first axes."""
    if batched:
        return jax.vmap(functools.partial(_dot, axis=axis))(x, w)
    return jax.lax.dot_general(x, w, (((x.ndim - 1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


def packed_dot(x: AnyArray, w: AnyArray, *packs: AnyArray, axis: int) -> Array:
    """The product of the last axis of x [..., K] and axis `axis` of w [K, N] or [N, K], differentiable in both.

    Args:
        x: [..., K], float32.
        w: what was packed, which gradients and other machines than CPUs need.
        packs: `pack(w, axis)`; and `pack(w, 1 - axis)`, if the gradient of x is to be taken on packed panels too.
        axis: 0 or 1.
    """
    return packed_dot_p.bind(x, w, *packs, axis=axis, batched=False)


def pack(w: AnyArray, axis: int) -> Float[Array, "panels K P"]:
    """Lay w out in panels for products over its axis `axis`, the last panel filled up with zeros."""
    matrix = w if axis == 0 else w.T
    depth, width = matrix.shape
    columns = native.tile_shape().columns
    panels = -(-width // columns)
    filled = jnp.pad(matrix, ((0, 0), (0, panels * columns - width)))
    return filled.reshape(depth, panels, columns).swapaxes(0, 1)


# The primitive. `batched`: x [V, ..., K], w [V, K, N] and its panels [V, panels, K, P], as `jax.vmap` makes them.


def _plain(x: AnyArray, w: AnyArray, *packs: AnyArray, axis: int, batched: bool) -> Array:
    return _dot(x, w, axis, batched)


def _native(x: AnyArray, w: AnyArray, packed: AnyArray, *packs: AnyArray, axis: int, batched: bool) -> Array:
    matrices = w.shape[0] if batched else 1
    result = _shape_of(x, w, axis, batched)
    if x.size == 0:
        return jnp.zeros(result, jnp.float32)
    rows = math.prod(result[batched:-1])
    call = jax.ffi.ffi_call(native.target(), jax.ShapeDtypeStruct((matrices, rows, result[-1]), jnp.float32))
    return call(x.reshape(matrices, rows, x.shape[-1]), packed.reshape(matrices, *packed.shape[-3:])).reshape(result)


def _shape_of(x: Any, w: Any, axis: int, batched: bool) -> tuple[int, ...]:
    return (*x.shape[:-1], w.shape[1 - axis + batched])


def _abstract(x: Any, w: Any, *packs: Any, axis: int, batched: bool) -> Any:
    return ShapedArray(_shape_of(x, w, axis, batched), jnp.dtype(jnp.float32))


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **how: Any) -> tuple[Array, Any]:
    (x, w, *packs), (dx, dw, *_) = primals, tangents
    terms = [] if isinstance(dx, ad.Zero) else [packed_dot_p.bind(dx, w, *packs, **how)]
    terms += [] if isinstance(dw, ad.Zero) else [_dot(x, dw, **how)]
    out = packed_dot_p.bind(x, w, *packs, **how)
    return out, functools.reduce(jnp.add, terms) if terms else ad.Zero(jax.typeof(out))


def _transpose(cotangent: Any, x: Any, w: Any, *packs: Any, axis: int, batched: bool) -> list[Any]:
    """What x has of the gradient; w has its part by the plain product in `_jvp`."""
    if isinstance(cotangent, ad.Zero):
        gradient = None
    elif len(packs) == 2:
        gradient = packed_dot_p.bind(cotangent, w, *reversed(packs), axis=1 - axis, batched=batched)
    else:
        gradient = _dot(cotangent, w, 1 - axis, batched)
    return [gradient, None, *(None for _ in packs)]


def _batch(arguments: Sequence[Any], axes: Sequence[Any], *, axis: int, batched: bool) -> tuple[Array, int]:
    (x, w, *packs), (x_axis, *w_axes) = arguments, axes
    shared = all(given is None for given in w_axes)
    if shared:
        x = jnp.moveaxis(x, x_axis, int(batched))
        return packed_dot_p.bind(x, w, *packs, axis=axis, batched=batched), int(batched)
    if batched or any(given is None for given in w_axes):
        function = functools.partial(_dot, axis=axis, batched=batched)
        return jax.vmap(function, (x_axis, w_axes[0]))(x, w), 0
    w, *packs = (jnp.moveaxis(leaf, given, 0) for leaf, given in zip((w, *packs), w_axes, strict=True))
    x = jnp.broadcast_to(x, (len(w), *x.shape)) if x_axis is None else jnp.moveaxis(x, x_axis, 0)
    return packed_dot_p.bind(x, w, *packs, axis=axis, batched=True), 0


packed_dot_p.def_impl(_plain)
packed_dot_p.def_abstract_eval(_abstract)
ad.primitive_jvps[packed_dot_p] = _jvp
ad.primitive_transposes[packed_dot_p] = _transpose
batching.primitive_batchers[packed_dot_p] = _batch
mlir.register_lowering(packed_dot_p, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(packed_dot_p, mlir.lower_fun(_native, multiple_results=False), platform="cpu")


class _Matrix(NamedTuple):
    """A variable that holds a closed-over matrix: that of this number, or its transpose."""

    number: int
    turned: bool


_Matrices = dict[core.Var, _Matrix]


def packed_products(
    function: Callable[..., PyTree],
    *arguments: PyTree,
    inference: bool = False,
    turned: bool = False,
) -> Callable[..., PyTree]:
    """The body of a loop, its products by matrices that it closes over made on packed copies of them.

    Call it right before the loop: what it packs, it packs where it is called. Left as they are: products of one row, in
    other dtypes than float32, and by matrices of fewer than `SMALLEST_MATRIX` numbers.

    Args:
        function: the body, any function of pytrees.
        arguments: what it will be called with, or arrays of those shapes.
        inference: whether functions with gradients of their own are looked into too; JAX then differentiates what they
            compute, if anything does.
        turned: whether the loop will be differentiated by JAX: each matrix is packed a second time, for that.

    Raises:
        LoopsError: see `rnn_jax.recurrence.setting.way`.
    """
    if way() == "xla":
        return function
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    matrices = {variable: _Matrix(number, False) for number, variable in enumerate(closed.jaxpr.constvars)}
    found = set(_products(closed.jaxpr, matrices, inference))
    if not found:
        return function
    ways = found | {(number, 1 - axis) for number, axis in found if turned}
    panels = {way: jax.lax.optimization_barrier(pack(closed.consts[way[0]], way[1])) for way in ways}
    packs = {(n, axis): (panels[n, axis], *((panels[n, 1 - axis],) if turned else ())) for n, axis in found}
    structure = jax.tree.structure(shapes)

    def with_packed(*arguments: PyTree) -> PyTree:
        leaves = jax.tree.leaves(arguments)
        return jax.tree.unflatten(structure, _run(closed.jaxpr, closed.consts, matrices, leaves, packs, inference))

    return with_packed


def may_pack(w: Any) -> bool:
    """Whether products by w can be worth packing it: a matrix of float32 and of some size."""
    return w.ndim == 2 and w.dtype == jnp.float32 and w.size >= SMALLEST_MATRIX


def _shape(variable: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)


def _product(equation: core.JaxprEqn, matrices: _Matrices) -> tuple[int, int] | None:
    """Which matrix this equation multiplies by, and the axis of it that is summed over; None if it is no such thing."""
    if equation.primitive is not primitives.dot_general_p:
        return None
    x, w = equation.invars
    if isinstance(x, core.Literal) or isinstance(w, core.Literal) or x in matrices or w not in matrices:
        return None
    matrix = matrices[w]
    x, w, y = (_shape(variable) for variable in (x, w, *equation.outvars))
    (x_axes, w_axes), batch_axes = equation.params["dimension_numbers"]
    fits = (
        may_pack(w)
        and len(w_axes) == 1
        and tuple(x_axes) == (x.ndim - 1,)
        and not any(batch_axes)
        and x.dtype == y.dtype == jnp.float32
        and not isinstance(equation.params["precision"], jax.lax.DotAlgorithm | jax.lax.DotAlgorithmPreset)
        and math.prod(x.shape[:-1]) > 1
    )
    return (matrix.number, w_axes[0] ^ matrix.turned) if fits else None


def _inner(equation: core.JaxprEqn, inference: bool) -> core.ClosedJaxpr | None:
    """The program of an equation that only calls it; None for any other."""
    if equation.primitive is primitives.jit_p:
        return equation.params["jaxpr"]
    if equation.primitive is primitives.custom_vjp_call_p and inference:
        return equation.params["call_jaxpr"]
    return None


def _follow(equation: core.JaxprEqn, matrices: _Matrices) -> None:
    """Note the results that are matrices again, as they stand or turned."""
    turns = equation.primitive is primitives.transpose_p and equation.params["permutation"] == (1, 0)
    if turns or equation.primitive.name == "optimization_barrier":
        for before, after in zip(equation.invars, equation.outvars, strict=True):
            if isinstance(before, core.Var) and before in matrices:
                matrices[after] = matrices[before]._replace(turned=matrices[before].turned ^ turns)


def _inside(equation: core.JaxprEqn, inner: core.ClosedJaxpr, matrices: _Matrices) -> _Matrices:
    pairs = zip(inner.jaxpr.invars, equation.invars, strict=True)
    return {own: matrices[given] for own, given in pairs if isinstance(given, core.Var) and given in matrices}


def _products(jaxpr: core.Jaxpr, matrices: _Matrices, inference: bool) -> list[tuple[int, int]]:
    """The products to be packed, as `_product` tells them, in whatever the program calls too."""
    matrices, found = dict(matrices), []
    for equation in jaxpr.eqns:
        inner = _inner(equation, inference)
        if inner is not None:
            found += _products(inner.jaxpr, _inside(equation, inner, matrices), inference)
        product = _product(equation, matrices)
        found += [] if product is None else [product]
        _follow(equation, matrices)
    return found


def _run(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    matrices: _Matrices,
    arguments: Sequence[Any],
    packs: dict[tuple[int, int], tuple[Array, ...]],
    inference: bool,
) -> list[Any]:
    """Run a program, equation by equation, with its products packed."""
    matrices = dict(matrices)
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(variable: core.Var | core.Literal) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in jaxpr.eqns:
        given = [read(variable) for variable in equation.invars]
        product = _product(equation, matrices)
        inner = _inner(equation, inference)
        if product is not None:
            axis = equation.params["dimension_numbers"][0][1][0]
            results = [packed_dot(*given, *packs[product], axis=axis)]
        elif inner is not None and _products(inner.jaxpr, inside := _inside(equation, inner, matrices), inference):
            results = _run(inner.jaxpr, inner.consts, inside, given, packs, inference)
        else:
            parameters = equation.primitive.get_bind_params(equation.params)
            results = equation.primitive.bind(*given, **parameters)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
        _follow(equation, matrices)
    return [read(variable) for variable in jaxpr.outvars]
