"""Instructions on vectors of float32 in LLVM's intermediate language, and exp, tanh and the logistic function of them.

Source: exp(n log 2 + r) by a polynomial of r, Cody & Waite 1980, "Software manual for the elementary functions".
"""

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np


def constant(value: float) -> str:
    """A float32 as LLVM writes it: by the bits of the double that equals it."""
    with np.errstate(over="ignore"):
        return "0x" + struct.pack(">d", float(np.float32(value))).hex().upper()


class Writer:
    """The text of a function, instruction by instruction.

    Attributes:
        lanes: numbers of a vector.
        vector, truths: the types of a vector of float32 and of one of conditions.
        lines: what has been written.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.vector = f"<{lanes} x float>"
        self.truths = f"<{lanes} x i1>"
        self.lines: list[str] = []
        self._names = 0

    def add(self, *lines: str) -> None:
        """Lines as they are."""
        self.lines += lines

    def new(self, text: str) -> str:
        """An instruction that has a result; returns the result's name."""
        self._names += 1
        name = f"%v{self._names}"
        self.add(f"  {name} = {text}")
        return name

    def integer(self, op: str, one: str | int, other: str | int) -> str:
        """An operation on two whole numbers."""
        return self.new(f"{op} i64 {one}, {other}")

    def least(self, one: str | int, other: str | int) -> str:
        """The smaller of two whole numbers."""
        return self.new(f"call i64 @llvm.smin.i64(i64 {one}, i64 {other})")

    def at(self, base: str, *offsets: tuple[str | int, int]) -> str:
        """The address base + Σ index · factor, in numbers of float32."""
        for index, factor in offsets:
            scaled = index if factor == 1 else self.integer("mul", index, factor)
            base = self.new(f"getelementptr float, ptr {base}, i64 {scaled}")
        return base

    def byte_at(self, base: str, index: str | int, factor: int = 1) -> str:
        """The address base + index · factor, in bytes."""
        scaled = index if factor == 1 else self.integer("mul", index, factor)
        return self.new(f"getelementptr i8, ptr {base}, i64 {scaled}")

    def loop(self, label: str, first: str | int, last: str | int, body: Callable[[str], None]) -> None:
        """Write `body(index)` to be run for first <= index < last, at least once."""
        index = f"%i.{label}"
        self.add(f"  br label %before.{label}", f"before.{label}:", f"  br label %{label}", f"{label}:")
        self.add(f"  {index} = phi i64 [{first}, %before.{label}], [%next.{label}, %latch.{label}]")
        body(index)
        self.add(
            f"  br label %latch.{label}",
            f"latch.{label}:",
            f"  %next.{label} = add nuw i64 {index}, 1",
            f"  %more.{label} = icmp slt i64 %next.{label}, {last}",
            f"  br i1 %more.{label}, label %{label}, label %after.{label}",
            f"after.{label}:",
        )

    # Vectors.

    def same(self, value: float | bool) -> str:
        """A vector of one constant."""
        if isinstance(value, bool):
            return self.literal("i1", str(value).lower())
        return self.literal("float", constant(value))

    def literal(self, kind: str, value: str | int) -> str:
        """A vector of one constant as LLVM writes it."""
        return f"<{', '.join([f'{kind} {value}'] * self.lanes)}>"

    def spread(self, value: str, kind: str = "float") -> str:
        """A vector of one number or condition."""
        vector = f"<{self.lanes} x {kind}>"
        first = self.new(f"insertelement {vector} poison, {kind} {value}, i32 0")
        return self.new(f"shufflevector {vector} {first}, {vector} poison, <{self.lanes} x i32> zeroinitializer")

    def _first(self, width: int) -> str:
        """The first `width` lanes."""
        return f"{self.truths} <{', '.join(f'i1 {int(lane < width)}' for lane in range(self.lanes))}>"

    def load(self, place: str, width: int, kind: str = "float", size: int = 4) -> str:
        """A vector, of which the first `width` lanes are read."""
        vector = f"<{self.lanes} x {kind}>"
        if width == self.lanes:
            return self.new(f"load {vector}, ptr {place}, align {size}")
        name = f"llvm.masked.load.v{self.lanes}{'f32' if kind == 'float' else kind}.p0"
        return self.new(
            f"call {vector} @{name}(ptr {place}, i32 {size}, {self._first(width)}, {vector} zeroinitializer)"
        )

    def store(self, value: str, place: str, width: int) -> None:
        """Write the first `width` lanes of a vector."""
        if width == self.lanes:
            self.add(f"  store {self.vector} {value}, ptr {place}, align 4")
            return
        name = f"llvm.masked.store.v{self.lanes}f32.p0"
        self.add(f"  call void @{name}({self.vector} {value}, ptr {place}, i32 4, {self._first(width)})")

    def call(self, name: str, *values: str) -> str:
        """A function of LLVM's on vectors of float32."""
        given = ", ".join(f"{self.vector} {value}" for value in values)
        return self.new(f"call {self.vector} @llvm.{name}.v{self.lanes}f32({given})")

    def both(self, op: str, one: str, other: str) -> str:
        """An operation on two vectors."""
        return self.new(f"{op} {self.vector} {one}, {other}")

    def polynomial(self, x: str, coefficients: tuple[float, ...]) -> str:
        """Horner's rule; the highest power comes first."""
        result = self.same(coefficients[0])
        for coefficient in coefficients[1:]:
            result = self.call("fma", result, x, self.same(coefficient))
        return result

    def operation(self, op: str, args: list[str], *, exponent: int | None, truths: bool) -> str:
        """An operation of `rnn_jax.recurrence.step_graph`.

        Args:
            op: its name.
            args: vectors.
            exponent: of "integer_pow".
            truths: whether the first argument is a vector of conditions.
        """
        kind = self.truths if truths else self.vector
        if op in _ARITHMETIC:
            return self.both(f"f{op} contract", *args)
        if op in _FUNCTIONS:
            return self.call(_FUNCTIONS[op], *args)
        if op in MATHEMATICS:
            return self.new(f"call {kind} @{op}({kind} {args[0]})")
        if op in _COMPARISONS:
            return self.new(f"fcmp {'une' if op == 'ne' else f'o{op}'} {kind} {args[0]}, {args[1]}")
        if op in ("and", "or"):
            return self.new(f"{op} {kind} {args[0]}, {args[1]}")
        if op == "not":
            return self.new(f"xor {kind} {args[0]}, {self.same(True)}")
        if op == "neg":
            return self.new(f"fneg {kind} {args[0]}")
        if op == "square":
            return self.both("fmul contract", args[0], args[0])
        if op == "one_minus_square":
            # In the gradient of tanh since JAX 0.11. One rounding, where 1 - x² is next to nothing.
            return self.call("fma", self.new(f"fneg {kind} {args[0]}"), args[0], self.same(1.0))
        if op == "integer_pow":
            assert exponent is not None
            return self._power(args[0], exponent)
        if op == "select":
            condition, if_false, if_true = args
            return self.new(f"select {self.truths} {condition}, {self.vector} {if_true}, {self.vector} {if_false}")
        if op == "float":
            return self.new(f"uitofp {kind} {args[0]} to {self.vector}")
        assert op == "bool", op
        return self.new(f"fcmp une {kind} {args[0]}, zeroinitializer")

    def _power(self, base: str, exponent: int) -> str:
        """A whole power, by squares."""
        result, left = self.same(1.0), abs(exponent)
        while left:
            result = self.both("fmul", result, base) if left & 1 else result
            base = self.both("fmul", base, base)
            left >>= 1
        return result if exponent >= 0 else self.both("fdiv", self.same(1.0), result)


