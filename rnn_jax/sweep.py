"""Sweeps: one function for many settings of its arguments, as one program where they allow it."""

import dataclasses
import inspect
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Value = int | float | str

_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*=")
_RANGE = re.compile(r"(-?\d+)\s*\.\.\s*(-?\d+)$")
_CALL = re.compile(r"(log|lin)\((.*)\)$")
# What is made of the letters of numbers, and is none.
_NO_NUMBER = re.compile(r"(?=.*\d)[\d.+\-][\d.eE+\-\s]*$")

# Under vmap what a recurrent loop keeps for its gradient, many times as large, leaves a CPU's caches, and its products
# become batched ones: from about this many elements of a weight matrix on, runs by themselves are faster
# (benchmarks/sweep.py; the matrix of a GRU of 16 units has 768, that of one of 32 has 3072).
SMALL_MATRIX = 2048


class SpaceError(ValueError):
    """A sweep expression that cannot be read: one line that quotes the place."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """What one name takes on.

    Attributes:
        name: of the argument.
        values: all of them, for a grid.
        scale: for random draws: "log" or "lin" between the bounds, "int" the whole numbers between them, "choice" one
            of the values.
        bounds: (low, high); None for the first and the last value.
    """

    name: str
    values: tuple[Value, ...]
    scale: str = "choice"
    bounds: tuple[float, float] | None = None

    def draw(self, random: np.random.Generator) -> Value:
        """One value at random."""
        first, last = self.bounds or (self.values[0], self.values[-1])
        if self.scale == "choice" or isinstance(first, str) or isinstance(last, str):
            return self.values[random.integers(len(self.values))]
        if self.scale == "int":
            return int(random.integers(int(first), int(last) + 1))
        if self.scale == "log":
            drawn = math.exp(random.uniform(math.log(first), math.log(last)))
        else:
            drawn = random.uniform(first, last)
        return _rounded([min(max(drawn, first), last)], first, last)[0]


@dataclasses.dataclass(frozen=True)
class Space:
    """The settings of a sweep, as text: `learning_rate=log(1e-4,1e-1,8);clip_norm=1,5;seed=0..3`.

    Names are separated by `;`. The values of a name are a list `1,5` or `lstm,gru(reset=before)`; a range of whole
    numbers with both ends `0..3`; `log(low,high,count)`, evenly spaced on a logarithmic scale; `lin(low,high,count)`.
    """

    axes: tuple[Axis, ...]

    @classmethod
    def parse(cls, text: str) -> "Space":
        """Read the text.

        Raises:
            SpaceError: it cannot be read; a name comes twice.
        """
        axes: list[Axis] = []
        for start, part in split_outside_parentheses(text, ";"):
            if not part.strip():
                continue
            head = _NAME.match(part)
            if head is None:
                raise _error("expected name=values", text, start, part)
            axis = _axis(head.group(1), part[head.end() :], text, start + head.end())
            if axis.name in {other.name for other in axes}:
                raise _error(f"expected {axis.name} once", text, start, part)
            axes.append(axis)
        if not axes:
            raise SpaceError(f"sweep: expected name=values;name=values, found {text!r}")
        return cls(tuple(axes))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the text."""
        return tuple(axis.name for axis in self.axes)

    def grid(self) -> list[dict[str, Value]]:
        """Every combination, the last name changing fastest."""
        values = itertools.product(*(axis.values for axis in self.axes))
        return [dict(zip(self.names, chosen, strict=True)) for chosen in values]

    def sample(self, count: int, seed: int = 0) -> list[dict[str, Value]]:
        """`count` combinations drawn at random (Bergstra & Bengio 2012): log and lin from the whole interval."""
        random = np.random.default_rng(seed)
        return [{axis.name: axis.draw(random) for axis in self.axes} for _ in range(count)]


def split_outside_parentheses(text: str, separator: str) -> Iterator[tuple[int, str]]:
    """The parts of a text between separators outside parentheses, each with the place where it starts."""
    depth = start = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == separator and depth == 0:
            yield start, text[start:place]
            start = place + 1
    yield start, text[start:]


