"""Times of events into the rate at which they happen."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynamicblocks.data.series.events import EventDataset, EventSet, log_likelihood
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.sequences import MLPField, PoissonProcess, Solver
from dynamicblocks.sequences.perceptron import perceptron
from dynamicblocks.sequences.with_integral import TIGHT
from dynamicblocks.tasks.event_facts import EventFacts, facts_of_events
from dynamicblocks.tasks.event_given import given_events
from dynamicblocks.tasks.event_options import EventConfig, EventModel
from dynamicblocks.tasks.handed import GIVEN, Handed
from dynamicblocks.tasks.prediction import SeriesPrediction
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.tasks.series_given import check_asked
from dynamicblocks.times import check_count, check_seed
from dynamicblocks.training.evaluation import evaluation_mode
from dynamicblocks.training.predicting import check_rows
from dynamicblocks.training.task import HERE, Batches, Figure, Place, SplitName
from dynamicblocks.training.tensor_batches import TensorBatches

EventBatch = tuple[Tensor, ...]
"""Times (n, longest) from 0 to HORIZON, lengths, covariates in units of their deviation, and the logarithm of each
sequence's true likelihood (zero where that is not known)."""

LOSS = Figure("loss", ".4f")
EXCESS = Figure("excess", ".4f", title="excess over the true rate (nats)")
GAIN = Figure("gain", ".4f", higher=True, title="gain on a constant rate (nats)")

# The window as the equation sees it: a field of size one goes round about once or twice.
HORIZON = 10.0
# How much of a rate the first weights make, beside that of a constant one.
FIRST = 0.1
# Sequences of a rehearsal and of a picture; points of a line.
FEW, SHOWN, POINTS = 2, 3, 400


