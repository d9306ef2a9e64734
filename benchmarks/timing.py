"""Alternating timing of rival functions in one process, and the record that is kept of it."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnn_jax.sweep import cores

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "dm-haiku", "equinox", "torch", "numpy")

# glibc hands every large buffer of XLA back to the system and faults it in again at the next call unless told not to.
# The arenas that threads have of their own do so whatever the thresholds say: all share one.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def alternate(
    functions: Mapping[str, Callable[[], Any]], *, seconds: float = 10.0, rounds: int | None = None, calls: int = 3
) -> dict[str, np.ndarray]:
    """Time rivals in turns, so that whatever else the machine does falls on all of them alike.

    A round visits every function once, in an order that rotates from round to round. A visit makes one untimed call (it
    takes the caches back and lets the threads of the previous framework fall asleep), then `calls` timed ones.

    Args:
        functions: name -> a call that returns only when its result is ready.
        seconds: stop after about this long, but not before 5 rounds.
        rounds: make exactly this many rounds instead.
        calls: timed calls in a visit.

    Returns:
        name -> seconds per call, `[rounds]`: the median of each visit.
    """
    names = list(functions)
    for name in names:
        functions[name]()
        functions[name]()
    visits: dict[str, list[float]] = {name: [] for name in names}
    start, done = time.perf_counter(), 0
    while done < rounds if rounds is not None else done < 5 or time.perf_counter() - start < seconds:
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            function = functions[name]
            function()
            times = []
            for _ in range(calls):
                before = time.perf_counter()
                function()
                times.append(time.perf_counter() - before)
            visits[name].append(float(np.median(times)))
        done += 1
    return {name: np.array(times) for name, times in visits.items()}


def summary(times: Mapping[str, np.ndarray], baseline: str) -> dict[str, dict[str, float]]:
    """Median and quartiles of each in milliseconds, and the time of `baseline` divided by theirs.

    Returns:
        name -> `median_ms`, `lower_quartile_ms`, `upper_quartile_ms`, and for all but `baseline` the `ratio` of medians
        (below 1: `baseline` is faster) with the quartiles of the same ratio taken round by round.
    """
    table = {}
    for name, values in times.items():
        lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75]) * 1e3
        row = {"median_ms": float(median), "lower_quartile_ms": float(lower), "upper_quartile_ms": float(upper)}
        if name != baseline:
            row["ratio"] = float(np.median(times[baseline]) / np.median(values))
            lower, upper = np.quantile(times[baseline] / values, [0.25, 0.75])
            row |= {"ratio_lower_quartile": float(lower), "ratio_upper_quartile": float(upper)}
        table[name] = row
    return table


def versions() -> dict[str, str]:
    """Python, and each known package that is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor as it names itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the measurement ran on."""
    return {
        "device": jax.devices()[0].device_kind if jax.default_backend() != "cpu" else cpu_model(),
        "backend": jax.default_backend(),
        "cpu": cpu_model(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "malloc": all(os.environ.get(name) == value for name, value in MALLOC.items()),
    }


def write(benchmark: str, record: Mapping[str, Any], path: Path | None = None) -> Path:
    """Keep `record` with versions and machine as JSON: `results/BENCHMARK_DEVICE.json` unless `path` is given."""
    place = machine()
    if path is None:
        device = re.sub(r"\((r|tm)\)", "", place["device"], flags=re.IGNORECASE)
        name = "-".join(re.findall(r"[a-z0-9.]+", device.lower()))
        allocator = "_malloc" if place["malloc"] else ""
        path = RESULTS / f"{benchmark}_{name}_{place['cores']}-cores{allocator}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": benchmark, "machine": place, "versions": versions(), **record}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """The flags that every benchmark has; those of its own are added to them.

    Args:
        module: the benchmark, such as benchmarks.unroll.
        doc: its docstring, whose first line --help shows.
    """
    flags = argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").partition("\n")[0])
    flags.add_argument("--malloc", action="store_true", help="let glibc keep large buffers, for all frameworks alike")
    flags.add_argument("--json", type=Path, help="where the record goes (default: benchmarks/results/)")
    return flags


def read_flags(flags: argparse.ArgumentParser, malloc: bool = False) -> argparse.Namespace:
    """The flags given. For --malloc, or `malloc`, the program starts again, with `MALLOC` in its environment."""
    given = flags.parse_args()
    if (given.malloc or malloc) and any(os.environ.get(name) != value for name, value in MALLOC.items()):
        command = [sys.executable, *flags.prog.split()[1:], *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | MALLOC)
    return given
