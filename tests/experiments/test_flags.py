"""Flags made from a dataclass: values, errors of one line, help."""

import dataclasses
from typing import Literal

import pytest

from experiments import flags
from experiments.config import TrainingConfig
from experiments.flags import COMMON, FlagError, flag, help_text, parse


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """A thing to learn.

    With a second paragraph.
    """

    hidden_size: int = 128
    cell: str = "lstm"
    dropout: float = 0.0
    steps: int | None = 1000
    corpus: str = flag("builtin", "text to learn from: a name or a PATH")
    level: Literal["char", "word"] = flag("char", "what a symbol is")
    widths: tuple[int, ...] = flag((1, 2), "some numbers", minimum=1)
    tie: bool = flag(False, "share the embedding with the softmax")
    shuffle: bool = flag(True, "shuffle the epochs")
    fraction: float | None = flag(None, "share of something", above=0, maximum=0.5, free=True)
    width_or_widths: int | tuple[int, ...] = flag(3, "one number or several", minimum=1)
    prompt: str = flag("", "how a sample begins", stored=False)
    sample: bool = flag(False, "sample from a trained run", mode=True, stored=False)


def test_no_flags_give_the_defaults():
    parsed = parse([], Config)
    assert parsed.config == Config()
    assert parsed.given == parsed.modes == frozenset()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--hidden_size=7"], {"hidden_size": 7}),
        (["--hidden_size", "7"], {"hidden_size": 7}),
        (["-hidden_size=7"], {"hidden_size": 7}),
        (["--hidden_size=7", "--hidden_size=8"], {"hidden_size": 8}),
        (["--learning_rate=1e-3"], {"learning_rate": 1e-3}),
        (["--learning_rate=2"], {"learning_rate": 2.0}),
        (["--clip_norm=none"], {"clip_norm": None}),
        (["--clip_value=5"], {"clip_value": 5.0}),
        (["--tie"], {"tie": True}),
        (["--notie"], {"tie": False}),
        (["--noshuffle"], {"shuffle": False}),
        (["--shuffle=false"], {"shuffle": False}),
        (["--widths=3,4,5"], {"widths": (3, 4, 5)}),
        (["--width_or_widths=4"], {"width_or_widths": 4}),
        (["--width_or_widths=4,5"], {"width_or_widths": (4, 5)}),
        (["--level=word"], {"level": "word"}),
        (["--corpus=a file.txt"], {"corpus": "a file.txt"}),
        (["--prompt="], {"prompt": ""}),
        (["--prompt=--x=1, y"], {"prompt": "--x=1, y"}),
        (["--prompt=größer\n"], {"prompt": "größer\n"}),
        (["--fraction=0.5"], {"fraction": 0.5}),
        (["--dropout=0"], {"dropout": 0.0}),
        (["--cell=gru(reset=before)"], {"cell": "gru(reset=before)"}),
        (["--seed=0"], {"seed": 0}),
    ],
)
def test_values(arguments, expected):
    parsed = parse(arguments, Config)
    assert parsed.config == dataclasses.replace(Config(), **expected)
    assert {type(getattr(parsed.config, name)) for name in expected} == {type(value) for value in expected.values()}
    assert parsed.given == set(expected)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--hiden_size=3", "unknown flag --hiden_size; did you mean --hidden_size?"),
        ("--xyzzy", "unknown flag --xyzzy (--help lists the flags)"),
        ("--nocorpus", "unknown flag --nocorpus; did you mean --corpus?"),
        ("hello", "unexpected argument 'hello'; flags are written --name=value"),
        ("--hidden_size=abc", "--hidden_size: expected a whole number at least 1, found 'abc'"),
        ("--hidden_size=0", "--hidden_size: expected a whole number at least 1, found '0'"),
        ("--hidden_size=2.5", "--hidden_size: expected a whole number at least 1, found '2.5'"),
        ("--hidden_size=", "--hidden_size: expected a whole number at least 1, found ''"),
        ("--hidden_size", "Missing value for flag --hidden_size"),
        ("--hidden_size=none", "--hidden_size: expected a whole number at least 1, found 'none'"),
        ("--batch_size=-4", "--batch_size: expected a whole number at least 1, found '-4'"),
        ("--learning_rate=0", "--learning_rate: expected a number above 0, found '0'"),
        ("--learning_rate=nan", "--learning_rate: expected a number above 0, found 'nan'"),
        ("--learning_rate=inf", "--learning_rate: expected a number above 0, found 'inf'"),
        ("--dropout=1", "--dropout: expected a number at least 0 and at most 0.99, found '1'"),
        ("--clip_norm=x", "--clip_norm: expected a number above 0 or none, found 'x'"),
        ("--fraction=0.6", "--fraction: expected a number above 0 and at most 0.5 or none, found '0.6'"),
        ("--steps=0", "--steps: expected a whole number at least 1 or none, found '0'"),
        ("--level=byte", "--level: expected one of char, word, found 'byte'"),
        ("--optimizer=lion", "--optimizer: expected one of sgd, momentum, adagrad, rmsprop, adam, adamw, found 'lion'"),
        ("--tie=maybe", "--tie: expected true or false, found 'maybe'"),
        ("--widths=3,x", "--widths: expected a whole number at least 1 each between commas, found '3,x'"),
        ("--widths=", "--widths: expected a whole number at least 1 each between commas, found ''"),
        ("--cell=gruu", "--cell: expected one of elman, gru, lstm; found 'gruu' (did you mean 'gru'?)"),
        ("--cell=gru(rest=before)", ""),
    ],
)
def test_errors_are_one_line(argument, message):
    with pytest.raises(FlagError) as error:
        parse([argument], Config)
    assert "\n" not in str(error.value)
    if argument.startswith("--cell"):
        # The list of cells grows.
        assert str(error.value).startswith("--cell: ")
    else:
        assert str(error.value) == message