_ARITHMETIC = ("add", "sub", "mul", "div")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_FUNCTIONS = {"max": "maximum", "min": "minimum", "abs": "fabs", "sqrt": "sqrt"}


def _exp(write: Writer, x: str) -> str:
    """2ⁿ eʳ with |r| <= log(2) / 2; 0 below -104, infinity above 88.8; a NaN stays one."""
    vector, integers = write.vector, f"<{write.lanes} x i32>"

    def whole(op: str, one: str, other: int | str) -> str:
        other = other if isinstance(other, str) else write.literal("i32", other)
        return write.new(f"{op} {integers} {one}, {other}")

    for bound, comparison in ((-104.0, "olt"), (89.0, "ogt")):
        beyond = write.new(f"fcmp {comparison} {vector} {x}, {write.same(bound)}")
        x = write.new(f"select {write.truths} {beyond}, {vector} {write.same(bound)}, {vector} {x}")
    # Adding 1.5 · 2²³ leaves the nearest integer in the last bits.
    magic = 12582912.0
    shifted = write.call("fma", x, write.same(1 / math.log(2)), write.same(magic))
    n = write.both("fsub", shifted, write.same(magic))
    # log 2 in two parts, of which n times the first is exact.
    high = 0.693359375
    r = write.call("fma", n, write.same(-high), x)
    r = write.call("fma", n, write.same(high - math.log(2)), r)
    result = write.polynomial(r, _EXP)
    bits = write.new(f"bitcast {vector} {shifted} to {integers}")
    n = whole("sub", bits, int(np.float32(magic).view(np.int32)))
    # In two factors, since 2ⁿ itself may lie outside of what a float32 holds.
    half = whole("ashr", n, 1)
    for exponent in (half, whole("sub", n, half)):
        power = whole("shl", whole("add", exponent, 127), 23)
        result = write.both("fmul", result, write.new(f"bitcast {integers} {power} to {vector}"))
    return result


