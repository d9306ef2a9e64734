"""What segments save: `python -m benchmarks.memory`.

Temporary memory of the compiled training step of one layer (outputs, and gradients with respect to parameters and
inputs), as XLA accounts for it, for `segment=None` and `segment="sqrt"`, the largest difference between the two
gradients, and the time that the second costs. XLA's figure counts no inputs and no results, which are the same in both.

Two steps are measured. "layer": the gradient with respect to the outputs is given, so that nothing counts but what the
layer itself needs. "mean_square": the loss is mean(y²), whose outputs and their gradient are temporary in both, and are
all that the segmented step needs but a few carries.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.unroll import size
from rnn_jax import cells, unroll

STEPS = ("layer", "mean_square")


def measure(
    cell_name: str, shape: tuple[int, ...], step: str, segments: list[int | str | None], rounds: int
) -> dict[str, Any]:
    """Compile, run and compare the same step with each `segment`; the first is the reference."""
    steps, batch, features, hidden = shape
    cell = cells.make(cell_name, hidden)
    params = cell.init(jax.random.key(0), features)
    inputs = jax.random.normal(jax.random.key(1), (steps, batch, features))
    upstream = jax.random.normal(jax.random.key(2), (steps, batch, hidden))
    memory, gradients, calls = {}, {}, {}
    for segment in segments:

        def layer(params: Any, inputs: Any, segment: Any = segment) -> Any:
            return unroll(cell, params, inputs, segment=segment)[1]

        def train(params: Any, inputs: Any, upstream: Any, layer: Any = layer) -> Any:
            outputs, pull = jax.vjp(layer, params, inputs)
            if step == "layer":
                return pull(upstream), outputs
            return pull(jax.grad(lambda y: jnp.mean(jnp.square(y)))(outputs)), None

        compiled = jax.jit(train).lower(params, inputs, upstream).compile()
        name = str(segment)
        analysis = compiled.memory_analysis()
        assert analysis is not None, "this backend does not say how much memory a program takes"
        memory[name] = analysis.temp_size_in_bytes
        gradients[name] = jax.tree.map(np.asarray, compiled(params, inputs, upstream)[0])
        calls[name] = lambda compiled=compiled: jax.block_until_ready(compiled(params, inputs, upstream))
    first = str(segments[0])

    def difference(name: str) -> float:
        """The largest, as a fraction of the largest element of each gradient."""
        pairs = zip(jax.tree.leaves(gradients[name]), jax.tree.leaves(gradients[first]), strict=True)
        return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)

    times = timing.summary(timing.alternate(calls, rounds=rounds, calls=1), first)
    return {
        "cell": cell_name,
        "size": list(shape),
        "step": step,
        "segments": {
            name: {
                "temporary_bytes": memory[name],
                "ratio": memory[name] / memory[first],
                "largest_relative_gradient_difference": difference(name),
                "median_ms": times[name]["median_ms"],
            }
            for name in memory
        },
    }


def segment_size(text: str) -> int | str:
    """Read a number of steps, or `sqrt`."""
    return text if text == "sqrt" else int(text)


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.memory", __doc__)
    parser.add_argument("--sizes", type=size, nargs="+", default=[(4096, 32, 256, 256)], metavar="TxBxDxH")
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"])
    parser.add_argument("--segments", type=segment_size, nargs="+", default=["sqrt"])
    parser.add_argument("--repeats", type=int, default=1, help="rounds of timing")
    flags = timing.read_flags(parser)

    rows = []
    for cell, shape, step in itertools.product(flags.cells, flags.sizes, STEPS):
        row = measure(cell, shape, step, [None, *flags.segments], flags.repeats)
        rows.append(row)
        for name, part in row["segments"].items():
            print(
                f"{cell} {'x'.join(map(str, shape))} {step} segment={name}: {part['temporary_bytes'] / 2**20:.0f} MiB"
                f" ({part['ratio']:.3f}), {part['median_ms']:.0f} ms, gradients differ by"
                f" {part['largest_relative_gradient_difference']:.1e}",
                flush=True,
            )
    print(timing.write("memory", {"rows": rows}, flags.json))


if __name__ == "__main__":
    main()
