"""What a process of events needs to know of the data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dynamicblocks.data.series.events import EventSet
from dynamicblocks.tasks.facts import deviations_in, names_in, numbers_in, wrong


@dataclass(frozen=True)
class EventFacts:
    """Of sequences of events.

    Args:
        t0, t1: the window.
        rate: events in a unit of time, on average in training.
        columns: names of the numbers that each sequence has.
        mean, std: of these in training.
    """

    t0: float
    t1: float
    rate: float
    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def span(self) -> float:
        """The length of the window."""
        return self.t1 - self.t0

    def stored(self) -> dict[str, Any]:
        """As files hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_file(cls, facts: Mapping[str, Any]) -> "EventFacts":
        """Those of :meth:`stored`.

        Raises:
            ConfigurationError: one is missing, or is not what it should be.
        """
        single = {}
        for name in ("t0", "t1", "rate"):
            (single[name],) = numbers_in({name: [facts.get(name)]}, name)
        if single["t1"] <= single["t0"]:
            raise wrong(facts, "t1", "a number above t0")
        if single["rate"] <= 0:
            raise wrong(facts, "rate", "a positive number")
        if facts.get("columns") == [] and facts.get("mean") == [] and facts.get("std") == []:
            return cls(**single, columns=(), mean=(), std=())
        columns, mean = names_in(facts, "columns"), numbers_in(facts, "mean")
        if len(mean) != len(columns):
            raise wrong(facts, "mean", f"{len(columns)} numbers, one a column")
        return cls(**single, columns=columns, mean=mean, std=deviations_in(facts, "std", len(mean)))


def facts_of_events(events: EventSet) -> EventFacts:
    """The facts of the sequences of a training, which have events and no constant column."""
    numbers = events.initial.unbind(1)
    mean, std = (tuple(float(each) for each in found) for found in (
        [column.mean() for column in numbers], [column.std(correction=0) for column in numbers]
    ))  # fmt: skip
    rate = events.events / len(events) / (events.t1 - events.t0)
    return EventFacts(events.t0, events.t1, rate, events.columns, mean, std)
