"""The body of a loop as a graph of elementwise operations between products, cut into phases.

A body maps (carry, x_t) to (carry, y_t). Where it is made of products by matrices that it closes over and of operations
element by element, as the step of most cells and its gradient are, tracing it tells which numbers each number of the
result needs. `plan` finds that out:

- a *node* is what stands at row b and column j of a block of W columns: a number of an array, of a product, or an
  operation on other nodes. Slices, splits, concatenations and broadcasts are gone: a node knows its columns.
- a *product* x w multiplies an array that is at hand (a carry, an input) or one that the body has computed, which is
  then stored first.
- a *phase* is all that can be done without waiting for whole arrays of the same step: its products, then its nodes. The
  step of an LSTM is one phase. Its gradient has two: dz from the gates, then dz Rᵀ.

Nothing here knows any cell, nor how a phase is computed; that is `rnn_jax.recurrence.loop_code`.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


class Unfusable(Exception):
    """The body holds something that is neither elementwise nor a product; says what."""


class Node(NamedTuple):
    """An operation on other nodes; `at` tells what it reads if it is "leaf", "piece" or "constant"."""

    op: str
    args: tuple[int, ...]
    at: Any


class Leaf(NamedTuple):
    """Numbers of an array: those of its row (`row`), of its column (`column`), of both, or its one number."""

    buffer: "Buffer"
    row: bool
    column: bool
    first: int


class Piece(NamedTuple):
    """W columns of a product, from the column `first` on."""

    product: int
    first: int


class Buffer(NamedTuple):
    """An array of the loop: kind "const", "carry", "x", "y" or "scratch", and its number among those."""

    kind: str
    number: int


class Store(NamedTuple):
    """W columns of an array, from `first` on, which a node computes."""

    node: int
    buffer: Buffer
    first: int


@dataclasses.dataclass
class Product:
    """The product of an array [B, K] by a matrix that the loop closes over, summed over its axis `axis`."""

    operand: Buffer
    depth: int
    matrix: int
    axis: int
    pieces: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Phase:
    """Products, by number, and what is stored."""

    products: list[int] = dataclasses.field(default_factory=list)
    stores: list[Store] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Plan:
    """A body as phases.

    Attributes:
        carries: how many carries there are.
        passed: the outputs that are inputs as they came, by their numbers.
        rows, width: B and W.
        nodes: all nodes; the arguments of a node come before it.
        products: all products.
        phases: the phases, in their order.
        spilled: the nodes that a later phase needs, and where they are stored.
        read: shape and dtype of each array that is read: all of it, or the part of one step.
        written: the columns of each array that is written. A carry that is not among them stays what it is.
    """

    carries: int
    passed: dict[int, int]
    rows: int
    width: int
    nodes: list[Node]
    products: list[Product]
    phases: list[Phase]
    spilled: dict[int, Buffer]
    read: dict[Buffer, jax.ShapeDtypeStruct]
    written: dict[Buffer, int]


# The operations whose result is a condition. None makes conditions of conditions alone but these.
TRUTHS = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "bool")


def is_truth(node: Node) -> bool:
    """Whether an operation or a constant is a condition; an array tells by its dtype."""
    return node.op in TRUTHS or isinstance(node.at, bool)


class _Value(NamedTuple):
    """What a variable holds: nodes side by side, each with its number of columns. `vector`: an array of one axis."""

    segments: tuple[tuple[int, int], ...]
    vector: bool = False


class _Matrix(NamedTuple):
    """A closed-over array of two axes, or its transpose."""

    number: int
    turned: bool = False


ELEMENTWISE = {
    "add": "add",
    "add_any": "add",
    "sub": "sub",
    "mul": "mul",
    "div": "div",
    "max": "max",
    "min": "min",
    "neg": "neg",
    "abs": "abs",
    "exp": "exp",
    "tanh": "tanh",
    "logistic": "logistic",
    "sqrt": "sqrt",
    "square": "square",
    "one_minus_square": "one_minus_square",
    "integer_pow": "integer_pow",
    "select_n": "select",
    "eq": "eq",
    "ne": "ne",
    "lt": "lt",
    "le": "le",
    "gt": "gt",
    "ge": "ge",
    "and": "and",
    "or": "or",
    "not": "not",
}
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
_SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier")


class _Builder:
    """Turns the equations of a body into nodes."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.nodes: list[Node] = []
        self.numbers: dict[tuple[Node, str], int] = {}
        # (operand's segments, matrix, axis)
        self.products: list[tuple[tuple[tuple[int, int], ...], int, int]] = []

    def node(self, op: str, args: tuple[int, ...] = (), at: Any = None) -> int:
        """The number of a node, made unless it exists."""
        if op == "add":
            zero = [self.is_constant(arg, 0.0) for arg in args]
            if any(zero):
                return args[zero.index(True) ^ 1]
        node = Node(op, args, at)
        # 1.0 equals True and 0.0 equals -0.0, but they are not the same.
        key = node, repr(at) if op == "constant" else ""
        if key not in self.numbers:
            self.numbers[key] = len(self.nodes)
            self.nodes.append(node)
        return self.numbers[key]

    def is_constant(self, number: int, value: float) -> bool:
        """Whether a node is this number."""
        node = self.nodes[number]
        return node.op == "constant" and node.at == value

    def constant(self, value: Any) -> int:
        """The node of a number or a condition."""
        return self.node("constant", at=bool(value) if np.asarray(value).dtype == bool else float(value))

    def given(self, value: Any) -> "_Value | Unfusable":
        """What stands in the program itself."""
        return Unfusable("an array in the program") if np.ndim(value) else _Value(((1, self.constant(value)),))

    def argument(self, aval: Any, buffer: Buffer) -> "_Value | _Matrix | Unfusable":
        """An array that the body reads."""
        if buffer.kind == "const" and aval.ndim == 2 and aval.dtype == jnp.float32:
            return _Matrix(buffer.number)
        if aval.dtype not in (jnp.float32, jnp.bool_):
            return Unfusable(f"an array of {aval.dtype}")
        if aval.ndim > 2 or (aval.ndim == 2 and aval.shape[0] not in (1, self.rows)):
            return Unfusable(f"an array of the shape {aval.shape}")
        return self.leaf(buffer, aval.shape)

    def numbers_of(self, value: Any, shape: tuple[int, ...]) -> _Value:
        """A variable's nodes.

        Raises:
            Unfusable: it could not be followed, or is a matrix that has not as many rows as the batch.
        """
        if isinstance(value, Unfusable):
            raise value
        if isinstance(value, _Matrix):
            if value.turned or shape[0] not in (1, self.rows):
                raise Unfusable("a matrix in something other than a product")
            return self.leaf(Buffer("const", value.number), shape)
        return value

    def leaf(self, buffer: Buffer, shape: tuple[int, ...]) -> _Value:
        """An array of this shape."""
        if not shape:
            return _Value(((1, self.node("leaf", at=Leaf(buffer, False, False, 0))),))
        if len(shape) == 1:
            # Along the columns, unless it turns out to be along the rows: see `as_rows`.
            return _Value(((shape[0], self.node("leaf", at=Leaf(buffer, False, True, 0))),), vector=True)
        rows, columns = shape
        row, column = rows != 1, columns != 1
        return _Value(((columns, self.node("leaf", at=Leaf(buffer, row, column, 0))),))

    def rewrite(self, number: int, change: Callable[[Node], int | None], seen: dict[int, int]) -> int:
        """A node with others in place of those that `change` answers for."""
        if number not in seen:
            node = self.nodes[number]
            changed = change(node)
            if changed is None:
                changed = self.node(node.op, tuple(self.rewrite(arg, change, seen) for arg in node.args), node.at)
            seen[number] = changed
        return seen[number]

    def shift(self, number: int, columns: int) -> int:
        """The node so many columns further to the right."""

        def change(node: Node) -> int | None:
            if node.op == "leaf":
                return self.node("leaf", at=node.at._replace(first=node.at.first + columns * node.at.column))
            return (
                self.node("piece", at=node.at._replace(first=node.at.first + columns)) if node.op == "piece" else None
            )

        return self.rewrite(number, change, {}) if columns else number

    def as_rows(self, number: int) -> int:
        """A vector's node, its axis being that of the batch."""

        def change(node: Node) -> int | None:
            if node.op != "leaf":
                return None
            if node.at.first:
                raise Unfusable("a part of a vector along the batch")
            return self.node("leaf", at=node.at._replace(row=node.at.column, column=False))

        return self.rewrite(number, change, {})

    def cut(self, value: _Value, start: int, stop: int) -> _Value:
        """Columns [start, stop)."""
        segments, left = [], 0
        for width, number in value.segments:
            first, last = max(start, left), min(stop, left + width)
            if first < last:
                segments.append((last - first, self.shift(number, first - left)))
            left += width
        return value._replace(segments=tuple(segments))

    def aligned(self, values: Sequence[_Value]) -> list[_Value]:
        """The same values, cut at the same columns."""
        edges = sorted({edge for value in values for edge in np.cumsum([w for w, _ in value.segments]).tolist()})
        pairs = list(itertools.pairwise([0, *edges]))

        def parts(value: _Value) -> _Value:
            pieces = [self.cut(value, start, stop).segments[0] for start, stop in pairs]
            return value._replace(segments=tuple(pieces))

        return [parts(value) for value in values]

    def elementwise(self, op: str, values: Sequence[_Value], at: Any) -> _Value:
        """An operation on each number of arrays of one shape; a literal's one number goes with all."""
        widths = {sum(width for width, _ in value.segments) for value in values}
        if len(widths) > 1:
            whole = max(widths)
            values = [
                value if sum(w for w, _ in value.segments) == whole else _Value(((whole, value.segments[0][1]),))
                for value in values
            ]
        segments = [
            (parts[0][0], self.node(op, tuple(number for _, number in parts), at))
            for parts in zip(*(value.segments for value in self.aligned(values)), strict=True)
        ]
        return _Value(tuple(segments), any(value.vector for value in values))

    def one(self, value: _Value) -> int:
        """The node of an array that is not put together of several."""
        if len(value.segments) != 1:
            raise Unfusable("a concatenation seen along another axis")
        ((_, number),) = value.segments
        return number

    def depends_on_column(self, number: int) -> bool:
        """Whether a node is another one at each column."""
        pending, seen = [number], set()
        while pending:
            number = pending.pop()
            node = self.nodes[number]
            if node.op == "piece" or (node.op == "leaf" and node.at.column):
                return True
            pending += [arg for arg in node.args if arg not in seen]
            seen.add(number)
        return False

    def broadcast(self, value: _Value, shape: Any, new: Any, axes: Any) -> _Value:
        """`lax.broadcast_in_dim`."""
        if len(new) > 2 or (len(new) == 2 and new[0] not in (1, self.rows)):
            raise Unfusable(f"an array of the shape {new}")
        if not shape:
            return _Value(((new[-1] if new else 1, self.one(value)),), vector=len(new) == 1)
        if len(shape) == 1 and len(new) == 2 and shape == (new[axes[0]],):
            if axes == (1,):
                return value._replace(vector=False)
            return _Value(((new[1], self.as_rows(self.one(value))),))
        if len(shape) == len(new) and shape[-1] == new[-1]:
            return value
        if len(shape) == len(new) == 2 and shape[1] == 1 and not self.depends_on_column(self.one(value)):
            return _Value(((new[1], self.one(value)),))
        raise Unfusable(f"a broadcast from {shape} to {new}")

    def reshape(self, value: _Value, shape: Any, new: Any) -> _Value:
        """`lax.reshape`, `lax.squeeze` and the like."""
        if shape == new:
            return value
        if len(shape) == 1 and new == (self.rows, 1) and shape == (self.rows,):
            return _Value(((1, self.as_rows(self.one(value))),))
        if len(shape) == 1 and new == (1, *shape):
            return value._replace(vector=False)
        if math.prod(shape) == math.prod(new) == 1 and not self.depends_on_column(self.one(value)):
            return value._replace(vector=len(new) == 1)
        raise Unfusable(f"a reshape from {shape} to {new}")

    def product(self, operand: _Value, matrix: int, axis: int, columns: int) -> _Value:
        """A product by a matrix, of so many columns."""
        key = (operand.segments, matrix, axis)
        if key not in self.products:
            self.products.append(key)
        return _Value(((columns, self.node("piece", at=Piece(self.products.index(key), 0))),))

    def run(self, jaxpr: core.Jaxpr, values: dict[Any, Any]) -> None:
        """Follow the equations; variables that cannot be followed hold an `Unfusable`."""

        def read(variable: Any) -> Any:
            if isinstance(variable, core.Literal):
                return self.given(variable.val)
            return values[variable]

        for equation in jaxpr.eqns:
            given = [read(variable) for variable in equation.invars]
            try:
                results = self.equation(equation, given)
            except Unfusable as reason:
                results = [reason] * len(equation.outvars)
            values.update(zip(equation.outvars, results, strict=True))

    def equation(self, equation: core.JaxprEqn, given: list[Any]) -> list[Any]:
        """What the results of an equation hold.

        Raises:
            Unfusable: the equation cannot be followed.
        """
        name, params = equation.primitive.name, equation.params
        invars, outvars = _variables(equation.invars), _variables(equation.outvars)
        if name in _CALLS:
            inner = params[_CALLS[name]]
            values = dict(zip(inner.jaxpr.invars, given, strict=True))
            values |= {v: self.given(c) for v, c in zip(inner.jaxpr.constvars, inner.consts, strict=True)}
            self.run(inner.jaxpr, values)
            return [self.given(v.val) if isinstance(v, core.Literal) else values[v] for v in inner.jaxpr.outvars]
        if name in _SAME:
            return given
        if name == "transpose" and isinstance(given[0], _Matrix) and tuple(params["permutation"]) == (1, 0):
            return [given[0]._replace(turned=not given[0].turned)]
        shapes = [variable.aval.shape for variable in invars]
        if name == "dot_general":
            return [self.dot(equation, self.numbers_of(given[0], shapes[0]), given[1])]
        given = [self.numbers_of(value, shape) for value, shape in zip(given, shapes, strict=True)]
        out = outvars[0].aval
        if out.dtype not in (jnp.float32, jnp.bool_):
            raise Unfusable(f"an array of {out.dtype}")
        if name in ELEMENTWISE:
            self.check(name, [variable.aval.dtype for variable in invars])
            at = params["y"] if name == "integer_pow" else None
            return [self.elementwise(ELEMENTWISE[name], given, at)]
        if name == "convert_element_type":
            before = invars[0].aval.dtype
            if (before == jnp.bool_) == (out.dtype == jnp.bool_):
                # The same dtype, or a constant of another: arrays of others are not followed.
                return given
            return [self.elementwise("float" if before == jnp.bool_ else "bool", given, None)]
        if name == "broadcast_in_dim":
            return [self.broadcast(given[0], shapes[0], out.shape, tuple(params["broadcast_dimensions"]))]
        if name in ("reshape", "squeeze", "expand_dims"):
            return [self.reshape(given[0], shapes[0], out.shape)]
        if name == "split" and params["axis"] == len(shapes[0]) - 1:
            edges = np.cumsum([0, *params["sizes"]]).tolist()
            return [self.cut(given[0], a, b) for a, b in itertools.pairwise(edges)]
        if name == "slice" and self.columns_only(params, shapes[0]):
            return [self.cut(given[0], params["start_indices"][-1], params["limit_indices"][-1])]
        if name == "concatenate" and params["dimension"] == len(out.shape) - 1:
            return [given[0]._replace(segments=tuple(part for value in given for part in value.segments))]
        if name == "pad" and self.pads_columns(params["padding_config"]):
            (value, filling), (low, high, _) = given, params["padding_config"][-1]
            ((_, number),) = filling.segments
            sides = [((int(n), number),) if n else () for n in (low, high)]
            return [value._replace(segments=(*sides[0], *value.segments, *sides[1]))]
        raise Unfusable(name)

    @staticmethod
    def check(name: str, dtypes: list[Any]) -> None:
        """Refuse numbers where conditions are expected, and the other way round."""
        truths = [dtype == jnp.bool_ for dtype in dtypes]
        conditions = len(dtypes) if name in ("and", "or", "not") else int(name == "select_n")
        wanted = [index < conditions for index in range(len(dtypes))]
        if truths != wanted or (name == "select_n" and len(dtypes) != 3):
            raise Unfusable(f"{name} of {', '.join(str(dtype) for dtype in dtypes)}")

    @staticmethod
    def columns_only(params: dict[str, Any], shape: tuple[int, ...]) -> bool:
        """Whether a slice takes all rows, and columns next to one another."""
        whole = zip(params["start_indices"][:-1], params["limit_indices"][:-1], shape[:-1], strict=True)
        strides = params["strides"] or (1,)
        return set(strides) == {1} and all((start, stop) == (0, size) for start, stop, size in whole)

    @staticmethod
    def pads_columns(config: Sequence[Any]) -> bool:
        """Whether padding adds columns at the sides, and nothing else."""
        *others, (low, high, inner) = config
        return all(tuple(way) == (0, 0, 0) for way in others) and low >= 0 and high >= 0 and inner == 0

    def dot(self, equation: core.JaxprEqn, operand: _Value, matrix: Any) -> _Value:
        """A product by a closed-over matrix, summed over the operand's columns."""
        (x, w), (out,) = _variables(equation.invars), _variables(equation.outvars)
        (x_axes, w_axes), batch_axes = equation.params["dimension_numbers"]
        fits = (
            isinstance(matrix, _Matrix)
            and x.aval.shape[:1] == (self.rows,)
            and x.aval.ndim == 2
            and tuple(x_axes) == (1,)
            and len(w_axes) == 1
            and not any(batch_axes)
            and x.aval.dtype == w.aval.dtype == out.aval.dtype == jnp.float32
            and not isinstance(equation.params["precision"], jax.lax.DotAlgorithm | jax.lax.DotAlgorithmPreset)
        )
        if not fits:
            raise Unfusable("a product of another kind")
        return self.product(operand, matrix.number, w_axes[0] ^ matrix.turned, out.aval.shape[1])