def _axis(name: str, values: str, text: str, start: int) -> Axis:
    stripped = values.strip()
    place = start + len(values) - len(values.lstrip())
    if match := _RANGE.match(stripped):
        low, high = int(match.group(1)), int(match.group(2))
        if high < low:
            raise _error("expected a range from the smaller to the larger number", text, place, stripped)
        return Axis(name, tuple(range(low, high + 1)), "int")
    if match := _CALL.match(stripped):
        scale = match.group(1)
        try:
            low, high, count = (float(number) for number in match.group(2).split(","))
        except ValueError:
            raise _error(f"expected {scale}(low,high,count)", text, place, stripped) from None
        finite = math.isfinite(low) and math.isfinite(high) and count.is_integer()
        if not finite or count < 1 or not low <= high or (scale == "log" and low <= 0):
            positive = "0 < " if scale == "log" else ""
            raise _error(f"expected {scale}(low,high,count), {positive}low <= high, count >= 1", text, place, stripped)
        spaced = np.geomspace if scale == "log" else np.linspace
        return Axis(name, _rounded(spaced(low, high, int(count)).tolist(), low, high), scale, (low, high))
    if values.count("(") != values.count(")"):
        raise _error("expected parentheses in pairs", text, place, stripped)
    parts = list(split_outside_parentheses(values, ","))
    if any(not part.strip() for _, part in parts):
        raise _error("expected values between commas", text, place, stripped)
    return Axis(name, tuple(_value(part, text, start + offset) for offset, part in parts))


def _value(part: str, text: str, start: int) -> Value:
    found = part.strip()
    place = start + len(part) - len(part.lstrip())
    for kind in (int, float):
        try:
            number = kind(found)
        except ValueError:
            continue
        if isinstance(number, float) and not math.isfinite(number):
            raise _error("expected a finite number", text, place, found)
        return number
    if _NO_NUMBER.match(found):
        raise _error("expected a number, or a range of whole numbers such as 0..3 by itself", text, place, found)
    if found.lower().startswith(("log(", "lin(")):
        raise _error("expected log(low,high,count) or lin(low,high,count) by itself", text, place, found)
    return found


def _rounded(values: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    """The values in six digits, so that they can be written down; in more where those leave the bounds or merge."""
    for digits in range(6, 17):
        rounded = tuple(float(f"{value:.{digits}g}") for value in values)
        if len(set(rounded)) == len(set(values)) and low <= min(rounded) and max(rounded) <= high:
            return rounded
    return tuple(values)


def _error(expectation: str, text: str, place: int, found: str) -> SpaceError:
    return SpaceError(f"sweep: {expectation} at character {place + 1} of {text!r}, found {found!r}")


class SweepResult(NamedTuple):
    """What a sweep gave.

    Attributes:
        settings: one dict a run.
        results: what the function returned, every leaf with a leading axis of runs.
    """

    settings: list[dict[str, Value]]
    results: Any


def sweep(
    function: Callable[..., Any],
    space: Space | str | Sequence[Mapping[str, Value]],
    *,
    method: str | int = "auto",
    static: Sequence[str] = (),
) -> SweepResult:
    """Call a pure function for every setting.

    Numbers are traced: all runs that differ in numbers alone are one compiled program. Texts, and the names in
    `static` (whatever decides shapes), are given as they are, one program for each combination of them.

    Args:
        function: pure and jittable; takes the names as keyword arguments, returns a pytree of arrays.
        space: a `Space`, its text, or a list of settings.
        method: how the runs of one program are executed: "vmap", all at once; a number, so many at once, one batch
            after the other; "map", one after the other (`lax.map`); "devices", spread over all devices, vmapped on
            each; "auto": see `choose_method`.
        static: names to be handed over untraced.

    Under "vmap", runs that would need more memory than is free go off in chunks.

    Raises:
        SpaceError: a text that is no space.
        ValueError: an unknown method; no setting; a name that the function, or for `static` the space, does not have; a
            number that its dtype cannot hold; a traced name that decides a shape or a branch; results that differ in
            shape from setting to setting.

    >>> found = sweep(lambda x, power: x**power, "x=1..3;power=2,3", static=["power"])
    >>> found.results.tolist()
    [1, 1, 4, 8, 9, 27]
    """
    if isinstance(space, str):
        space = Space.parse(space)
    settings = space.grid() if isinstance(space, Space) else [dict(setting) for setting in space]
    if not settings:
        raise ValueError("space: expected at least one setting, found none")
    static = (static,) if isinstance(static, str) else static
    _check_names(function, settings, static)
    if method not in ("auto", "devices"):
        _check_method(method)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, setting in enumerate(settings):
        fixed = {n: v for n, v in setting.items() if n in static or isinstance(v, str)}
        # What some settings leave to the function's default, others may name.
        traced = tuple(sorted(setting.keys() - fixed))
        # 2, 2.0 and True are equal, and not the same.
        kinds = tuple(type(value) for value in fixed.values())
        groups.setdefault((tuple(fixed.items()), kinds, traced), []).append(number)
    order, parts = [], []
    for (fixed, _, traced), members in groups.items():
        arguments = {name: _stacked(name, [settings[number][name] for number in members]) for name in traced}
        try:
            parts.append(
                _run(lambda chosen, fixed=fixed: function(**dict(fixed), **chosen), arguments, members, method)
            )
        except TypeError as error:
            untraceable = isinstance(error, _UNTRACEABLE) or "sequences of concrete values" in str(error)
            if not traced or not untraceable:
                raise
            names = ", ".join(traced)
            raise ValueError(
                f"static: expected those of the names {names} that decide a shape or a branch of the function, found "
                f"{list(static)}: {str(error).splitlines()[0]}"
            ) from error
        order += members
    places = np.argsort(order)
    forms = {str(jax.tree.map(lambda leaf: leaf.shape[1:], part)) for part in parts}
    if len(forms) > 1:
        raise ValueError(f"function: expected results of one form for all settings, found {', '.join(sorted(forms))}")
    return SweepResult(settings, jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[places], *parts))


