"""Bidirectional layers: two unrolls, merged; two stacks; packed texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawing import draw_variables

import rnn_jax
from rnn_jax.layers import Bidirectional, Recurrent, Stack
from rnn_jax.layers.bidirectional import merge_directions

INPUTS = jax.random.normal(jax.random.key(0), (5, 2, 3))
MASK = jnp.arange(5)[:, None] < jnp.array([5, 3])
ELMAN = rnn_jax.elman(4)


def directions(params, backward):
    return (
        rnn_jax.unroll(ELMAN, params["forward_layer"]["cell"], INPUTS, mask=MASK),
        rnn_jax.unroll(backward, params["backward_layer"]["cell"], INPUTS, mask=MASK, reverse=True),
    )


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("concat", lambda f, b: np.concatenate([f, b], axis=-1)),
        ("sum", lambda f, b: f + b),
        ("mean", lambda f, b: (f + b) / 2),
        ("multiply", lambda f, b: f * b),
    ],
)
def test_merges(merge, expected):
    """Of outputs that the layer itself gives as a pair."""
    layer = Bidirectional(ELMAN, merge=merge)
    variables = draw_variables(layer, INPUTS)
    _, outputs = layer.apply(variables, INPUTS, mask=MASK)
    _, pair = Bidirectional(ELMAN, merge="none").apply(variables, INPUTS, mask=MASK)
    np.testing.assert_allclose(outputs, expected(*map(np.asarray, pair)), rtol=1e-6)
    np.testing.assert_array_equal(merge_directions(merge, *pair), outputs)


def test_without_a_merge_the_directions_may_differ_in_family_and_width():
    backward = rnn_jax.lstm(6)
    layer = Bidirectional(ELMAN, backward, merge="none")
    variables = draw_variables(layer, INPUTS)
    (first, last), outputs = layer.apply(variables, INPUTS, mask=MASK)
    (forward_carry, forward), (backward_carry, behind) = directions(variables["params"], backward)
    np.testing.assert_array_equal(outputs[0], forward)
    np.testing.assert_array_equal(outputs[1], behind)
    np.testing.assert_array_equal(first.hidden, forward_carry.hidden)
    np.testing.assert_array_equal(last.cell, backward_carry.cell)


def test_directions_have_parameters_of_their_own():
    params = jax.jit(Bidirectional(ELMAN).init)(jax.random.key(1), INPUTS)["params"]
    assert set(params) == {"forward_layer", "backward_layer"}
    assert not np.allclose(*(params[name]["cell"]["recurrent"] for name in params))


def test_two_stacks_meet_at_the_top():
    layer = Bidirectional(Stack([ELMAN, rnn_jax.elman(5)]), merge="sum")
    variables = draw_variables(layer, INPUTS)
    carries, outputs = layer.apply(variables, INPUTS, mask=MASK)
    params = variables["params"]
    expected = []
    for name, reverse in (("forward_layer", False), ("backward_layer", True)):
        below = INPUTS
        for index, cell in enumerate((ELMAN, rnn_jax.elman(5))):
            cell_params = params[name][f"layer_{index}"]["cell"]
            _, below = rnn_jax.unroll(cell, cell_params, below, mask=MASK, reverse=reverse)
        expected.append(below)
    np.testing.assert_allclose(outputs, expected[0] + expected[1], rtol=1e-6)
    assert [len(carry) for carry in carries] == [2, 2]


def test_a_batch_major_layer_is_the_same_turned_around():
    layer = Bidirectional(Recurrent(ELMAN))
    variables = draw_variables(layer, INPUTS)
    reset = jnp.zeros((5, 2), bool).at[3, 0].set(True)
    _, expected = layer.apply(variables, INPUTS, reset=reset)
    turned = Bidirectional(Recurrent(ELMAN, time_major=False))
    _, outputs = turned.apply(variables, INPUTS.swapaxes(0, 1), reset=reset.T)
    np.testing.assert_allclose(outputs.swapaxes(0, 1), expected, rtol=1e-6)


def test_one_sequence_has_no_batch_to_be_major():
    reset = jnp.zeros(5, bool).at[2].set(True)
    layer, turned = (Stack([ELMAN, ELMAN], bidirectional=True, time_major=major) for major in (True, False))
    variables = draw_variables(layer, INPUTS[:, 0])
    (carry, outputs), (turned_carry, found) = (
        each.apply(variables, INPUTS[:, 0], reset=reset) for each in (layer, turned)
    )
    np.testing.assert_array_equal(found, outputs)
    jax.tree.map(np.testing.assert_array_equal, turned_carry, carry)


def test_packed_texts_do_not_see_each_other():
    layer = Bidirectional(ELMAN)
    variables = draw_variables(layer, INPUTS)
    reset = jnp.zeros((5, 2), bool).at[2, 0].set(True)
    _, packed = layer.apply(variables, INPUTS, reset=reset)
    for part in (slice(0, 2), slice(2, 5)):
        _, alone = layer.apply(variables, INPUTS[part, :1])
        np.testing.assert_allclose(packed[part, :1], alone, rtol=1e-5, atol=1e-6)


def test_each_direction_goes_on_from_its_carry():
    layer = Bidirectional(ELMAN, merge="none")
    variables = draw_variables(layer, INPUTS)
    _, (forward, backward) = layer.apply(variables, INPUTS)
    (carry, _), _ = layer.apply(variables, INPUTS[:2])
    (_, carry_behind), _ = layer.apply(variables, INPUTS[2:])
    _, (second, _) = layer.apply(variables, INPUTS[2:], (carry, None))
    _, (_, first) = layer.apply(variables, INPUTS[:2], (None, carry_behind))
    np.testing.assert_allclose(second, forward[2:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first, backward[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Bidirectional(ELMAN, merge="add"), "merge: expected one of concat, .*, found 'add'"),
        (Bidirectional(ELMAN, rnn_jax.elman(5), merge="sum"), "merge: 'sum' expected two directions of one width"),
        (Bidirectional(Stack([ELMAN]), dtype="bfloat16"), "dtype: expected None beside layers"),
    ],
)
def test_errors_name_the_argument(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), INPUTS)


def test_a_carry_is_a_pair():
    with pytest.raises(ValueError, match=r"carry: expected a pair, \(forward, backward\), found 1"):
        Bidirectional(ELMAN).init(jax.random.key(0), INPUTS, (None,))
