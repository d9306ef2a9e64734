"""Products by the same matrix at every step of a loop, packed and left to XLA: `python -m benchmarks.products`.

A loop of 100 steps, h = tanh(h W)[:, :K], for h [M, K] and W [K, N]; with several matrices a step multiplies by each of
them in turn, which shows what it costs to fetch them from farther than the nearest cache. Packing is timed with the
loop.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import timing
from rnn_jax.recurrence.packed import packed_products

STEPS = 100
SIZES = ["2x64x256", "32x64x256", "50x128x512", "20x200x800", "32x512x2048", "20x650x2600", "5x256x1024x8"]


def rivals(height: int, depth: int, width: int, matrices: int) -> dict[str, Callable[[], Any]]:
    """The two loops."""
    keys = jax.random.split(jax.random.key(0), matrices + 1)
    hidden = jax.random.normal(keys[0], (height, depth))
    weights = [jax.random.normal(key, (depth, width)) / depth**0.5 for key in keys[1:]]

    @functools.partial(jax.jit, static_argnums=2)
    def run(hidden: Any, weights: Any, packs: bool) -> Any:
        def body(hidden: Any, _: None) -> Any:
            for w in weights:
                hidden = jnp.tanh(hidden @ w)[:, :depth]
            return hidden, None

        step = packed_products(body, hidden, None) if packs else body
        return jax.lax.scan(step, hidden, length=STEPS)[0]

    return {
        name: lambda packs=packs: jax.block_until_ready(run(hidden, weights, packs))
        for name, packs in {"packed": True, "xla": False}.items()
    }


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.products", __doc__)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="MxKxN, or MxKxNxMATRICES")
    parser.add_argument("--seconds", type=float, default=10.0, help="time to spend on each size")
    flags = timing.read_flags(parser)

    rows = []
    for text in flags.sizes:
        height, depth, width, *several = map(int, text.split("x"))
        matrices = several[0] if several else 1
        calls = rivals(height, depth, width, matrices)
        difference = float(jnp.abs(calls["packed"]() - calls["xla"]()).max())
        table = timing.summary(timing.alternate(calls, seconds=flags.seconds), "packed")
        rows.append({"size": text, "difference": difference, "times": table})
        operations = 2 * height * depth * width * matrices * STEPS
        for name, row in table.items():
            gain = f"  packed is {1 / row['ratio']:.2f} times as fast" if "ratio" in row else ""
            print(f"{text:>14} {name:7} {operations / row['median_ms'] / 1e6:7.1f} GFLOP/s{gain}", flush=True)
    print(timing.write("products", {"rows": rows}, flags.json))


if __name__ == "__main__":
    main()