_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
)


def _check_method(method: str | int) -> None:
    if method not in ("vmap", "map") and not (isinstance(method, int) and method >= 1):
        raise ValueError(f"method: expected auto, vmap, map, devices or a positive number, found {method!r}")


def _check_names(function: Callable[..., Any], settings: list[dict[str, Value]], static: Sequence[str]) -> None:
    names = dict.fromkeys(name for setting in settings for name in setting)
    for name in static:
        if names and name not in names:
            raise ValueError(f"static: expected names of the space, {', '.join(names)}, found {name!r}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # not every callable tells
        return
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in names:
        if name not in known:
            raise ValueError(f"space: expected arguments of the function, {', '.join(known)}, found {name!r}")


def _stacked(name: str, values: list[Value]) -> jax.Array:
    # A seed may have all 32 bits.
    whole = [value for value in values if isinstance(value, int) and 0 <= value < 2**32]
    large = name == "seed" and len(whole) == len(values) and max(whole) >= 2**31
    try:
        with np.errstate(over="ignore"):
            stacked = jnp.asarray(np.array(values, np.uint32) if large else values)
    except OverflowError as error:
        raise ValueError(f"space: expected numbers of 32 bits for {name}, found {values}: {error}") from None
    except (TypeError, ValueError):
        raise ValueError(f"space: expected numbers for {name}, which is not static, found {values}") from None
    # Too large or too small a number would become infinite or 0, a large whole one beside fractions another.
    if not jnp.issubdtype(stacked.dtype, np.number):
        return stacked
    given, kept = np.asarray(values), np.asarray(stacked)
    lost = (np.isfinite(given) != np.isfinite(kept)) | ((given == 0) != (kept == 0))
    whole_numbers = [isinstance(value, int) for value in values]
    if (lost | (whole_numbers & (given != kept))).any():
        raise ValueError(f"space: expected numbers of {kept.dtype} for {name}, found {values}")
    return stacked


def _run(function: Callable[[Any], Any], arguments: Any, members: list[int], method: str | int) -> Any:
    count = len(members)
    if not arguments:
        result = jax.jit(function)(arguments)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), result)
    if method == "auto":
        method = choose_method(function, jax.tree.map(lambda leaf: leaf[0], arguments))
    if method == "devices":
        return _over_devices(function, arguments, count)
    program = jax.jit(over_runs(function, method)).lower(arguments).compile()
    chunk = count
    while method == "vmap" and chunk > 1 and bytes_needed(program) > free_memory():
        chunk = -(-chunk // 2)
        program = jax.jit(over_runs(function, chunk)).lower(arguments).compile()
    return program(arguments)


def bytes_needed(compiled: Any) -> int:
    """The memory of a compiled program by XLA's own account; 0 where the backend keeps none."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    return int(analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes)


class Memory(NamedTuple):
    """Bytes of a device.

    Attributes:
        total: all that it has.
        usable: the most part of what is free; the rest is for what no account foresees.
    """

    total: int
    usable: int


def device_memory() -> Memory | None:
    """That of this process's first device where it tells, else of this machine; None: neither tells."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        free = statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
        return Memory(statistics["bytes_limit"], int(0.8 * free))
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":") for line in lines)
        total, free = (1024 * int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    return Memory(total, int(0.6 * free))


def free_memory() -> int:
    """Bytes that may be used, see `device_memory`; 2 GiB where nobody tells."""
    memory = device_memory()
    return 2**31 if memory is None else memory.usable


def over_runs(function: Callable[..., Any], method: str | int) -> Callable[..., Any]:
    """The function for all runs: every argument and result with a leading axis of runs.

    Args:
        function: of one run.
        method: "vmap", "map" or a number, see `sweep`.

    Raises:
        ValueError: an unknown method.
    """
    _check_method(method)
    if method == "vmap":
        return jax.vmap(function)
    if method == "map" or method == 1:
        return lambda *arguments: jax.lax.map(lambda one: function(*one), arguments)
    return lambda *arguments: jax.lax.map(lambda one: function(*one), arguments, batch_size=int(method))


def _over_devices(function: Callable[[Any], Any], arguments: Any, count: int) -> Any:
    devices = np.array(jax.devices())
    # The last run again, until the devices divide them.
    padded = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], -count % len(devices), axis=0)]), arguments
    )
    placed = jax.device_put(padded, NamedSharding(Mesh(devices, ("runs",)), PartitionSpec("runs")))
    return jax.tree.map(lambda leaf: leaf[:count], jax.jit(jax.vmap(function))(placed))


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_method(function: Callable[..., Any], *example: Any) -> str:
    """ "vmap" or "map", whichever is the faster way to run a function for many settings on this backend.

    An accelerator wants all runs at once. So does a CPU as long as the matrices that loops multiply by are small
    (`SMALL_MATRIX`).

    Args:
        function: of one run.
        example: its arguments, arrays or shapes.
    """
    if jax.default_backend() != "cpu":
        return "vmap"
    jaxpr = jax.make_jaxpr(function)(*example).jaxpr
    return "vmap" if _largest_factor(jaxpr) <= SMALL_MATRIX else "map"


