"""Command-line flags, derived from the frozen dataclass that is an experiment's configuration."""

import contextlib
import dataclasses
import difflib
import math
import shlex
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from absl import flags as absl_flags

# Giving one of these cancels what the others would be by default.
LIMITS = ("steps", "epochs", "max_seconds")

Config = typing.TypeVar("Config")

_LARGEST = 2**31 - 1
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class FlagError(Exception):
    """A command line that cannot be understood: one line that names the flag, what was expected and what was found."""


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Take a ValueError in this block for a bad flag: for calls whose errors name an argument that is a flag's name."""
    try:
        yield
    except ValueError as error:
        raise FlagError(f"--{error}") from None


def check_temperature(value: float) -> None:
    """Refuse a temperature that single precision takes for 0."""
    if 0 < value < 1e-37:
        raise ValueError(f"temperature: expected 0 or a number of at least 1e-37, found {value}")


@dataclasses.dataclass(frozen=True)
class Flag:
    """What a flag needs besides the name, type and default of its field.

    Attributes:
        help: what it does, a phrase without a full stop.
        group: the heading under which --help lists it; "": with the experiment's own.
        minimum: the smallest number allowed, in a tuple for every element.
        maximum: the largest.
        above: a number that it must exceed.
        choices: the texts allowed; a Literal type says so itself.
        placeholder: what --help shows after the = sign; None: told from the type, and of a text from "PATH" in `help`.
        check: raises ValueError where a value given is not good; called after all flags are read.
        free: whether a resumed run may be given another value; "used": only one that a mode flag uses as it is.
        stored: whether it is part of the run's configuration; else it concerns this one command.
        mode: whether giving it means to use a trained run without training.
    """

    help: str
    group: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    choices: tuple[str, ...] | None = None
    placeholder: str | None = None
    check: Callable[[Any], Any] | None = None
    free: bool | Literal["used"] = False
    stored: bool = True
    mode: bool = False


def flag(default: Any, help: str, **options: Any) -> Any:
    """A field of a configuration: its default, its help and the other attributes of `Flag`."""
    return dataclasses.field(default=default, metadata={"flag": Flag(help, **options)})


def _check_cell(text: str) -> None:
    # Imported here: most command lines that are wrong are so without the seconds that JAX takes.
    from rnn_jax.cells import check

    check(text)


def _check_sweep(text: str) -> None:
    from rnn_jax.sweep import Space

    Space.parse(text)


def _check_sweep_method(text: str) -> None:
    if text not in ("auto", "vmap", "loop", "devices") and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"sweep_method: expected auto, vmap, loop, devices or a positive number, found {text!r}")


_MODEL, _TRAINING, _RUN, _SWEEP = "model", "training", "run", "sweep"

