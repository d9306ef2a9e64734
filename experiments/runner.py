"""What happens around an experiment: flags, the folder of its run, and how errors and signals end it."""

import contextlib
import ctypes
import errno
import functools
import io
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import logging as absl_logging

from experiments import flags, several
from experiments.config import TrainingConfig

_BAD_INPUT, _FAILED = 2, 1

# A disk, or what a user may have of it.
_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Terminated(SystemExit):
    """SIGTERM where nothing holds it back, as `rnn_jax.training.signals.SignalCatcher` does in the training loop."""


def run_experiment(
    name: str, config_class: type, main: Callable[[Any, Any], None], arguments: Sequence[str] | None = None
) -> NoReturn:
    """Read the flags, call `main(config, run)` and exit.

    Exit codes: 0; 1: a loss that is not finite; 2: bad input, in one line; 130, 143: Ctrl-C, SIGTERM. Errors in the
    code keep their traceback.

    `run` is a `rnn_jax.training.run.Run`: a fresh folder, or the one of --workdir; `config` has a resumed run's values
    where no flag was given. With a mode flag (see `flags.Flag`) the folder must hold a run.

    An experiment imports JAX inside `main`, so that --help and a wrong flag are answered at once.

    Args:
        name: of the module in this package.
        config_class: a frozen dataclass, see `flags.fields`.
        main: trains, or does what a mode flag asks.
        arguments: the command line; None: this process's.
    """
    signal.signal(signal.SIGTERM, _terminate)
    _silence_closed_loops()
    _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Texts may hold what the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(name, config_class, main, sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except (KeyboardInterrupt, _Terminated) as stop:
        code = _say(name, "stopped", 128 + _number(stop))
    except BrokenPipeError:
        # The reader of our output has gone; so that the interpreter's last flush does not complain:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        what = f" {error.filename}" if error.filename else ""
        code = _say(name, f"cannot write{what}: {error.strerror}", _FAILED)
    if code and several.joined():
        several.leave(code)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """A standard stream that the shell has closed says nothing and hears nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until this process ends


@functools.cache
def _silence_closed_loops() -> None:
    """Let the reads of a damaged checkpoint's other arrays, whose answers nobody waits for any more, fail in silence.

    Each would be a traceback beside the one line that tells of the damage.
    """
    tell = sys.unraisablehook

    def tell_others(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and "Event loop is closed" in str(unraisable.exc_value)):
            tell(unraisable)

    sys.unraisablehook = tell_others


def _terminate(number: int, frame: Any) -> NoReturn:
    raise _Terminated(128 + number)


def _number(stop: BaseException) -> int:
    return signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT


def _run(name: str, config_class: type, main: Callable[[Any, Any], None], arguments: Sequence[str]) -> int:
    program = f"experiments.{name}"
    if any(argument in ("-h", "-help", "--help") for argument in arguments):
        print(flags.help_text(config_class, program), end="")
        return 0
    if any(argument.lstrip("-").startswith("coordinator") for argument in arguments):
        # First of all: the check of a flag such as --cell imports JAX.
        several.silence_runtime()
    try:
        parsed = flags.parse(arguments, config_class)
    except flags.FlagError as error:
        return _say(name, error, _BAD_INPUT)

    _keep_freed_memory()
    # What Orbax has to say of a checkpoint that fails are stack traces; the error itself is told below.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    from jax.errors import JaxRuntimeError

    from rnn_jax.data import DataError
    from rnn_jax.recurrence import setting
    from rnn_jax.training import processes
    from rnn_jax.training.checkpoint import CheckpointError, CheckpointUnsaved
    from rnn_jax.training.loop import Diverged, Interrupted
    from rnn_jax.training.run import RunError

    run = None
    try:
        several.join(name, parsed)
        if setting.SETTING in os.environ:
            setting.way()
        run = several.open_run(name, lambda: _open_run(name, parsed))
        config = flags.restored(parsed.config, run.config)
        if isinstance(config, TrainingConfig) and {config.steps, config.epochs, config.max_seconds} == {None}:
            raise flags.FlagError("--max_seconds: expected one of --steps, --epochs, --max_seconds, found none")
        for one in ("halving", "sweep_samples"):
            if getattr(config, one, None) and config.sweep is None:
                raise flags.FlagError(f"--{one}: expected --sweep too, found none")
        if getattr(config, "sweep", None) is not None:
            for mode in sorted(parsed.modes):
                raise flags.FlagError(f"--{mode}: expected a single run, such as {run.path}/runs/000, found a sweep")
            from experiments.sweep import run_sweep

            run_sweep(name, main, config, run)
        else:
            main(config, run)
        return 0
    except (
        flags.FlagError,
        DataError,
        RunError,
        CheckpointError,
        setting.LoopsError,
        processes.ConnectError,
    ) as error:
        if run is not None and not isinstance(error, CheckpointUnsaved):
            run.refuse()
        if isinstance(error, (RunError, processes.ConnectError)):
            return _say(name, f"--{error}", _BAD_INPUT)
        return _say(name, f"--workdir: {error}" if isinstance(error, CheckpointError) else error, _BAD_INPUT)
    except Diverged as error:
        lower = " or ".join(f"--{flag}" for flag in ("learning_rate", "clip_norm") if hasattr(parsed.config, flag))
        return _say(name, f"{error}; a smaller {lower} may help", _FAILED)
    except Interrupted as error:
        return _say(name, f"{error}; {_how_to_resume(program, run)}", 128 + error.signal_number)
    except (KeyboardInterrupt, _Terminated) as stop:
        if run is None or parsed.modes:
            raise
        run.discard()
        if not ((run.shared or run.path) / "config.json").exists():
            raise
        number = _number(stop)
        told = f"stopped by {signal.Signals(number).name}; {_how_to_resume(program, run)}"
        return _say(name, told, 128 + number)
    except Exception as error:
        exhausted = isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
        if exhausted or isinstance(error, MemoryError):
            reason = str(error).partition("\n")[0]
            return _say(name, f"not enough memory for what is asked for: {reason}", _FAILED)
        unwritten = isinstance(error, OSError) and error.errno in (*_FULL, errno.EPIPE)
        if unwritten or not several.joined():
            raise
        farewell = processes.farewell_for(error)
        if farewell is not None:
            return _say(name, farewell.removeprefix(f"{name}: "), _FAILED)
        traceback.print_exc(file=several.standard_error())
        return _FAILED
    finally:
        if run is not None:
            run.discard()
            run.release()


def _how_to_resume(program: str, run: Any) -> str:
    return f"resume: python -m {program} --workdir={shlex.quote(str(run.shared or run.path))}"


def _open_run(name: str, parsed: flags.Parsed) -> Any:
    from rnn_jax.training.run import open_run

    workdir = parsed.config.workdir
    for mode in sorted(parsed.modes):
        if getattr(parsed.config, "sweep", None) is not None:
            raise flags.FlagError(f"--{mode}: expected the folder of one run as --workdir and no --sweep, found both")
        if workdir is None:
            raise flags.FlagError(f"--{mode}: expected a trained run as --workdir, found none")
    free = flags.free(type(parsed.config), used=bool(parsed.modes))
    run = open_run(name, flags.stored(parsed.config), given=parsed.given, free=free, workdir=workdir)
    if parsed.modes and not run.resumed:
        raise flags.FlagError(f"--workdir: expected a trained run, found none in {workdir}")
    if not parsed.modes:
        run.claim()
    return run


def _keep_freed_memory() -> None:
    """Let glibc reuse freed memory in place of mapping it afresh: a tenth to a fifth of a training step on the CPU.

    Every step allocates and frees the same tens of megabytes, and each fresh mapping is paid for page by page. The
    arenas that threads have of their own give back what is free whatever the thresholds say, and map blocks above 64 MB
    afresh, so there are only two a core. One alone would make threads wait for one another: a fifth of a sweep's time,
    and as much of a compilation's.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc, no such cost
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)
        mallopt(mmap_max, 0)
        mallopt(arena_max, 2 * len(os.sched_getaffinity(0)))


def _say(name: str, message: object, code: int) -> int:
    print(f"{name}: {message}", file=several.standard_error(), flush=True)
    return code
