"""The papers' equations in NumPy float64, one time step after another, written apart from the library.

`ORACLES[name](params, options)` returns a step `(carry, x) -> (carry, y)` on single rows: x [D], carry a tuple of [H].
A cell that is registered in `CELLS` and has no entry here fails the table of laws.
"""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


PHI = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: np.where(x > 0.0, x, 0.0),
    "identity": lambda x: x,
    "hard_tanh": lambda x: np.clip(x, -1.0, 1.0),
    "hard_sigmoid": lambda x: np.clip((x + 3.0) / 6.0, 0.0, 1.0),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
}


def columns(matrix, gates):
    """The blocks of a matrix [D, gates·H], or of a vector [gates·H], one for each gate."""
    size = matrix.shape[-1] // gates
    return [matrix[..., gate * size : (gate + 1) * size] for gate in range(gates)]


def elman(params, options):
    """h_t = φ(W x_t + R h_tm1 + b)."""
    phi = PHI[options.get("activation", "tanh")]

    def step(carry, x):
        (h,) = carry
        h = phi(x @ params["input"] + h @ params["recurrent"] + params["bias"])
        return (h,), h

    return step


def lstm(params, options):
    """Gers, Schmidhuber & Cummins 2000, without peepholes; gates in the order i, f, g, o."""
    phi, sigma = PHI[options.get("activation", "tanh")], PHI[options.get("gate_activation", "sigmoid")]
    w_i, w_f, w_g, w_o = columns(params["input"], 4)
    r_i, r_f, r_g, r_o = columns(params["recurrent"], 4)
    b_i, b_f, b_g, b_o = columns(params["bias"], 4)

    def step(carry, x):
        h, c = carry
        i = sigma(x @ w_i + h @ r_i + b_i)
        f = sigma(x @ w_f + h @ r_f + b_f)
        g = phi(x @ w_g + h @ r_g + b_g)
        o = sigma(x @ w_o + h @ r_o + b_o)
        c = f * c + i * g
        h = o * phi(c)
        return (h, c), h

    return step


def gru(params, options):
    """Cho et al. 2014 with biases; "after" applies the reset gate to the product, as cuDNN does."""
    phi, sigma = PHI[options.get("activation", "tanh")], PHI[options.get("gate_activation", "sigmoid")]
    after = options.get("reset", "after") == "after"
    w_r, w_z, w_n = columns(params["input"], 3)
    b_r, b_z, b_n = columns(params["bias"], 3)
    if after:
        r_r, r_z, r_n = columns(params["recurrent"], 3)
    else:
        (r_r, r_z), r_n = columns(params["recurrent"], 2), params["candidate"]

    def step(carry, x):
        (h,) = carry
        r = sigma(x @ w_r + h @ r_r + b_r)
        z = sigma(x @ w_z + h @ r_z + b_z)
        product = r * (h @ r_n + params["candidate_bias"]) if after else (r * h) @ r_n
        n = phi(x @ w_n + b_n + product)
        h = (1.0 - z) * n + z * h
        return (h,), h

    return step


def jordan(params, options):
    """Jordan 1986: the hidden layer sees the last output."""
    phi, psi = PHI[options.get("activation", "tanh")], PHI[options.get("output_activation", "identity")]

    def step(carry, x):
        (y,) = carry
        h = phi(x @ params["input"] + y @ params["recurrent"] + params["bias"])
        y = psi(h @ params["output"] + params["output_bias"])
        return (y,), y

    return step


ORACLES = {"elman": elman, "lstm": lstm, "gru": gru, "jordan": jordan}


def run(step, carry, initial, inputs, mask, reset):
    """Every sequence of a batch by itself, every step by itself.

    Args:
        step: `(carry, x) -> (carry, y)` on single rows.
        carry: tuple of [B, H], before the first step.
        initial: tuple of [B, H], what a reset restores.
        inputs: [T, B, D]. mask, reset: [T, B] bool.

    Returns:
        The carries after the last step, tuple of [B, H], and the outputs [T, B, H].
    """
    finals, outputs = [], []
    for row in range(inputs.shape[1]):
        state = tuple(leaf[row] for leaf in carry)
        ys = []
        for t in range(inputs.shape[0]):
            if reset[t, row]:
                state = tuple(leaf[row] for leaf in initial)
            new, y = step(state, inputs[t, row])
            if mask[t, row]:
                state = new
            ys.append(y if mask[t, row] else np.zeros_like(y))
        finals.append(state)
        outputs.append(ys)
    final = tuple(np.stack([state[leaf] for state in finals]) for leaf in range(len(carry)))
    return final, np.array(outputs).swapaxes(0, 1)
