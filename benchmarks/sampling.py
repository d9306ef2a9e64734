"""Sampling characters one by one, beside a PyTorch loop: `python -m benchmarks.sampling`.

One sequence of `--length` characters from an LSTM language model (vocabulary 65, embedding 256, 256 units), drawn in
one call here, and in PyTorch by a loop of one step at a time under `inference_mode`. Weights are random: the work is
the same. PyTorch runs on one thread, which is faster for products of a single row.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import timing

VOCABULARY, HIDDEN = 65, 256


def ours(cell: str, length: int) -> Callable[[], Any]:
    """`continue_text`: prompt, loop and draws in one compiled program."""
    from rnn_jax.models import language_model

    model = language_model.LanguageModel(VOCABULARY, cell, HIDDEN)
    prompt = jnp.zeros((1, 1), jnp.int32)
    variables: Any = model.init(jax.random.key(0), prompt)

    def run() -> Any:
        _, tokens = language_model.continue_text(model, variables, prompt, length, jax.random.key(1), temperature=0.8)
        return jax.block_until_ready(tokens)

    return run


def torch(cell: str, length: int) -> Callable[[], Any]:
    """`torch.nn.LSTM` step by step, the drawn token fed back without leaving the device."""
    import torch

    torch.set_num_threads(1)
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    embedding = torch.nn.Embedding(VOCABULARY, HIDDEN).to(device)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](HIDDEN, HIDDEN).to(device).eval()
    readout = torch.nn.Linear(HIDDEN, VOCABULARY).to(device)

    def run() -> Any:
        state = None
        tokens = torch.zeros(length + 1, 1, dtype=torch.long, device=device)
        with torch.inference_mode():
            for t in range(length):
                outputs, state = layer(embedding(tokens[t : t + 1]), state)
                probabilities = torch.softmax(readout(outputs[0]) / 0.8, dim=-1)
                tokens[t + 1] = torch.multinomial(probabilities, 1)[:, 0]
        return tokens.cpu()

    return run


def torch_cell(cell: str, length: int) -> Callable[[], Any]:
    """The same over `torch.nn.LSTMCell`, which spares the layer's overhead."""
    import torch

    torch.set_num_threads(1)
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    embedding = torch.nn.Embedding(VOCABULARY, HIDDEN).to(device)
    step = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[cell](HIDDEN, HIDDEN).to(device).eval()
    readout = torch.nn.Linear(HIDDEN, VOCABULARY).to(device)

    def run() -> Any:
        state = None
        tokens = torch.zeros(length + 1, 1, dtype=torch.long, device=device)
        with torch.inference_mode():
            for t in range(length):
                state = step(embedding(tokens[t]), state)
                hidden = state[0] if cell == "lstm" else state
                probabilities = torch.softmax(readout(hidden) / 0.8, dim=-1)
                tokens[t + 1] = torch.multinomial(probabilities, 1)[:, 0]
        return tokens.cpu()

    return run


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.sampling", __doc__)
    parser.add_argument("--cells", nargs="+", choices=("lstm", "gru"), default=["lstm"])
    parser.add_argument("--length", type=int, default=10_000, help="characters a call")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    flags = timing.read_flags(parser)

    rows = []
    for cell in flags.cells:
        calls = {"rnn_jax": ours(cell, flags.length)}
        for name, make in (("torch", torch), ("torch_cell", torch_cell)):
            try:
                calls[name] = make(cell, flags.length)
            except ImportError as error:
                print(f"{name}: skipped, {error.name or error} is not installed")
        table = timing.summary(timing.alternate(calls, rounds=flags.repeats, calls=1), "rnn_jax")
        rows.append({"cell": cell, "length": flags.length, "hidden_size": HIDDEN, "times": table})
        for name, row in table.items():
            speed = flags.length / row["median_ms"] * 1e3
            faster = f"  ours is {1 / row['ratio']:.1f} times faster" if "ratio" in row else ""
            print(f"{cell:5} {name:11} {row['median_ms']:9.1f} ms {speed:10.0f} characters/s{faster}", flush=True)
    print(timing.write("sampling", {"rows": rows}, flags.json))


if __name__ == "__main__":
    main()
