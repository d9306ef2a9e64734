"""The sentiment experiment from the command line, on texts of a few words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call, read
from sklearn.utils.class_weight import compute_class_weight

import rnn_jax
from experiments.sentiment import Sentiment, class_weights, main
from rnn_jax.data import TextEncoder, pad, word_pieces
from rnn_jax.training.files import write_text

sentiment = functools.partial(call, "sentiment", Sentiment, main)

SMALL = ["--hidden_size=4", "--embedding_size=4", "--pieces=40", "--batch_size=8", "--members=2", "--eval_every=none"]
GOOD, BAD = ["good", "fine", "great"], ["bad", "poor", "awful"]


def lines(number, start=0):
    for index in range(start, start + number):
        label, words = (("positive", GOOD), ("negative", BAD))[index % 2]
        yield f"{label}\tthe film number {index} is {words[index % 3]} and {words[index % 2]} .\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_text(folder / "train.tsv", "".join(lines(120)))
    write_text(folder / "test.tsv", "".join(lines(30, 200)))
    write_text(folder / "vectors.txt", "3 4\ngood 1 0 0 1\nbad -1 0 0 1\nnever 0 0 0 0\n")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A trained run, for tests that only read it, and what it printed."""
    code, out, err = sentiment(
        f"--train={folder}/train.tsv",
        f"--test={folder}/test.tsv",
        f"--workdir={folder}/run",
        f"--embeddings={folder}/vectors.txt",
        "--steps=40",
        "--learning_rate=0.03",
        "--class_weight=balanced",
        *(flag for flag in SMALL if "embedding" not in flag),
    )
    assert code == 0, err
    return folder / "run", out


def test_a_run_leaves_all_that_was_promised(trained):
    run, out = trained
    result = read(run)
    metrics = result["metrics"]
    assert set(metrics) == {
        "test_accuracy",
        "test_macro_f1",
        "baseline_accuracy",
        "val_loss",
        "val_accuracy",
        "val_macro_f1",
        "val_error",
    }
    assert metrics["baseline_accuracy"] == 1.0
    assert metrics["test_accuracy"] > 0.8
    assert result["data"]["sizes"]["train"] + result["data"]["sizes"]["dev"] == 120
    assert result["data"]["sizes"]["test"] == 30
    for name in ("config.json", "metrics.jsonl", "loss.png", "confusion.png", "vocabulary.json", "checkpoints"):
        assert (run / name).exists()
    assert "vectors of 2 of" in out


def test_predictions_are_those_of_the_saved_model(trained, tmp_path, stdin):
    run, _ = trained
    before = read(run)
    texts = ["the film is good", "awful !"]
    code, out, err = sentiment(f"--workdir={run}", f"--predict={texts[0]}")
    assert (code, err) == (0, "")
    loaded = rnn_jax.load(run)
    encoded = TextEncoder(loaded.vocabulary, pieces=loaded.model.pieces).encode(texts[:1])
    (tokens, mask), (pieces, _) = pad(encoded["tokens"]), pad(list(encoded["pieces"]))
    given = map(jnp.asarray, (tokens, mask, pieces))
    expected = np.exp(jax.jit(loaded.model.apply)({"params": loaded.params}, *given))[0]
    label, shown, text = out.rstrip("\n").split("\t")
    assert label == loaded.model.classes[int(expected.argmax())]
    assert text == texts[0]
    found = dict(pair.split("=") for pair in shown.split(" "))
    assert [float(found[name]) for name in loaded.model.classes] == pytest.approx(expected.tolist(), abs=1e-4)

    write_text(tmp_path / "texts.txt", "\n".join(texts) + "\n")
    code, in_file, _ = sentiment(f"--workdir={run}", f"--predict_file={tmp_path}/texts.txt")
    assert code == 0
    assert [line.split("\t")[2] for line in in_file.splitlines()] == texts
    assert in_file.startswith(out)
    stdin("\n".join(texts))
    assert sentiment(f"--workdir={run}", "--predict_file=-")[1] == in_file
    assert read(run) == before