def _variables(variables: Sequence[Any]) -> list[Any]:
    """The same variables, whose shapes a type checker does not know."""
    return list(variables)


def plan(jaxpr: core.Jaxpr, carries: int) -> Plan:
    """How the body of a loop is computed phase by phase.

    Args:
        jaxpr: the body, from carries and inputs to carries and outputs, all flat; the arrays it closes over are its
            constants.
        carries: how many of its arguments are carries.

    Raises:
        Unfusable: it is not made of elementwise operations and products alone.
    """
    given, results = _variables(jaxpr.invars), _variables(jaxpr.outvars)
    rows = next((variable.aval.shape[0] for variable in given if variable.aval.ndim == 2), 1)
    if rows < 2:
        raise Unfusable("a batch of fewer than two")
    builder = _Builder(rows)
    values: dict[Any, Any] = {}
    arguments = {"const": _variables(jaxpr.constvars), "carry": given[:carries], "x": given[carries:]}
    for kind, variables in arguments.items():
        for number, variable in enumerate(variables):
            values[variable] = builder.argument(variable.aval, Buffer(kind, number))
    builder.run(jaxpr, values)

    targets: dict[Buffer, tuple[tuple[int, int], ...]] = {}
    passed: dict[int, int] = {}
    for index, variable in enumerate(results):
        aval = variable.aval
        if index >= carries and variable in given[carries:]:
            passed[index - carries] = given[carries:].index(variable)
            continue
        value = builder.given(variable.val) if isinstance(variable, core.Literal) else values[variable]
        value = builder.numbers_of(value, aval.shape)
        if len(aval.shape) != 2 or aval.shape[0] != rows or aval.dtype != jnp.float32:
            raise Unfusable(f"a result of {aval.str_short()}")
        buffer = Buffer("carry", index) if index < carries else Buffer("y", index - carries)
        if buffer.kind == "y" or value != values[given[index]]:
            targets[buffer] = value.segments
    read = {
        Buffer(kind, number): jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype)
        for kind, variables in arguments.items()
        for number, variable in enumerate(variables)
    }
    return _Schedule(builder, targets, read).plan(carries, passed)


