"""Which times of a series a network is given, and of which it has to tell."""

from dataclasses import replace

import torch
from torch import Tensor

from dynamicblocks.data.series.checks import check_share
from dynamicblocks.data.series.series import SeriesSet
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError, unknown_name

DIVISIONS = ("extrapolate", "interpolate", "reconstruct")
# Keeps these draws apart from others with the same seed.
STREAM = 2


def divided(series: SeriesSet, how: str, share: float = 0.5, seed: int = 0, *, training: bool = False) -> SeriesSet:
    """The same series, with other times seen and wanted.

    Args:
        series: one or more.
        how: ``reconstruct``: all times are seen and wanted. ``extrapolate``: the first ``share`` of the time from the
            first to the last of each series is seen, the rest wanted. ``interpolate``: a random ``share`` of the times
            of each series at which anything is observed is seen, one at least, and all times are wanted.
        share: in (0, 1); ``reconstruct`` does without.
        seed: of the random share.
        training: in ``extrapolate``, what is seen is wanted as well.

    Raises:
        ConfigurationError: there is no such way or share, or nothing would be seen, or nothing wanted.

    >>> short = SeriesSet.of([[0.0, 1.0, 4.0]], [[1.0, 2.0, 3.0]])
    >>> divided(short, "extrapolate").seen.tolist(), divided(short, "extrapolate").wanted.tolist()
    ([[True, True, False]], [[False, False, True]])
    """
    if how not in DIVISIONS:
        raise unknown_name("division", how, DIVISIONS)
    there = torch.arange(series.times.shape[1]) < series.lengths[:, None]
    if how == "reconstruct":
        return replace(series, seen=there, wanted=there)
    check_share(share, "the share of a series that is seen")
    if how == "interpolate":
        seen, wanted = _some_of(series.observed.any(-1), share, seed), there
    else:
        first, last = series.times[:, :1], series.times[:, -1:]
        seen = there & (series.times <= first + share * (last - first))
        wanted = there if training else there & ~seen
    for times, what in ((seen, "seen"), (wanted, "wanted")):
        if not bool((times[..., None] & series.observed).any()):
            raise ConfigurationError(
                f"with {how} and the share {share:g} no value of any series is {what}: choose another share"
            )
    return replace(series, seen=seen, wanted=wanted)


def _some_of(candidates: Tensor, share: float, seed: int) -> Tensor:
    """A random share of the marked times of each series, one at least."""
    drawn = torch.rand(candidates.shape, dtype=torch.float64, generator=generator(seed, STREAM))
    place = drawn.where(candidates, 2.0).argsort(1).argsort(1)
    count = (share * candidates.sum(1, keepdim=True)).round().clamp_min(1)
    return candidates & (place < count)
