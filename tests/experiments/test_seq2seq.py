"""The translator from the command line, on a few short sentences."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call, read

import rnn_jax
from experiments.flags import FlagError
from experiments.seq2seq import Seq2SeqConfig, main, make_loss
from experiments.seq2seq_data import Side, load_corpus
from experiments.translation_scores import score
from experiments.translator import Translation, Translator, plot_attention_of, score_file
from rnn_jax import losses
from rnn_jax.data import Vocabulary
from rnn_jax.models import Seq2Seq
from rnn_jax.models.scheduled_sampling import sampled_logits
from rnn_jax.models.seq2seq import shift
from rnn_jax.training.run import Run

seq2seq = functools.partial(call, "seq2seq", Seq2SeqConfig, main)

WORDS = {"one": "ein", "two": "zwei", "red": "roter", "big": "großer", "dog": "Hund", "cat": "Kater"}
SMALL = ["--hidden_size=8", "--embedding_size=4", "--batch_size=8", "--buckets=1", "--eval_every=none", "--warmup=0"]


def sentences(count, seed):
    random = np.random.default_rng(seed)
    chosen = [random.choice(list(WORDS), random.integers(1, 4)).tolist() for _ in range(count)]
    return [" ".join(words) + "." for words in chosen], [" ".join(map(WORDS.get, words)) + "." for words in chosen]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for part, count, seed in (("train", 60, 0), ("dev", 8, 1), ("test", 6, 2)):
        source, target = sentences(count, seed)
        if part == "train":
            source[3] = ""
            source[4] = target[4] = "one " * 30
        (folder / f"{part}.en").write_text("\n".join(source) + "\n")
        (folder / f"{part}.de").write_text("\n".join(target) + "\n")
    return folder


def parallel(files):
    return [
        f"--{part}_{side}={files}/{part}.{language}"
        for part in ("train", "dev", "test")
        for side, language in (("source", "en"), ("target", "de"))
    ]


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """A trained run, for tests that only read it, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "run"
    code, out, err = seq2seq(
        *parallel(files), f"--workdir={run}", "--steps=12", "--vocab_size=40", "--max_length=25", *SMALL
    )
    assert code == 0, err
    return run, out


def test_a_run_leaves_all_that_was_promised(trained, files):
    run, out = trained
    result = read(run)
    assert set(result["metrics"]) == {
        "val_loss",
        "test_bleu",
        "test_chrf",
        "test_exact_match",
        "test_perplexity",
        "tokens_per_second",
    }
    assert "case:lc" in result["signatures"]["test_bleu"]
    assert "tok:13a" in result["signatures"]["test_bleu"]
    assert "skipped 1 pairs with an empty side" in out
    assert "dropped 1 training and 0 validation pairs of over 25 symbols" in out
    assert result["data"]["sizes"] == {"train": 58, "valid": 8, "test": 6}
    for name in ("config.json", "metrics.jsonl", "loss.png", "vocabulary.json", "attention.png", "checkpoints"):
        assert (run / name).exists()
    assert (run / "references.txt").read_text() == (files / "test.de").read_text()
    assert len((run / "hypotheses.txt").read_text().splitlines()) == 6