def test_a_limit_cancels_the_defaults_of_the_others():
    assert parse(["--hidden_size=3"], Config).config.steps == 1000
    parsed = parse(["--max_seconds=60"], Config)
    assert (parsed.config.steps, parsed.config.epochs, parsed.config.max_seconds) == (None, None, 60.0)
    assert parsed.given == {"steps", "epochs", "max_seconds"}
    parsed = parse(["--max_seconds=60", "--steps=5"], Config)
    assert (parsed.config.steps, parsed.config.epochs, parsed.config.max_seconds) == (5, None, 60.0)


def test_modes_are_told_apart():
    assert parse(["--sample", "--prompt=a"], Config).modes == {"sample"}
    assert parse(["--nosample"], Config).modes == frozenset()


def test_what_is_stored_and_what_is_free():
    stored = flags.stored(Config(prompt="x"))
    assert {"prompt", "sample", "workdir"}.isdisjoint(stored)
    assert stored["widths"] == (1, 2)
    assert flags.free(Config) >= {"steps", "epochs", "max_seconds", "eval_every", "checkpoint_every", "sample_every"}
    assert {"learning_rate", "seed"}.isdisjoint(flags.free(Config))
    # What does not train may draw from another seed.
    assert flags.free(Config, used=True) == flags.free(Config) | {"seed"}


def test_restored_from_json():
    config = flags.restored(Config(prompt="x"), {"widths": [7], "hidden_size": 3, "width_or_widths": [1, 2]})
    assert config == Config(prompt="x", widths=(7,), hidden_size=3, width_or_widths=(1, 2))


def test_a_field_must_be_declared():
    @dataclasses.dataclass(frozen=True)
    class Strange:
        """Strange."""

        something: int = 3

    with pytest.raises(TypeError, match=r"Strange.something: expected a default and a declaration by flag\(\)"):
        parse([], Strange)


def test_common_choices_are_those_of_the_library():
    from rnn_jax.training.optimizers import OPTIMIZERS
    from rnn_jax.training.schedules import SCHEDULES

    assert COMMON["optimizer"].choices == tuple(OPTIMIZERS)
    assert COMMON["schedule"].choices == SCHEDULES


def test_defaults_obey_their_own_rules():
    for field in flags.fields(Config):
        if field.default is not None and not isinstance(field.default, (bool, tuple)):
            parse([f"--{field.name}={field.default}"], Config)


@pytest.mark.parametrize("width", [70, 100])
def test_help(width):
    text = help_text(Config, "experiments.thing", width)
    lines = text.splitlines()
    assert lines[:3] == ["A thing to learn.", "", "With a second paragraph."]
    assert max(map(len, lines)) <= width
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["thing:", "model:", "training:", "run:", "sweep:"]
    for field in dataclasses.fields(Config):
        assert text.count(f"--{field.name}=") + text.count(f"--{field.name} ") + text.count(f"--no{field.name} ") == 1
    flat = " ".join(text.split())
    assert "--hidden_size=N hidden units of a layer (default: 128)" in flat
    assert "--level=NAME what a symbol is: char, word (default: char)" in flat
    assert "--noshuffle do not shuffle the epochs" in flat
    assert "--widths=X,X,... some numbers (default: 1,2)" in flat
    assert "--tie share the embedding with the softmax" in flat
    assert "absl" not in text


def test_an_argument_that_is_not_utf_8_is_refused():
    with pytest.raises(FlagError, match=r"expected arguments in UTF-8, found '--workdir=caf\\udce9'"):
        parse(["--steps=5", "--workdir=caf\udce9"], Config)


def test_whole_numbers_beyond_32_bits_are_no_sizes():
    with pytest.raises(FlagError, match=r"--batch_size: expected a whole number at least 1 at most 2147483647, found"):
        parse(["--batch_size=99999999999999999999"], Config)


def test_a_field_that_means_nothing_to_an_experiment_is_no_flag():
    @dataclasses.dataclass(frozen=True)
    class Quiet(TrainingConfig):
        """Shows no samples."""

        unused = frozenset({"sample_every"})

    with pytest.raises(FlagError, match="unknown flag --sample_every"):
        parse(["--sample_every=3"], Quiet)
    assert "sample_every" not in flags.stored(Quiet())


@pytest.mark.parametrize("value", [1e-300, 1e-46])
def test_a_temperature_that_single_precision_takes_for_0(value):
    with pytest.raises(ValueError, match="temperature: expected 0 or a number of at least 1e-37, found"):
        flags.check_temperature(value)
    flags.check_temperature(0.0)