# A field of one of these names needs nothing but its type and default.
COMMON: dict[str, Flag] = {
    "cell": Flag("recurrent cell, options in parentheses: gru, gru(reset=before)", _MODEL, check=_check_cell),
    "hidden_size": Flag("hidden units of a layer", _MODEL, minimum=1),
    "num_layers": Flag("recurrent layers", _MODEL, minimum=1),
    "dropout": Flag("share of the activations dropped in training", _MODEL, minimum=0, maximum=0.99),
    "dtype": Flag("dtype of the matrix products", _MODEL, choices=("float32", "bfloat16")),
    "batch_size": Flag("sequences in a batch", _TRAINING, minimum=1),
    "optimizer": Flag("update rule", _TRAINING, choices=("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")),
    "learning_rate": Flag("learning rate, at its highest", _TRAINING, above=0),
    "beta2": Flag("decay of adam's and adamw's second moment", _TRAINING, minimum=0, maximum=0.9999),
    "schedule": Flag(
        "course of the learning rate", _TRAINING, choices=("constant", "cosine", "exponential", "halving")
    ),
    "warmup": Flag("steps over which the learning rate rises from 0", _TRAINING, minimum=0),
    "decay": Flag("factor of each later epoch (exponential: 0.97, halving: 0.5)", _TRAINING, above=0, maximum=1),
    "decay_after": Flag("epochs at the full rate (exponential: 10, halving: 4)", _TRAINING, minimum=0),
    "clip_norm": Flag("largest global norm of the gradient", _TRAINING, above=0),
    "clip_value": Flag("largest absolute value of a gradient's element", _TRAINING, above=0),
    "weight_decay": Flag("decoupled weight decay of the matrices; without it adamw is adam", _TRAINING, minimum=0),
    "ema_decay": Flag(
        "evaluate and keep a running mean of the parameters, of this decay (0.999: over a thousand steps)",
        _TRAINING,
        minimum=0,
        maximum=0.99999,
    ),
    "steps": Flag("end after this many steps", _TRAINING, minimum=1, free=True),
    "epochs": Flag("end after this many epochs", _TRAINING, above=0, free=True),
    "max_seconds": Flag("end after this many seconds of compilation and training", _TRAINING, above=0, free=True),
    "patience": Flag("end after this many evaluations in a row without a new best", _TRAINING, minimum=1),
    # What does not train may draw from another seed.
    "seed": Flag(
        "seed of the parameters, the data order and dropout", _TRAINING, minimum=0, maximum=2**32 - 1, free="used"
    ),
    "workdir": Flag("folder of the run; one that holds a run resumes it", _RUN, placeholder="PATH", stored=False),
    "init_from": Flag("folder of a run whose parameters a new run starts from", _RUN, placeholder="PATH"),
    "devices": Flag("number of devices, of all that are visible", _RUN, minimum=1, free=True),
    "shard_params": Flag("spread large parameters over the devices, in place of a copy on each", _RUN, free=True),
    "coordinator": Flag(
        "address of process 0 for a run of several processes; auto: from the cluster's environment",
        _RUN,
        placeholder="HOST:PORT",
        stored=False,
    ),
    "num_processes": Flag("number of processes", _RUN, minimum=1, stored=False),
    "process_id": Flag("which of them this is, from 0", _RUN, minimum=0, stored=False),
    "connect_timeout": Flag("seconds to wait for the other processes", _RUN, minimum=1, stored=False),
    "eval_every": Flag("steps from one evaluation to the next", _RUN, minimum=1, free=True),
    "checkpoint_every": Flag("steps from one checkpoint to the next", _RUN, minimum=1, free=True),
    "sample_every": Flag("steps from one sample to the next", _RUN, minimum=1, free=True),
    "sweep": Flag(
        "train once for each setting: 'learning_rate=log(1e-4,1e-1,8);cell=lstm,gru;seed=0..3'",
        _SWEEP,
        placeholder="SETTINGS",
        check=_check_sweep,
    ),
    "sweep_samples": Flag("draw so many settings at random in place of all combinations", _SWEEP, minimum=1),
    "sweep_method": Flag(
        "how runs go off: vmap (all at once), a number (so many at once), loop (each by itself), all three on one "
        "device; devices (spread over all that may be used); or auto, which spreads them too",
        _SWEEP,
        check=_check_sweep_method,
    ),
    "halving": Flag("at evaluations, end the worse half of the runs of a sweep", _SWEEP),
}


@dataclasses.dataclass(frozen=True)
class _Field:
    name: str
    type: Any
    default: Any
    flag: Flag


def fields(config_class: type) -> list[_Field]:
    """The flags of a configuration class, in the order of its fields.

    Raises:
        TypeError: a field without a default, or one neither declared by `flag` nor common.
    """
    hints = typing.get_type_hints(config_class)
    found = []
    unused = getattr(config_class, "unused", frozenset())
    for field in dataclasses.fields(config_class):
        if field.name in unused:
            continue
        described = field.metadata.get("flag") or COMMON.get(field.name)
        if described is None or field.default is dataclasses.MISSING:
            raise TypeError(f"{config_class.__name__}.{field.name}: expected a default and a declaration by flag()")
        found.append(_Field(field.name, hints[field.name], field.default, described))
    return found


class Parsed(typing.NamedTuple):
    """A command line, read.

    Attributes:
        config: the configuration.
        given: the names of the fields that the command line settles.
        modes: the names of the mode flags among them.
    """

    config: Any
    given: frozenset[str]
    modes: frozenset[str]


