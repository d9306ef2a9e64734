"""The character language model from the command line, on a text of a few lines."""

import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call, read

import rnn_jax
from experiments.charlm import CharLM, main
from rnn_jax.sweep import device_memory

charlm = functools.partial(call, "charlm", CharLM, main)

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = [
    "--hidden_size=8",
    "--embedding_size=4",
    "--batch_size=4",
    "--bptt=8",
    "--eval_every=none",
    "--sample_every=none",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A trained run, for tests that only read it, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    code, out, err = charlm(f"--corpus={corpus}", f"--workdir={run}", "--steps=20", "--schedule=constant", *SMALL)
    assert code == 0, err
    return run, out


def test_a_run_leaves_all_that_was_promised(trained):
    run, out = trained
    result = read(run)
    assert set(result["metrics"]) == {"val_loss", "val_loss_window", "val_bpc", "tokens_per_second"}
    assert result["metrics"]["val_loss"] < math.log(len(set(TEXT)))
    assert result["metrics"]["val_bpc"] == pytest.approx(result["metrics"]["val_loss"] / math.log(2))
    assert result["steps"] == 20
    assert result["data"]["sizes"] == {"train": 2430, "valid": 270}
    for name in ("config.json", "metrics.jsonl", "loss.png", "vocabulary.json", "checkpoints"):
        assert (run / name).exists()
    assert "sample after 20 steps" in out
    assert "stack/layer_0/cell/recurrent" in out


def test_the_loss_that_is_reported_is_that_of_the_saved_model(trained, corpus, tmp_path):
    run, _ = trained
    loaded = rnn_jax.load(run)
    valid = TEXT[-270:]
    ids = loaded.vocabulary.encode(valid)[:, None]
    total = -loaded.model.apply({"params": loaded.params}, jnp.asarray(ids), method="log_prob")[0]
    assert read(run)["metrics"]["val_loss"] == pytest.approx(float(total) / 269, rel=1e-5)


def test_resuming_equals_not_stopping(trained, corpus, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    assert charlm(f"--workdir={run}", "--steps=40")[0] == 0
    whole = tmp_path / "whole"
    charlm(f"--corpus={corpus}", f"--workdir={whole}", "--steps=40", "--schedule=constant", *SMALL)

    def losses(path):
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"]) for line in lines if line["split"] == "train"]

    assert losses(run) == losses(whole)
    resumed, uninterrupted = (rnn_jax.load(path, best=False).params for path in (run, whole))
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)


def test_a_run_at_its_end_tells_the_same_again(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    before = read(run)
    code, _, err = charlm(f"--workdir={run}", "--steps=19")
    assert (code, err) == (2, f"charlm: --steps: expected at least the 20 steps that {run} has done, found 19\n")
    code, _, err = charlm(f"--workdir={run}", "--epochs=0.01")
    assert (code, "--epochs: expected at least the 20 steps" in err, "found 0.01, which are 1\n" in err) == (2, 1, 1)
    code, out, err = charlm(f"--workdir={run}")
    assert code == 0, err
    told = [line for line in out.splitlines() if line.startswith(("val_", "tokens_per_second"))]
    assert told == [line for line in trained[1].splitlines() if line.startswith(("val_", "tokens_per_second"))]
    assert read(run)["metrics"] == pytest.approx(before["metrics"])
    assert read(run)["config"] == before["config"]


def test_sampling_and_scoring_use_the_run_and_do_not_train(trained, corpus, stdin):
    run, _ = trained
    before = read(run)
    code, out, err = charlm(f"--workdir={run}", "--sample", "--prompt=the ", "--sample_length=50")
    assert (code, err) == (0, "")
    assert out.startswith("the ")
    assert len(out) == len("the ") + 50 + 1
    assert charlm(f"--workdir={run}", "--sample", "--prompt=the ", "--sample_length=50")[1] == out
    assert charlm(f"--workdir={run}", "--sample", "--prompt=the ", "--sample_length=50", "--seed=7")[1] != out
    code, out, _ = charlm(f"--workdir={run}", f"--score={corpus}")
    assert code == 0
    assert out.startswith("loss ")
    assert f"{len(TEXT) - 1} predicted" in out
    stdin("the dog.\n\nlazy fox\nthe Ж\n")
    code, out, err = charlm(f"--workdir={run}", "--score=-")
    assert [line[:5] for line in out.splitlines()] == ["loss ", "", "loss "]
    assert code == 2
    assert err.startswith("charlm: score: line 4: expected only the")
    assert read(run) == before


def test_a_text_without_line_breaks_is_scored_by_lines_and_files(tmp_path, stdin):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the quick brown fox " * 100)
    assert charlm(f"--corpus={text}", f"--workdir={run}", "--steps=2", *SMALL)[0] == 0
    text.write_text("the fox\n")
    stdin("the fox\n")
    scores = [charlm(f"--workdir={run}", f"--score={path}") for path in (text, "-")]
    assert scores[0] == scores[1]
    assert "6 predicted" in scores[0][1]


def test_temperature_0_is_greedy(trained):
    run, _ = trained
    draws = {charlm(f"--workdir={run}", "--sample", "--temperature=0", f"--seed={seed}")[1] for seed in (0, 1)}
    assert len(draws) == 1
    model, params, vocabulary, *_ = rnn_jax.load(run)
    drawn = next(iter(draws))[:10]
    _, logits = model.apply({"params": params}, jnp.asarray(vocabulary.encode("\n" + drawn))[:-1, None])
    assert vocabulary.decode(np.asarray(logits.argmax(-1))[:, 0]) == drawn


def test_words_by_a_regularised_stack(corpus, tmp_path):
    run = tmp_path / "words"
    regularised = ["--num_layers=2", "--residual", "--zoneout=0.1", "--weight_drop=0.2", "--variational_dropout"]
    flags = ["--level=word", "--steps=5", "--cell=elman", *regularised, *SMALL]
    code, _, err = charlm(f"--corpus={corpus}", f"--workdir={run}", *flags)
    assert code == 0, err
    assert set(read(run)["metrics"]) >= {"val_loss", "val_perplexity"}
    code, out, err = charlm(f"--workdir={run}", "--sample", "--prompt=the", "--sample_length=2")
    assert (code, len(out.split())) == (0, 3), err
    assert out.startswith("the ")
    assert charlm(f"--workdir={run}", "--sample", "--prompt= ", "--sample_length=2")[0] == 0
    code, _, err = charlm(f"--workdir={run}", "--sample", f"--score={corpus}")
    assert (code, err) == (2, "charlm: --sample: expected one thing to do with the run, found --score too\n")


def test_a_test_text_is_evaluated_too(corpus, tmp_path):
    run = tmp_path / "run"
    code, _, err = charlm(f"--corpus={corpus}", f"--test={corpus}", f"--workdir={run}", "--steps=3", *SMALL)
    assert code == 0, err
    assert set(read(run)["metrics"]) >= {"test_loss", "test_loss_window", "test_bpc"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hiden_size=3"], "unknown flag --hiden_size; did you mean --hidden_size?"),
        (["--cell=lstn"], "; found 'lstn' (did you mean 'lstm'?)"),
        (["--cell=gru(reset=never)"], "--cell: reset: expected 'after' or 'before', found 'never'"),
        (["--cell=lstm(forget_bias=abc)"], "--cell: expected options that fit together, found 'lstm(forget_bias=abc)'"),
        (["--cell=gru(dtype=float64)"], "--cell: expected options that fit together"),
        (["--cell=lstm(bias_init=identity)"], "--cell: identity: expected the shape of a matrix, found [8]"),
        (["--cell=gru(reset=after,reset=before)"], "--cell: expected each option of gru once, found reset again"),
        (["--corpus=TEXT", "--test=ONE"], "test: expected at least 2"),
        (["--corpus=TEXT", "--max_seconds=none"], "--max_seconds: expected one of --steps, --epochs, --max_seconds"),
        (["--hidden_size=0"], "--hidden_size: expected a whole number at least 1, found '0'"),
        (["--batch_size=-4"], "--batch_size: expected a whole number at least 1, found '-4'"),
        (["--corpus=/no/such/file.txt"], "/no/such/file.txt"),
        (["--corpus=TEXT", "--prompt=é"], "prompt"),
        (["--corpus=TEXT", "--batch_size=512"], "batch_size"),
        (["--corpus=TEXT", "--input=onehot", "--tie_embeddings"], "tie_embeddings"),
        (["--sample"], "--sample: expected a trained run as --workdir"),
        (["--sample", "--workdir=EMPTY"], "expected a trained run"),
    ],
)
def test_bad_input_is_one_line_and_code_2(corpus, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").write_text("e")
    arguments = [
        a.replace("ONE", "one").replace("TEXT", str(corpus)).replace("EMPTY", str(tmp_path / "empty"))
        for a in arguments
    ]
    code, out, err = charlm(*arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "found nothing"), (b"abc\xff\xfedef" * 100, "UTF-8"), (b"short", "found 5 characters")],
)
def test_bad_texts_are_named(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_bytes(content)
    code, _, err = charlm("--corpus=bad.txt")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_model_that_no_memory_holds_is_one_line(corpus, tmp_path):
    if device_memory() is None:
        pytest.skip("nobody tells how much memory there is")
    code, _, err = charlm(f"--corpus={corpus}", *SMALL, "--hidden_size=1000000", f"--workdir={tmp_path / 'run'}")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("charlm: not enough memory for what is asked for: the parameters alone take 14,9")
    assert not (tmp_path / "run").exists()


def test_a_workdir_with_another_configuration_names_the_fields(trained, corpus):
    run, _ = trained
    code, _, err = charlm(f"--corpus={corpus}", f"--workdir={run}", "--hidden_size=9", "--learning_rate=1", *SMALL[1:])
    assert code == 2
    assert "hidden_size (8 in the run, 9 now)" in err
    assert "learning_rate" in err


def test_help_lists_the_flags_and_exits_with_0():
    code, out, _ = charlm("--help")
    assert code == 0
    for name in ("--corpus", "--cell", "--max_seconds", "--prompt", "--workdir"):
        assert name in out
