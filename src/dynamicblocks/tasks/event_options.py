"""Options of the task of events."""

from dataclasses import dataclass

from dynamicblocks.data.series.checks import check_share
from dynamicblocks.data.series.event_catalogue import SET, load_events, split_events
from dynamicblocks.data.series.events import EventDataset, EventSet
from dynamicblocks.data.series.files import source_of
from dynamicblocks.data.series.known_rates import known_rates
from dynamicblocks.tasks.handed import GIVEN
from dynamicblocks.times import check_count, check_seed


@dataclass(frozen=True)
class EventConfig:
    """Sequences of events.

    Args:
        name: constant, sinusoidal, state_driven (drawn on the fly with a known rate); csv:PATH or parquet:PATH, tables
            with a row for each event of each sequence.
        id: of a table, the column that tells sequences apart.
        time: of a table, the column of times; a sequence without an event has one row, its time empty.
        initial: of a table, the columns of numbers that each sequence has and that its first state is made of; by
            default all others that hold numbers.
        t0: the beginning of the window in which every event was seen; by default 0, or of a table the first event.
        t1: its end; by default 10, or of a table the last event.
        sequences: of events drawn on the fly, how many sequences to train on.
        validation, test: shares of the sequences held out.
        split_seed: which sequences those are, and what is drawn on the fly.
        batch_size: sequences in a training step, over all processes.
        test_batch_size: sequences in a step of evaluation; by default as in training.
        data_dir: where a relative path of a file begins; by default the working directory.
    """

    name: str = "sinusoidal"
    id: str = "id"
    time: str = "time"
    initial: tuple[str, ...] = ()
    t0: float | None = None
    t1: float | None = None
    sequences: int | None = None
    validation: float = 0.1
    test: float = 0.2
    split_seed: int = 0
    batch_size: int = 100
    test_batch_size: int | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.split_seed, "data.split_seed")
        check_count(self.batch_size, "data.batch_size")
        for option in ("sequences", "test_batch_size"):
            if getattr(self, option) is not None:
                check_count(getattr(self, option), f"data.{option}")
        for option in ("validation", "test"):
            check_share(getattr(self, option), f"data.{option}")

    def check(self) -> None:
        """Raise where there is no such set of events."""
        if self.name != GIVEN:
            source_of(self.name, SET, known_rates)

    def load(self) -> EventDataset:
        """The events, split."""
        return load_events(
            self.name,
            seed=self.split_seed,
            sequences=self.sequences,
            t0=self.t0,
            t1=self.t1,
            id=self.id,
            time=self.time,
            initial=self.initial or None,
            validation=self.validation,
            test=self.test,
            data_dir=self.data_dir,
        )

    def split(self, events: EventSet) -> EventDataset:
        """Events from Python, split."""
        return split_events(events, self.name, self.validation, self.test, self.split_seed)


@dataclass(frozen=True)
class EventModel:
    """The state that the rate follows from.

    Args:
        latent: width of the state.
        hidden, layers: of the networks: the state's equation, the logarithm of the rate, and the first state where that
            is made of numbers of each sequence.
        time: whether the equation sees the time as well.
    """

    latent: int = 4
    hidden: int = 32
    layers: int = 1
    time: bool = False

    def __post_init__(self) -> None:
        for option in ("latent", "hidden", "layers"):
            check_count(getattr(self, option), f"model.{option}")