def parse(arguments: Sequence[str], config_class: type) -> Parsed:
    """Read a command line (without the program's name) as --name=value, --name value, --name or --noname.

    Raises:
        FlagError: an unknown flag, a bad value, two mode flags, anything that is no flag.
    """
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise FlagError(f"expected arguments in UTF-8, found {argument!a}") from None
    known = fields(config_class)
    values = absl_flags.FlagValues()
    for field in known:
        _define(field, values)
    try:
        rest = values(["program", *arguments])
    except absl_flags.UnrecognizedFlagError as error:
        names = [field.name for field in known]
        close = difflib.get_close_matches(error.flagname, names, n=1)
        hint = f"; did you mean --{close[0]}?" if close else " (--help lists the flags)"
        raise FlagError(f"unknown flag --{error.flagname}{hint}") from None
    except absl_flags.Error as error:
        raise FlagError(" ".join(str(error).split())) from None
    except UnicodeDecodeError as error:
        raise FlagError(f"--flagfile: expected UTF-8, found other bytes: {error}") from None
    if len(rest) > 1:
        raise FlagError(f"unexpected argument {rest[1]!r}; flags are written --name=value")

    given = {field.name: values[field.name].value for field in known if values[field.name].present}
    for field in known:
        value = given.get(field.name)
        if field.flag.check is not None and value is not None:
            with checked():
                field.flag.check(value)
    modes = frozenset(field.name for field in known if field.flag.mode and given.get(field.name) not in (None, False))
    if len(modes) > 1:
        first, second = sorted(modes)[:2]
        raise FlagError(f"--{first}: expected one thing to do with the run, found --{second} too")
    if any(limit in given for limit in LIMITS):
        given = {field.name: None for field in known if field.name in LIMITS} | given
    return Parsed(config_class(**given), frozenset(given), modes)


def assign(config: Config, settings: Mapping[str, Any], argument: str) -> Config:
    """`config` with other values for some flags, written as on a command line.

    Args:
        config: the rest.
        settings: name -> value or its text.
        argument: the flag that names them, for errors.

    Raises:
        FlagError: a name that is no flag of a configuration, or a bad value.
    """
    known = {field.name: field for field in fields(type(config)) if field.flag.stored and field.flag.group != _SWEEP}
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the names are {', '.join(known)}"
            raise FlagError(f"--{argument}: expected the name of a flag, found {name!r}; {hint}")
    values = {name: _Parser(known[name]).parse(value) for name, value in settings.items()}
    for name, value in values.items():
        check = known[name].flag.check
        if check is not None and value is not None:
            with checked():
                check(value)
    if any(limit in values for limit in LIMITS):
        values = dict.fromkeys((limit for limit in LIMITS if limit in known), None) | values
    return dataclasses.replace(config, **values)  # pyright: ignore[reportArgumentType]


def command(program: str, config: Any) -> str:
    """The command line that gives this configuration."""
    given = {}
    for field in fields(type(config)):
        value = getattr(config, field.name)
        if field.flag.stored and value != field.default:
            given[field.name] = value
    if any(limit in given for limit in LIMITS):
        # Giving one cancels the others, which need no mention then.
        given = {name: value for name, value in given.items() if name not in LIMITS} | {
            limit: value for limit in LIMITS if (value := getattr(config, limit, None)) is not None
        }
    arguments = [shlex.quote(f"--{name}={_written(value)}") for name, value in given.items()]
    return " ".join([f"python -m {program}", *arguments])


def _written(value: Any) -> str:
    return (
        ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if value is None else str(value)
    )


def stored(config: Any) -> dict[str, Any]:
    """The part of a configuration that belongs to its run."""
    return {field.name: getattr(config, field.name) for field in fields(type(config)) if field.flag.stored}


def free(config_class: type, *, used: bool = False) -> frozenset[str]:
    """The names of the fields that a resumed run may change; `used`: one that is not trained any further."""
    return frozenset(
        field.name for field in fields(config_class) if field.flag.free is True or (used and field.flag.free)
    )


def restored(config: Config, values: dict[str, Any]) -> Config:
    """`config` with the values of a run, as JSON holds them, in its place."""
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return dataclasses.replace(config, **plain)  # pyright: ignore[reportArgumentType]


def help_text(config_class: type, program: str, width: int | None = None) -> str:
    """What --help prints: the class's docstring, the experiment's own flags, then the common ones in their groups."""
    width = width or min(110, shutil.get_terminal_size((100, 24)).columns)
    known = fields(config_class)
    own = program.rpartition(".")[2].lower()
    groups: dict[str, list[_Field]] = {own: []}
    for field in known:
        groups.setdefault(field.flag.group or own, []).append(field)
    rows = {field.name: _usage(field) for field in known}
    column = min(30, 4 + max(map(len, rows.values())))
    lines = [
        *textwrap.dedent(f"    {config_class.__doc__}").strip().splitlines(),
        "",
        f"python -m {program} [--flag=value ...]",
    ]
    for title in (own, *(group for group in (_MODEL, _TRAINING, _RUN, _SWEEP) if group in groups)):
        if groups[title]:
            lines += ["", f"{title}:"]
        for field in groups[title]:
            head = f"  {rows[field.name]}"
            text = textwrap.wrap(_described(field), width - column, break_on_hyphens=False)
            if len(head) + 2 > column:
                lines.append(head)
                head = ""
            lines += [f"{left:{column}}{part}" for left, part in zip([head, *[""] * len(text)], text, strict=False)]
    return "\n".join(lines) + "\n"


