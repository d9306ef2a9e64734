"""Sweep expressions, and one function for many settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untyped import untyped

from rnn_jax import gru, unroll
from rnn_jax.sweep import Space, SpaceError, _stacked, choose_method, over_runs, sweep


def test_every_kind_of_axis():
    space = Space.parse(
        " learning_rate = log(1e-4, 1e-1, 4) ; clip_norm=1,2.5;cell=lstm, gru(reset=before) ;seed=-1..1;x=lin(0,1,3);"
    )
    assert space.names == ("learning_rate", "clip_norm", "cell", "seed", "x")
    values = [axis.values for axis in space.axes]
    assert values == [(1e-4, 1e-3, 1e-2, 1e-1), (1, 2.5), ("lstm", "gru(reset=before)"), (-1, 0, 1), (0.0, 0.5, 1.0)]


def test_the_grid_is_every_combination_the_last_name_fastest():
    grid = Space.parse("a=1,2;b=x,y").grid()
    assert grid == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_an_interval_of_one_value_in_the_grid_is_drawn_from_as_a_whole():
    space = Space.parse("rate=log(1e-4,1,1);share=lin(0,2,1)")
    assert space.grid() == [{"rate": 1e-4, "share": 0.0}]
    drawn = space.sample(200)
    assert min(setting["rate"] for setting in drawn) < 1e-3
    assert max(setting["rate"] for setting in drawn) > 0.1
    assert np.ptp([setting["share"] for setting in drawn]) > 1.5


def test_random_settings_fill_the_intervals():
    space = Space.parse("rate=log(1e-4,1,2);width=3..5;share=lin(0,2,2);cell=lstm,gru")
    drawn = space.sample(2000)
    rates = np.log10([setting["rate"] for setting in drawn])
    # Uniform on a logarithmic scale: mean -2, deviation 4 / sqrt(12), five standard errors allowed.
    assert abs(rates.mean() + 2) < 5 * 4 / np.sqrt(12 * 2000)
    assert rates.min() >= -4
    assert rates.max() <= 0
    assert {setting["width"] for setting in drawn} == {3, 4, 5}
    assert {setting["cell"] for setting in drawn} == {"lstm", "gru"}
    assert len({setting["share"] for setting in drawn}) > 1900
    assert space.sample(3, seed=1) != space.sample(3, seed=2)
    assert space.sample(3, seed=1) == space.sample(3, seed=1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected name=values"),
        ("1e-3,1e-2", "expected name=values at character 1 "),
        ("a=1;b", "expected name=values at character 5 of 'a=1;b', found 'b'"),
        ("a=1;a=2", "expected a once at character 5"),
        ("a=1,,2", "values between commas at character 3"),
        ("a=", "values between commas"),
        ("a=log(1,2)", r"expected log\(low,high,count\) at character 3"),
        ("seed=0;a= log(0,2,3)", "0 < low <= high, count >= 1 at character 11"),
        ("a=lin(2,1,3)", "low <= high"),
        ("a=log(1,2,2.5)", "count"),
        ("a=log(1,2,inf)", "count >= 1 at character 3"),
        ("a=log(1,2,nan)", "count >= 1 at character 3"),
        ("a=lin(1,inf,3)", "low <= high"),
        ("seed=0...3", "range of whole numbers such as 0..3 by itself at character 6 of 'seed=0...3', found '0...3'"),
        ("a=0.1..0.5", "range of whole numbers"),
        ("a=0..", "range of whole numbers"),
        ("a=5, 0..2", "by itself at character 6 of 'a=5, 0..2', found '0..2'"),
        ("a=1 2", "expected a number"),
        ("a=1,log(1,2,3)", r"log\(low,high,count\) or lin\(low,high,count\) by itself at character 5"),
        ("a=LOG(1,2,3)", "by itself at character 3"),
        ("a=1,nan", "expected a finite number at character 5"),
        ("a=-inf", "expected a finite number"),
        ("a=3..1", "from the smaller to the larger number"),
        ("a=gru(reset=before", "parentheses in pairs"),
    ],
)
def test_what_is_no_space_is_shown_where(text, match):
    with pytest.raises(SpaceError, match=match):
        Space.parse(text)


def train(learning_rate, momentum=0.0, steps=20, power="2"):
    """Gradient descent on |x|^power: a whole training as a pure function."""

    def step(state, _):
        x, velocity = state
        velocity = momentum * velocity - learning_rate * jax.grad(lambda x: jnp.abs(x) ** int(power))(x)
        return (x + velocity, velocity), x

    return jax.lax.scan(step, (jnp.float32(1), jnp.float32(0)), None, length=steps)[1]


@pytest.mark.parametrize(
    "method", ["auto", "vmap", "map", *(pytest.param(m, marks=pytest.mark.slow) for m in ("devices", 3, 1))]
)
def test_a_sweep_equals_its_runs(method):
    space = "learning_rate=log(1e-3,3e-1,4);momentum=0.0,0.9;power=2,3"
    texts = [dict(setting, power=str(setting["power"])) for setting in Space.parse(space).grid()]
    found = sweep(train, texts, method=method)
    assert found.settings == texts
    for setting, result in zip(found.settings, found.results, strict=True):
        np.testing.assert_allclose(result, train(**setting), rtol=1e-6, atol=1e-7)


def test_one_program_for_each_combination_of_static_values():
    traces = []

    def function(x, size, kind):
        traces.append((size, kind))
        return x * jnp.ones(()) * size

    found = sweep(function, "x=1.0,2.0,3.0;size=2,4;kind=a,b", static=["size"], method="vmap")
    assert sorted(traces) == [(2, "a"), (2, "b"), (4, "a"), (4, "b")]
    np.testing.assert_array_equal(found.results, [s["x"] * s["size"] for s in found.settings])


def test_texts_may_look_like_much():
    assert Space.parse("corpus=../a.txt,../b 2.txt;cell=lstm(forget_bias=1),e1").grid()[1] == {
        "corpus": "../a.txt",
        "cell": "e1",
    }


def test_names_that_the_function_does_not_have():
    with pytest.raises(ValueError, match="space: expected arguments of the function, x, found 'y'"):
        sweep(lambda x: x, "y=1..3")
    with pytest.raises(ValueError, match="static: expected names of the space, x, found 'z'"):
        sweep(lambda x: x, "x=1..3", static=["z"])
    assert sweep(lambda **given: given["y"], "y=1..3").results.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    ["x=1,3000000000", "seed=4294967296", "seed=-1,3000000000", "x=1e39", "x=1,1e-46", "x=16777217,0.5"],
)
def test_numbers_that_32_bits_do_not_hold(text):
    name = text.partition("=")[0]
    with pytest.raises(ValueError, match=rf"^space: expected numbers of \w+( bits)? for {name}, found "):
        sweep(lambda **given: given[name], text)


@pytest.mark.parametrize(
    "function",
    [
        lambda n, x: jnp.zeros(n).sum() + x,
        lambda n, x: x if n > 2 else -x,
        lambda n, x: jnp.asarray(np.sin(n), jnp.float32) + x,
    ],
)
def test_a_traced_name_that_decides_a_shape_or_a_branch(function):
    with pytest.raises(ValueError, match=r"static: expected those of the names n, x that decide a shape or a branch"):
        sweep(function, "n=1..3;x=0.5,1.5")
    assert sweep(function, "n=1..3;x=0.5,1.5", static=["n"]).results.shape == (6,)


def test_an_error_of_the_function_itself_is_not_another():
    with pytest.raises(TypeError, match="unsupported operand"):
        sweep(lambda x: x + "a", "x=1..3")


def test_what_is_no_number_is_named():
    with pytest.raises(ValueError, match=r"^space: expected numbers for x, which is not static, found \[None\]$"):
        untyped(_stacked)("x", [None])


def test_seeds_of_all_32_bits():
    found = sweep(lambda seed: jax.random.bits(jax.random.key(seed)), "seed=4294967295,1")
    assert found.results.tolist() == [int(jax.random.bits(jax.random.key(s))) for s in (np.uint32(4294967295), 1)]


def test_more_memory_than_there_is_makes_chunks(monkeypatch):
    chunks = []
    monkeypatch.setattr("rnn_jax.sweep.over_runs", lambda f, m: chunks.append(m) or over_runs(f, m))
    monkeypatch.setattr("rnn_jax.sweep.free_memory", lambda: 1)
    found = sweep(lambda x: x * 2, "x=1..5", method="vmap")
    assert found.results.tolist() == [2, 4, 6, 8, 10]
    assert chunks == ["vmap", 3, 2, 1]


def test_settings_that_differ_in_texts_alone():
    found = sweep(lambda kind: jnp.asarray(len(kind)), "kind=a,bb,ccc")
    assert found.results.tolist() == [1, 2, 3]


def test_settings_may_leave_a_name_to_its_default():
    def total(x=0, y=100):
        return jnp.asarray(x + y)

    assert sweep(total, [{"x": 1}, {"x": 1, "y": 2}, {"y": 3}, {"x": 4}]).results.tolist() == [101, 3, 3, 104]


def test_settings_that_give_nothing_to_put_together():
    with pytest.raises(ValueError, match="space: expected at least one setting, found none"):
        sweep(lambda x: x, [])
    with pytest.raises(ValueError, match=r"function: expected results of one form .* found \(2,\), \(3,\)"):
        sweep(lambda n: jnp.zeros(n), "n=2,3", static=["n"])


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"method: expected auto, .* found 'fast'"):
        sweep(lambda kind: jnp.asarray(len(kind)), "kind=a,bb", method="fast")
    with pytest.raises(
        ValueError, match="method: expected auto, vmap, map, devices or a positive number, found 'fast'"
    ):
        over_runs(jnp.sin, "fast")


@pytest.mark.parametrize(("width", "expected"), [(16, "vmap"), (512, "map")])
def test_on_a_cpu_the_matrices_of_loops_decide(width, expected):
    weights = jnp.ones((width, width))

    def loop(rate):
        return jax.lax.scan(lambda h, _: (rate * h @ weights, None), jnp.ones((2, width)), None, length=3)[0]

    assert choose_method(loop, 0.5) == (expected if jax.default_backend() == "cpu" else "vmap")
    # A product outside any loop does not count, nor does how much is multiplied at once.
    assert choose_method(lambda rate: rate * weights @ weights, 0.5) == "vmap"


@pytest.mark.parametrize(("hidden_size", "expected"), [(16, "vmap"), (64, "map")])
def test_the_size_of_a_batch_does_not_matter(hidden_size, expected):
    cell = gru(hidden_size)
    params = cell.init(jax.random.key(0), 3)

    def loss(rate, params):
        return (rate * unroll(cell, params, jnp.ones((5, 300, 3)))[1]).sum()

    found = choose_method(jax.grad(loss, 1), 0.5, params)
    assert found == (expected if jax.default_backend() == "cpu" else "vmap")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=lin(0,1234567,2)", [0, 1234567]),
        ("x=lin(1000000,1000002,3)", [1000000, 1000001, 1000002]),
        ("x=log(1e-4,1e-1,4)", [1e-4, 1e-3, 1e-2, 1e-1]),
        ("x=lin(0,1,4)", [0, 0.333333, 0.666667, 1]),
    ],
)
def test_values_stay_between_the_bounds_and_apart(text, values):
    assert [setting["x"] for setting in Space.parse(text).grid()] == values
    low, high = values[0], values[-1]
    assert all(low <= setting["x"] <= high for setting in Space.parse(text).sample(50))


def test_equal_values_of_other_types_are_other_programs():
    def kind(x, p):
        return x * 0 + (1.0 if isinstance(p, int) else 2.0)

    settings = [{"x": 1.0, "p": 2}, {"x": 1.0, "p": 2.0}]
    assert sweep(kind, settings, static=["p"]).results.tolist() == [1.0, 2.0]
