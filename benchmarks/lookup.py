"""What reading a table's rows by number gains: `python -m benchmarks.lookup`.

A training step (loss and gradient) of one layer on `--length` steps of `--batch_size` sequences of symbols, two ways:
the layer given the rows (`unroll(cell, params, table[symbols])`), and the layer that looks them up
(`rnn_jax.cells.lookup`), for vocabularies of several sizes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import rnn_jax
from benchmarks import timing
from rnn_jax.cells import lookup, make


def rivals(
    cell: str, length: int, batch: int, rows: int, features: int, hidden: int
) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """The calls to time: each gives the loss and the gradient."""
    layer = make(cell, hidden)
    keys = jax.random.split(jax.random.key(0), 4)
    params, table = layer.init(keys[0], features), jax.random.normal(keys[1], (rows, features))
    symbols = jax.random.randint(keys[2], (length, batch), 0, rows)
    wanted = jax.random.normal(keys[3], (length, batch, hidden))

    def given(params: Any, table: Any) -> Any:
        return rnn_jax.unroll(layer, params, table[symbols])[1]

    def looked_up(params: Any, table: Any) -> Any:
        return rnn_jax.unroll(lookup(layer), {"cell": params, "table": table}, symbols)[1]

    calls = {}
    for name, run in {"given": given, "looked_up": looked_up}.items():

        def loss(params: Any, table: Any, run: Callable[..., Any] = run) -> Any:
            return jnp.mean((run(params, table) - wanted) ** 2)

        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        calls[name] = lambda step=step: jax.block_until_ready(step(params, table))
    return calls


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.lookup", __doc__)
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"])
    parser.add_argument("--rows", nargs="+", type=int, default=[100, 500, 1000], help="of the table")
    parser.add_argument("--length", type=int, default=64, help="time steps")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--features", type=int, default=64, help="of a row")
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0, help="time to spend on each table")
    flags = timing.read_flags(parser)

    records = []
    for cell in flags.cells:
        for rows in flags.rows:
            sizes = {"length": flags.length, "batch": flags.batch_size, "rows": rows}
            sizes |= {"features": flags.features, "hidden": flags.hidden_size}
            calls = rivals(cell, **sizes)
            pairs = zip(*(jax.tree.leaves(call()[1]) for call in calls.values()), strict=True)
            difference = max(float(jnp.abs(x - y).max() / jnp.abs(x).max()) for x, y in pairs)
            times = timing.summary(timing.alternate(calls, seconds=flags.seconds), "looked_up")
            records.append({"cell": cell, **sizes, "gradient_difference": difference, "times": times})
            median, ratio = times["looked_up"]["median_ms"], times["given"]["ratio"]
            print(
                f"{cell}, {rows:5} rows: looked up {median:.1f} ms, {ratio:.2f} of the time of rows given", flush=True
            )
            print(f"gradients differ by {difference:.1e} of their largest element", flush=True)
    print(timing.write("lookup", {"rows": records}, flags.json))


if __name__ == "__main__":
    main()
