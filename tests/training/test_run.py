"""The folder of a run: fresh, resumed, refused, loaded."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax.models
from rnn_jax.data import Vocabulary
from rnn_jax.training.checkpoint import Checkpoints, Progress
from rnn_jax.training.optimizers import make_optimizer
from rnn_jax.training.run import RunError, describe, load, open_run, read_config
from rnn_jax.training.state import TrainState

CONFIG = {"size": 3, "rate": 0.1, "widths": (1, 2), "steps": 10}


class Small(nn.Module):
    """A module with fields of every kind that JSON holds."""

    size: int
    widths: tuple[int, ...] = (1,)
    name_of_cell: str = "gru"
    rate: float | None = None

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.size)(inputs)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(rnn_jax.models, "Small", Small, raising=False)


def begun(path, **options):
    run = open_run("toy", CONFIG, workdir=path)
    run.begin(model=Small(2), **options)
    return run


def test_default_folders_are_numbered_and_never_shared(tmp_path):
    runs = [open_run("toy", CONFIG, root=tmp_path / "runs") for _ in range(3)]
    names = [run.path.name for run in runs]
    assert [name.rpartition("-")[2] for name in names] == ["1", "2", "3"]
    assert all(name.startswith("toy-20") for name in names)
    assert not any(run.resumed for run in runs)


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path):
    empty, begun_only, trained = (open_run("toy", CONFIG, root=tmp_path / "runs") for _ in range(3))
    begun_only.begin(model=Small(2), data={"name": "text"})
    trained.begin(model=Small(2))
    (trained.path / "metrics.jsonl").write_text("")
    resumed = open_run("toy", CONFIG, workdir=begun(tmp_path / "runs" / "resumed").path)
    for run in (empty, begun_only, trained, resumed):
        run.discard()
    assert set((tmp_path / "runs").iterdir()) == {trained.path, resumed.path}
    assert (trained.path / "config.json").exists()


def test_a_run_is_resumed_with_its_own_settings(tmp_path):
    begun(tmp_path / "run")
    changed = CONFIG | {"size": 4, "rate": 0.5, "steps": 20}
    run = open_run("toy", changed, given={"steps"}, free={"steps"}, workdir=tmp_path / "run")
    assert run.resumed
    assert run.config == {"size": 3, "rate": 0.1, "widths": [1, 2], "steps": 20}
    run.begin(model=Small(2))
    assert read_config(tmp_path / "run") == {"experiment": "toy", "config": run.config}


def test_the_same_value_may_be_given_again(tmp_path):
    begun(tmp_path / "run")
    assert open_run("toy", CONFIG, given=set(CONFIG), workdir=tmp_path / "run").config["widths"] == [1, 2]


def test_a_setting_younger_than_the_run_takes_its_default(tmp_path):
    begun(tmp_path / "run")
    run = open_run("toy", CONFIG | {"new": 7}, workdir=tmp_path / "run")
    assert run.config["new"] == 7


@pytest.mark.parametrize(
    ("experiment", "config", "message"),
    [
        ("toy", CONFIG | {"size": 4, "widths": (1,)}, r"size \(3 in the run, 4 now\), widths \(\[1, 2\] in the run, "),
        ("other", CONFIG, "expected a run of other, found one of toy"),
        ("toy", {"size": 3}, "has settings that this version does not know: rate, steps, widths"),
    ],
)
def test_a_run_that_differs_is_refused(tmp_path, experiment, config, message):
    begun(tmp_path / "run")
    with pytest.raises(RunError, match=message) as error:
        open_run(experiment, config, given=set(config), workdir=tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError, match="expected a run, an empty folder or a new name, found something else"):
            open_run("toy", CONFIG, workdir=path)
    (tmp_path / "empty").mkdir()
    assert not open_run("toy", CONFIG, workdir=tmp_path / "empty").resumed


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    run = open_run("toy", CONFIG, workdir=tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"workdir: cannot write .*: Not a directory"):
        run.begin(model=Small(2))
    with pytest.raises(RunError, match=r"workdir: cannot write .*: Not a directory"):
        open_run("toy", CONFIG, root=tmp_path / "file" / "runs")


def test_a_config_that_is_damaged(tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"workdir: cannot read .*config.json"):
        open_run("toy", CONFIG, workdir=tmp_path / "run")
    for other in ('{"model_type": "bert"}', "[1]"):
        (tmp_path / "run" / "config.json").write_text(other)
        with pytest.raises(RunError, match=r"workdir: expected a run, found another config.json in"):
            open_run("toy", CONFIG, workdir=tmp_path / "run")


@pytest.mark.parametrize("name", ["~no such user/x", "x" * 300])
def test_names_that_no_folder_can_have(name):
    with pytest.raises(RunError, match="workdir: expected a folder, found"):
        open_run("toy", CONFIG, workdir=name)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"data": {"name": "text", "sha256": "b"}}, "data.json"),
        ({"vocabulary": Vocabulary(("a", "c"), "char")}, "vocabulary.json"),
    ],
)
def test_a_resumed_run_must_find_its_data(tmp_path, changed, name):
    same = {"data": {"name": "text", "sha256": "a"}, "vocabulary": Vocabulary(("a", "b"), "char")}
    begun(tmp_path / "run", **same)
    begun(tmp_path / "run", **same)
    with pytest.raises(RunError, match=rf"trained on other data than is given now \({name} differs\)"):
        begun(tmp_path / "run", **(same | changed))


def test_a_part_keeps_the_settings_that_it_had(tmp_path):
    run = begun(tmp_path / "run")
    run.part("first", seed=1).begin(model=Small(2))
    part = run.part("first", seed=2)
    part.begin(model=Small(2))
    assert read_config(part.path)["config"]["seed"] == 2
    run.refuse()
    assert read_config(part.path)["config"]["seed"] == 1


def test_result(tmp_path):
    run = begun(tmp_path / "run", data={"name": "text"})
    run.write_result(
        metrics={"val_loss": 1.5, "words_per_second": float("nan")}, steps=7, seconds=1.23456, parameters=9
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"] == {"val_loss": 1.5, "words_per_second": None}
    # The speed of seven steps is told by nobody at first, then by the second.
    for value, steps, known in ((math.nan, 7, None), (2.5, 7, 2.5), (math.nan, 7, 2.5), (math.nan, 8, None)):
        # An accuracy that is not a number now was one of something else.
        metrics = {"words_per_second": value, "accuracy": value}
        told = run.write_result(metrics=metrics, steps=steps, seconds=1.0, parameters=9)
        np.testing.assert_equal(told, {"words_per_second": math.nan if known is None else known, "accuracy": value})
        found = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
        assert found == {"words_per_second": known, "accuracy": value if math.isfinite(value) else None}
    (tmp_path / "run" / "result.json").write_text("damaged")
    run.write_result(metrics={"val_loss": 1.5}, steps=7, seconds=1.23456, parameters=9)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["steps"], result["seconds"], result["parameters"]) == (7, 1.235, 9)
    assert result["data"] == {"name": "text"}
    assert "jax" in result["versions"]


@pytest.mark.parametrize(
    "vocabulary",
    [
        None,
        Vocabulary(("a", "b"), "char"),
        {"source": Vocabulary(("a",), "char"), "target": Vocabulary(("b",), "char")},
    ],
)
def test_load_needs_nothing_but_the_folder(tmp_path, vocabulary):
    model = Small(2, widths=(3, 4), rate=0.5)
    run = open_run("toy", CONFIG, workdir=tmp_path / "run")
    run.begin(model=model, vocabulary=vocabulary)
    with pytest.raises(RunError, match="has no checkpoint yet"):
        load(tmp_path / "run")

    params = model.init(jax.random.key(0), jnp.zeros((1, 3)))
    optimizer = make_optimizer("adam", learning_rate=0.1)
    state = TrainState.create(params, optimizer, carry=jnp.zeros(3), key=jax.random.key(1))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(state, Progress(step=1), best=True)
    checkpoints.save(state.replace(params=jax.tree.map(jnp.zeros_like, params)), Progress(step=2))
    checkpoints.close()

    loaded = load(str(tmp_path / "run"))
    assert (loaded.model, loaded.vocabulary, loaded.experiment) == (model, vocabulary, "toy")
    assert loaded.config == {**CONFIG, "widths": [1, 2]}
    inputs = jnp.ones((2, 3))
    np.testing.assert_array_equal(loaded.model.apply(loaded.params, inputs), model.apply(params, inputs))
    assert not np.any(load(tmp_path / "run", best=False).params["params"]["Dense_0"]["kernel"])


def test_load_of_no_run(tmp_path):
    with pytest.raises(RunError, match=r"workdir: expected a run, found no config.json in "):
        load(tmp_path)
    begun(tmp_path / "run")
    description = json.loads((tmp_path / "run" / "model.json").read_text())
    (tmp_path / "run" / "model.json").write_text(json.dumps(description | {"class": "Forgotten"}))
    with pytest.raises(RunError, match="holds a model that this version does not know: Forgotten"):
        load(tmp_path / "run")


def test_describe_is_the_class_and_its_arguments():
    expected = {"size": 2, "widths": (1,), "name_of_cell": "gru", "rate": None}
    assert describe(Small(2)) == {"class": "Small", "arguments": expected}
    assert {field.name for field in dataclasses.fields(Small)} - set(expected) == {"parent", "name"}
