"""How loops are run: by XLA, by XLA on packed matrices, or whole as machine code of their own."""

import functools
import os
import warnings

import jax

from rnn_jax.recurrence import native

# The environment variable. auto: the fastest way that a loop and the machine permit; fused: the loops of cells whole as
# machine code, an error where one cannot be that; packed: products by packed matrices, an error where there can be
# none; xla: neither.
SETTING = "RNN_JAX_LOOPS"
WAYS = ("auto", "fused", "packed", "xla")


class LoopsError(ValueError):
    """RNN_JAX_LOOPS is set to what does not exist, or demands what cannot be had."""


@functools.cache
def _reason_against() -> str | None:
    """Why loops cannot use machine code of their own here; None if they can."""
    if jax.default_backend() != "cpu":
        return f"expected a CPU, found {jax.default_backend()}"
    if jax.device_count() > 1:
        return f"expected one device, found {jax.device_count()}"
    try:
        native.target()
    except NotImplementedError as error:
        warnings.warn(f"loops are left to XLA: {error}", RuntimeWarning, stacklevel=2)
        return str(error)
    return None


def way() -> str:
    """How loops are to be run, by the environment variable RNN_JAX_LOOPS and by what this machine is.

    Returns:
        One of `WAYS`; "xla" where the machine permits nothing else.

    Raises:
        LoopsError: a setting that does not exist; machine code was demanded and cannot be had.
    """
    setting = os.environ.get(SETTING, "auto")
    if setting not in WAYS:
        raise LoopsError(f"{SETTING}: expected one of {', '.join(WAYS)}, found {setting!r}")
    reason = None if setting == "xla" else _reason_against()
    if reason is None:
        return setting
    if setting != "auto":
        raise LoopsError(f"{SETTING}: {setting} loops were demanded: {reason}")
    return "xla"
