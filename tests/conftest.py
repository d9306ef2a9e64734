"""How the tests run: on all cores, in strict promotion, in double precision on request, compiled in a hurry."""

import functools
import gc
import io
import os
import shutil
import tempfile
from importlib.metadata import version

import jax
import pytest

# Most tests compile a program to run it once on a handful of numbers. XLA's flags for that, and its defaults: five
# times as fast. It refuses to start with a flag that it does not know, and only the oldest version knows the last one.
HURRY = {
    "xla_backend_optimization_level": (0, 3),
    "xla_llvm_disable_expensive_passes": (True, False),
    "xla_cpu_parallel_codegen_split_count": (1, 32),
}
if version("jaxlib").startswith("0.10."):
    HURRY["xla_cpu_use_fusion_emitters"] = (False, True)

# Tracing makes many small objects that live, and Python looks through all of them again and again: a twentieth of the
# time by its own thresholds, (700, 10, 10) in Python 3.11.
COLLECT_GARBAGE = (50_000, 20, 20)

# Where the folder is named in which the workers keep what they compile: what one has compiled, the others read. A tenth
# of the time. The processes that tests start have no part in it: some of them die in the middle of writing.
PROGRAMS = "RNN_JAX_TEST_PROGRAMS"

# A worker imports JAX for itself: seconds, and half a gigabyte.
MOST_WORKERS = 8


def pytest_addoption(parser):
    parser.addoption("--optimized", action="store_true", help="compile as users do, which takes several times as long")


def pytest_xdist_auto_num_workers():
    """One worker more than this process may use cores; on a single core no other process at all.

    Who saves a checkpoint or has started a process waits: on two cores a third worker does something meanwhile.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, MOST_WORKERS) if cores > 1 else 0


def pytest_configure(config):
    gc.set_threshold(*COLLECT_GARBAGE)
    if not hasattr(config, "workerinput"):
        os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="rnn_jax_programs_")
        config.add_cleanup(lambda: shutil.rmtree(os.environ[PROGRAMS], ignore_errors=True))
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if config.getoption("numprocesses", None):
        # What the workers inherit: one thread each, so that they do not fight for the cores.
        os.environ.update(dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    if not config.getoption("--optimized"):
        # Read when the first program is compiled, and inherited by the processes that tests start.
        flags = [f"--{name}={str(value).lower()}" for name, (value, _) in HURRY.items()]
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """Run one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def optimized():
    """`jax.jit` as users have it, for what the optimiser may spoil: equal bits, memory."""
    return functools.partial(jax.jit, compiler_options={name: users for name, (_, users) in HURRY.items()})


@pytest.fixture
def stdin(monkeypatch):
    """Call with a text, or with bytes, for standard input to hold it."""

    def give(text):
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give
