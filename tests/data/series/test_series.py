"""Series of different lengths, and what is no series."""

import math

import pytest
import torch

from dynamicblocks.data.series import SeriesSet
from dynamicblocks.errors import ConfigurationError


def test_series_are_padded_with_their_last_time() -> None:
    series = SeriesSet.of([[0, 1, 2.5], [3, 4]], [[[1, 2], [math.nan, 3], [4, 5]], [[6, 7], [8, 9]]])
    assert series.times.tolist() == [[0, 1, 2.5], [3, 4, 4]]
    assert series.lengths.tolist() == [3, 2]
    assert series.values[0, 1].tolist() == [0, 3]
    assert series.observed[0, 1].tolist() == [False, True]
    assert not series.observed[1, 2].any()
    assert not series.seen[1, 2]
    assert series.features == ("x0", "x1")
    assert series.ids == ("0", "1")


def test_a_selection_is_cut_to_its_longest() -> None:
    series = SeriesSet.of([[0, 1, 2], [3, 4]], [[1, 2, 3], [4, 5]], labels=["up", "down"], ids=["a", "b"])
    one = series.select(torch.tensor([1]))
    assert one.times.tolist() == [[3, 4]]
    assert one.values.tolist() == [[[4], [5]]]
    assert one.ids == ("b",)
    assert one.classes[int(one.labels[0])] == "down"


def test_a_batch_shows_what_is_seen_and_what_is_wanted() -> None:
    series = SeriesSet.of(torch.tensor([0.0, 1.0]), [[1, math.nan], [2, 3]])
    batch = series.batch(0.25)
    assert torch.equal(batch.seen, series.observed)
    assert torch.equal(batch.wanted, series.observed)
    assert batch.labels.tolist() == [-1, -1]
    assert batch.progress == 0.25


@pytest.mark.parametrize(
    ("times", "values", "said"),
    [
        ([[0, 2, 1]], [[1, 2, 3]], "comes after 2: sort"),
        ([[0, 1, 1]], [[1, 2, 3]], "time 1 repeats"),
        ([[0]], [[1]], "needs two"),
        ([[0, math.nan]], [[1, 2]], "times must be finite"),
        ([[0, 1]], [[1, math.inf]], "got infinity"),
        ([[0, 1]], [[math.nan, math.nan]], "all values are missing"),
        ([[0, 1]], [[1, 2, 3]], "expected times"),
        ([[0, 1], [0, 1]], [[[1, 2], [1, 2]], [1, 2]], "same features"),
        ([], [], "one series at least"),
    ],
)
def test_what_is_no_series(times: list, values: list, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        SeriesSet.of(times, values)
