"""Whole loops as one call of machine code.

XLA:CPU runs the body of a loop kernel by kernel, each on one thread if it is short, and each reads what the last one
wrote. A body of which `rnn_jax.recurrence.step_graph` finds that it is products and elementwise operations alone is
compiled as one program in place of that: products by packed matrices whose sums go straight into the gates, nothing
written but the results, all steps shared by all threads. It means what `jax.lax.scan` means, which is what JAX
differentiates, vectorises, and runs anywhere but on a lone CPU.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray, eval_jaxpr
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from rnn_jax.recurrence import native
from rnn_jax.recurrence.loop_code import LoopCode
from rnn_jax.recurrence.packed import pack, packed_products
from rnn_jax.recurrence.step_graph import Buffer, Plan, Product, plan

fused_loop_p = core.Primitive("fused_loop")
fused_loop_p.multiple_results = True


def fused_scan(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, *, length: int, reverse: bool, turned: bool
) -> tuple[Any, Any]:
    """`lax.scan(body, carry, xs, length=length, reverse=reverse)` as one call of machine code.

    Args:
        body, carry, xs, length, reverse: see `jax.lax.scan`.
        turned: see `rnn_jax.recurrence.packed.packed_products`, by which the loop runs where it is vectorised.

    Raises:
        Unfusable: the body is not made of what that can do; says what it holds.
    """
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    closed, shapes = jax.make_jaxpr(body, return_shape=True)(carry, first)
    carries, inputs = jax.tree.leaves(carry), jax.tree.leaves(xs)
    found = plan(closed.jaxpr, len(carries))
    how = {"jaxpr": closed.jaxpr, "plan": found, "length": length, "reverse": reverse, "turned": turned}
    leaves = fused_loop_p.bind(*closed.consts, *carries, *inputs, **how)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _split(leaves: Sequence[Any], jaxpr: core.Jaxpr, plan: Plan) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Closed-over arrays, carries, inputs."""
    consts = len(jaxpr.constvars)
    return leaves[:consts], leaves[consts : consts + plan.carries], leaves[consts + plan.carries :]


def _as_scan(*leaves: Any, jaxpr: core.Jaxpr, plan: Plan, length: int, reverse: bool, turned: bool) -> list[Any]:
    """The same loop by `lax.scan`."""
    consts, carries, inputs = _split(leaves, jaxpr, plan)

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = eval_jaxpr(jaxpr, consts, *carry, *x)
        return results[: plan.carries], results[plan.carries :]

    first = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in inputs]
    packed = packed_products(body, list(carries), first, turned=turned)
    carry, outputs = jax.lax.scan(packed, list(carries), list(inputs), length=length, reverse=reverse)
    return [*carry, *outputs]


def _native(*leaves: Any, jaxpr: core.Jaxpr, plan: Plan, length: int, reverse: bool, turned: bool) -> list[Any]:
    """The loop by machine code of its own."""
    consts, carries, inputs = _split(leaves, jaxpr, plan)
    code = LoopCode(plan, native.tile_shape(), length, reverse)
    source = code.source()
    name = native.compiled(
        "loop_" + hashlib.sha256(source.encode()).hexdigest()[:16], lambda: source, unrolled=code.shape.lanes < 16
    )
    given = {"const": consts, "carry": carries, "x": inputs}
    panels = [_panels(consts[product.matrix], product, plan.width) for product in plan.products]
    arguments = [panels[b.number] if b.kind == "panels" else given[b.kind][b.number] for b in code.arguments]
    results = [jax.ShapeDtypeStruct(code.result_shape(buffer), jnp.float32) for buffer in code.results]
    found = dict(zip(code.results, jax.ffi.ffi_call(name, results)(*arguments), strict=True))
    outputs = len(jaxpr.outvars) - plan.carries
    return [
        *(found.get(Buffer("carry", number), carry) for number, carry in enumerate(carries)),
        *(inputs[plan.passed[n]] if n in plan.passed else found[Buffer("y", n)] for n in range(outputs)),
    ]


def _panels(matrix: Any, product: Product, width: int) -> Any:
    """The columns of a matrix that each piece of a product needs, one piece after the other."""
    turned = matrix if product.axis == 0 else matrix.T
    return jnp.concatenate([pack(turned[:, first : first + width], 0) for first in product.pieces])


def _abstract(*leaves: Any, jaxpr: core.Jaxpr, plan: Plan, length: int, **how: Any) -> list[Any]:
    avals: list[Any] = [variable.aval for variable in jaxpr.outvars]
    carries, outputs = avals[: plan.carries], avals[plan.carries :]
    return [
        *(ShapedArray(aval.shape, aval.dtype) for aval in carries),
        *(ShapedArray((length, *aval.shape), aval.dtype) for aval in outputs),
    ]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **how: Any) -> tuple[list[Any], list[Any]]:
    given = [ad.instantiate_zeros(tangent) for tangent in tangents]
    return jax.jvp(functools.partial(_as_scan, **{**how, "turned": True}), tuple(primals), tuple(given))


def _batch(arguments: Sequence[Any], axes: Sequence[Any], **how: Any) -> tuple[list[Any], list[int]]:
    results = jax.vmap(functools.partial(_as_scan, **how), tuple(axes))(*arguments)
    return results, [0] * len(results)


fused_loop_p.def_impl(_as_scan)
fused_loop_p.def_abstract_eval(_abstract)
ad.primitive_jvps[fused_loop_p] = _jvp
batching.primitive_batchers[fused_loop_p] = _batch
mlir.register_lowering(fused_loop_p, mlir.lower_fun(_as_scan, multiple_results=True))
mlir.register_lowering(fused_loop_p, mlir.lower_fun(_native, multiple_results=True), platform="cpu")
