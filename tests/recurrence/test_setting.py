"""How loops are run: what may be asked for, and where it cannot be had."""

import os
import subprocess
import sys

import pytest

from rnn_jax.recurrence import native
from rnn_jax.recurrence import setting as how


def test_an_unknown_setting_is_refused(setting):
    setting("fast")
    with pytest.raises(ValueError, match="RNN_JAX_LOOPS: expected one of auto, fused, packed, xla, found 'fast'"):
        how.way()


def test_what_is_demanded_and_cannot_be_had_is_an_error(setting, monkeypatch):
    def none():
        raise NotImplementedError("expected a processor with AVX2 and FMA, AVX-512 or NEON, found riscv64")

    monkeypatch.setattr(native, "target", none)
    how._reason_against.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="loops are left to XLA: expected a processor"):
            assert how.way() == "xla"
        setting("packed")
        with pytest.raises(ValueError, match="packed loops were demanded: expected a processor"):
            how.way()
    finally:
        how._reason_against.cache_clear()


def test_several_devices_leave_loops_to_xla():
    code = (
        "from rnn_jax.recurrence import setting\n"
        "try: setting.way()\n"
        "except ValueError as error: print(error)\n"
        "import os; os.environ.pop(setting.SETTING); print(setting.way())"
    )
    environment = {
        **os.environ,
        how.SETTING: "packed",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    demanded = "RNN_JAX_LOOPS: packed loops were demanded: expected one device, found 2"
    assert run.stdout.splitlines() == [demanded, "xla"]
