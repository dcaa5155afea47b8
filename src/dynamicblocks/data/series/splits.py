"""Series of a file in three splits."""

from dataclasses import replace

import numpy as np
import torch

from dynamicblocks.data.series.checks import check_share
from dynamicblocks.data.series.dataset import SeriesDataset
from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.errors import ConfigurationError

# With fewer series than splits, the later times are held out.
FEWEST = 3
SAID = {1: "one series", 2: "two series"}


def split_series(series: SeriesSet, origin: str, validation: float, test: float, seed: int) -> SeriesDataset:
    """Shares of the series held out; or, of one or two series, their last times.

    Args:
        series: all there are.
        origin: where they come from, for the note and messages.
        validation, test: the shares, in (0, 1).
        seed: which series they are.

    Raises:
        ConfigurationError: a share is none, or nothing is left to train on.
    """
    check_share(validation, "data.validation")
    check_share(test, "data.test")
    if validation + test >= 1:
        raise ConfigurationError(
            f"data.validation {validation:g} and data.test {test:g} leave nothing to train on: lower them"
        )
    if len(series) < FEWEST:
        found = _in_time(series, origin, validation, test)
    else:
        found = _by_series(series, origin, validation, test, seed)
    check_varies(found.train, f"{origin}, training series")
    return found


def check_varies(series: SeriesSet, what: str) -> None:
    """Raise for a feature of which nothing can be learnt: it is never observed, or always the same."""
    for name, values, there in zip(series.features, series.values.unbind(-1), series.observed.unbind(-1), strict=True):
        some = values[there]
        if not len(some):
            raise ConfigurationError(f"{what}: all values of {name} are missing; leave it out")
        if bool((some == some[0]).all()):
            raise ConfigurationError(
                f"{what}: {name} is constant, {some[0].item():g} at all times, so nothing can be learnt of it; "
                "leave it out"
            )


def _by_series(series: SeriesSet, origin: str, validation: float, test: float, seed: int) -> SeriesDataset:
    """Some series to train on, others held out."""
    # RandomState's numbers are promised to stay what they are.
    order = torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(len(series)))
    counts = [max(1, round(share * len(series))) for share in (test, validation)]
    left = len(series) - sum(counts)
    if left < 1:
        raise ConfigurationError(
            f"{origin}: {len(series)} series leave none to train on beside data.validation {validation:g} and "
            f"data.test {test:g}: lower them, or give more series"
        )
    held, kept, rest = (series.select(rows.sort().values) for rows in torch.split(order, [*counts, left]))
    note = (
        f"{origin}: {left:,} series for training, {counts[1]:,} for validation, {counts[0]:,} for test, "
        f"split seed {seed}"
    )
    return SeriesDataset(rest, kept, held, note)


def _in_time(series: SeriesSet, origin: str, validation: float, test: float) -> SeriesDataset:
    """Earlier times to train on, later ones to be told."""
    first, last = series.times[:, :1], series.times[:, -1:]
    lengths = []
    for share in (1 - validation - test, 1 - test):
        before = series.times <= first + share * (last - first)
        there = torch.arange(series.times.shape[1]) < series.lengths[:, None]
        lengths.append((before & there).sum(1))
    train, until_test = lengths
    if bool(((train < 2) | (until_test <= train) | (series.lengths <= until_test)).any()):
        raise ConfigurationError(
            f"{origin}: fewer than {FEWEST} series are split in time, and the earliest {1 - validation - test:.0%} of "
            f"one hold fewer than two times, or a later part (data.validation {validation:g}, data.test {test:g}) "
            "none: change the shares, or give more series"
        )
    note = (
        f"{origin}: {SAID[len(series)]}, too few to hold some out: trained on the earliest "
        f"{1 - validation - test:.0%} of the time of each, validated on the next {validation:.0%}, tested on the last "
        f"{test:.0%}"
    )
    return SeriesDataset(
        _cut(series, train),
        _asked_beyond(_cut(series, until_test), train),
        _asked_beyond(series, until_test),
        note,
    )


def _cut(series: SeriesSet, lengths: torch.Tensor) -> SeriesSet:
    """The first times of each series."""
    length = int(lengths.max())
    there = torch.arange(length) < lengths[:, None]
    final = series.times.gather(1, lengths[:, None] - 1)
    return replace(
        series,
        times=series.times[:, :length].where(there, final),
        values=series.values[:, :length].where(there[..., None], 0.0),
        observed=series.observed[:, :length] & there[..., None],
        lengths=lengths,
        seen=there,
        wanted=there,
    )


def _asked_beyond(series: SeriesSet, seen: torch.Tensor) -> SeriesSet:
    """The same, of which the first times are seen and the others wanted."""
    place = torch.arange(series.times.shape[1])
    first = place < seen[:, None]
    return replace(series, seen=first, wanted=(place < series.lengths[:, None]) & ~first)
