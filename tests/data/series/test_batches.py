"""Padding, division into seen and wanted, and batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import dynamicblocks as db
from dynamicblocks.data.series import SeriesBatches, SeriesSet, divided


def ragged(lengths):
    return SeriesSet.of(
        [torch.arange(length) + 0.5 for length in lengths],
        [torch.arange(length) + 100.0 * row for row, length in enumerate(lengths)],
    )


@given(some.lists(some.integers(2, 6), min_size=1, max_size=7), some.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_every_series_comes_whole_whatever_the_lengths(lengths, size):
    series = ragged(lengths)
    found = []
    for batch in SeriesBatches(series, size, dtype=torch.float64).evaluation():
        assert batch.times.shape[1] == batch.seen.any(-1).sum(1).max()
        found += [values[seen].tolist() for values, seen in zip(batch.values, batch.seen, strict=True)]
        assert bool((batch.values[~batch.seen] == 0).all())
    assert found == [[row * 100.0 + place for place in range(length)] for row, length in enumerate(lengths)]


def test_a_resumed_epoch_goes_on_and_processes_share_a_batch():
    series = ragged([3] * 8)
    whole = SeriesBatches(series, 2, seed=5, epochs=2)
    epoch = [batch.values for batch in whole.training(1)]
    assert all(map(torch.equal, epoch[2:], [batch.values for batch in whole.training(1, 2)]))
    assert [batch.progress.item() for batch in whole.training(1, 0, 0.5)] == [0.5, 0.625, 0.75, 0.875]
    parts = [next(SeriesBatches(series, 2, seed=5, rank=rank, world=2).training(1)).values for rank in (0, 1)]
    assert torch.equal(torch.cat(parts), epoch[0])


def test_times_are_scaled_before_they_lose_digits():
    series = SeriesSet.of([[1.7e9, 1.7e9 + 1, 1.7e9 + 4]], [[1.0, 2.0, 3.0]])
    (batch,) = SeriesBatches(series, 1, origin=1.7e9, span=4.0, mean=2.0, std=2.0).evaluation()
    assert batch.times.tolist() == [[0, 0.25, 1]]
    assert batch.values.flatten().tolist() == [-0.5, 0, 0.5]
    with pytest.raises(
        db.ConfigurationError, match=r"series 0: the times 1700000000.0 and 1700000001.0 are one in float32"
    ):
        SeriesBatches(series, 1)


def test_what_is_seen_and_wanted():
    series = ragged([5, 3])
    early = divided(series, "extrapolate", 0.5)
    assert early.seen.tolist() == [[True, True, True, False, False], [True, True, False, False, False]]
    assert early.wanted.tolist() == [[False, False, False, True, True], [False, False, True, False, False]]
    assert divided(series, "extrapolate", training=True).wanted.sum().item() == 8
    between = divided(series, "interpolate", 0.4, seed=3)
    assert between.seen.sum(1).tolist() == [2, 1]
    assert torch.equal(between.seen, divided(series, "interpolate", 0.4, seed=3).seen)
    assert torch.equal(divided(early, "reconstruct").seen, series.seen)
    for how, share, said in (("extrapolte", 0.5, "did you mean 'extrapolate'"), ("interpolate", 1.0, r"in \(0, 1\)")):
        with pytest.raises(db.ConfigurationError, match=said):
            divided(series, how, share)


@pytest.mark.parametrize(
    ("times", "values", "more", "said"),
    [
        ([[0.0]], [[1.0]], {}, "series 0 has 1 time"),
        ([[0.0, 0.0]], [[1.0, 2.0]], {}, "time 0 repeats"),
        ([[1.0, 0.0]], [[1.0, 2.0]], {}, "sort the times"),
        ([[0.0, float("nan")]], [[1.0, 2.0]], {}, "times must be finite"),
        ([[0.0, 1.0]], [[1.0, float("inf")]], {}, "values must be finite"),
        ([[0.0, 1.0]], [[float("nan")] * 2], {"ids": ["sun"]}, "series sun: all values are missing"),
        ([[0.0, 1.0]], [[1.0, 2.0]], {"labels": [None]}, "series number 0 has no label"),
        ([[0.0, 1.0]], [[1.0, 2.0]], {"labels": ["a"], "classes": ["b"]}, "the label a"),
        ([[0.0, 1.0]], [[1.0, 2.0]], {"features": ["x", "y"]}, "2 \\(x, y\\)"),
        ([[0.0, 1.0]], [[[1.0, 2.0]] * 2], {"features": ["x", "x"]}, "features must be different"),
        ([[0.0, 1.0]], [[1.0, 2.0]], {"observed": [[True]]}, "series 0: observed must be bool"),
        ([[0.0, 1.0]], [[1.0, 2.0]], {"observed": []}, "each of the 1 series"),
        ([], [], {}, "one series at least"),
    ],
)
def test_series_of_which_nothing_can_be_learnt_are_told(times, values, more, said):
    with pytest.raises(db.ConfigurationError, match=said):
        SeriesSet.of(times, values, **more)


def test_padding_that_needs_more_memory_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr("dynamicblocks.memory.available", lambda: 2**25)
    long, short = torch.arange(2000.0), torch.arange(2.0)
    with pytest.raises(db.ConfigurationError, match="padding 2,001 series to the 2,000 times of the longest needs"):
        SeriesSet.of([long] + [short] * 2000, [long] + [short] * 2000)