def _usage(field: _Field) -> str:
    if _is_switch(field):
        return f"--{'[no]' if field.default is None else 'no' if field.default else ''}{field.name}"
    return f"--{field.name}={_placeholder(field.type, field.flag)}"


def _is_switch(field: _Field) -> bool:
    return bool in _alternatives(field.type)


def _described(field: _Field) -> str:
    text = field.flag.help
    choices = [choice for choice in _choices(field.type, field.flag) if choice]
    if choices:
        text += f": {', '.join(choices)}"
    if field.type is bool:
        return f"do not {text}" if field.default else text
    if field.default is None:
        return text
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return f"{text} (default: {default!r})" if field.default == "" else f"{text} (default: {default})"


def _placeholder(annotation: Any, described: Flag) -> str:
    if described.placeholder is not None:
        return described.placeholder
    first = next(part for part in _alternatives(annotation) if part is not types.NoneType)
    if _choices(first, described):
        return "NAME"
    if typing.get_origin(first) is tuple:
        return "X,X,..."
    return {int: "N", float: "X"}.get(first, "PATH" if "PATH" in described.help else "TEXT")


def _choices(annotation: Any, described: Flag) -> tuple[str, ...]:
    named = [part for part in _alternatives(annotation) if typing.get_origin(part) is typing.Literal]
    return typing.get_args(named[0]) if named else described.choices or ()


def _define(field: _Field, values: absl_flags.FlagValues) -> None:
    if _is_switch(field):
        absl_flags.DEFINE_boolean(field.name, None, field.flag.help, flag_values=values)
        values[field.name].parser = _Parser(field)
    else:
        absl_flags.DEFINE(_Parser(field), field.name, None, field.flag.help, flag_values=values)


class _Parser(absl_flags.ArgumentParser):
    """Turns the text of one flag into the type of its field."""

    def __init__(self, field: _Field):
        super().__init__()
        self._field = field

    def parse(self, argument: Any) -> Any:
        field = self._field
        for alternative in _alternatives(field.type):
            try:
                return _value(alternative, field.flag, str(argument))
            except ValueError:
                continue
        wanted = " or ".join(_expectation(alternative, field.flag) for alternative in _alternatives(field.type))
        if int in _alternatives(field.type) and field.flag.maximum is None and _is_above(str(argument), _LARGEST):
            wanted += f" at most {_LARGEST}"
        # No ValueError: absl would wrap it in a sentence of its own.
        raise FlagError(f"--{field.name}: expected {wanted}, found {argument!r}")


def _is_above(text: str, bound: int) -> bool:
    with contextlib.suppress(ValueError):
        return int(text) > bound
    return False


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _value(annotation: Any, described: Flag, text: str) -> Any:
    """The value of `text`; ValueError where it is none."""
    if annotation is types.NoneType:
        if text.lower() != "none":
            raise ValueError
        return None
    if typing.get_origin(annotation) is tuple:
        return tuple(_value(typing.get_args(annotation)[0], described, part) for part in text.split(","))
    if annotation is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError
        return _BOOLEANS[text.lower()]
    choices = _choices(annotation, described)
    if choices and text not in choices:
        raise ValueError
    if annotation not in (int, float):
        return text
    number = annotation(text)
    low = described.minimum is None or number >= described.minimum
    # Nothing of a larger size fits any machine, and its number no array.
    maximum = _LARGEST if described.maximum is None and annotation is int else described.maximum
    high = maximum is None or number <= maximum
    beyond = described.above is None or number > described.above
    if not (low and high and beyond and math.isfinite(number)):
        raise ValueError
    return number


def _expectation(annotation: Any, described: Flag) -> str:
    if annotation is types.NoneType:
        return "none"
    if annotation is bool:
        return "true or false"
    if typing.get_origin(annotation) is tuple:
        return f"{_expectation(typing.get_args(annotation)[0], described)} each between commas"
    choices = _choices(annotation, described)
    if choices:
        return f"one of {', '.join(choices)}"
    noun = {int: "a whole number", float: "a number"}.get(annotation, "a text")
    bounds = {"at least": described.minimum, "above": described.above, "at most": described.maximum}
    limits = " and ".join(f"{word} {_written_bound(bound)}" for word, bound in bounds.items() if bound is not None)
    return f"{noun} {limits}".strip() if annotation in (int, float) else noun


def _written_bound(bound: float) -> str:
    # %g writes large whole numbers with six digits.
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"
