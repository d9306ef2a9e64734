"""Several processes, on one machine or many, that train one model together through JAX's distributed runtime.

Every process runs the same program. What depends on more than the program and the data, such as the clock, a signal or
a metric, is decided by the first process and followed by the others: see `agree`. Nothing here costs anything in a
process that is alone.
"""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

# Seconds without a sign of life after which a process is taken for dead. (A connection that breaks tells at once.)
HEARTBEAT = 20
# A follower waits this long for a decision: the first process may be at work on something that only it does.
_PATIENCE = 3600
_SIGNAL = "rnn_jax/signal"

_numbers = itertools.count()

# What JAX's runtime does about a lost process is to abort; see `set_farewell`.
_farewell, _exit_code = "another process is gone", 1


class ConnectError(Exception):
    """The processes did not find one another: one line that names the argument."""


def connect(
    coordinator: str | None, num_processes: int | None, process_id: int | None, *, timeout: int, name: str
) -> None:
    """Join the other processes. To be called before JAX is used for anything.

    Args:
        coordinator: HOST:PORT of the first process; "auto": as the cluster's environment says (Slurm, Open MPI,
            Kubernetes, Cloud TPU), which then knows the other two as well.
        num_processes: how many there are.
        process_id: which this one is, from 0.
        timeout: seconds to wait for the others; then this process ends with exit code 2.
        name: the program's, to begin its last line with.

    Raises:
        ConnectError: the environment tells nothing.
        ValueError: arguments that do not go together.
    """
    auto = coordinator == "auto"
    if not auto:
        _check(coordinator, num_processes, process_id)
    missing = "the other processes" if process_id == 0 else "its answer"
    set_farewell(f"{name}: --coordinator: waited {timeout} s for {missing} at {coordinator}: none came", 2)
    # Not by `signal.signal`, whose handlers wait for the main thread: that may be in a collective that never returns.
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _end)
    try:
        jax.distributed.initialize(
            None if auto else coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
        if auto and "should be defined" in str(error):
            raise ConnectError(
                "coordinator: expected the environment of a cluster (Slurm, Open MPI, Kubernetes, Cloud TPU) for auto, "
                "found none; give HOST:PORT, --num_processes and --process_id"
            ) from None
        reason = str(error).partition("\n")[0]
        raise ConnectError(f"coordinator: cannot join the other processes at {coordinator}: {reason}") from None
    set_farewell(f"{name}: lost another process")


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    host, colon, port = (coordinator or "").rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ValueError(f"coordinator: expected HOST:PORT or auto, found {coordinator!r}")
    if num_processes is None:
        raise ValueError("num_processes: expected their number beside --coordinator, found none")
    if process_id is None or process_id >= num_processes:
        raise ValueError(f"process_id: expected 0 to {num_processes - 1} beside --coordinator, found {process_id}")


def set_farewell(line: str, exit_code: int = 1) -> None:
    """What to say on standard error, and how to end, where JAX's runtime finds another process dead and aborts."""
    global _farewell, _exit_code
    _farewell, _exit_code = line, exit_code


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _end(number: int) -> None:
    if _farewell:
        os.write(2, f"{_farewell}\n".encode())
    os._exit(_exit_code)


def farewell_for(error: BaseException) -> str | None:
    """The same line for an error that may come of another process that is gone; None: it does not."""
    if count() > 1 and (isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)):
        return f"{_farewell} ({str(error).partition(chr(10))[0]})"
    return None


def count() -> int:
    """The number of processes."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that decides, logs and speaks."""
    return jax.process_index() == 0


def agree(value: Any) -> Any:
    """The first process's value, in every process. All must call this in the same order.

    It travels beside the devices' queues, so that nothing has to wait for work in progress.

    Args:
        value: JSON; tuples come back as lists.
    """
    if count() == 1:
        return value
    client = _client()
    number = next(_numbers)
    if is_first():
        client.key_value_set(f"rnn_jax/{number}", json.dumps(value))
        # None can be so far behind: training steps bind the processes together.
        if number >= 1000:
            client.key_value_delete(f"rnn_jax/{number - 1000}")
        return json.loads(json.dumps(value))
    return json.loads(client.blocking_key_value_get(f"rnn_jax/{number}", _PATIENCE * 1000))


def any_signal(received: int | None) -> int | None:
    """The number of a signal that one of the processes received; `agree` on it before acting."""
    if count() == 1:
        return received
    if received is not None and not is_first():
        _client().key_value_set(_SIGNAL, str(received), allow_overwrite=True)
    if received is None and is_first():
        try:
            return int(_client().key_value_try_get(_SIGNAL))
        except jax.errors.JaxRuntimeError:  # not set
            return None
    return received


def leave(code: int) -> None:
    """End this process at once if there are others: those that have no reason to end cannot go on without it."""
    if jax.distributed.is_initialized() and count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        # All is said. If the first process, with JAX's service, is quicker at leaving, this one ends as it would have.
        set_farewell("", code)
        # Others may be about to say why they end too; after a signal, on which all agree, they surely are.
        patience = 30 if code > 128 else 3
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _client().wait_at_barrier("rnn_jax/leave", patience * 1000)
        os._exit(code)


def _client() -> Any:
    return ocp.multihost.get_jax_distributed_client()
