"""Shared by all tests."""

import os
import signal

import pytest
import torch


def pytest_configure():
    # Two test processes on two cores: more threads would fight each other.
    torch.set_num_threads(1)
    # Of the terminal that the tests were started from; what commands print is to be the same everywhere.
    os.environ.pop("COLUMNS", None)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell, where Ctrl-C is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Double precision as the default for the duration of a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch.float64
    torch.set_default_dtype(before)


@pytest.fixture
def without_manifestations(monkeypatch):
    """A small training takes less time than other integrators on the test samples at its end."""
    monkeypatch.setattr("dynamicblocks.training.outcome.FEW", 0)
