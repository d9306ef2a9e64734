"""metrics.jsonl, the display and the plot."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX.proto import event_pb2  # pyright: ignore[reportAttributeAccessIssue]

from rnn_jax.training.display import Display
from rnn_jax.training.files import replaced, write_json
from rnn_jax.training.metrics import TRAIN, VALID, MetricsWriter, read_metrics
from rnn_jax.training.plots import plot_loss


def write(folder, steps, start=0, evaluated=None):
    writer = MetricsWriter(folder)
    writer.start(start, evaluated)
    for step in steps:
        writer.write(step, step / 10, TRAIN, {"loss": 1 / step})
        if step % 10 == 0:
            writer.write(step, step / 10, VALID, {"val_loss": 2 / step})
    writer.close()
    return (folder / "metrics.jsonl").read_text()


def test_resuming_cuts_what_comes_after(tmp_path):
    whole = write(tmp_path, range(1, 41))
    resumed = write(tmp_path, range(26, 41), start=25, evaluated=20)
    assert resumed == whole
    assert write(tmp_path, range(1, 41)) == whole


def test_an_evaluation_that_the_checkpoint_does_not_know_is_cut(tmp_path):
    write(tmp_path, range(1, 31))
    write(tmp_path, [], start=30, evaluated=20)
    found = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in found if line["split"] == VALID] == [10, 20]
    assert max(line["step"] for line in found) == 30


def test_a_line_that_was_not_finished_is_cut(tmp_path):
    whole = write(tmp_path, range(1, 21))
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 21, "sec')
    assert write(tmp_path, [], start=20, evaluated=20) == whole


def test_values_that_are_not_finite_are_null(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.start(0, None)
    writer.write(1, 0.5, TRAIN, {"loss": math.nan, "rate": np.float32(0.5), "norm": math.inf})
    writer.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 1, "seconds": 0.5, "split": "train", "loss": None, "rate": 0.5, "norm": None}


def test_tensorboard_events(tmp_path):
    write(tmp_path, range(1, 11))
    (path,) = tmp_path.glob("events.out.tfevents.*")
    data, tags = path.read_bytes(), set()
    while data:
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        tags |= {(value.tag, event.step) for value in event.summary.value}
        data = data[16 + length :]
    assert ("train/loss", 7) in tags
    assert ("valid/val_loss", 10) in tags


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_come_at_intervals_and_at_evaluations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    display = Display(unit="characters", stream=stream)
    for step in range(1, 101):
        now[0] = step / 4
        display.train(step, step / 100, 2.5, 123456.0, 95.0)
    display.evaluation(100, {"val_loss": 1.25}, best=True)
    display.close()
    assert stream.getvalue().splitlines() == [
        "  1%  step 1  loss 2.5000  123k characters/s  1:35 left",
        " 41%  step 41  loss 2.5000  123k characters/s  1:35 left",
        " 81%  step 81  loss 2.5000  123k characters/s  1:35 left",
        "step 100  val_loss 1.2500  (best)",
    ]


def test_a_bar_on_a_terminal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream, output = Terminal(), io.StringIO()
    display = Display(stream=stream)
    display.train(1, 0.0, 3.0, math.nan, math.nan)
    display.evaluation(5, {"val_loss": 1.25, "val_bpc": 1.8}, best=False)
    now[0] += 0.2
    display.train(500, 0.5, 2.0, 2e6, 3725.0)
    display.message("a sample\n", output)
    display.close()
    assert output.getvalue() == "a sample\n\n"
    assert " 50%|" in stream.getvalue()
    assert "step 500  loss 2.0000  val_loss 1.2500  2M tokens/s  1:02:05 left" in stream.getvalue()


def test_the_plot(tmp_path):
    write(tmp_path, range(1, 41))
    plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", title="a title")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*")), "a temporary file was left"


@pytest.mark.parametrize("split", [TRAIN, VALID, None])
def test_the_plot_of_a_run_with_little_to_show(tmp_path, split):
    writer = MetricsWriter(tmp_path)
    writer.start(0, None)
    if split is not None:
        writer.write(1, 0.1, split, {"loss": 1.0, "val_loss": 1.0})
    writer.close()
    plot_loss(tmp_path / "metrics.jsonl", tmp_path / "loss.png", title="a title")
    assert (tmp_path / "loss.png").exists() == (split is not None)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail():
        with replaced(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_torch_is_not_imported_for_the_events(tmp_path):
    program = (
        "import sys; from rnn_jax.training.metrics import MetricsWriter\n"
        "writer = MetricsWriter(sys.argv[1]); writer.start(0, None); writer.close()\n"
        "assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
