"""What teacher forcing without a loop gains: `python -m benchmarks.jordan`.

A training step (loss and gradient) of a Jordan network on sequences of `--length` steps, three ways: all steps at once
(`rnn_jax.teacher_forced`); the same numbers by a scan that reads the previous target at each step; and the free run,
where each step waits for the output before it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import rnn_jax
from benchmarks import timing
from rnn_jax.cells import JordanCarry


def rivals(
    length: int, batch: int, features: int, hidden: int, outputs: int
) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[..., Any]]]:
    """The calls to time, and the gradients as functions of the parameters, for comparing them."""
    cell = rnn_jax.jordan(hidden, output_size=outputs)
    keys = jax.random.split(jax.random.key(0), 3)
    params = cell.init(keys[0], features)
    inputs = jax.random.normal(keys[1], (length, batch, features))
    targets = jnp.tanh(jax.random.normal(keys[2], (length, batch, outputs)))

    def at_once(params: Any, inputs: Any, targets: Any) -> Any:
        return rnn_jax.teacher_forced(cell, params, inputs, targets)[1]

    def scan(params: Any, inputs: Any, targets: Any) -> Any:
        def step(previous: Any, xs: Any) -> Any:
            x, target = xs
            return target, cell(params, JordanCarry(previous), x)[1]

        return jax.lax.scan(step, jnp.zeros_like(targets[0]), (inputs, targets))[1]

    def free(params: Any, inputs: Any, targets: Any) -> Any:
        return rnn_jax.unroll(cell, params, inputs)[1]

    steps, calls = {}, {}
    for name, run in {"at_once": at_once, "scan": scan, "free_run": free}.items():

        def loss(params: Any, inputs: Any, targets: Any, run: Callable[..., Any] = run) -> Any:
            return jnp.mean((run(params, inputs, targets) - targets) ** 2)

        step = jax.jit(jax.value_and_grad(loss))
        steps[name] = lambda step=step: step(params, inputs, targets)
        calls[name] = lambda step=step: jax.block_until_ready(step(params, inputs, targets))
    return calls, steps


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.jordan", __doc__)
    parser.add_argument("--length", type=int, default=512, help="time steps")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--features", type=int, default=32, help="of an input step")
    parser.add_argument("--hidden_size", type=int, default=64)
    parser.add_argument("--outputs", type=int, default=32, help="of an output step")
    parser.add_argument("--seconds", type=float, default=10.0, help="time to spend on each batch size")
    flags = timing.read_flags(parser)

    rows = []
    for batch in flags.batch_sizes:
        sizes = {"length": flags.length, "batch": batch, "features": flags.features}
        sizes |= {"hidden": flags.hidden_size, "outputs": flags.outputs}
        calls, steps = rivals(**sizes)
        once, scanned = steps["at_once"](), steps["scan"]()
        pairs = zip(jax.tree.leaves(once[1]), jax.tree.leaves(scanned[1]), strict=True)
        difference = max(float(jnp.abs(x - y).max() / jnp.abs(y).max()) for x, y in pairs)
        table = timing.summary(timing.alternate(calls, seconds=flags.seconds), "at_once")
        rows.append({**sizes, "gradient_difference": difference, "times": table})
        for name, row in table.items():
            gain = f"  at once is {1 / row['ratio']:.1f} times as fast" if "ratio" in row else ""
            print(f"T = {flags.length}, B = {batch:3} {name:9} {row['median_ms']:9.2f} ms{gain}", flush=True)
        print(f"gradients of at_once and scan differ by {difference:.1e} of their largest element")
    print(timing.write("jordan", {"rows": rows}, flags.json))


if __name__ == "__main__":
    main()
