"""Events: known rates beside quadrature and counts, files, and what is refused."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from dynamicblocks.data.series import EventSet, load_events
from dynamicblocks.data.series.event_catalogue import drawn_events
from dynamicblocks.data.series.events import log_likelihood
from dynamicblocks.data.series.known_rates import known_rates
from dynamicblocks.errors import ConfigurationError, StorageError

START = (1.0, -0.5)


def rates():
    """The formulas once more, of scipy's numbers."""
    angles = solve_ivp(lambda t, y: [y[1], -math.sin(y[0])], (0, 10), START, "DOP853", dense_output=True, rtol=1e-11,
                       atol=1e-12).sol  # fmt: skip
    return {
        "constant": lambda t: 2.0,
        "sinusoidal": lambda t: 2 * (1 + 0.8 * math.sin(2 * math.pi * t / 5)),
        "state_driven": lambda t: 2 * math.exp(0.9 * math.sin(angles(t)[0])),
    }


def test_known_rates_and_their_likelihood():
    times = [0.0, 0.013, 3.21, 7.777, 10.0]
    for name, rate in rates().items():
        known = known_rates.create(name)
        initial = torch.tensor([START, START], dtype=torch.float64) if known.columns else None
        events = EventSet.of([times, []], t0=0.0, t1=10.0, initial=initial)
        path = known.along(events.initial, 0.0, 10.0)
        expected = [rate(t) for t in times]
        np.testing.assert_allclose(path(events.times)[0], expected, rtol=1e-8)
        assert max(expected) <= known.bound
        integral = quad(rate, 0, 10, epsabs=1e-11, epsrel=1e-11, limit=200)[0]
        whole = [sum(map(math.log, expected)) - integral, -integral]
        np.testing.assert_allclose(log_likelihood(known, events), whole, atol=1e-7)


@pytest.mark.parametrize("name", ["constant", "sinusoidal", "state_driven"])
def test_drawn_events_have_the_counts_of_their_rate(name):
    """In bins, of mean and variance; of a pendulum each sequence has a mean of its own."""
    known, number = known_rates.create(name), 3000
    events = drawn_events(known, number, 0.0, 10.0, seed=3)
    path = known.along(events.initial, 0.0, 10.0)
    grid = torch.linspace(0, 10, 1001, dtype=torch.float64)
    means = path(grid.expand(number, -1))
    for begin, end in pairwise(range(0, 1001, 200)):
        expected = torch.trapezoid(means[:, begin : end + 1], grid[begin : end + 1], dim=1)
        counts = ((events.times >= grid[begin]) & (events.times < grid[end]) & events.there).sum(1).double()
        scaled = (counts - expected) / expected.sqrt()
        assert abs(scaled.mean().item()) < 5 / math.sqrt(number)
        of_variance = math.sqrt((2 + 1 / expected.mean().item()) / number)
        assert scaled.square().mean().item() == pytest.approx(1, abs=5 * of_variance + 0.01)


def test_draws_follow_from_the_seed():
    first, again, other = (load_events("state_driven", seed=seed, sequences=30) for seed in (1, 1, 2))
    assert torch.equal(first.train.times, again.train.times)
    assert first.train.times.shape != other.train.times.shape or not torch.equal(first.train.times, other.train.times)
    assert (len(first.train), len(first.validation), len(first.test)) == (30, 3, 6)
    assert "sin(angle)" in first.note


@pytest.mark.parametrize(("times", "more", "message"), [
    ([[2.0, 1.0]], {}, "sequence 0: times must increase, but time 1 comes after 2: sort"),
    ([[1.0], [2.0, 2.0]], {}, "sequence 1: .*time 2 repeats"),
    ([[1.0, math.nan]], {}, "sequence 0: times must be finite"),
    ([[1.0, 3.0]], {"t1": 2.0}, r"sequence 0: event at 3 lies outside the window \[1, 2\]"),
    ([[1.0]], {}, r"have a length, got \[1, 1\]"),
    ([[], []], {}, "no sequence has an event"),
    ([], {}, "one sequence at least"),
    ([[1.0, 2.0]], {"initial": [1.0, 2.0]}, r"initial must be \(1, numbers\)"),
    ([[1.0, 2.0]], {"initial": [math.nan], "columns": ["age"]}, "sequence 0: 'age' is missing or not finite"),
    ([[1.0, 2.0]], {"initial": [1.0], "columns": ["a", "b"]}, "initial has 1 columns, got the names a, b"),
])  # fmt: skip
def test_sequences_that_cannot_be(times, more, message):
    with pytest.raises(ConfigurationError, match=message):
        EventSet.of(times, **more)


