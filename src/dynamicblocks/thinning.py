"""Events of a rate that varies: those of a constant one above it, of which some are dropped."""

from collections.abc import Callable

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, SolverError

MOST_EVENTS = 20_000_000
"""Candidates of one call, over all sequences: beyond, memory would go before anybody sees why."""


def thinned(
    rate: Callable[[Tensor], Tensor], bound: Tensor, t0: float, t1: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Sequences of events on [t0, t1] whose rate is nowhere above a bound.

    Args:
        rate: of each sequence at its times, (n, length) to (n, length).
        bound: (n,), float64: of each sequence.
        t0, t1: the window.
        generator: of random numbers, on the CPU.

    Returns:
        Times (n, longest), float64, increasing in each, ``t0`` behind the last; and how many each has, (n,).

    Raises:
        ConfigurationError: the bound is negative, the window has no length, or more events are asked for than memory
            has room for.
        SolverError: a rate is above its bound, or not finite.
    """
    if bound.ndim != 1 or not bool((bound >= 0).all()) or not -torch.inf < t0 < t1 < torch.inf:
        raise ConfigurationError(
            f"thinning needs bounds (n,) of zero or more and a finite window with a length, got bounds of shape "
            f"{tuple(bound.shape)} from {bound.min().item() if bound.numel() else 0:.6g} and [{t0:g}, {t1:g}]"
        )
    expected = bound.sum().item() * (t1 - t0)
    if not expected <= MOST_EVENTS:
        raise ConfigurationError(
            f"rates up to {bound.max().item():.4g} on [{t0:g}, {t1:g}] make about {expected:.3g} candidates for "
            f"{len(bound)} sequences, more than {MOST_EVENTS:,}: draw fewer sequences or a shorter window at a time"
        )
    count = torch.poisson(bound * (t1 - t0), generator).long()
    longest = int(count.max()) if len(count) else 0
    there = torch.arange(longest) < count[:, None]
    drawn = torch.rand(len(bound), longest, generator=generator, dtype=torch.float64)
    times = (t0 + (t1 - t0) * drawn).where(there, torch.inf).sort(1).values.where(there, t0)
    kept_share = torch.rand(len(bound), longest, generator=generator, dtype=torch.float64)
    rates = rate(times).double() if longest else times
    if rates.shape != times.shape:
        raise ConfigurationError(
            f"rate must return a number for each time, {tuple(times.shape)}, got {tuple(rates.shape)}"
        )
    if not bool(((rates >= 0) & (rates <= bound[:, None])).all()):
        raise SolverError(
            f"a rate to thin by must lie between zero and its bound, got {rates.min().item():.6g} to "
            f"{rates.max().item():.6g} with bounds up to {bound.max().item():.6g}"
        )
    return gathered(times, there & (kept_share * bound[:, None] < rates), t0)


def gathered(times: Tensor, kept: Tensor, filling: float) -> tuple[Tensor, Tensor]:
    """The kept ones of padded times moved to the front, and how many there are of each."""
    lengths = kept.sum(1)
    longest = int(lengths.max()) if len(lengths) else 0
    order = (~kept).sort(dim=1, stable=True).indices[:, :longest]
    return times.gather(1, order).where(torch.arange(longest) < lengths[:, None], filling), lengths
