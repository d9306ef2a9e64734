"""A sweep beside its runs one after the other: `python -m benchmarks.sweep`.

Every run is `experiments.charlm` on the built-in text, in this process, from reading the text to result.json: start-up
and compilation are in the times. `--methods` also forces how a sweep executes its runs, which is what the automatic
choice of `rnn_jax.sweep.choose_method` rests on.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import timing
from experiments.charlm import CharLM
from experiments.charlm import main as charlm
from experiments.runner import run_experiment
from rnn_jax.sweep import Space


def run(*arguments: str) -> float:
    """Seconds of one command line of charlm."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as output:
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            try:
                run_experiment("charlm", CharLM, charlm, [*arguments, f"--workdir={folder}/run"])
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(f"{arguments}: {errors.getvalue()}{output.getvalue()}") from None
    return time.perf_counter() - start


def measure(hidden_size: int, sweep: str, steps: int, methods: list[str]) -> dict[str, Any]:
    """One hidden size: the sweep by each method, and its runs alone."""
    common = (f"--hidden_size={hidden_size}", f"--steps={steps}", f"--eval_every={steps}", "--sample_every=none")
    row: dict[str, Any] = {"hidden_size": hidden_size, "steps": steps}
    for method in methods:
        row[f"sweep_{method}_seconds"] = run(*common, f"--sweep={sweep}", f"--sweep_method={method}")
    settings = Space.parse(sweep).grid()
    row["one_by_one_seconds"] = sum(run(*common, *(f"--{n}={v}" for n, v in setting.items())) for setting in settings)
    row["runs"] = len(settings)
    for method in methods:
        row[f"speedup_{method}"] = row["one_by_one_seconds"] / row[f"sweep_{method}_seconds"]
    return row


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--sweep", default="learning_rate=log(1e-4,1e-1,8);seed=0..1")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--methods", nargs="+", default=["auto"], help="auto, vmap, loop, a number of runs at once")
    parser.add_argument("--json", type=Path, help="where the record goes (default: benchmarks/results/)")
    flags = parser.parse_args()
    rows = []
    for size in flags.sizes:
        row = measure(size, flags.sweep, flags.steps, flags.methods)
        rows.append(row)
        times = ", ".join(
            f"{method} {row[f'sweep_{method}_seconds']:.0f} s ({row[f'speedup_{method}']:.2f} x)"
            for method in flags.methods
        )
        print(
            f"H = {size}, {row['runs']} runs: one by one {row['one_by_one_seconds']:.0f} s; sweep {times}", flush=True
        )
    print(timing.write("sweep", {"sweep": flags.sweep, "rows": rows}, flags.json))


if __name__ == "__main__":
    main()