@pytest.mark.parametrize(("name", "more", "message"), [
    ("sinus", {}, "unknown set of events 'sinus'; did you mean 'sinusoidal'"),
    ("events.csv", {}, "did you mean csv:events.csv"),
    ("csv:", {}, "unknown set of events"),
    ("constant", {"id": "patient"}, "names of columns are of files"),
    ("constant", {"t1": -1.0}, "have a length"),
    ("constant", {"test": 1.5}, r"data.test.*\(0, 1\)"),
    ("csv:x.csv", {"sequences": 3}, "data.sequences is of events that are drawn"),
])  # fmt: skip
def test_sets_that_cannot_be(name, more, message):
    with pytest.raises(ConfigurationError, match=message):
        load_events(name, **more)


def table(folder, text):
    path = folder / "events.csv"
    path.write_text(text)
    return f"csv:{path}"


def test_a_table_of_events(tmp_path):
    """Rows of a sequence need not stand together; a sequence without an event has a row without a time."""
    pytest.importorskip("pyarrow")
    rows = "id,time,age,note\na,1.5,30,x\nb,0.5,40,y\na,2.5,30,z\nc,,50,w\nd,3.0,60,w\n"
    found = load_events(table(tmp_path, rows), t0=0.0, t1=4.0, validation=0.25, test=0.25)
    assert (len(found.train), len(found.validation), len(found.test)) == (2, 1, 1)
    assert found.train.columns == ("age",)
    assert (found.train.t0, found.train.t1) == (0.0, 4.0)
    whole = {name: (row[:n].tolist(), age.item()) for part in (found.train, found.validation, found.test)
             for name, row, n, age in zip(part.ids, part.times, part.lengths, part.initial, strict=True)}  # fmt: skip
    assert whole == {"a": ([1.5, 2.5], 30), "b": ([0.5], 40), "c": ([], 50), "d": ([3.0], 60)}


def test_a_parquet_file_is_as_its_table(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"who": [1, 2, 3, 4], "when": [1.0, 2.0, None, 2.5]}), tmp_path / "events.parquet")
    found = load_events(f"parquet:{tmp_path / 'events.parquet'}", id="who", time="when", t0=0.0, t1=3.0)
    assert sorted(found.train.ids + found.validation.ids + found.test.ids) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("rows", "more", "message"), [
    ("id,when\na,1\n", {}, "there is no column 'time'; there are 'id', 'when'"),
    ("id,time\na,1\n", {"initial": ("age",)}, "no column 'age'"),
    ("id,time\na,2\na,1\n", {}, "lines 2 and 3: sequence 'a': time 1 comes after 2"),
    ("id,time\na,2\na,2\n", {}, "time 2 repeats"),
    ("id,time\na,1\na,\n", {}, "line 3: column 'time': a time of sequence 'a' is missing or NaN"),
    ("id,time\na,one\n", {}, "'one', which is no number"),
    ("id,time\na,1\nb,5\n", {"t1": 4.0}, r"line 3: event at 5 lies outside the window \[1, 4\]"),
    ("id,time,x\na,1,1\na,2,2\n", {}, "line 3: column 'x' of sequence 'a' is 2, and 1 before"),
    ("id,time,x\na,1,1\na,2,\n", {}, "line 3: column 'x' of sequence 'a' is missing"),
    ("id,time,x\na,1,1\nb,2,1\nc,3,1\nd,4,1\n", {}, "the column x is 1 in all sequences"),
    ("id,time\na,\nb,\n", {}, "no sequence has an event"),
    ("id,time\na,1\nb,2\n", {}, "2 sequences.*leave nothing"),
    ("id,time\n", {}, "no rows"),
])  # fmt: skip
def test_tables_that_cannot_be(tmp_path, rows, more, message):
    pytest.importorskip("pyarrow")
    with pytest.raises((ConfigurationError, StorageError), match=message):
        load_events(table(tmp_path, rows), **more)
