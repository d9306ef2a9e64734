"""The tagging experiment from the command line, on a small language and on a few lines of source code."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call, read
from seqeval.metrics import f1_score

import rnn_jax
from experiments.tagging import Tagging, hold_out, main, report, scores
from rnn_jax.data import PaddedBatches, TagEncoder, TaggedSequence, is_held_out, read_columns, source_code
from rnn_jax.data.source_code import SourceFile, label_source

tagging = functools.partial(call, "tagging", Tagging, main)

SMALL = [
    "--eval_every=none",
    "--hidden_size=8",
    "--embedding_size=8",
    "--character_filters=4",
    "--batch_size=8",
    "--ema_decay=none",
    "--buckets=1",
]
CODE = 'def f(x):  # adds\n    return x + 1\n\n\nnames = ["a", "b"]\nprint(len(names))\n'


def sentences(count, seed):
    """Noun phrases (determiner, adjectives, noun) between verbs: the label of a word hangs on the word before."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        for _ in range(draw.randint(1, 2)):
            phrase = [(draw.choice(["the", "a"]), "D"), *[(draw.choice(["big", "old"]), "J")] * draw.randint(0, 2)]
            phrase = [*phrase[draw.randint(0, 1) :], (draw.choice(["dog", "cat", "tree"]), "N")]
            lines += [f"{word} {tag} {'I' if place else 'B'}-NP" for place, (word, tag) in enumerate(phrase)]
            lines.append(f"{draw.choice(['sees', 'likes'])} V O")
        lines.append("")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "train.txt"
    path.write_text(sentences(120, seed=0))
    return path


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A trained run, for tests that only read it, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--steps=80", "--cell=gru", "--learning_rate=0.02", "--dropout=0.1", *SMALL]
    code, out, err = tagging(f"--train={corpus}", f"--workdir={run}", *arguments)
    assert code == 0, err
    return run, out


def test_what_is_not_said_is_decided_by_what_is_labelled():
    code, words = Tagging().settled(), Tagging(train="words.txt", crf=False, buckets=1).settled()
    assert (code.crf, code.embedding_size, code.dropout, code.buckets) == (False, 32, 0.1, 2)
    assert (words.crf, words.embedding_size, words.dropout, words.buckets) == (False, 64, 0.33, 1)


