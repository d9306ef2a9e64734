"""Experiments as a shell runs them, but in this process, which saves the seconds of starting one."""

import contextlib
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.runner import run_experiment


def call(name, config_class, main, *arguments):
    """Run an experiment with arguments of the command line: (exit code, standard output, standard error)."""
    output, errors = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as end:
            run_experiment(name, config_class, main, [str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return end.value.code, output.getvalue(), errors.getvalue()


def read(run: Path, name: str = "result.json") -> Any:
    """What a JSON file of a run holds."""
    return json.loads((run / name).read_text())
