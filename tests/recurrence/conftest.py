"""How loops are run in a test."""

import pytest

from rnn_jax.recurrence import packed
from rnn_jax.recurrence.setting import SETTING


@pytest.fixture
def tiny(monkeypatch):
    """Matrices of any size are packed, and loops with such matrices fused."""
    monkeypatch.setattr(packed, "SMALLEST_MATRIX", 1)


@pytest.fixture
def setting(monkeypatch):
    def choose(value):
        monkeypatch.setenv(SETTING, value)

    return choose