@pytest.mark.slow
def test_characters_and_a_folder(tmp_path):
    for line in lines(40):
        label, text = line.split("\t")
        path = tmp_path / "set" / label / f"{hash(text)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code, _, err = sentiment(
        f"--train={tmp_path}/set", f"--workdir={tmp_path}/run", "--level=char", "--bidirectional", "--steps=2", *SMALL
    )
    assert code == 0, err
    assert read(tmp_path / "run")["metrics"]["baseline_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--train=FOLDER/untabbed.tsv"],
            "train: expected 'label<TAB>text', found no tab in 'FOLDER/untabbed.tsv', line 2",
        ),
        (["--train=FOLDER/empty.tsv"], "train: expected a text, found an empty one in 'FOLDER/empty.tsv', line 3"),
        (
            ["--train=FOLDER/single.tsv"],
            "train: expected at least 2 classes, found only 'x', from 'FOLDER/single.tsv', line",
        ),
        (
            ["--train=FOLDER/train.tsv", "--test=FOLDER/strange.tsv"],
            "expected a label of the training texts (negative, positive), found 'odd' in 'FOLDER/strange.tsv', line 2",
        ),
        (["--train=FOLDER/train.tsv", "--text_column=body"], "text_column: expected one of the columns"),
        (["--train=FOLDER/none.tsv"], "train: expected a file, found none at 'FOLDER/none.tsv'"),
        (
            ["--train=FOLDER/train.tsv", "--dev=FOLDER/none.tsv"],
            "dev: expected a file, found none at 'FOLDER/none.tsv'",
        ),
        (["--pieces=1"], "--pieces: expected 0 or at least 2, found 1"),
        (
            ["--train=FOLDER/train.tsv", "--embeddings=FOLDER/wide.txt"],
            "embeddings: 'FOLDER/wide.txt': expected a word and 2 numbers in line 3",
        ),
        (
            ["--train=FOLDER/train.tsv", "--embeddings=FOLDER/vectors.txt", "--embedding_size=5"],
            "--embeddings: expected vectors of --embedding_size=5 numbers, found 4 in 'FOLDER/vectors.txt', line 1",
        ),
        (["--level=char", "--embeddings=FOLDER/vectors.txt"], "--embeddings: expected --level=word"),
        (["--class_weight=fair"], "--class_weight: expected one of balanced, root or none, found 'fair'"),
        (["--predict=good"], "--predict: expected a trained run as --workdir"),
        (["--workdir=FOLDER/run", "--predict= "], "--predict: expected a text, found an empty one"),
        (
            ["--workdir=FOLDER/run", "--predict_file=FOLDER/blank.txt"],
            "--predict_file: 'FOLDER/blank.txt', line 2: expected a text",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(trained, folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "untabbed.tsv": "x\tone\nno tab\n",
        "empty.tsv": "x\tone\ny\ttwo\nx\t \n",
        "single.tsv": "".join(f"x\ttext {number}\n" for number in range(50)),
        "strange.tsv": "positive\tone\nodd\ttwo\n",
        "wide.txt": "2 2\ngood 1 2\nbad 1 2 3\n",
        "blank.txt": "good\n\n",
    }.items():
        (folder / name).write_text(text)
    code, out, err = sentiment(*(argument.replace("FOLDER", str(folder)) for argument in arguments))
    assert code == 2
    assert message.replace("FOLDER", str(folder)) in err
    if "wide" in message or "wide" in str(arguments):
        assert "wide.txt" in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("runs/*"))


def test_words_and_pieces_know_at_the_start_in_which_classes_they_occur(folder, tmp_path):
    """Before any training (its rate is next to nothing) the vectors differ by the ratios, in one direction a class."""
    tables = {}
    for flag in ("--class_ratios", "--noclass_ratios"):
        code, _, err = sentiment(
            f"--train={folder}/train.tsv",
            f"--workdir={tmp_path}/{flag}",
            "--steps=1",
            "--learning_rate=1e-9",
            "--warmup=0",
            *SMALL,
            "--pieces=4000",
            flag,
        )
        assert code == 0, err
        loaded = rnn_jax.load(tmp_path / flag)
        tables[flag] = {name: np.asarray(loaded.params["member"][name]["embedding"]) for name in ("words", "pieces")}
    added = {name: table - tables["--noclass_ratios"][name] for name, table in tables["--class_ratios"].items()}
    found = {}
    for word in ("good", "bad", "film"):
        # The last n-gram of a short word is in no other one.
        piece = [number for number in word_pieces(word, 4000) if number][-1]
        found["words", word] = added["words"][:, loaded.vocabulary.symbols.index(word)]
        found["pieces", word] = added["pieces"][:, piece]
    length = {key: np.linalg.norm(vectors, axis=1) for key, vectors in found.items()}

    def cosine(one, other):
        return (found[one] * found[other]).sum(1) / (length[one] * length[other])

    for table in added:
        # The log-ratios of two classes are opposite numbers; a word of both classes says next to nothing.
        np.testing.assert_allclose(cosine((table, "good"), (table, "bad")), -1, atol=1e-3)
        assert np.all(length[table, "good"] > 0.1)
        assert np.all(length[table, "film"] < 0.1 * length[table, "good"])
    np.testing.assert_allclose(cosine(("words", "good"), ("pieces", "good")), 1, atol=1e-3)


def test_what_is_not_said_is_decided_by_the_texts():
    grammar, reviews = Sentiment().settled(), Sentiment(train="reviews.tsv", dropout=0.0).settled()
    assert (grammar.members, grammar.dropout, grammar.word_dropout, grammar.learning_rate) == (1, 0.2, 0.0, 3e-3)
    assert (reviews.members, reviews.dropout, reviews.word_dropout, reviews.learning_rate) == (6, 0.0, 0.3, 1e-3)


def test_classes_weigh_equally_half_way_or_not_at_all():
    labels = np.array([0] * 6 + [1] * 3 + [2])
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(labels, 3, "balanced"), balanced, rtol=1e-6)
    np.testing.assert_allclose(class_weights(labels, 3, "root"), balanced**0.5, rtol=1e-6)
    assert class_weights(labels, 3, None).tolist() == [1, 1, 1]


def test_help_lists_the_flags_and_exits_with_0():
    code, out, _ = sentiment("--help")
    assert code == 0
    for name in ("--train", "--text_column", "--class_weight", "--bidirectional", "--embeddings", "--predict_file"):
        assert name in out