class _Schedule:
    """Finds the phase of each node, product and result."""

    def __init__(self, builder: _Builder, targets: dict[Buffer, tuple[tuple[int, int], ...]], read: Any) -> None:
        self.builder = builder
        self.read = read
        self.nodes = builder.nodes
        self.targets = targets
        self.phase_of: dict[int, int] = {}
        self.operands: dict[int, Buffer] = {}
        self.scratch: list[int] = []

    def plan(self, carries: int, passed: dict[int, int]) -> Plan:
        """All of it."""
        stored = dict(self.targets)
        for number in self.needed_products():
            segments = self.builder.products[number][0]
            self.operands[number] = self.at_hand(segments, stored)
            stored.setdefault(self.operands[number], segments)
        # What is at hand needs no storing.
        stored = {b: segments for b, segments in stored.items() if b in self.targets or b.kind == "scratch"}
        widths = {width for segments in stored.values() for width, _ in segments}
        if not widths:
            raise Unfusable("nothing to compute")
        width = min(widths)
        if any(other % width for other in widths):
            raise Unfusable(f"arrays of {sorted(widths)} columns")
        stores = []
        for buffer, segments in stored.items():
            value, total = _Value(segments), sum(w for w, _ in segments)
            for first in range(0, total, width):
                ((_, number),) = self.builder.cut(value, first, first + width).segments
                stores.append(Store(number, buffer, first))

        products: dict[int, Product] = {}
        phases: list[Phase] = []
        spilled: dict[int, Buffer] = {}
        pending = [(store, self.phase(store.node)) for store in stores]
        visited: set[tuple[int, int]] = set()

        def visit(number: int, phase: int) -> None:
            if (number, phase) in visited:
                return
            visited.add((number, phase))
            node, own = self.nodes[number], self.phase(number)
            if node.op in ("leaf", "constant"):
                return
            if own < phase and not is_truth(node):
                if number not in spilled:
                    spilled[number] = self.new_scratch(width)
                    pending.append((Store(number, spilled[number], 0), own))
            elif node.op == "piece":
                product = self.describe(node.at.product, products)
                if node.at.first not in product.pieces:
                    product.pieces.append(node.at.first)
                if node.at.product not in phases[phase].products:
                    phases[phase].products.append(node.at.product)
            else:
                for arg in node.args:
                    visit(arg, phase)

        while pending:
            store, phase = pending.pop(0)
            phases += [Phase() for _ in range(phase + 1 - len(phases))]
            phases[phase].stores.append(store)
            visit(store.node, phase)
        order = {number: index for index, number in enumerate(products)}
        for phase in phases:
            phase.products = [order[number] for number in phase.products]
        nodes = [
            node._replace(at=node.at._replace(product=order[node.at.product]))
            if node.op == "piece" and node.at.product in order
            else node
            for node in self.nodes
        ]
        needed = {node for node, _ in visited}
        used = {nodes[n].at.buffer for n in needed if nodes[n].op == "leaf"} | {p.operand for p in products.values()}
        written = {buffer: sum(w for w, _ in segments) for buffer, segments in self.targets.items()}
        written |= {Buffer("scratch", number): columns for number, columns in enumerate(self.scratch)}
        return Plan(
            carries=carries,
            passed=passed,
            rows=self.builder.rows,
            width=width,
            nodes=nodes,
            products=list(products.values()),
            phases=phases,
            spilled=spilled,
            read={buffer: shape for buffer, shape in self.read.items() if buffer in used},
            written=written,
        )

    def needed_products(self) -> list[int]:
        """The products that the results depend on, each after those that it depends on."""
        found: list[int] = []
        seen: set[int] = set()

        def visit(number: int) -> None:
            if number in seen:
                return
            seen.add(number)
            node = self.nodes[number]
            for arg in node.args:
                visit(arg)
            if node.op == "piece" and node.at.product not in found:
                for _, operand in self.builder.products[node.at.product][0]:
                    visit(operand)
                found.append(node.at.product)

        for segments in self.targets.values():
            for _, number in segments:
                visit(number)
        return found

    def at_hand(self, segments: tuple[tuple[int, int], ...], stored: dict[Buffer, Any]) -> Buffer:
        """The array that holds a product's operand, or will, when it is computed."""
        if len(segments) == 1:
            ((width, number),) = segments
            node = self.nodes[number]
            whole = (
                node.op == "leaf" and node.at.row and node.at.column and self.read[node.at.buffer].dtype == jnp.float32
            )
            if whole and self.read[node.at.buffer].shape[-1] == width:
                return node.at.buffer
        for buffer, others in stored.items():
            if others == segments and buffer.kind in ("y", "scratch"):
                return buffer
        return self.new_scratch(sum(width for width, _ in segments))

    def new_scratch(self, columns: int) -> Buffer:
        """One more array that only the loop itself uses."""
        self.scratch.append(columns)
        return Buffer("scratch", len(self.scratch) - 1)

    def describe(self, number: int, products: dict[int, Product]) -> Product:
        """A product, made unless it exists."""
        if number not in products:
            segments, matrix, axis = self.builder.products[number]
            depth = sum(width for width, _ in segments)
            products[number] = Product(self.operands[number], depth, matrix, axis)
        return products[number]

    def phase(self, number: int) -> int:
        """The first phase in which a node can be computed."""
        if number not in self.phase_of:
            node = self.nodes[number]
            if node.op == "piece":
                at_hand = self.operands[node.at.product].kind in ("carry", "x", "const")
                operand = [part for _, part in self.builder.products[node.at.product][0]]
                self.phase_of[number] = 0 if at_hand else 1 + max(self.phase(part) for part in operand)
            else:
                self.phase_of[number] = max((self.phase(arg) for arg in node.args), default=0)
        return self.phase_of[number]
