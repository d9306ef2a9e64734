"""A run of several processes: how they meet, and which of them writes."""

import atexit
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import flags

# A follower's own output goes nowhere, except for the reason why it ends.
_errors: Any = None
# A follower's own files, to be taken away at the end.
_scratch: Path | None = None


def standard_error() -> Any:
    """Where to say why this process ends."""
    return _errors or sys.stderr


def silence_runtime() -> None:
    """Before JAX is imported: its accounts of a lost process are stack traces."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")


def joined() -> bool:
    """Whether this process has joined others."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def join(name: str, parsed: flags.Parsed) -> None:
    """Join the other processes, if the command line tells of any.

    Raises:
        FlagError: flags that do not go together.
        ConnectError: see `rnn_jax.training.processes.connect`.
    """
    from rnn_jax.training import processes

    config = parsed.config
    asked = sorted(parsed.given & {"coordinator", "num_processes", "process_id"})
    if not asked:
        return
    alone = sorted(parsed.modes) + ["sweep"] * (config.sweep is not None)
    if alone:
        raise flags.FlagError(f"--{asked[0]}: expected one process, which --{alone[0]} needs, found several")
    with flags.checked():
        processes.connect(
            config.coordinator, config.num_processes, config.process_id, timeout=config.connect_timeout, name=name
        )


def open_run(name: str, open_alone: Callable[[], Any]) -> Any:
    """The run that the first process opens; the others keep what they write in a temporary folder."""
    from rnn_jax.training import processes
    from rnn_jax.training.run import Run, RunError

    global _scratch
    if not joined():
        return open_alone()
    run, error = None, None
    if processes.is_first():
        try:
            run = open_alone()
            run.path.mkdir(parents=True, exist_ok=True)
        except (flags.FlagError, RunError) as refused:
            error = refused
        except OSError as refused:
            error = RunError(f"workdir: {refused}")
    opened = processes.agree(
        None if run is None else {"path": str(run.path.absolute()), "config": run.config, "resumed": run.resumed}
    )
    if opened is None:
        raise error or RunError("workdir: process 0 cannot use it, and says why")
    shared = Path(opened["path"])
    resume = f"start all of them again with --workdir={shlex.quote(str(shared))} to resume"
    processes.set_farewell(f"{name}: lost another process; what was saved last is whole: {resume}")
    if run is not None:
        return run
    if not shared.is_dir():
        raise RunError(f"workdir: expected a folder that all processes see, found none here: {shared}")
    _fall_silent()
    _scratch = Path(tempfile.mkdtemp(prefix="rnn_jax_"))
    atexit.register(_clean)
    return Run(_scratch / shared.name, name, opened["config"], opened["resumed"], shared=shared)


def leave(code: int) -> None:
    """End, see `rnn_jax.training.processes.leave`."""
    from rnn_jax.training import processes

    _clean()
    processes.leave(code)


def _clean() -> None:
    if _scratch is not None:
        shutil.rmtree(_scratch, ignore_errors=True)


def _fall_silent() -> None:
    global _errors
    _errors = sys.stderr
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until this process ends
