"""The word vector experiment, run as a user runs it, on a corpus of two topics."""

import functools
import gzip
import re
import signal

import numpy as np
import pytest
from in_process import call, read

from experiments import skipgram
from rnn_jax.data.keyed_vectors import load_word2vec
from rnn_jax.training.checkpoint import Checkpoints
from rnn_jax.training.run import load

run = functools.partial(call, "skipgram", skipgram.SkipGram, skipgram.main)

TOPICS = (("cat", "dog", "horse", "cow", "sheep"), ("red", "blue", "green", "white", "black"))


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(TOPICS[topic], 8)) for topic in rng.integers(0, 2, 400)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines) + "\nrare\n")
    return path


def settings(corpus, tmp_path, *more):
    return (
        f"--corpus={corpus}",
        f"--workdir={tmp_path / 'run'}",
        "--dimension=8",
        "--window=3",
        "--subsample=0",
        "--learning_rate=0.025",
        "--epochs=40",
        "--neighbours=cat,red",
        *more,
    )


@pytest.mark.parametrize("model", ["skipgram", pytest.param("cbow", marks=pytest.mark.slow)])
def test_neighbours_are_of_the_same_topic(tmp_path, corpus, model):
    similarity, analogies = tmp_path / "pairs.txt", tmp_path / "questions.txt"
    similarity.write_text("cat dog 9\nred blue 8\ncat red 1\ndog green 2\ncat unicorn 5\n")
    analogies.write_text(": toy\ncat dog red blue\ncat horse red green\n")
    vectors = tmp_path / "vectors.bin"
    code, out, err = run(
        *settings(corpus, tmp_path, f"--model={model}", f"--similarity={similarity}"),
        f"--analogies={analogies}",
        f"--export={vectors}",
    )
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("cat: "))
    assert {pair.split()[0] for pair in line[5:].split(", ")[:4]} == set(TOPICS[0][1:])
    result = read(tmp_path / "run")
    assert result["metrics"]["similarity_spearman"] > 0.5
    assert result["metrics"]["similarity_coverage"] == 0.8
    assert 0 <= result["metrics"]["analogy_accuracy"] <= 1
    assert result["metrics"]["words_per_second"] > 0
    assert (tmp_path / "run" / "words.png").stat().st_size > 5_000
    exported, loaded = load_word2vec(vectors), load(tmp_path / "run")
    assert exported.words == loaded.vocabulary.symbols
    np.testing.assert_array_equal(exported.vectors, loaded.params["input"])


def test_a_run_can_be_asked_again_and_gone_on_from(tmp_path, corpus, monkeypatch):
    code, _, err = run(*settings(corpus, tmp_path))
    assert code == 0, err
    vectors = tmp_path / "vectors.txt"
    before = read(tmp_path / "run")
    with monkeypatch.context() as patch:
        # It holds all that it needs.
        patch.setattr("experiments.skipgram.read_corpus", None)
        code, out, err = run(f"--workdir={tmp_path / 'run'}", "--neighbours=dog", f"--export={vectors}")
        assert code == 0, err
        assert out.count("dog: ") == 1
        code, _, err = run(f"--workdir={tmp_path / 'run'}", "--neighbours=dgo")
        assert (code, "neighbours: expected" in err) == (2, True)
    after = read(tmp_path / "run")
    assert after["metrics"]["train_loss"] == before["metrics"]["train_loss"]
    # Fewer epochs than it has had take nothing from it, nor from the speed at which it had them.
    code, _, err = run(f"--workdir={tmp_path / 'run'}", "--epochs=1")
    assert code == 0, err
    after = read(tmp_path / "run")
    assert after["steps"] == before["steps"]
    assert after["metrics"]["words_per_second"] == pytest.approx(before["metrics"]["words_per_second"], rel=0.1)
    old = load(tmp_path / "run")
    np.testing.assert_array_equal(load_word2vec(vectors).vectors, old.params["input"])

    more = tmp_path / "more.txt.gz"
    more.write_bytes(gzip.compress(b"cat dog lion horse lion\n" * 30))
    arguments = (f"--corpus={more}", f"--init_from={tmp_path / 'run'}", "--dimension=8", "--epochs=1")
    code, _, err = run(*arguments, f"--workdir={tmp_path / 'second'}", "--neighbours=lion,red")
    assert code == 0, err
    new = load(tmp_path / "second")
    assert set(new.vocabulary.symbols) == set(old.vocabulary.symbols) | {"lion"}
    rows = [run_.params["input"][run_.vocabulary.symbols.index("white")] for run_ in (old, new)]
    np.testing.assert_array_equal(*rows)
    # The second run holds all that it needs.
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    code, out, err = run(f"--workdir={tmp_path / 'second'}", "--neighbours=lion")
    assert code == 0, err
    assert "lion: " in out
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    code, _, err = run(*arguments[:2], "--dimension=9", f"--workdir={tmp_path / 'third'}")
    assert code == 2
    assert "--init_from: expected vectors of 9 numbers" in err


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, corpus, monkeypatch):
    arguments = settings(corpus, tmp_path)
    whole = [argument.replace("/run", "/whole") for argument in arguments]
    code, _, err = run(*whole)
    assert code == 0, err

    import rnn_jax.training.signals as signals

    entered = signals.SignalCatcher.__enter__

    def struck(self):
        catcher = entered(self)
        signal.raise_signal(signal.SIGINT)
        return catcher

    with monkeypatch.context() as patch:
        patch.setattr(signals.SignalCatcher, "__enter__", struck)
        code, _, err = run(*arguments)
    assert code == 130
    assert "resume: python -m experiments.skipgram --workdir=" in err
    code, _, err = run(f"--workdir={tmp_path / 'run'}")
    assert code == 0, err
    np.testing.assert_array_equal(load(tmp_path / "run").params["input"], load(tmp_path / "whole").params["input"])