@pytest.mark.slow
def test_the_run_is_all_that_a_script_needs(trained, files):
    """Perplexity and subwords from `rnn_jax.load` alone."""
    run, _ = trained
    loaded = rnn_jax.load(run)
    source, target = (Side(loaded.vocabulary[name], "bpe") for name in ("source", "target"))
    assert target.decode(target.encode(["zwei roter Hund."])[0]) == "zwei roter Hund."
    pairs = zip(*((files / f"test.{language}").read_text().splitlines() for language in ("en", "de")), strict=True)
    nats = words = 0
    for english, german in pairs:
        sides = source.encode([english])[0], target.encode([german])[0]
        read_, written = (jnp.asarray(ids)[:, None] for ids in sides)
        nats -= loaded.model.apply(
            {"params": loaded.params}, read_, read_ >= 0, written, written >= 0, target.end, method="log_prob"
        )[0]
        # Words, the full stop and the end.
        words += len(german.split()) + 2
    assert read(run)["metrics"]["test_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-4)


def test_translating_does_not_train(trained, files, tmp_path, stdin):
    run, _ = trained
    before = read(run)
    code, out, err = seq2seq(f"--workdir={run}", "--translate=two red dog.")
    assert code == 0, err
    assert len(out.splitlines()) == 1
    assert f"attention map in {run}/translation.png" in err.splitlines()
    code, ranked, _ = seq2seq(f"--workdir={run}", "--translate=two red dog.", "--n_best=3", "--beam_size=5")
    rows = [line.split("\t") for line in ranked.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[0][3] == out.rstrip("\n")
    assert float(rows[0][1]) >= float(rows[1][1]) >= float(rows[2][1])
    request = tmp_path / "request.txt"
    request.write_text("two red dog.\n\none cat.\n")
    code, out_file, err = seq2seq(f"--workdir={run}", f"--translate_file={request}", "--attention_maps=3")
    # The second line is blank.
    drawn = [line for line in err.splitlines() if line.startswith("attention")]
    assert drawn == [f"attention map in {run}/translation_{number}.png" for number in (1, 3)]
    lines = out_file.split("\n")
    assert lines[0] == out.rstrip("\n")
    assert lines[1] == ""
    assert len(lines) == 4
    stdin(request.read_text())
    code, out_stdin, err = seq2seq(f"--workdir={run}", "--translate_file=-", "--attention_maps=0")
    assert (out_stdin, "attention map" in err) == (out_file, False)
    # What is only used need not keep to the length that training kept to.
    code, longer, err = seq2seq(f"--workdir={run}", "--translate=two red dog.", "--max_length=30")
    assert (code, bool(longer.strip())) == (0, True), err
    code, _, err = seq2seq(f"--workdir={run}", "--max_length=30")
    assert (code, "max_length (25 in the run, 30 now)" in err) == (2, True)
    assert read(run) == before


def test_scoring_a_file_of_hypotheses(trained, files, tmp_path):
    run, _ = trained
    code, out, _ = seq2seq(f"--workdir={run}", f"--bleu_of={files}/test.de")
    assert code == 0
    assert out.startswith("BLEU 100.00  chrF 100.00  exact match 1.0000")
    code, out, _ = seq2seq(f"--workdir={run}", f"--bleu_of={run}/hypotheses.txt")
    assert f"BLEU {read(run, 'result.json')['metrics']['test_bleu']:.2f}" in out
    code, _, err = seq2seq(f"--workdir={run}", f"--bleu_of={files}/dev.de")
    assert (code, err) == (2, "seq2seq: --bleu_of: expected 6 lines, as many as there are references, found 8\n")


def test_the_attention_map_is_of_the_symbols_written(monkeypatch, tmp_path):
    """Here they were cut off: the text, encoded again, would have an end."""
    side, drawn = Side(Vocabulary.from_text("ab\n", "char"), "char"), []
    monkeypatch.setattr(
        "rnn_jax.models.seq2seq.attention_weights",
        lambda model, params, source, mask, inputs: jnp.zeros((len(inputs), 1, len(source))),
    )
    monkeypatch.setattr(
        "rnn_jax.training.sequence_plots.plot_attention",
        lambda weights, read, written, image: drawn.append((weights.shape, read, written)),
    )
    written = side.encode(["abb"])[0][:-1]
    said = plot_attention_of(
        Translator(None, None, None, side, side), "ab", Translation("abb", written, 0.0, 0.0, False), tmp_path / "map"
    )
    assert said == f"attention map in {tmp_path}/map"
    assert drawn == [((3, 3), ["a", "b", "end"], ["a", "b", "b"])]


@pytest.mark.parametrize("lowercase", [False, True])
def test_hypotheses_are_lower_cased_where_the_references_were(tmp_path, capsys, lowercase):
    (tmp_path / "references.txt").write_text("ein hund.\n")
    (tmp_path / "mine.txt").write_text("Ein Hund.\n")
    score_file(str(tmp_path / "mine.txt"), Run(tmp_path, "seq2seq", {}), lowercase)
    assert f"exact match {float(lowercase):.4f}" in capsys.readouterr().out


def test_bleu_is_that_of_the_paper_by_hand():
    """Precisions 4/5, 3/4, 2/3, 1/2; five words for six."""
    found = score(["A man sleeps on grass"], ["a man sleeps on a sofa"])
    precisions = [4 / 5, 3 / 4, 2 / 3, 1 / 2]
    brevity = math.exp(1 - 6 / 5)
    assert found.bleu == pytest.approx(100 * brevity * math.exp(sum(map(math.log, precisions)) / 4))
    assert found.exact_match == 0


@pytest.mark.slow
def test_symbols_with_scheduled_sampling_and_without_attention(tmp_path):
    run = tmp_path / "run"
    code, out, err = seq2seq(
        "--task=copy", "--attention=none", "--pairs=60", "--longest=4", f"--workdir={run}", "--steps=3",
        "--teacher_forcing_schedule=linear", "--reverse_source", "--dropout=0.1", "--label_smoothing=0.1",
        "--max_length=5", *SMALL,
    )  # fmt: skip
    assert code == 0, err
    assert "exact match by length: " in out
    assert (run / "exact_match_by_length.png").exists()
    assert not (run / "attention.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_source=F/train.en"], "--train_target: expected the file that goes with --train_source, found none"),
        (["--train_source=F/train.en", "--train_target=F/dev.de"], "found 60 in"),
        (["--train=F/train.en"], "expected source<TAB>target, found one column in line 1"),
        (["--dev=F/train.en"], "--train: expected pairs to train on"),
        (["--train=a.tsv", "--dev_source=a"], "--train: expected pairs in one file or in two"),
        (["--train=/no/such/file.tsv"], "/no/such/file.tsv"),
        (["--translate=one"], "--translate: expected a trained run as --workdir, found none"),
        (["--translate=one", "--workdir=EMPTY"], "--workdir: expected a trained run, found none"),
        (["--bleu_of=x", "--workdir=EMPTY"], "--workdir: expected a trained run, found none"),
        (["--attention=bahdanau", "--input_feeding", "--task=add", "--pairs=90"], "--input_feeding: expected"),
        (["--hidden_size=7", "--task=add", "--pairs=90"], "--hidden_size: expected an even number"),
        (["--teacher_forcing=2"], "--teacher_forcing: expected a number at least 0 and at most 1"),
    ],
)
def test_bad_input_is_one_line_and_code_2(files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    places = {"F/": f"{files}/", "EMPTY": f"{tmp_path}/empty"}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    code, out, err = seq2seq(*arguments)
    assert code == 2, err
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--translate= "], "--translate: expected a sentence, found ' '"),
        (["--translate=a", "--bleu_of=f"], "--bleu_of: expected one thing to do with the run, found --translate too"),
        (["--translate=one", "--n_best=9"], "--n_best: expected at most --beam_size=5, found 9"),
    ],
)
def test_bad_requests_to_a_run(trained, arguments, message):
    code, _, err = seq2seq(f"--workdir={trained[0]}", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


@functools.cache
def small_model():
    """(model, variables, a batch, its logits by the share of true symbols that the decoder reads)."""
    model = Seq2Seq(9, 7, hidden_size=4, embedding_size=3)
    random = np.random.default_rng(0)
    source, target = (jnp.asarray(random.integers(1, 7, shape), jnp.int32) for shape in ((5, 2), (6, 2)))
    batch = {
        "source": source,
        "source_mask": jnp.asarray(random.random((5, 2)) < 0.8).at[0].set(True),
        "target": target,
        "target_mask": jnp.arange(6)[:, None] < jnp.array([6, 4]),
    }
    read = (batch["source"], batch["source_mask"], shift(target, 0))
    variables = jax.jit(model.init)(jax.random.key(0), *read)
    variables = jax.tree.map(lambda leaf: 3 * leaf, variables)
    written = functools.partial(sampled_logits, model, rate=0.0, unit="token")
    logits = {
        1.0: jax.jit(model.apply)(variables, *read),
        0.0: jax.jit(written)(variables, *read, jax.random.key(1)),
    }
    assert not np.allclose(*logits.values(), atol=0.1)
    return model, variables, batch, logits


@pytest.mark.parametrize(
    ("flags", "shares"),
    [
        ({}, (1.0, 1.0)),
        pytest.param({"label_smoothing": 0.2}, (1.0, 1.0), marks=pytest.mark.slow),
        ({"teacher_forcing": 0.0}, (0.0, 0.0)),
        ({"teacher_forcing_schedule": "linear", "teacher_forcing_steps": 2}, (1.0, 0.0)),
        ({"teacher_forcing_schedule": "linear", "teacher_forcing_steps": 2, "teacher_forcing": 1.0}, (1.0, 1.0)),
    ],
)
def test_the_loss_is_what_the_flags_ask_for(flags, shares):
    """At the first step and after two: of the true symbols, or of what the decoder wrote itself."""
    model, variables, batch, logits = small_model()
    loss = jax.jit(make_loss(Seq2SeqConfig(task="copy", **flags), model, 0))
    for step, share in zip((0, 2), shares, strict=True):
        (total, count), after = loss(variables["params"], jnp.int32(step), batch, jax.random.key(1))
        smoothing = flags.get("label_smoothing", 0.0)
        wanted = losses.cross_entropy(logits[share], batch["target"], batch["target_mask"], label_smoothing=smoothing)
        assert float(count) == 10
        assert float(total) == pytest.approx(float(wanted[0]), rel=1e-5)
        assert int(after) == step + 1


def test_a_side_reads_symbols_in_the_order_asked_for_and_blanks_around_them_never():
    config = Seq2SeqConfig(task="copy", tokens="char")
    forwards, backwards = (Side.learn(config, ["a b c"], reverse) for reverse in (False, True))
    (read,) = forwards.encode(["a b"])
    assert read.tolist() == forwards.encode(["  a b "])[0].tolist()
    (reversed_,) = backwards.encode(["a b"])
    assert reversed_.tolist() == [*read[:-1][::-1].tolist(), read[-1]]
    assert backwards.decode(reversed_) == forwards.decode(read) == "a b"


@pytest.mark.parametrize("tokens", ["word", "char", "bpe"])
def test_a_sentence_ends_with_a_symbol_of_its_own(tokens):
    side = Side.learn(Seq2SeqConfig(task="copy", tokens=tokens, vocab_size=30), ["a b c", "b, c a."])
    (read,) = side.encode(["b c a"])
    assert (read == side.end).tolist() == [False] * (len(read) - 1) + [True]
    assert side.decode(read) == "b c a"


def test_the_end_of_a_line_is_never_left_out():
    config = Seq2SeqConfig(task="copy", tokens="char", vocab_size=3)
    with pytest.raises(FlagError, match="--vocab_size, --min_count: expected to keep the end of a line"):
        Side.learn(config, ["aaabbb", "ab"])


def test_help_lists_the_flags_and_exits_with_0():
    code, out, _ = seq2seq("--help")
    assert code == 0
    for name in ("--train_source", "--attention", "--beam_size", "--translate_file", "--bleu_of", "--label_smoothing"):
        assert name in out


def test_sentences_that_differ_by_case_alone_are_on_one_side_of_the_cut(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{'Qq'[i % 2]}uelle {i // 2}\t{'Zz'[i % 2]}iel {i // 2}\n" for i in range(400)))
    corpus = load_corpus(Seq2SeqConfig(train=str(path), lowercase=True, held_out=0.1))
    assert len(corpus.test.source) > 10
    assert not set(corpus.train.source) & {*corpus.test.source, *corpus.valid.source}
