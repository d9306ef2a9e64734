"""What a stack reads of symbols."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.layers import VariationalDropout
from rnn_jax.models.embedding import embedded

TABLE = jnp.arange(1.0, 9.0).reshape(4, 2)
TOKENS = jnp.arange(12).reshape(6, 2) % 4


class Reader(nn.Module):
    drop: nn.Module
    deterministic: bool

    def __call__(self, tokens):
        return embedded(TABLE.__getitem__, len(TABLE), tokens, self.drop, self.deterministic)


def read(drop, deterministic, tokens=TOKENS):
    read = jax.jit(Reader(drop, deterministic).apply)
    return jax.tree.map(np.asarray, read({}, tokens, rngs={"dropout": jax.random.key(0)}))


@pytest.mark.parametrize(("rate", "deterministic"), [(0.5, True), (0.0, False)])
def test_a_small_vocabulary_is_read_by_number(rate, deterministic):
    inputs, table = read(nn.Dropout(rate), deterministic)
    np.testing.assert_array_equal(inputs, TOKENS)
    np.testing.assert_array_equal(table, TABLE)


def test_a_large_one_by_its_vectors():
    inputs, table = read(nn.Dropout(0.5), True, TOKENS[:3])
    assert table is None
    np.testing.assert_array_equal(inputs, TABLE[TOKENS[:3]])


@pytest.mark.parametrize("kind", [nn.Dropout, VariationalDropout])
def test_what_dropout_acts_on_are_vectors(kind):
    inputs, table = read(kind(0.5), False)
    assert table is None
    assert 0 < (inputs == 0).sum() < inputs.size
    np.testing.assert_array_equal(inputs[inputs != 0], 2 * TABLE[TOKENS][inputs != 0])
