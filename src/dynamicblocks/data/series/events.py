"""Sequences of events: when things happened in a window of time, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.data.series.checks import each_of, exact, numbers_of
from dynamicblocks.data.series.known_rates import KnownRate
from dynamicblocks.errors import ConfigurationError, brief


@dataclass(frozen=True)
class EventSet:
    """Sequences of events in one window, each with numbers that tell it apart, perhaps.

    Made by :meth:`of`, which checks.

    Args:
        times: (n, longest), float64, increasing in each; ``t0`` behind the last.
        lengths: (n,), int64: how many events each has; none is a sequence, too.
        t0, t1: the window in which every event would have been seen.
        initial: (n, numbers), float64: covariates of each sequence, such as the first state of a system.
        columns: a name for each of these.
        ids: a name for each sequence.
    """

    times: Tensor
    lengths: Tensor
    t0: float
    t1: float
    initial: Tensor
    columns: tuple[str, ...]
    ids: tuple[str, ...]

    @classmethod
    def of(
        cls,
        times: Sequence[Any],
        *,
        t0: float | None = None,
        t1: float | None = None,
        initial: Any = None,
        columns: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> "EventSet":
        """Sequences from the times of each.

        Args:
            times: of each sequence, (length,), perhaps none.
            t0, t1: the window; by default from the first event of all to the last.
            initial: (n, numbers) or (n,), covariates.
            columns: their names; by default x0, x1, ...
            ids: names of the sequences; by default their numbers.

        Raises:
            ConfigurationError: times are not finite, do not increase or lie outside the window; there is no sequence,
                or none with an event; or sizes do not go together. The message names the sequence.

        >>> events = EventSet.of([[0.5, 1.5], []], t0=0.0, t1=2.0)
        >>> events.times.tolist(), events.lengths.tolist()
        ([[0.5, 1.5], [0.0, 0.0]], [2, 0])
        """
        given = each_of(times, "times")
        names = tuple(str(each) for each in (range(len(given)) if ids is None else ids))
        found = [numbers_of(each, f"sequence {name}: times") for name, each in zip(names, given, strict=False)]
        if not given or len(names) != len(given):
            raise ConfigurationError(
                f"there must be one sequence at least, and an id for each; got {len(given)} and {len(names)} ids"
            )
        if len(set(names)) < len(names):
            raise ConfigurationError(f"ids must be different names, got {names[:10]}")
        for name, each in zip(names, found, strict=True):
            _check_times(name, each)
        begin, end = window_of(found, t0, t1)
        for name, each in zip(names, found, strict=True):
            outside = each[(each < begin) | (each > end)]
            if len(outside):
                raise ConfigurationError(outside_said(f"sequence {name}", outside[0].item(), begin, end))
        numbers, known = _covariates(initial, columns, names)
        lengths = torch.tensor([len(each) for each in found])
        longest = int(lengths.max())
        padded = torch.stack([torch.cat([each, each.new_full((longest - len(each),), begin)]) for each in found])
        return cls(padded, lengths, begin, end, numbers, known, names)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def events(self) -> int:
        """How many events there are."""
        return int(self.lengths.sum())

    @property
    def there(self) -> Tensor:
        """(n, longest), bool: where an event stands."""
        return torch.arange(self.times.shape[1]) < self.lengths[:, None]

    def select(self, rows: Tensor) -> "EventSet":
        """Some of the sequences, their padding cut to the longest of them."""
        longest = int(self.lengths[rows].max()) if len(rows) else 0
        return replace(
            self,
            times=self.times[rows, :longest],
            lengths=self.lengths[rows],
            initial=self.initial[rows],
            ids=tuple(self.ids[row] for row in rows.tolist()),
        )


@dataclass(frozen=True)
class EventDataset:
    """Sequences of events in three splits.

    Args:
        train, validation, test: the splits, of one window.
        note: where they come from and how they were split, for the record of a run.
        truth: the rate that they were drawn with, where it is known.
    """

    train: EventSet
    validation: EventSet
    test: EventSet
    note: str
    truth: KnownRate | None = None


def log_likelihood(rate: KnownRate, events: EventSet) -> Tensor:
    """(n,), of sequences that were drawn with a known rate."""
    path = rate.along(events.initial, events.t0, events.t1)
    return path(events.times).log().where(events.there, 0.0).sum(1) - path.integral()


def window_of(times: Sequence[Tensor], t0: float | None, t1: float | None) -> tuple[float, float]:
    """The window, as given or from the first event of all to the last.

    Raises:
        ConfigurationError: it has no length, or there is no event.
    """
    every = torch.cat([torch.as_tensor(each).reshape(-1) for each in times])
    if not len(every):
        raise ConfigurationError("no sequence has an event, so there is no rate to learn")
    return check_window(every.min().item() if t0 is None else t0, every.max().item() if t1 is None else t1)


def check_window(t0: float, t1: float) -> tuple[float, float]:
    """Return both, or raise: finite numbers, the second above the first."""
    for value, what in ((t0, "t0"), (t1, "t1")):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigurationError(f"{what}, an end of the window of events, must be a number, got {brief(value)}")
    if not -torch.inf < t0 < t1 < torch.inf:
        raise ConfigurationError(
            f"the window of events must be finite and have a length, got [{exact(t0)}, {exact(t1)}]; give t0 and t1"
        )
    return float(t0), float(t1)


def outside_said(what: str, time: float, t0: float, t1: float) -> str:
    """The message for an event outside its window."""
    return f"{what}: event at {exact(time)} lies outside the window [{exact(t0)}, {exact(t1)}]; give another t0 or t1"


def _check_times(name: str, times: Tensor) -> None:
    if times.ndim != 1:
        raise ConfigurationError(f"sequence {name}: expected times (length,), got {tuple(times.shape)}")
    if not bool(torch.isfinite(times).all()):
        raise ConfigurationError(f"sequence {name}: times must be finite, got NaN or infinity")
    wrong = (times.diff() <= 0).nonzero()
    if len(wrong):
        before, after = (times[int(wrong[0]) + next].item() for next in (0, 1))
        said = "repeats: leave one out" if before == after else f"comes after {exact(before)}: sort the times"
        raise ConfigurationError(f"sequence {name}: times must increase, but time {exact(after)} {said}")


def _covariates(given: Any, columns: Sequence[str] | None, ids: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    if given is None:
        if columns:
            raise ConfigurationError(f"columns {', '.join(columns)} are names of initial, which is not given")
        return torch.zeros(len(ids), 0, dtype=torch.float64), ()
    numbers = numbers_of(given, "initial")
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or len(numbers) != len(ids):
        raise ConfigurationError(f"initial must be ({len(ids)}, numbers), a row a sequence, got {tuple(numbers.shape)}")
    known = tuple(f"x{place}" for place in range(numbers.shape[1])) if columns is None else tuple(columns)
    if len(known) != numbers.shape[1] or len(set(known)) != len(known):
        raise ConfigurationError(f"initial has {numbers.shape[1]} columns, got the names {', '.join(known) or 'none'}")
    wrong = (~torch.isfinite(numbers)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ConfigurationError(f"sequence {ids[row]}: {brief(known[column])} is missing or not finite")
    return numbers, known
