"""Time series with times of their own and missing values: their values at other times, and new ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamicblocks.data.series import SeriesBatch, SeriesBatches, SeriesDataset, SeriesSet
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.sequences import Forecast, LatentODE, SeriesModel, Solver, negative_elbo
from dynamicblocks.sequences.rnn import NextValueRNN
from dynamicblocks.tasks.handed import Handed
from dynamicblocks.tasks.prediction import SeriesPrediction
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.tasks.series_facts import SeriesFacts, facts_of_series
from dynamicblocks.tasks.series_given import asked_at, check_asked, series_of
from dynamicblocks.tasks.series_options import SeriesConfig, SeriesModelConfig
from dynamicblocks.times import check_count, check_seed
from dynamicblocks.training.evaluation import evaluation_mode
from dynamicblocks.training.predicting import check_rows
from dynamicblocks.training.task import HERE, Batches, Figure, Place, SplitName

# Series of a rehearsal and of a picture; draws of each there; times of a line.
FEW, SHOWN, DRAWS, POINTS = 2, 3, 30, 200


@tasks.register("series")
@dataclass(frozen=True)
class Series(Handed[SeriesBatch]):
    """Time series into their values at all times: a model sees some values, and tells what was and what comes.

    Lowered is the negative evidence lower bound of a wanted value (in normalised units); rmse is the root mean square
    error of the wanted values in the units of the data, accuracy that of the labels where they are told.

    Args:
        data: series.
        model: what tells them.
        solver: how the equation of the latent state is solved, in units of the time of the training.
    """

    name: ClassVar[str] = "series"
    kind_of_facts: ClassVar[type[SeriesFacts]] = SeriesFacts
    unit: ClassVar[str] = "series"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("loss"), Figure("rmse", ".4g"))
    usual: ClassVar[Mapping[str, Any]] = {
        "optimizer.name": "adam",
        "optimizer.lr": 0.02,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup": 0.05,
        "optimizer.clip": 1.0,
        "epochs": 100,
    }

    data: SeriesConfig = field(default_factory=SeriesConfig)
    model: SeriesModelConfig = field(default_factory=SeriesModelConfig)
    solver: Solver = field(default_factory=Solver)

    @property
    def title(self) -> str:
        """Data and model."""
        return f"{self.source}-{self.model.name}"

    # Data and network

    @cached_property
    def series(self) -> SeriesDataset:
        """The data."""
        found: SeriesDataset = self.found()
        self.check_features(found.train.features)
        return found

    @cached_property
    def known(self) -> SeriesFacts:
        """What the network needs to know of the data."""
        return facts_of_series(self.series.train, labels=self.model.labels)

    def load(self) -> str:
        return self.series.note

    def build(self) -> SeriesModel:
        model, known = self.model, self.known
        if model.name == "rnn":
            return NextValueRNN(len(known.features), model.hidden, gap=known.gap, noise=model.noise)
        return LatentODE(
            len(known.features),
            model.latent,
            model.hidden,
            model.layers,
            model.encoder,
            model.recurrent,
            model.units,
            self.solver,
            noise=model.noise,
            classes=len(known.classes),
            poisson=model.poisson,
            times=model.times,
            origin=0.0 if model.begin == "common" else None,
        )

    def batches(self, split: SplitName, place: Place) -> SeriesBatches:
        return self._batches(getattr(self.series, split), place, self.data.batch_size, self.data.test_batch_size)

    def _batches(self, series: SeriesSet, place: Place, size: int, evaluation_size: int | None = None) -> SeriesBatches:
        known = self.known
        return SeriesBatches(
            series,
            size,
            known.origin,
            known.span,
            known.mean,
            known.std,
            place.seed,
            evaluation_size,
            device=place.device,
            dtype=place.dtype,
            rank=place.rank,
            world=place.world,
        )

    def rehearsal(self, batches: Batches[SeriesBatch]) -> Iterator[SeriesBatch]:
        times, values, seen, wanted, labels, progress = next(iter(batches.training(0)))
        yield SeriesBatch(times[:FEW], values[:FEW], seen[:FEW], wanted[:FEW], labels[:FEW], progress)

    # Numbers

    @property
    def sums(self) -> tuple[str, ...]:
        counted = (f"{what}_{name}" for what in ("count", "square") for name in self.known.features)
        return ("series", "loss", "labelled", "hits", *counted)

    def loss(self, net: nn.Module, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        forecast: Forecast = net(batch.times, batch.values, batch.seen)
        warmup = self.model.kl_warmup
        weight = (batch.progress / warmup).clamp(max=1) if warmup else 1.0
        # What was observed, told or not, is an event; padding, and rows in which every cell is empty, are none.
        events = (batch.seen | batch.wanted).any(-1)
        loss = negative_elbo(forecast, batch.values, batch.wanted, weight, events)
        told, labels = forecast.logits, batch.labels
        labelled, hits = loss.new_zeros(()), loss.new_zeros(())
        if told is not None:
            there = labels >= 0
            labelled = there.sum().to(loss)
            total = F.cross_entropy(told.to(loss), labels.where(there, -100), ignore_index=-100, reduction="sum")
            loss = loss + self.model.label_weight * total / labelled.clamp_min(1)
            hits = ((told.argmax(1) == labels) & there).sum().to(loss)
        with torch.no_grad():
            number, wanted = len(batch.times), batch.wanted
            std = torch.tensor(self.known.std, dtype=loss.dtype, device=loss.device)
            squares = ((forecast.values.to(loss) - batch.values) * std).square().where(wanted, 0.0).sum((0, 1))
            few = torch.stack([torch.full_like(loss, number), number * loss.detach(), labelled, hits])
            return loss, torch.cat([few, wanted.sum((0, 1)).to(loss), squares])

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        features = self.known.features
        counts, squares = ([sums[f"{what}_{name}"] for name in features] for what in ("count", "square"))
        found = {"loss": sums["loss"] / sums["series"], "rmse": (sum(squares) / max(sum(counts), 1.0)) ** 0.5}
        if len(features) > 1:
            for name, count, square in zip(features, counts, squares, strict=True):
                found[f"rmse_{name}"] = (square / max(count, 1.0)) ** 0.5
        if sums["labelled"]:
            found["accuracy"] = sums["hits"] / sums["labelled"]
        return found

    # What the commands ask for

    def inputs(self, batch: SeriesBatch) -> SeriesBatch:
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
        samples: int = 1,
        seed: int = 0,
    ) -> SeriesPrediction:
        """What the model says of series, at their own times or at ``times``; with several samples also their spread.

        Args:
            net: the network.
            x: a SeriesSet, or a table (.csv, .parquet) with the columns of the training.
            place: of the network.
            batch_size: series at a time.
            resize: nothing here.
            times: (length,), asked of every series.
            samples: draws of each series; their mean is told. One: the mean of what was inferred, undrawn.
            seed: of the draws.
        """
        if resize:
            raise ConfigurationError("series are not resized; leave out resize")
        check_count(samples, "samples")
        check_seed(seed, "seed")
        series = series_of(x, self.known.features, self.data.id, self.data.time)
        asked = places = None
        if times is not None:
            asked = check_asked(times)
            series, places = self._asked(series, asked, place)
        rows = check_rows(batch_size, self.data.test_batch_size or self.data.batch_size)
        values, spread, chances = [], [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for batch in self._batches(series, place, rows).evaluation():
                draws, logits = self._drawn(net, batch, samples)
                missing = series.times.shape[1] - draws.shape[2]
                draws = F.pad(draws, (0, 0, 0, missing))
                values.append(draws.mean(0))
                spread.append(draws.std(0, correction=0))
                chances += [] if logits is None else [logits.softmax(-1).mean(0)]
        found = SeriesPrediction(
            series.times,
            torch.cat(values),
            series.lengths,
            series.ids,
            series.features,
            torch.cat(spread) if samples > 1 else None,
            torch.cat(chances) if chances else None,
            self.known.classes,
        )
        if asked is None or places is None:
            return found
        return replace(found.at(places), times=asked.expand(len(series), -1))

    def _asked(self, series: SeriesSet, times: Tensor, place: Place) -> tuple[SeriesSet, Tensor]:
        """The series with other times among theirs, but for those that are one in the type of the network."""
        scaled = torch.cat([times, series.times.flatten()]).sub(self.known.origin).div(self.known.span).abs().max()
        near = 4 * torch.finfo(place.dtype).eps * self.known.span * max(1.0, float(scaled))
        return asked_at(series, times, near)

    def _drawn(self, net: nn.Module, batch: SeriesBatch, samples: int) -> tuple[Tensor, Tensor | None]:
        """Values in units, (samples, n, length, features), float64, on the CPU; and logits of labels, if any."""
        with torch.no_grad():
            forecast: Forecast = net(batch.times, batch.values, batch.seen, samples)
        values = self._in_units(forecast.values).reshape(samples, *batch.values.shape)
        logits = forecast.logits
        return values, None if logits is None else logits.cpu().double().reshape(samples, len(batch.times), -1)

    def _in_units(self, values: Tensor) -> Tensor:
        if not bool(torch.isfinite(values).all()):
            raise SolverError("the network's values are not finite for these series; as weights are, a solve diverges")
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (self.known.mean, self.known.std))
        return values.cpu().double() * std + mean

    def sample(
        self, net: nn.Module, number: int, place: Place = HERE, *, times: Any = None, seed: int = 0
    ) -> SeriesPrediction:
        """New series, at ``times`` (length,) or through the time of the training: the means of values, undisturbed."""
        known = self.known
        check_count(number, "number")
        check_seed(seed, "seed")
        if times is None:
            asked = torch.linspace(known.origin, known.origin + known.span, POINTS // 2, dtype=torch.float64)
        else:
            asked = check_asked(times)
        scaled = ((asked - known.origin) / known.span).to(place.device, place.dtype)
        assert isinstance(net, SeriesModel)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            values = self._in_units(net.sample(number, scaled))
        lengths = torch.full((number,), len(asked))
        ids = tuple(map(str, range(number)))
        return SeriesPrediction(asked.expand(number, -1), values, lengths, ids, known.features)

    def draw_samples(self, samples: Any, path: Path) -> bool:
        # matplotlib is imported where something is drawn, not with every command.
        from dynamicblocks.tasks.series_pictures import draw_samples

        draw_samples(samples, path)
        return True

    def conclude(self, net: nn.Module, place: Place, folder: Path) -> list[Path]:
        from dynamicblocks.tasks.series_pictures import Shown, draw_series

        dtype = next((weight.dtype for weight in net.parameters()), place.dtype)
        place = replace(place, dtype=dtype, rank=0, world=1)
        some = self.series.test.select(torch.arange(min(SHOWN, len(self.series.test))))
        shown = []
        with evaluation_mode(net), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for row in range(len(some)):
                one = some.select(torch.tensor([row]))
                line = torch.linspace(float(one.times[0, 0]), float(one.times[0, -1]), POINTS, dtype=torch.float64)
                asked, places = self._asked(one, line, place)
                (batch,) = self._batches(asked, place, 1).evaluation()
                draws = self._drawn(net, batch, DRAWS)[0][:, 0, places[0]]
                shown.append(Shown(one, line, draws))
        path = folder / "series.png"
        draw_series(shown, path)
        return [path]
