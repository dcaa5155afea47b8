"""Long trajectories in parts: windows with states of their own at their begins, and a horizon that grows."""

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences.neural_ode import NeuralODE


def horizon(progress: float, begin: float, until: float) -> float:
    """Which share of its time a trajectory is followed over, at that share of the training: it grows to all of it.

    >>> [horizon(progress, begin=0.25, until=0.5) for progress in (0.0, 0.25, 0.5, 1.0)]
    [0.25, 0.625, 1.0, 1.0]
    """
    return 1.0 if progress >= until else begin + (1 - begin) * progress / until


def windows_of(length: int, window: int) -> int:
    """How many windows of ``window`` times, of which neighbours share one, cover ``length`` times; 0 is one window.

    >>> windows_of(10, 4), windows_of(10, 0)
    (3, 1)
    """
    if window == 1 or window < 0:
        raise ConfigurationError(f"window must be 0, for the whole trajectory, or 2 times or more, got {window}")
    return max(1, -(-(length - 1) // (window - 1))) if window else 1


def shoot(model: NeuralODE, starts: Tensor, t: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Trajectories by multiple shooting: each window is solved from a state of its own, all of them in one batch.

    A short solve can neither blow up nor forget where it came from, so that the loss has fewer bad minima; what holds
    the windows together is a penalty on the gaps between them.

    Args:
        model: of one state to states at times.
        starts: (n, windows, features), the state at the begin of each window.
        t: (n, length), times, the last repeated behind the end of a series.
        window: times of each; the last of one is the first of the next. 0 for one window that holds all.

    Returns:
        The states, (n, length, features), and the gaps, (n, windows - 1, features): where a window ends less where the
        next one begins, zero behind the end of a series.
    """
    count, length = windows_of(t.shape[1], window), t.shape[1]
    if starts.ndim != 3 or starts.shape[:2] != (len(t), count):
        raise ConfigurationError(
            f"starts must hold a state for each of {count} windows of {len(t)} trajectories, got {tuple(starts.shape)}"
        )
    if count == 1:
        return model(starts[:, 0], t), starts.new_zeros(len(t), 0, starts.shape[2])
    inside = window - 1
    first = torch.arange(count, device=t.device) * inside
    places = (first[:, None] + torch.arange(window, device=t.device)).clamp_max(length - 1)
    found = model(starts.flatten(0, 1), t[:, places].flatten(0, 1)).unflatten(0, (len(t), count))
    states = torch.cat((found[:, :, :-1].flatten(1, 2), found[:, -1, -1:]), dim=1)[:, :length]
    there = (t[:, first[1:]] != t[:, -1:])[..., None]
    return states, (found[:, :-1, -1] - starts[:, 1:]).where(there, 0.0)


def filled(values: Tensor, observed: Tensor) -> Tensor:
    """Values (n, length, features) whose missing ones are those last observed, or else those next; zero of none."""
    place = torch.arange(values.shape[1], device=values.device)[:, None].expand_as(observed)
    last = torch.where(observed, place, -1).cummax(dim=1).values
    first = observed.to(torch.int8).argmax(dim=1, keepdim=True)
    return values.where(observed, 0.0).gather(1, torch.where(last < 0, first, last))


def first_states(values: Tensor, observed: Tensor, t: Tensor, window: int = 0, order: int = 1) -> Tensor:
    """The states at the begins of windows, (n, windows, order * features), as far as observations tell them.

    Missing values are the last ones before. Of a second-order equation velocities are quotients of differences; higher
    derivatives are zero.
    """
    known = filled(values, observed)
    first = torch.arange(windows_of(t.shape[1], window), device=t.device) * (window - 1 if window else 0)
    parts = [known[:, first]]
    if order > 1:
        gaps = (t[:, first + 1] - t[:, first])[..., None]
        slopes = (known[:, first + 1] - known[:, first]) / gaps.where(gaps != 0, 1.0)
        parts += [slopes, *[torch.zeros_like(slopes)] * (order - 2)]
    return torch.cat(parts, dim=-1)