def _largest_factor(jaxpr: Any, fixed: set[Any] | None = None) -> int:
    """Elements of the largest matrix by which a loop multiplies at each of its steps; 0 where there is none.

    Args:
        jaxpr: what to search.
        fixed: its variables that are the same at each step of the loop around it; None: there is no loop around it.
    """
    largest = 0
    for equation in jaxpr.eqns:
        variables = [var for var in equation.invars if not isinstance(var, Literal)]
        if fixed is not None:
            if equation.primitive.name in ("dot_general", "packed_dot"):
                largest = max([largest, *(var.aval.size for var in variables[:2] if var in fixed)])
            if fixed.issuperset(variables):
                # Such as a transposed matrix.
                fixed.update(equation.outvars)
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    largest = max(largest, _largest_factor(inner, _fixed_inside(equation, inner, fixed)))
    return largest


def scan_counts(equation: Any) -> tuple[int, int]:
    """How many of the first inputs of a scan are the same at each step, and how many after them are its carry.

    Read off the shapes, because the equation's own record of it differs from one JAX to the next: what a scan goes
    through, and what it stacks, has one axis more outside than inside.
    """
    inner = equation.params["jaxpr"]
    inner = getattr(inner, "jaxpr", inner)

    def whole(outside: Any, inside: Any) -> int:
        return sum(out.aval.ndim == in_.aval.ndim for out, in_ in zip(outside, inside, strict=True))

    carried = whole(equation.outvars, inner.outvars)
    return whole(equation.invars, inner.invars) - carried, carried


def _fixed_inside(equation: Any, inner: Any, fixed: set[Any] | None) -> set[Any] | None:
    """Which variables of `inner`, the jaxpr of an equation, are the same at each step of a loop."""
    if equation.primitive.name == "scan":
        return set(inner.invars[: scan_counts(equation)[0]])
    if equation.primitive.name == "fused_loop":
        return set(inner.constvars)
    if equation.primitive.name == "while":
        # All that is handed from step to step comes out.
        return set(inner.invars[: len(inner.invars) - len(equation.outvars)])
    if fixed is None:
        return None
    # A call; a branch is given all but the first.
    given = equation.invars[len(equation.invars) - len(inner.invars) :]
    pairs = zip(inner.invars, given, strict=False)
    return {var for var, outer in pairs if not isinstance(outer, Literal) and outer in fixed}