@tasks.register("events")
@dataclass(frozen=True)
class Events(Handed[EventBatch]):
    """Times of events into the rate at which they happen: an inhomogeneous Poisson process, lambda(z(t)).

    The state z follows an equation that is learnt along with what lambda makes of it; its first value is learnt, or
    made of numbers that each sequence has. Lowered is the negative log-likelihood of an event, in nats, in the data's
    unit of time. Beside it stands by how much that is above the true rate's, where that is known (excess), else by how
    much it is below a constant rate's (gain).

    Args:
        data: events.
        model: state and rate.
        solver: how the equation and the integral of the rate are solved, together; the window is ten units long.
    """

    name: ClassVar[str] = "events"
    kind_of_facts: ClassVar[type[EventFacts]] = EventFacts
    unit: ClassVar[str] = "sequences"
    usual: ClassVar[Mapping[str, Any]] = {
        "optimizer.name": "adam",
        "optimizer.lr": 0.01,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup": 0.05,
        "optimizer.clip": 5.0,
        "epochs": 40,
    }

    data: EventConfig = field(default_factory=EventConfig)
    model: EventModel = field(default_factory=EventModel)
    solver: Solver = field(default_factory=lambda: TIGHT)

    @property
    def figures(self) -> tuple[Figure, ...]:  # type: ignore[override]
        """The loss; and the excess where the true rate is known, else the gain."""
        return (LOSS, GAIN if ":" in self.data.name or self.data.name == GIVEN else EXCESS)

    @property
    def title(self) -> str:
        """The data."""
        return f"{self.source}-poisson"

    # Data and network

    @cached_property
    def events(self) -> EventDataset:
        """The data."""
        found: EventDataset = self.found()
        if "known" in vars(self) and found.train.columns != self.known.columns:
            raise ConfigurationError(
                f"the run was trained with the columns {', '.join(self.known.columns) or 'none'}, but {self.data.name} "
                f"now has {', '.join(found.train.columns) or 'none'}; give the data of the training"
            )
        return found

    @cached_property
    def known(self) -> EventFacts:
        """What the process needs to know of the data."""
        return facts_of_events(self.events.train)

    def check(self) -> None:
        self.data.check()

    def load(self) -> str:
        return self.events.note

    def build(self) -> PoissonProcess:
        model, columns = self.model, len(self.known.columns)
        log_rate = perceptron(model.latent, model.hidden, 1, model.layers)
        last = log_rate[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(FIRST)
            last.bias.fill_(math.log(self.known.rate / self._speed))
        start = perceptron(columns, model.hidden, model.latent, model.layers) if columns else None
        return PoissonProcess(
            MLPField(model.latent, model.hidden, model.layers, time=model.time),
            log_rate,
            features=None if columns else model.latent,
            start=start,
            solver=self.solver,
        )

    @property
    def _speed(self) -> float:
        """Units of the process's time in one of the data's."""
        return HORIZON / self.known.span

    def _scaled(self, times: Tensor, place: Place) -> Tensor:
        # In float64 first: times may be large and their distances small.
        return ((times.double() - self.known.t0) * self._speed).to(place.device, place.dtype)

    def _initial(self, initial: Tensor, place: Place) -> Tensor | None:
        if not self.known.columns:
            return None
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (self.known.mean, self.known.std))
        return ((initial - mean) / std).to(place.device, place.dtype)

    def batches(self, split: SplitName, place: Place) -> TensorBatches:
        events: EventSet = getattr(self.events, split)
        truth = self.events.truth
        true = torch.zeros(len(events)) if truth is None else log_likelihood(truth, events)
        # No number of a window may be beyond it once it is rounded.
        times = self._scaled(events.times, place).clamp(0.0, HORIZON)
        initial = self._initial(events.initial, place)
        tensors = (times, events.lengths, torch.zeros(len(events), 0) if initial is None else initial, true)
        return TensorBatches(tensors, self.data.batch_size, place, self.data.test_batch_size)

    def rehearsal(self, batches: Batches[EventBatch]) -> Iterator[EventBatch]:
        yield tuple(each[:FEW] for each in next(iter(batches.training(0))))

    # Numbers

    @property
    def sums(self) -> tuple[str, ...]:
        return ("sequences", "events", "log_likelihood", "true")

    def loss(self, net: nn.Module, batch: EventBatch) -> tuple[Tensor, Tensor]:
        times, lengths, initial, true = batch
        found = net(times, lengths, 0.0, HORIZON, initial if self.known.columns else None)
        with torch.no_grad():
            # In the data's unit of time a rate is larger, and each event counts with its logarithm.
            likelihood = (found + lengths * math.log(self._speed)).sum()
            count = torch.full_like(likelihood, len(times))
            sums = torch.stack([count, lengths.sum().to(likelihood), likelihood, true.sum().to(likelihood)])
        return -found.mean() / (self.known.rate * self.known.span), sums

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        events = max(sums["events"], 1.0)
        found = sums["log_likelihood"]
        constant = sums["events"] * math.log(self.known.rate) - sums["sequences"] * self.known.rate * self.known.span
        measured = {"loss": -found / events, "gain": (found - constant) / events}
        return measured | ({"excess": (sums["true"] - found) / events} if EXCESS in self.figures else {})

    # What the commands ask for

    def inputs(self, batch: EventBatch) -> EventBatch:
        return batch

    def predict(
        self,
        net: nn.Module,
        x: Any,
        place: Place = HERE,
        *,
        batch_size: int | None = None,
        resize: bool = False,
        times: Any = None,
    ) -> SeriesPrediction:
        """The rate of each sequence, at the times that stand there or at ``times`` (length,).

        Args:
            net: the process.
            x: an EventSet; a table (.csv, .parquet) with the columns of the training; or the numbers of each sequence,
                (n, columns).
            place: of the process.
            batch_size: sequences at a time.
            resize: nothing here.
            times: asked of every sequence; without them and without a table, through the window of the training.
        """
        if resize:
            raise ConfigurationError("events are not resized; leave out resize")
        events = given_events(x, self.known.columns, self.data.id, self.data.time)
        asked, lengths = events.times, events.lengths
        if times is not None or not isinstance(events, EventSet):
            line = self._line() if times is None else check_asked(times)
            asked, lengths = line.expand(len(events), -1), torch.full((len(events),), len(line))
        early = asked[torch.arange(asked.shape[1]) < lengths[:, None]]
        if len(early) and early.min() < self.known.t0:
            raise ConfigurationError(
                f"the state begins at {self.known.t0:.9g}, the beginning of the training's window; there is no rate at "
                f"{early.min().item():.9g}"
            )
        rates = []
        rows = check_rows(batch_size, self.data.test_batch_size or self.data.batch_size)
        for part in torch.split(torch.arange(len(events)), rows):
            some = asked[part].clamp_min(self.known.t0)
            rates.append(self._rates(net, some, events.initial[part], place))
        return SeriesPrediction(asked, torch.cat(rates)[..., None], lengths, events.ids, ("rate",))

    def _line(self) -> Tensor:
        return torch.linspace(self.known.t0, self.known.t1, POINTS, dtype=torch.float64)

    def _rates(self, net: nn.Module, times: Tensor, initial: Tensor, place: Place) -> Tensor:
        """The rates, (n, length), in the data's unit of time."""
        assert isinstance(net, PoissonProcess)
        with torch.no_grad():
            found = net.rate(self._scaled(times, place), self._initial(initial, place))
        if not bool(torch.isfinite(found).all()):
            raise SolverError("the rate is not finite for these sequences")
        return found.cpu().double().expand(len(times), -1) * self._speed

    def sample(
        self,
        net: nn.Module,
        number: int,
        place: Place = HERE,
        *,
        times: Any = None,
        seed: int = 0,
        initial: Any = None,
    ) -> SeriesPrediction:
        """New sequences by thinning, in the window of the training or from the first of ``times`` to the last.

        The numbers of each sequence are drawn from normal distributions with the training's means and deviations, or
        are ``initial`` (number, columns); they stand beside the times.
        """
        known = self.known
        check_count(number, "number")
        check_seed(seed, "seed")
        begin, end = known.t0, known.t1
        if times is not None:
            asked = check_asked(times)
            begin, end = asked[0].item(), asked[-1].item()
            if not known.t0 <= begin < end:
                raise ConfigurationError(
                    f"times must be the beginning and the end of a window, and not before {known.t0:.9g}, where the "
                    f"state begins; got {begin:.9g} to {end:.9g}"
                )
        draws = torch.Generator().manual_seed(seed)
        if initial is None:
            mean, std = (torch.tensor(each, dtype=torch.float64) for each in (known.mean, known.std))
            given = mean + std * torch.randn(number, len(mean), generator=draws, dtype=torch.float64)
        else:
            given = given_events(initial, known.columns, self.data.id, self.data.time).initial
            if len(given) != number:
                raise ConfigurationError(f"initial must have {number} rows, one a sequence, got {len(given)}")
        assert isinstance(net, PoissonProcess)
        first, last = ((each - known.t0) * self._speed for each in (begin, end))
        found, lengths = net.sample(number, first, last, self._initial(given, place), generator=draws)
        # One place at least, so that a sequence without an event has its numbers somewhere.
        found = torch.cat([found, found.new_full((number, 1), first)], 1)
        values = given[:, None].expand(-1, found.shape[1], -1)
        ids = tuple(map(str, range(number)))
        return SeriesPrediction(known.t0 + found / self._speed, values, lengths, ids, known.columns)

    def draw_samples(self, samples: Any, path: Path) -> bool:
        # matplotlib is imported where something is drawn, not with every command.
        from dynamicblocks.tasks.event_pictures import draw_sequences

        draw_sequences(samples.times, samples.lengths, path)
        return True

    def conclude(self, net: nn.Module, place: Place, folder: Path) -> list[Path]:
        from dynamicblocks.tasks.event_pictures import draw_rates

        test, truth = self.events.test, self.events.truth
        shown = test.select(torch.arange(min(SHOWN, len(test))))
        if not test.columns:  # all have one rate
            shown = test
        dtype = next((weight.dtype for weight in net.parameters()), place.dtype)
        line = self._line()
        rows = len(shown) if test.columns else 1
        first = shown.initial[:rows]
        with evaluation_mode(net):
            rates = self._rates(net, line.expand(rows, -1), first, replace(place, dtype=dtype))
        true = None if truth is None else truth.along(first, test.t0, test.t1)(line.expand(rows, -1))
        path = folder / "rate.png"
        draw_rates(shown, line, rates, true, path)
        return [path]
