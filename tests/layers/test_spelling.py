"""The spelling of words against loops over their characters."""

import jax
import jax.numpy as jnp
import numpy as np
from drawing import draw_variables

from rnn_jax.layers import Spelling

WORDS = jnp.array([[[3, 1, 2, 0, 0], [4, 4, 0, 0, 0]], [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]])


def build():
    layer = Spelling(symbols=4, filters=6, embedding_size=3)
    return layer, draw_variables(layer, WORDS)


def test_it_is_the_largest_value_of_each_filter_over_the_word():
    layer, variables = build()
    params = variables["params"]
    table, kernel, bias = (
        np.asarray(part)
        for part in (params["Embed_0"]["embedding"], params["Dense_0"]["kernel"], params["Dense_0"]["bias"])
    )
    found = np.asarray(jax.jit(layer.apply)(variables, WORDS))
    for place in np.ndindex(2, 2):
        word = [number for number in np.asarray(WORDS)[place] if number]
        around = [np.zeros(3), *[table[number] for number in word], np.zeros(3)]
        values = [np.maximum(np.concatenate(around[c : c + 3]) @ kernel + bias, 0) for c in range(len(word))]
        np.testing.assert_allclose(found[place], np.max(values, axis=0) if word else np.zeros(6), atol=1e-6)


def test_room_behind_a_word_changes_nothing_and_gets_no_gradient():
    layer, variables = build()
    wider = jnp.pad(WORDS, [(0, 0), (0, 0), (0, 4)])
    apply = jax.jit(layer.apply)
    np.testing.assert_allclose(apply(variables, wider), apply(variables, WORDS), atol=1e-7)
    gradient = jax.jit(jax.grad(lambda variables: layer.apply(variables, wider).sum()))(variables)
    assert not gradient["params"]["Embed_0"]["embedding"][0].any()


def test_words_with_no_room_for_a_character():
    layer, variables = build()
    assert jax.jit(layer.apply)(variables, WORDS[..., :0]).tolist() == np.zeros((2, 2, 6)).tolist()
