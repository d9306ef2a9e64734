"""A sweep beside its runs one after the other: `python -m benchmarks.sweep`.

Every run is `experiments.charlm` on the built-in text, from reading the text to result.json. Each side has a fresh
process of its own: start-up and compilation are in the times. `--methods` also forces how a sweep executes its runs,
which is what the automatic choice of `rnn_jax.sweep.choose_method` rests on.
"""

import contextlib
import io
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import timing
from rnn_jax.sweep import Space


def run(commands: list[list[str]]) -> None:
    """Command lines of charlm, one after the other in this process."""
    from experiments.charlm import CharLM, main
    from experiments.runner import run_experiment

    for arguments in commands:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as output:
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors):
                try:
                    run_experiment("charlm", CharLM, main, [*arguments, f"--workdir={folder}/run"])
                except SystemExit as end:
                    if end.code:
                        raise RuntimeError(f"{arguments}: {errors.getvalue()}{output.getvalue()}") from None


def seconds(*commands: list[str]) -> float:
    """Seconds of a fresh process that does them."""
    start = time.perf_counter()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(run, list(commands)).result()
    return time.perf_counter() - start


def measure(hidden_size: int, sweep: str, steps: int | None, methods: list[str]) -> dict[str, Any]:
    """One hidden size: the sweep by each method, and its runs alone."""
    common = [f"--hidden_size={hidden_size}"]
    if steps is not None:
        common += [f"--steps={steps}", f"--eval_every={steps}", "--sample_every=none"]
    row: dict[str, Any] = {"sweep": sweep, "hidden_size": hidden_size, "steps": steps}
    for method in methods:
        row[f"sweep_{method}_seconds"] = seconds([*common, f"--sweep={sweep}", f"--sweep_method={method}"])
    settings = Space.parse(sweep).grid()
    alone = [[*common, *(f"--{name}={value}" for name, value in setting.items())] for setting in settings]
    row["one_by_one_seconds"] = seconds(*alone)
    row["runs"] = len(settings)
    for method in methods:
        row[f"speedup_{method}"] = row["one_by_one_seconds"] / row[f"sweep_{method}_seconds"]
    return row


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.sweep", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--sweep", default="learning_rate=log(1e-4,1e-1,8);seed=0..1")
    parser.add_argument(
        "--steps",
        type=int,
        help="steps of every run, one evaluation at their end (default: those of charlm, its evaluations, its samples)",
    )
    parser.add_argument("--methods", nargs="+", default=["auto"], help="auto, vmap, loop, a number of runs at once")
    flags = timing.read_flags(parser)
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
    print(timing.write("sweep", {"rows": rows}, flags.json))


if __name__ == "__main__":
    main()