def _logistic(write: Writer, x: str) -> str:
    """1 / (1 + e⁻ˣ)."""
    power = _exp(write, write.new(f"fneg {write.vector} {x}"))
    return write.both("fdiv", write.same(1.0), write.both("fadd", power, write.same(1.0)))


def _tanh(write: Writer, x: str) -> str:
    """An odd polynomial near 0, else 1 - 2 / (e²ˣ + 1)."""
    one, size = write.same(1.0), write.call("fabs", x)
    power = _exp(write, write.both("fadd", size, size))
    far = write.both("fadd", write.both("fdiv", write.same(-2.0), write.both("fadd", power, one)), one)
    far = write.call("copysign", far, x)
    square = write.both("fmul", x, x)
    near = write.call("fma", write.polynomial(square, _TANH), write.both("fmul", square, x), x)
    is_near = write.new(f"fcmp olt {write.vector} {size}, {write.same(0.625)}")
    return write.new(f"select {write.truths} {is_near}, {write.vector} {near}, {write.vector} {far}")


MATHEMATICS: dict[str, Callable[[Writer, str], str]] = {"exp": _exp, "logistic": _logistic, "tanh": _tanh}


def mathematics(lanes: int) -> str:
    """`@exp`, `@logistic`, `@tanh` and what the instructions of a `Writer` call."""
    write = Writer(lanes)
    intrinsics = (("maximum", 2), ("minimum", 2), ("fabs", 1), ("sqrt", 1), ("copysign", 2), ("fma", 3))
    for name, count in intrinsics:
        write.add(f"declare {write.vector} @llvm.{name}.v{lanes}f32({', '.join([write.vector] * count)})")
    for kind, name in (("float", "f32"), ("i8", "i8")):
        vector = f"<{lanes} x {kind}>"
        write.add(f"declare {vector} @llvm.masked.load.v{lanes}{name}.p0(ptr, i32, {write.truths}, {vector})")
    write.add(f"declare void @llvm.masked.store.v{lanes}f32.p0({write.vector}, ptr, i32, {write.truths})")
    for name, function in MATHEMATICS.items():
        write.add(f"define internal {write.vector} @{name}({write.vector} %x) alwaysinline #0 {{")
        write.add(f"  ret {write.vector} {function(write, '%x')}", "}")
    return "\n".join(write.lines)


def _fitted(function: Callable[[Any], Any], first: float, last: float, degree: int) -> tuple[float, ...]:
    """Coefficients, the highest power first, of a polynomial that is close to a function between two numbers.

    By least squares at Chebyshev's nodes, which is not far from the smallest largest error.
    """
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    x = (last - first) / 2 * nodes + (last + first) / 2
    return tuple(np.polynomial.polynomial.polyfit(x, function(x), degree)[::-1].tolist())


_EXP = _fitted(np.exp, -0.347, 0.347, 6)
# (tanh(x) - x) / x³ as a polynomial of x².
_TANH = _fitted(lambda z: (np.tanh(np.sqrt(z)) / np.sqrt(z) - 1) / z, 1e-6, 0.626**2, 4)
