"""Write the golden files of `tests/golden`: PyTorch's recurrent layers, their outputs and every gradient.

    python -m tools.make_golden        # needs PyTorch; the files in the repository are from torch 2.13.0 (CPU), seed 0

One file a kind of layer (rnn_tanh, rnn_relu, lstm, gru), computed in float64 and kept in float32. Each holds, for the
variants "single" (one layer), "stacked" (two layers) and "bidirectional" (one layer each way): inputs [T, B, D],
initial states, weights under PyTorch's names, outputs, final states, and under "grad." the gradients of
sum(outputs · output_weights) + sum(final states · state_weights) with respect to inputs, initial states and weights.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

STEPS, BATCH, FEATURES, HIDDEN = 6, 3, 2, 4
SEED = 0

LAYERS = {
    "rnn_tanh": lambda **options: torch.nn.RNN(FEATURES, HIDDEN, nonlinearity="tanh", **options),
    "rnn_relu": lambda **options: torch.nn.RNN(FEATURES, HIDDEN, nonlinearity="relu", **options),
    "lstm": lambda **options: torch.nn.LSTM(FEATURES, HIDDEN, **options),
    "gru": lambda **options: torch.nn.GRU(FEATURES, HIDDEN, **options),
}
VARIANTS = {"single": {}, "stacked": {"num_layers": 2}, "bidirectional": {"bidirectional": True}}


def record(kind: str, **options: int | bool) -> dict[str, np.ndarray]:
    """Run one layer forwards and backwards."""
    layer = LAYERS[kind](**options).double()
    runs = layer.num_layers * (2 if layer.bidirectional else 1)
    names = ["hidden", "cell"] if kind == "lstm" else ["hidden"]
    # Drawn in float32, so that the files hold exactly what went in.
    inputs = torch.randn(STEPS, BATCH, FEATURES).double().requires_grad_()
    initial = {name: torch.randn(runs, BATCH, HIDDEN).double().requires_grad_() for name in names}
    outputs, final = layer(inputs, tuple(initial.values()) if kind == "lstm" else initial["hidden"])
    final = dict(zip(names, final if kind == "lstm" else [final], strict=True))

    output_weights = torch.randn(outputs.shape).double()
    state_weights = {name: torch.randn(state.shape).double() for name, state in final.items()}
    loss = (outputs * output_weights).sum()
    loss = loss + sum((final[name] * state_weights[name]).sum() for name in names)
    leaves = {"inputs": inputs} | {f"initial.{name}": state for name, state in initial.items()}
    leaves |= dict(layer.named_parameters())
    gradients = torch.autograd.grad(loss, list(leaves.values()))

    tensors = dict(leaves) | {"outputs": outputs, "output_weights": output_weights}
    tensors |= {f"final.{name}": state for name, state in final.items()}
    tensors |= {f"state_weights.{name}": state for name, state in state_weights.items()}
    tensors |= {f"grad.{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in tensors.items()}


def main() -> None:
    """Write one file a kind."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_golden", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "tests" / "golden")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    for kind in LAYERS:
        arrays = {f"{v}.{name}": a for v, options in VARIANTS.items() for name, a in record(kind, **options).items()}
        arrays["torch"] = np.array(torch.__version__)
        np.savez_compressed(folder / f"{kind}.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
