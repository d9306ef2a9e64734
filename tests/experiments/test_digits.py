"""Reading and drawing digits from the command line, with networks of a few units."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call, read

import rnn_jax
from experiments.digits import DigitsConfig, independent_pixels_loss, main
from rnn_jax.data.digits import Digits, folds, load_digits

digits = functools.partial(call, "digits", DigitsConfig, main)

SMALL = ("--cell=elman", "--hidden_size=6", "--folds=2", "--batch_size=64", "--eval_every=none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of both tasks, for tests that only read it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    code, _, err = digits(f"--workdir={run}", "--steps=6", "--schedule=constant", *SMALL)
    assert code == 0, err
    return run


def test_a_run_leaves_all_that_was_promised(trained):
    result = read(trained)
    assert set(result["metrics"]) == {
        "test_accuracy",
        "test_accuracy_std",
        "baseline_accuracy",
        "draw_val_loss",
        "draw_baseline_loss",
        "drawn_recognised",
    }
    assert result["steps"] == 3 * 6
    assert 0.95 < result["metrics"]["baseline_accuracy"] < 0.98
    for name in ("config.json", "loss.png", "read.png", "drawn.png", "fold_2/loss.png", "draw/loss.png"):
        assert (trained / name).exists()
    for folder, kind in (("", "VectorClassifier"), ("fold_2", "VectorClassifier"), ("draw", "Drawer")):
        assert type(rnn_jax.load(trained / folder).model).__name__ == kind


def test_the_accuracy_is_that_of_the_saved_models_on_what_they_have_not_seen(trained):
    data = load_digits()
    accuracies = []
    for folder, fold in zip(("", "fold_2"), folds(data.labels, 2, 0), strict=True):
        loaded = rnn_jax.load(trained / folder)
        inputs = (data.images[fold].astype(np.float32) / 8 - 1).transpose(1, 0, 2)
        answers = loaded.model.apply({"params": loaded.params}, jnp.asarray(inputs)).argmax(-1)
        accuracies.append(np.mean(answers == data.labels[fold]))
        assert read(trained / folder, "data.json")["sha256"]["test"] == data.take(fold).sha256
    assert read(trained)["metrics"]["test_accuracy"] == pytest.approx(np.mean(accuracies))


def test_a_run_that_stopped_between_two_of_its_networks_goes_on(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "draw")
    (run / "result.json").unlink()
    code, _, err = digits(f"--workdir={run}")
    assert code == 0, err
    assert read(run)["metrics"] == read(trained)["metrics"]
    one, other = (rnn_jax.load(path / "draw", best=False).params for path in (run, trained))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_predict_reads_and_sample_draws(trained, tmp_path):
    np.savez(tmp_path / "three.npz", images=load_digits().images[:3])
    code, out, err = digits(f"--workdir={trained}", f"--predict={tmp_path / 'three.npz'}")
    assert (code, err) == (0, "")
    loaded = rnn_jax.load(trained)
    inputs = (load_digits().images[:3].astype(np.float32) / 8 - 1).transpose(1, 0, 2)
    chances = jax.nn.softmax(loaded.model.apply({"params": loaded.params}, jnp.asarray(inputs)))
    assert out.splitlines() == [f"{row.argmax()}  {row.max():.3f}" for row in np.asarray(chances)]

    code, out, err = digits(f"--workdir={trained}", "--sample=205")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 8
    assert max(map(len, out.splitlines())) <= 2 * 8 * 3
    assert digits(f"--workdir={trained}", "--sample=205")[1] == out
    assert digits(f"--workdir={trained}", "--sample=205", "--seed=1")[1] != out


@pytest.mark.slow
def test_pixel_by_pixel_and_one_task_alone(tmp_path):
    run = tmp_path / "run"
    code, _, err = digits(f"--workdir={run}", "--task=read", "--read=pixels", "--steps=2", *SMALL)
    assert code == 0, err
    assert set(read(run)["metrics"]) == {"test_accuracy", "test_accuracy_std", "baseline_accuracy"}
    assert rnn_jax.load(run).params["Stack_0"]["layer_0"]["cell"]["input"].shape[0] == 1
    assert not (run / "draw").exists()


def test_the_loss_of_independent_pixels_by_hand():
    """Two training images of one class: each pixel's level has been seen twice, once each, or never."""
    train = Digits(np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int32))
    train.images[1, 0, 0] = 16
    valid = train.take(np.array([1]))
    smoothing = 1 / 17
    expected = -(63 * np.log((2 + smoothing) / 3) + np.log((1 + smoothing) / 3)) / 64
    assert independent_pixels_loss(train, valid) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds=1"], "--folds: expected a whole number at least 2, found '1'"),
        (["--folds=175"], "folds: expected 2 to 174, as many as the rarest class has examples, found 175"),
        (["--read=columns"], "--read: expected one of rows, pixels, found 'columns'"),
        (["--sample=12", "--workdir=missing"], "--workdir: expected a trained run, found none in missing"),
        (["--sample=one", "--workdir=RUN"], "--sample: expected digits, such as 2048, found 'one'"),
        (
            ["--predict=large.npz", "--workdir=RUN"],
            "predict: expected images, numbers [N, 8, 8], in 'large.npz', found",
        ),
        (["--predict=missing.npz", "--workdir=RUN"], "predict: expected a file, found none at 'missing.npz'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.savez("large.npz", images=np.zeros((2, 28, 28)))
    code, out, err = digits(*[argument.replace("RUN", str(trained)) for argument in arguments])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("runs/*"))
