"""A recurrent network is a program: two hand-set units compute the parity of 10,000 bits without a single error."""

import jax.numpy as jnp
import numpy as np

from rnn_jax import elman, unroll

# With s the parity so far and x the next bit, s xor x = |s - x| = relu(s - x) + relu(x - s): the two units are the two
# terms, and their sum, read by the recurrent weights, is s.
PARITY = {
    "input": jnp.asarray([[-1.0, 1.0]]),
    "recurrent": jnp.asarray([[1.0, -1.0], [1.0, -1.0]]),
    "bias": jnp.zeros(2),
}


def test_parity_of_ten_thousand_bits():
    bits = np.random.default_rng(0).integers(0, 2, (10_000, 3))
    inputs = jnp.asarray(bits[..., None], jnp.float32)
    carry, outputs = unroll(elman(2, activation="relu"), PARITY, inputs)
    np.testing.assert_array_equal(outputs.sum(-1), np.cumsum(bits, axis=0) % 2)
    np.testing.assert_array_equal(carry.hidden.sum(-1), bits.sum(0) % 2)