def test_phrases_become_words(tmp_path):
    rng = np.random.default_rng(0)
    fill = [f"w{number}" for number in range(60)]
    lines = [" ".join([*rng.choice(fill, 60), "new", "york", *rng.choice(fill, 60)]) for _ in range(100)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines))
    corpus = skipgram.read_corpus(skipgram.SkipGram(corpus=str(path), phrases=True), None)
    vocabulary = corpus.lexicon.vocabulary
    assert set(vocabulary.symbols) == {*fill, "new_york"}
    assert (corpus.ids == vocabulary.index["new_york"]).sum() == 100
    assert corpus.words == 100 * 122


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus={folder}/none.txt"], "corpus: expected a file, found none"),
        (["--corpus={folder}/empty.txt"], "corpus: expected words, found none"),
        (["--min_count=100000"], "the largest count is"),
        (["--neighbours=catt"], "neighbours: expected one of the 10 words, found 'catt'; close ones: cat"),
        (["--similarity={folder}/bad.txt"], "similarity: expected 'word word score' in line 2"),
        (["--analogies={folder}/bad.txt"], "analogies: expected four words in line 1"),
        (["--export={folder}/none/vectors.txt"], "export: cannot write"),
        (["--init_from={folder}"], "--init_from: expected a run"),
        (["--model=glove"], "--model: expected one of skipgram, cbow"),
        (["--dimension=0"], "--dimension: expected a whole number at least 1"),
    ],
)
def test_bad_input_is_one_line_before_training(tmp_path, corpus, arguments, message):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.txt").write_text("cat dog 5\ncat dog\n")
    given = [argument.format(folder=tmp_path) for argument in arguments]
    run_folder = tmp_path / "run"
    default = [] if given[0].startswith("--corpus") else [f"--corpus={corpus}"]
    code, _, err = run(f"--workdir={run_folder}", "--epochs=1", *default, *given)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert not run_folder.exists()


def test_a_loss_that_is_not_a_number_ends_in_one_line_that_says_what_is_saved(tmp_path, corpus):
    code, _, err = run(*settings(corpus, tmp_path), "--learning_rate=1e30")
    assert code == 1
    last = err.splitlines()[-1]
    assert re.fullmatch(r"skipgram: step \d+: .*; nothing is saved; a smaller --learning_rate may help", last)


def test_a_long_training_is_saved_on_the_way(tmp_path, corpus, monkeypatch):
    saved = []
    save = Checkpoints.save

    def told(self, state, progress, **options):
        saved.append(progress.step)
        return save(self, state, progress, **options)

    monkeypatch.setattr(Checkpoints, "save", told)
    monkeypatch.setattr(skipgram, "SAVE_EVERY", 0.0)
    code, _, err = run(*settings(corpus, tmp_path), "--epochs=3")
    assert code == 0, err
    assert saved[:2] == [1, 2]
    assert saved[-1] == read(tmp_path / "run")["steps"]
