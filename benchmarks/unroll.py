"""One recurrent layer beside its peers: `python -m benchmarks.unroll`.

Times a training step (gradients of mean(y²) with respect to parameters and inputs) and a forward pass, every framework
in turn in one process, and prints medians and the ratios of medians: our time divided by the peer's, so below 1 we are
faster. "autodiff" is our own loop under plain `lax.scan` differentiation. On a CPU, `--devices` spreads the batch of
every JAX framework over that many devices.
"""

import argparse
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from benchmarks.peers import PEERS

SIZES = ((50, 50, 128, 128), (35, 20, 200, 200), (128, 32, 256, 512), (35, 20, 650, 650))
JAX_PEERS = ("linen", "nnx", "haiku", "equinox")


def size(text: str) -> tuple[int, ...]:
    """Read `TxBxDxH`."""
    numbers = tuple(int(part) for part in text.split("x"))
    if len(numbers) != 4 or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"expected TxBxDxH, found {text!r}")
    return numbers


def measure(
    cell: str, shape: tuple[int, ...], peers: list[str], modes: list[str], seconds: float, rounds: int | None
) -> list[dict[str, Any]]:
    """Time `peers` on one cell and size; one row per mode."""
    steps, batch, features, hidden = shape
    inputs = np.random.default_rng(0).standard_normal((steps, batch, features)).astype(np.float32)
    layers = {name: PEERS[name](cell, inputs, hidden) for name in peers}
    rows = []
    for mode in modes:
        times = timing.alternate(
            {n: getattr(layer, mode) for n, layer in layers.items()}, seconds=seconds, rounds=rounds
        )
        rounds_made = len(times[peers[0]])
        table = timing.summary(times, peers[0])
        rows.append({"cell": cell, "size": list(shape), "mode": mode, "rounds": rounds_made, "times": table})
        rival = [table[n]["median_ms"] for n in JAX_PEERS if n in table]
        if peers[0] == "rnn_jax" and rival:
            rows[-1]["ratio_to_fastest_jax_peer"] = table["rnn_jax"]["median_ms"] / min(rival)
    return rows


def line(row: dict[str, Any], peers: list[str]) -> str:
    """One row of the printed table."""
    times = row["times"]
    fields = [f"{row['cell']:5}{'x'.join(map(str, row['size'])):>15} {row['mode']:8}"]
    fields += [
        f"{times[p]['median_ms']:8.2f}" + (f" ({times[p]['ratio']:4.2f})" if p != peers[0] else "") for p in peers
    ]
    if "ratio_to_fastest_jax_peer" in row:
        fields.append(f"{row['ratio_to_fastest_jax_peer']:5.2f}")
    return " ".join(fields)


def available(names: list[str]) -> list[str]:
    """The peers that are installed; a line for each that is not."""
    found = []
    for name in names:
        try:
            PEERS[name]("gru", np.zeros((1, jax.device_count(), 1), np.float32), 1)
        except ImportError as error:
            print(f"{name}: skipped, {error.name or error} is not installed")
            continue
        found.append(name)
    return found


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.unroll", __doc__)
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, metavar="TxBxDxH")
    parser.add_argument("--cells", nargs="+", choices=("lstm", "gru"), default=["lstm", "gru"])
    parser.add_argument("--peers", nargs="*", choices=list(PEERS)[1:], default=list(PEERS)[1:])
    parser.add_argument("--seconds", type=float, default=12.0, help="for each cell, size and mode")
    parser.add_argument("--repeats", type=int, help="exactly this many rounds, in place of --seconds")
    parser.add_argument("--train", action="store_true", help="the training step only")
    parser.add_argument("--forward", action="store_true", help="the forward pass only")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices, for all frameworks that know of any")
    flags = timing.read_flags(parser)

    if flags.devices > 1:
        jax.config.update("jax_num_cpu_devices", flags.devices)
    both = flags.train == flags.forward
    modes = [mode for mode in ("train", "forward") if both or getattr(flags, mode)]
    peers = available(["rnn_jax", *flags.peers])
    place = timing.machine()
    print(f"{place['device']}, {place['cores']} cores, jax {timing.versions()['jax']}; milliseconds (ours / theirs)")
    headings = [f"{p:>8}" if p == peers[0] else f"{p:>15}" for p in peers]
    print(f"{'cell':5}{'TxBxDxH':>15} {'mode':8} " + " ".join(headings) + "  best JAX")
    rows = []
    for cell in flags.cells:
        for shape in flags.sizes:
            for row in measure(cell, shape, peers, modes, flags.seconds, flags.repeats):
                rows.append(row)
                print(line(row, peers), flush=True)
    name = "unroll" if flags.devices == 1 else f"unroll_{flags.devices}-devices"
    print(timing.write(name, {"rows": rows}, flags.json))


if __name__ == "__main__":
    main()