def test_the_flags_reach_the_model(trained):
    run, _ = trained
    arguments = read(run, "model.json")["arguments"]
    expected = {"cell": "gru", "hidden_size": 8, "embedding_size": 8, "dropout": 0.1, "crf": True}
    assert {name: arguments[name] for name in expected} == expected


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A run on source code: a dozen small files in place of the standard library."""
    run = tmp_path_factory.mktemp("runs") / "coloured"
    with pytest.MonkeyPatch.context() as patch:
        files = [SourceFile(f"{number}.py", CODE * 3, label_source(CODE * 3)) for number in range(40)]
        patch.setattr(source_code, "standard_library", lambda: files)
        arguments = [
            "--window=48",
            "--steps=60",
            "--cell=elman",
            "--learning_rate=0.03",
            "--dropout=0",
            "--nocrf",
            *SMALL,
        ]
        code, _, err = tagging(f"--workdir={run}", *arguments)
    assert code == 0, err
    return run


def test_a_run_leaves_all_that_was_promised(trained):
    run, out = trained
    result = read(run)
    assert set(result["metrics"]) == {
        "val_loss", "val_accuracy", "val_f1", "val_error", "test_loss", "test_accuracy", "test_f1", "words_per_second",
    }  # fmt: skip
    assert result["metrics"]["test_f1"] > 0.95
    assert result["steps"] == 80
    assert set(result["data"]["sizes"]) == {"train", "dev", "test"}
    for name in ("config.json", "metrics.jsonl", "loss.png", "vocabulary.json", "checkpoints"):
        assert (run / name).exists()
    assert "NP" in out
    assert "precision" in out


def test_the_score_that_is_reported_is_that_of_the_saved_model(trained, corpus):
    run, _ = trained
    model, params, vocabularies, *_ = rnn_jax.load(run)
    encoder = TagEncoder(vocabularies)
    held_out = [one for one in read_columns(corpus) if is_held_out(one.key)]
    batch = PaddedBatches(encoder.arrays(held_out, "test"), {}, len(held_out), shuffle=False).at(0)
    inputs = {name: jnp.asarray(batch[name]) for name in ("tokens", "characters", "features")}
    tag = jax.jit(lambda inputs, mask: model.apply({"params": params}, **inputs, mask=mask, method="tag"))
    labels = np.asarray(tag(inputs, jnp.asarray(batch["tokens_mask"])))
    found, truth = [], []
    for column, number in enumerate(batch["index"]):
        truth.append(list(held_out[number].labels))
        found.append([encoder.label_names[label] for label in labels[: len(truth[-1]), column]])
    metrics = read(run)["metrics"]
    assert metrics["test_f1"] == pytest.approx(f1_score(truth, found))
    right = [label == wanted for one, other in zip(found, truth, strict=True) for label, wanted in zip(one, other)]  # noqa: B905
    assert metrics["test_accuracy"] == pytest.approx(np.mean(right))


def test_text_is_tagged_without_training(trained, tmp_path, stdin):
    run, _ = trained
    before = read(run)
    code, out, err = tagging(f"--workdir={run}", "--predict=the big dog sees a cat")
    assert (code, err) == (0, "")
    assert out == "the B-NP\nbig I-NP\ndog I-NP\nsees O\na B-NP\ncat I-NP\n\n"
    stdin("the dog likes\n\na cat sees\n")
    code, out, _ = tagging(f"--workdir={run}", "--predict_file=-")
    assert out.split("\n\n")[:2] == ["the B-NP\ndog I-NP\nlikes O", "a B-NP\ncat I-NP\nsees O"]
    assert read(run) == before


@pytest.mark.slow
def test_further_columns_separate_files_and_a_softmax(corpus, tmp_path):
    dev, run, new = tmp_path / "dev.txt", tmp_path / "run", tmp_path / "new.txt"
    dev.write_text(sentences(20, seed=1))
    new.write_text("the D\nold J\nfox N\nsees V\n\na D\ntree N\n")
    arguments = ["--steps=60", "--learning_rate=0.02", "--dropout=0.1", "--nocrf", "--sample_every=60"]
    arguments += [f"--train={corpus}", "--feature_columns=2", f"--dev={dev}", f"--workdir={run}", *SMALL]
    code, out, err = tagging(*arguments)
    assert code == 0, err
    assert "--- after 60 steps ---" in out
    metrics = read(run)["metrics"]
    assert metrics["test_f1"] == metrics["val_f1"] > 0.9
    code, out, err = tagging(f"--workdir={run}", f"--predict_file={new}")
    assert (code, err) == (0, "")
    assert out == "the B-NP\nold I-NP\nfox I-NP\nsees O\n\na B-NP\ntree I-NP\n\n"
    code, _, err = tagging(f"--workdir={run}", "--predict=the dog")
    assert code == 2
    assert "--predict: expected a file with the further columns" in err


def test_source_code_is_coloured(coloured, tmp_path):
    metrics = read(coloured)["metrics"]
    assert set(metrics) >= {"test_accuracy", "val_accuracy", "characters_per_second"}
    assert metrics["test_accuracy"] > 0.9
    assert "test_f1" not in metrics
    page = (coloured / "highlighted.html").read_text()
    assert '<span class="keyword">def</span>' in page
    assert "of 255 characters right" in page.replace(f"{len(CODE * 3):,}", "255")
    source, written = tmp_path / "new.py", tmp_path / "new.html"
    source.write_text(CODE.replace("f(x)", "<f>(x)"))
    code, out, err = tagging(f"--workdir={coloured}", f"--predict_file={source}", f"--html={written}")
    assert code == 0, err
    assert out.startswith('keyword\t"def"\n')
    assert "&lt;" in written.read_text()
    code, out, _ = tagging(f"--workdir={coloured}", "--predict=return x + 1")
    assert out.splitlines()[0] == 'keyword\t"return"'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train=/no/such/file.txt"], "train: expected a file, found none at '/no/such/file.txt'"),
        (["--train=CORPUS", "--feature_columns=x"], "--feature_columns: expected"),
        (["--train=CORPUS", "--feature_columns=7"], "train: expected at least 7 columns, found 3 in line 1 of"),
        (["--train=CORPUS", "--dev=BAD"], "dev: expected 3 columns as in line 1, found 2 in line 3 of"),
        (["--train=CORPUS", "--test=STRANGE"], "found 'B-XX' in line 2 of"),
        (["--train=SAME"], "train: expected at least two labels, found only O in"),
        (["--train=EMPTY"], "train: expected a text, found nothing in"),
        (["--train=TINY"], "train: expected enough sentences to hold some out, found 1 in"),
        (["--dev=CORPUS"], "--dev: expected a file of its own in --train too"),
        (["--train=CORPUS", "--cell=lstn"], "--cell: expected one of"),
        (["--predict=x"], "--predict: expected a trained run as --workdir"),
        (["--predict= ", "--workdir=RUN"], "--predict: expected a text, found nothing"),
        (["--predict_file=BAD", "--workdir=RUN"], "predict_file: expected 3 columns as in line 1, found 2 in line 3"),
        (["--predict_file=BAD", "--html=x", "--workdir=RUN"], "--html: expected a run on source code"),
        (["--html=x"], "--html: expected --predict_file=PATH with it, found none"),
    ],
)
def test_bad_input_is_one_line_and_code_2(trained, corpus, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    files = {
        "BAD": "a D B-NP\n\nb B-NP\n",
        "STRANGE": "a D B-NP\nb D B-XX\n",
        "SAME": "".join(f"word{number} O\n\n" for number in range(100)),
        "EMPTY": "",
        "TINY": "a D B-NP\nb D O\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    arguments = [argument.replace("CORPUS", str(corpus)).replace("RUN", str(trained[0])) for argument in arguments]
    code, out, err = tagging(*arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("runs/*"))


def test_help_lists_the_flags_and_exits_with_0():
    code, out, _ = tagging("--help")
    assert code == 0
    for name in ("--train", "--[no]crf", "--feature_columns", "--predict_file", "--html"):
        assert name in out


@pytest.mark.parametrize(
    ("truth", "predicted", "right"),
    [
        # Two people of one word each, not one of two words.
        ("U-PER U-PER", "U-PER U-PER", 2),
        ("B-PER L-PER B-PER L-PER O", "B-PER L-PER B-PER I-PER L-PER", 1),
        ("B-PER I-PER L-PER U-LOC", "B-PER I-PER L-PER U-LOC", 2),
        ("S-PER B-LOC E-LOC", "S-PER B-LOC E-LOC", 2),
    ],
)
def test_spans_of_every_notation_are_counted(truth, predicted, right):
    truth, predicted = truth.split(), predicted.split()
    sentence = TaggedSequence(tokens=tuple("w" * len(truth)), features=(), labels=tuple(truth))
    found = scores([sentence], [predicted], spans=True)
    total = 2 * sum(label[0] in "USB" for label in truth)
    counted = sum(label[0] in "USB" for label in predicted) + total // 2
    assert found["f1"] == pytest.approx(2 * right / counted)


def test_the_only_sentence_with_a_label_is_not_held_out():
    sentences = [TaggedSequence(tokens=("a",), features=(), labels=(label,)) for label in ("O", "B-X", "B-Y", "O")]
    others, held = hold_out(sentences, lambda one: one is not sentences[0])
    assert others == sentences[:3]
    assert held == sentences[3:]


def test_nothing_to_find_and_nothing_found_is_right():
    outside = [TaggedSequence(["a", "b"], ("O", "O"))]
    assert scores(outside, [["O", "O"]], spans=True) == {"accuracy": 1.0, "f1": 1.0, "error": 0.0}
    assert scores(outside, [["B-X", "O"]], spans=True)["f1"] == 0.0
    assert report(outside, [["O", "O"]]) == "no spans, and none found"


def test_what_is_predicted_does_not_decide_how_it_is_judged():
    """A label that is no span's, once predicted, must not turn F1 into accuracy from one evaluation to the next."""
    sentence = TaggedSequence(tokens=tuple("abcdefgh"), labels=("B-X", "I-X", "O", "O", "B-X", "O", "O", "O"))
    for fifth in ("O", "MISC"):
        found = scores([sentence], [["B-X", "O", "O", "O", fifth, "O", "O", "O"]], spans=False)
        assert found == {"accuracy": 0.75, "error": 0.25}
