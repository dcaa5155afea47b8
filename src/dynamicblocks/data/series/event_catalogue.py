"""Events by name: drawn with a known rate, or read from a file."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dynamicblocks.data.series.checks import check_share, exact
from dynamicblocks.data.series.event_files import read_events
from dynamicblocks.data.series.events import EventDataset, EventSet, check_window
from dynamicblocks.data.series.files import source_of
from dynamicblocks.data.series.known_rates import KnownRate, known_rates
from dynamicblocks.data.series.made import MOST_SERIES, PARTS, names
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.thinning import thinned
from dynamicblocks.times import check_count, check_seed

SET = "set of events"
SEQUENCES, STOP = 1000, 10.0
# Fewer sequences of a file than splits cannot be split.
FEWEST = 3


def load_events(
    name: str,
    *,
    seed: int = 0,
    sequences: int | None = None,
    t0: float | None = None,
    t1: float | None = None,
    id: str = "id",
    time: str = "time",
    initial: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.2,
    data_dir: str | None = None,
) -> EventDataset:
    """Sequences of events in three splits.

    Args:
        name: ``constant``, ``sinusoidal``, ``state_driven``; or ``csv:PATH``, ``parquet:PATH``.
        seed: of what is drawn: of events, or of the split of a file.
        sequences: how many are drawn for training.
        t0, t1: the window: of drawn events [0, 10]; of a file from the first event to the last.
        id, time: the columns of a file that say of which sequence a row is, and when it happened.
        initial: its columns of numbers that each sequence has; by default all others that hold numbers.
        validation, test: shares of a file's sequences that are held out; of drawn ones so many are drawn besides.
        data_dir: where a relative path begins.

    Raises:
        ConfigurationError: there is no such name, or something asked for cannot be.
        StorageError: a file is missing or damaged, or its rows are not what they should be.
    """
    check_seed(seed, "data.seed")
    check_share(validation, "data.validation")
    check_share(test, "data.test")
    source = source_of(name, SET, known_rates)
    if source is not None:
        if sequences is not None:
            raise ConfigurationError(
                f"data.sequences is of events that are drawn, and {name!r} is a file: leave it out"
            )
        kind, where = source
        path = Path(data_dir or "") / where
        found = read_events(path, kind, id=id, time=time, initial=initial, t0=t0, t1=t1)
        return split_events(found, where, validation, test, seed)
    if (id, time, initial) != ("id", "time", None):
        raise ConfigurationError(f"names of columns are of files, and the events of {name!r} are drawn: leave them out")
    number = SEQUENCES if sequences is None else check_count(sequences, "data.sequences", most=MOST_SERIES)
    begin, end = check_window(0.0 if t0 is None else t0, STOP if t1 is None else t1)
    counts = {"train": number, "validation": max(1, round(validation * number)), "test": max(1, round(test * number))}
    rate = known_rates.create(name)
    train, held, tested = (drawn_events(rate, count, begin, end, seed, part) for part, count in counts.items())
    if not train.events:
        raise ConfigurationError("no event was drawn to train on; ask for more data.sequences or a longer window")
    note = f"events drawn with the rate {rate.formula} on [{begin:g}, {end:g}], seed {seed}: "
    return EventDataset(train, held, tested, note + _counted(train, held, tested), rate)


def drawn_events(rate: KnownRate, number: int, t0: float, t1: float, seed: int, part: str = "test") -> EventSet:
    """Sequences of a known rate; the draws follow from seed and part.

    >>> drawn_events(known_rates.create("constant"), 2, 0.0, 10.0, seed=0).lengths.shape
    torch.Size([2])
    """
    check_window(t0, t1)
    draws = generator(seed, PARTS.index(part))
    initial = rate.draw(number, draws)
    path = rate.along(initial, t0, t1)
    times, lengths = thinned(path, torch.full((number,), rate.bound, dtype=torch.float64), t0, t1, draws)
    return EventSet(times, lengths, t0, t1, initial, rate.columns, tuple(names(part, number)))


def split_events(events: EventSet, origin: str, validation: float, test: float, seed: int) -> EventDataset:
    """Shares of the sequences held out.

    Raises:
        ConfigurationError: nothing would be left to train on, or what is has no event, or a constant covariate.
    """
    number = len(events)
    held = {"validation": max(1, round(validation * number)), "test": max(1, round(test * number))}
    if number < FEWEST or sum(held.values()) >= number:
        raise ConfigurationError(
            f"{origin} holds {number} sequences, and data.validation {validation:g} and data.test {test:g} leave "
            "nothing to train on: give more sequences, or lower them"
        )
    order = torch.randperm(number, generator=generator(seed))
    parts = torch.split(order, [held["validation"], held["test"], number - sum(held.values())])
    validation_set, test_set, train = (events.select(each.sort().values) for each in parts)
    if not train.events:
        raise ConfigurationError(f"{origin}: the sequences to train on have no event; take another data.split_seed")
    check_covariates(train, origin)
    counted, window = _counted(train, validation_set, test_set), f"[{exact(events.t0)}, {exact(events.t1)}]"
    return EventDataset(train, validation_set, test_set, f"{origin}: {counted}, window {window}, split seed {seed}")


def _counted(*splits: EventSet) -> str:
    return ", ".join(
        f"{len(each):,} sequences with {each.events:,} events for {use}"
        for use, each in zip(("training", *PARTS[1:]), splits, strict=True)
    )


def check_covariates(events: EventSet, what: str) -> None:
    """Raise for a covariate of which nothing can be learnt: it is the same in all sequences."""
    for name, values in zip(events.columns, events.initial.unbind(1), strict=True):
        if values.min() == values.max():
            raise ConfigurationError(
                f"{what}: the column {name} is {values[0]:g} in all sequences to train on, so nothing can be learnt of "
                "it; leave it out, or name the others by data.initial"
            )
