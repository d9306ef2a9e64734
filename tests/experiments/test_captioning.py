"""Captioning from the command line, on a few dozen scenes."""

import functools

import numpy as np
import pytest
from in_process import call, read

import rnn_jax
from experiments.captioning import Captioning, captions, main
from rnn_jax.data.scenes import draw_scenes

captioning = functools.partial(call, "captioning", Captioning, main)

SMALL = (
    "--cell=elman",
    "--hidden_size=6",
    "--embedding_size=4",
    "--channels=3,4",
    "--features=5",
    "--batch_size=8",
    "--steps=4",
)
QUIET = ("--eval_every=none", "--sample_every=none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained run, for tests that only read it, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    code, out, err = captioning("--scenes=40", f"--workdir={run}", "--sample_every=2", "--eval_every=none", *SMALL)
    assert code == 0, err
    return run, out


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sets in files, good and bad, by name."""
    folder = tmp_path_factory.mktemp("files")
    scenes = draw_scenes(40, "train")
    texts = np.array(scenes.captions)
    np.savez(folder / "good.npz", images=scenes.images, captions=texts)
    np.savez(folder / "narrow.npz", images=scenes.images[:, :, :20], captions=texts)
    np.savez(folder / "grey.npz", images=scenes.images[..., 0], captions=texts)
    np.savez(folder / "fewer.npz", images=scenes.images, captions=texts[:9])
    np.savez(folder / "empty.npz", images=scenes.images, captions=np.where(np.arange(40) == 7, "", texts))
    (folder / "text.npz").write_text("a small red circle")
    return folder


def test_a_run_leaves_all_that_was_promised(trained):
    run, out = trained
    result = read(run)
    assert set(result["metrics"]) == {
        "val_loss",
        "val_exact_match",
        "test_exact_match",
        "test_new_objects_exact_match",
    }
    assert result["data"]["sizes"] == {"train": 40, "dev": 4, "test": 4, "new_objects": 4}
    for name in (
        "config.json",
        "metrics.jsonl",
        "loss.png",
        "val_captions.png",
        "test_captions.png",
        "test_new_objects_captions.png",
    ):
        assert (run / name).exists()
    assert "captions [and truth] after 2 steps" in out
    assert "test_exact_match" in out


def test_predict_describes_images_with_the_run_and_does_not_train(trained, files):
    run, _ = trained
    before = (run / "result.json").read_bytes()
    code, out, err = captioning(f"--workdir={run}", f"--predict={files / 'good.npz'}")
    assert (code, err) == (0, "")
    loaded = rnn_jax.load(run)
    images = np.load(files / "good.npz")["images"]
    # An image alone gets the caption that it gets in a batch.
    alone = [captions(loaded.model, loaded.params, loaded.vocabulary, images[n : n + 1])[0] for n in range(3)]
    assert out.splitlines()[:3] == alone
    assert len(out.splitlines()) == 40
    assert (run / "result.json").read_bytes() == before


def test_a_set_of_ones_own(files, tmp_path):
    run = tmp_path / "run"
    good = files / "good.npz"
    code, _, err = captioning(
        f"--train={good}", f"--test={good}", f"--workdir={run}", "--context=state", *SMALL, *QUIET
    )
    assert code == 0, err
    result = read(run)
    assert result["data"]["name"] == str(good)
    assert sum(result["data"]["sizes"][split] for split in ("train", "dev")) == 40
    assert set(result["metrics"]) == {"val_loss", "val_exact_match", "test_exact_match"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context=output"], "--context: expected one of input, state, both, found 'output'"),
        (["--train=grey.npz"], "train: expected images uint8 [N, height, width, channels] in 'grey.npz', found uint8"),
        (["--train=good.npz", "--test=narrow.npz"], "test: expected images uint8 [N, 32, 32, 3] in 'narrow.npz'"),
        (["--train=good.npz", "--dev=narrow.npz"], "dev: expected images uint8 [N, 32, 32, 3] in 'narrow.npz'"),
        (["--train=fewer.npz"], "train: expected captions text [40], one an image, in 'fewer.npz', found text [9]"),
        (["--train=empty.npz"], "in 'empty.npz', found an empty one, captions[7]"),
        (["--train=text.npz"], "train: expected an .npz file"),
        (["--train=missing.npz"], "train: expected a file, found none at 'missing.npz'"),
        (["--workdir=RUN", "--predict=narrow.npz"], "predict: expected images uint8 [N, 32, 32, 3] in 'narrow.npz'"),
        (["--predict=good.npz"], "--predict: expected a trained run as --workdir, found none"),
    ],
)
def test_bad_input_is_one_line_and_code_2(trained, files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    code, out, err = captioning(*[argument.replace("RUN", str(trained[0])) for argument in arguments])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(files.glob("runs/*"))
