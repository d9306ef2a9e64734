"""The dispatcher on a device made of numbers: its time is a counter, and it works while the host goes on."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_jax.training import dispatch
from rnn_jax.training.dispatch import Dispatcher


class Device:
    """Steps of `pace` seconds; the first of each length compiles for `compile_seconds`, which the host sits out."""

    def __init__(self, pace, compile_seconds=0.0, host_seconds=0.0):
        self.pace = pace
        self.compile_seconds = compile_seconds
        self.host_seconds = host_seconds
        self.now = 0.0
        self.ready_at = 0.0
        self.counts, self.rates = [], []
        self.steps_per_epoch = 10

    def block(self, step, count):
        return np.arange(step, step + count)

    def train_step(self, state, block, rates):
        assert state == block[0], "steps out of order"
        if len(block) not in self.counts:
            self.now += self.compile_seconds
        self.now += self.host_seconds
        self.counts.append(len(block))
        self.rates.extend(rates)
        self.ready_at = max(self.ready_at, self.now) + len(block) * self.pace
        return state + len(block), {"loss": Result(self, block), "count": np.ones(len(block))}


class Result:
    def __init__(self, device, values):
        self.device, self.values, self.ready_at = device, values, device.ready_at

    def __array__(self, dtype=None, copy=None):
        self.device.now = max(self.device.now, self.ready_at)
        return self.values


@pytest.fixture
def dispatcher(monkeypatch):
    def make(device, **options):
        monkeypatch.setattr(dispatch, "time", SimpleNamespace(perf_counter=lambda: device.now))
        defaults: dict[str, Any] = {"last_step": None, "max_seconds": None, "interval": None}
        options = {"rate": lambda step, seconds: seconds, **defaults, **options}
        return Dispatcher(0, device.train_step, device, **options)

    return make


def never():
    return False


def test_yields_every_step_once_in_order(dispatcher):
    device = Device(0.001)
    blocks = list(dispatcher(device, last_step=5000).run(0, 5000, never))
    assert np.concatenate([block.metrics["loss"] for block in blocks]).tolist() == list(range(5000))
    assert [block.first for block in blocks[:3]] == [1, 2, 3]
    assert blocks[-1].last == 5000


def test_short_steps_share_dispatches_and_long_ones_do_not(dispatcher):
    short, long = Device(0.001), Device(0.05)
    list(dispatcher(short, last_step=5000).run(0, 5000, never))
    list(dispatcher(long, last_step=100).run(0, 100, never))
    assert set(short.counts) == {1, 128}
    assert set(long.counts) == {1}


def test_steps_of_several_runs_share_dispatches_when_each_is_short(dispatcher):
    """16 steps of 3 ms take as long as one of 50 ms, but the host works for each; half a second goes off at once."""
    several = Device(0.05)
    list(dispatcher(several, last_step=1000, runs=16).run(0, 1000, never))
    assert set(several.counts) == {1, 8}


def test_what_decides_on_the_block_size_may_ask_for_time_and_for_another(dispatcher):
    device, asked = Device(0.001), []

    def decide(size):
        asked.append(size)
        return 4 if len([size for size in asked if size is not None]) == 3 else None

    list(dispatcher(device, last_step=1000, block_size=decide).run(0, 1000, never))
    assert asked[0] is None
    assert min(asked[-3:]) > 4
    assert asked[-4] is None
    assert set(device.counts) == {1, 4}


def test_a_second_program_is_not_compiled_for_a_short_rest(dispatcher):
    device = Device(0.001, compile_seconds=2.0)
    list(dispatcher(device, last_step=5000).run(0, 5000, never))
    assert set(device.counts) == {1}


def test_blocks_are_small_against_the_interval_and_stop_at_its_end(dispatcher):
    device = Device(0.001)
    runner = dispatcher(device, last_step=1000, interval=100)
    for end in range(100, 1100, 100):
        list(runner.run(end - 100, end, never))
        assert sum(device.counts) == end
    assert set(device.counts) == {1, 8}


def test_the_next_block_is_sent_off_before_the_last_is_read(dispatcher):
    """With as much work for the host as for the device, both work at once: the time of one, not the sum."""
    device = Device(0.02, host_seconds=0.02)
    runner = dispatcher(device, last_step=100)
    list(runner.run(0, 100, never))
    assert runner.seconds == pytest.approx(100 * 0.02 + 0.02)


@pytest.mark.parametrize("pace", [0.0007, 0.004, 0.03, 0.7, 3.0])
def test_a_time_limit_is_kept_to_half_a_step_and_the_schedule_ends_with_it(dispatcher, pace):
    device = Device(pace, compile_seconds=2.0)
    runner = dispatcher(device, max_seconds=30.0, rate=lambda step, seconds: 30 - seconds)
    last = list(runner.run(0, math.inf, never))[-1]
    assert runner.out_of_time
    assert abs(runner.seconds - 30) <= 0.51 * pace + 1e-9
    assert -1e-9 <= device.rates[-1] <= 2.5 * pace
    assert device.rates == sorted(device.rates, reverse=True)
    assert last.last == len(device.rates)


def test_a_device_that_slows_down_overshoots_by_one_dispatch_at_most(dispatcher):
    device = Device(0.001)
    runner = dispatcher(device, max_seconds=10.0)
    for _ in runner.run(0, math.inf, never):
        device.pace = 0.001 if device.now < 9.8 else 0.002
    assert 10.0 < runner.seconds < 10.0 + 0.2


def test_compilation_counts_and_pauses_do_not(dispatcher):
    device = Device(0.1, compile_seconds=5.0)
    runner = dispatcher(device, max_seconds=10.0, seconds=1.0)
    list(runner.run(0, 10, never))
    assert runner.seconds == pytest.approx(1 + 5 + 10 * 0.1)
    device.now += 100.0
    assert runner.seconds == pytest.approx(7)
    list(runner.run(10, math.inf, never))
    assert sum(device.counts) == 10 + 30


def test_speed_is_measured_without_compilation(dispatcher):
    device = Device(0.001, compile_seconds=1.0)
    runner = dispatcher(device, last_step=20000)
    list(runner.run(0, 20000, never))
    assert set(device.counts) == {1, 128}
    assert runner.seconds_per_step == pytest.approx(0.001, rel=0.02)
    assert runner.mean_units_per_second == pytest.approx(1000, rel=0.02)


def test_an_interruption_ends_it_after_what_is_under_way(dispatcher):
    device = Device(0.05)
    blocks = list(dispatcher(device, last_step=100).run(0, 100, lambda: device.now > 1.0))
    assert blocks[-1].last == sum(device.counts)
    assert 20 <= blocks[-1].last <= 23


def test_a_limit_already_reached_runs_nothing(dispatcher):
    device = Device(0.05)
    runner = dispatcher(device, max_seconds=10.0, seconds=10.0)
    assert runner.out_of_time
    assert list(runner.run(0, math.inf, never)) == []
