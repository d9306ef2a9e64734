"""Recurrent cells, by name in `CELLS`: a plain dict, name -> factory."""

import ast
import difflib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.cells.base import ACTIVATIONS, Cell, cell_factory, from_function, matmul
from rnn_jax.cells.elman import ElmanCarry, elman
from rnn_jax.cells.gru import GRUCarry, gru
from rnn_jax.cells.jordan import JordanCarry, jordan
from rnn_jax.cells.learned_carry import learned_carry
from rnn_jax.cells.lookup import lookup
from rnn_jax.cells.lstm import LSTMCarry, lstm
from rnn_jax.cells.zoneout import draw_zoneout, zoneout

CELLS: dict[str, Callable[..., Cell]] = {"elman": elman, "gru": gru, "jordan": jordan, "lstm": lstm}

# Options that decide the first parameters and nothing else.
INITIAL_OPTIONS = frozenset(("forget_bias", "chrono", "kernel_init", "recurrent_init", "bias_init"))

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "INITIAL_OPTIONS",
    "Cell",
    "ElmanCarry",
    "GRUCarry",
    "JordanCarry",
    "LSTMCarry",
    "cell_factory",
    "check",
    "draw_zoneout",
    "elman",
    "from_function",
    "gru",
    "jordan",
    "learned_carry",
    "lookup",
    "lstm",
    "make",
    "matmul",
    "parse",
    "zoneout",
]


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Read a cell as it is written on a command line: `gru`, `gru(reset=before)`, `lstm(forget_bias=2)`.

    Returns:
        The name and its static options. Bare words are strings; numbers, True, False and None are themselves.

    Raises:
        ValueError: not of that form, an unknown cell (lists the known ones), or an option that the cell does not have.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        call = None
    if isinstance(call, ast.Name):
        name, keywords = call.id, []
    elif isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
        name, keywords = call.func.id, call.keywords
    else:
        raise ValueError(f"cell: expected NAME or NAME(option=value, ...), found {text!r}")
    if name not in CELLS:
        close = difflib.get_close_matches(name, CELLS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"cell: expected one of {', '.join(sorted(CELLS))}; found {name!r}{hint}")
    allowed = [p for p in inspect.signature(CELLS[name]).parameters if p != "hidden_size"]
    options: dict[str, Any] = {}
    for keyword in keywords:
        if keyword.arg in options:
            raise ValueError(f"cell: expected each option of {name} once, found {keyword.arg} again")
        if keyword.arg not in allowed:
            raise ValueError(f"cell: {name} takes the options {', '.join(allowed)}; found {keyword.arg!r}")
        try:
            value = keyword.value
            options[keyword.arg] = value.id if isinstance(value, ast.Name) else ast.literal_eval(value)
        except ValueError:
            raise ValueError(f"cell: option {keyword.arg} of {name}: expected a word or a number") from None
    return name, options


def check(text: str) -> None:
    """Build the cell that `text` names and trace its parameters and one step, so that a bad option is known at once.

    Raises:
        ValueError: see `make`; an option of the wrong kind. All begin with "cell: ".
    """

    def one_step() -> Any:
        cell = make(text, 2)
        params = cell.init(jax.random.key(0), 2)
        # By sizes of their own, so that nothing is broadcast unseen.
        return cell(params, cell.initial_carry(params, (3,)), jnp.zeros((3, 2)))

    try:
        with warnings.catch_warnings():
            # JAX warns of dtypes that it is not set to hold.
            warnings.filterwarnings("error", "Explicitly requested dtype", UserWarning)
            jax.eval_shape(one_step)
    except (ValueError, TypeError, OverflowError, UserWarning) as error:
        message = str(error).strip().partition("\n")[0]
        if isinstance(error, ValueError) and message.startswith("cell: "):
            raise
        if not (isinstance(error, ValueError) and ": expected" in message):
            message = f"expected options that fit together, found {text!r}: {message}"
        raise ValueError(f"cell: {message}") from error


def make(text: str, hidden_size: int, **options: Any) -> Cell:
    """Build the cell that `text` names: `make("gru(reset=before)", 256)` is `gru(256, reset="before")`.

    Raises:
        ValueError: see `parse`, and the errors of the factory.
    """
    name, parsed = parse(text)
    return CELLS[name](hidden_size, **(parsed | options))
