"""Observed trajectories into the equation that they follow."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dynamicblocks.data.series import SeriesDataset, SeriesSet, load_series
from dynamicblocks.data.series.splits import FEWEST, split_series
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.sequences import Solver, constants_of, first_states
from dynamicblocks.sequences.shooting import windows_of
from dynamicblocks.tasks.dynamics_facts import TrajectoryFacts, facts_of_trajectories
from dynamicblocks.tasks.dynamics_net import DynamicsNet, Fit, TrajectoryBatch
from dynamicblocks.tasks.dynamics_options import DynamicsModel, ShootingConfig
from dynamicblocks.tasks.given_series import given_series
from dynamicblocks.tasks.handed import Handed
from dynamicblocks.tasks.own_equation import make_equation
from dynamicblocks.tasks.prediction import SeriesPrediction
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.tasks.rounds import Moment, Rounds
from dynamicblocks.times import check_amount, check_count, check_seed
from dynamicblocks.training.evaluation import evaluation_mode
from dynamicblocks.training.predicting import answer_of, check_rows, together
from dynamicblocks.training.task import HERE, Batches, Figure, Place, SplitName

CRITERIA = ("mse", "mae")
# Trajectories of a rehearsal.
FEW = 2


@dataclass(frozen=True)
class TrajectoryConfig:
    """Trajectories.

    Args:
        name: lotka_volterra, spiral, ... (made on the fly), csv:PATH or parquet:PATH, tables with a row for each time.
        id: of a table, the column that tells series apart.
        time: of a table, the column of times.
        values: of a table, the columns of what was observed; by default all others. Cells may be empty.
        series: of data made on the fly, how many.
        points: of data made on the fly, times of each.
        noise: of data made on the fly, its deviation.
        later: the share of the time of each trajectory, at its end, that training does not see.
        validation, test: shares of the series held out; where there are fewer than three, all splits are of the same.
        split_seed: which series those are, and what is made on the fly.
        batch_size: trajectories in a training step, over all processes.
        test_batch_size: trajectories in a step of evaluation; by default as in training.
        steps: training steps in an epoch, however few trajectories there are.
        data_dir: where a relative path of a file begins; by default the working directory.
    """

    name: str = "lotka_volterra"
    id: str = "id"
    time: str = "time"
    values: tuple[str, ...] = ()
    series: int | None = None
    points: int | None = None
    noise: float | None = None
    later: float = 0.2
    validation: float = 0.1
    test: float = 0.2
    split_seed: int = 0
    batch_size: int = 32
    test_batch_size: int | None = None
    steps: int = 25
    data_dir: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.split_seed, "data.split_seed")
        for option in ("batch_size", "steps", "test_batch_size", "series", "points"):
            if getattr(self, option) is not None:
                check_count(getattr(self, option), f"data.{option}")
        if self.noise is not None:
            check_amount(self.noise, "data.noise")
        for option in ("later", "validation", "test"):
            if not 0 <= check_amount(getattr(self, option), f"data.{option}") < 1:
                raise ConfigurationError(
                    f"data.{option} must be a share, from 0 to below 1, got {getattr(self, option)}"
                )

    def load(self) -> SeriesDataset:
        """The trajectories, split."""
        columns: dict[str, Any] = (
            {"id": self.id, "time": self.time, "values": self.values or None} if ":" in self.name else {}
        )
        found = load_series(
            self.name, seed=self.split_seed, points=self.points, series=self.series, noise=self.noise,
            validation=self.validation, test=self.test, data_dir=self.data_dir, **columns,
        )  # fmt: skip
        # Few series are split in time there; here training leaves the end of each out in any case.
        return the_same(found.test, self.name) if found.test.ids == found.train.ids else found

    def split(self, series: SeriesSet) -> SeriesDataset:
        """Series from Python, split."""
        if len(series) < FEWEST:
            return the_same(series, self.name)
        return split_series(series, self.name, self.validation, self.test, self.split_seed)


def the_same(series: SeriesSet, name: str) -> SeriesDataset:
    """All three splits of the same series, of which there are too few to hold some out."""
    there = torch.arange(series.times.shape[1]) < series.lengths[:, None]
    whole = replace(series, seen=there, wanted=there)
    what = "one trajectory" if len(series) == 1 else f"{len(series)} trajectories"
    return SeriesDataset(whole, whole, whole, f"{name}: {what}, trained, validated and tested on the same")


@tasks.register("dynamics")
@dataclass(frozen=True)
class Dynamics(Handed[TrajectoryBatch]):
    """Observed trajectories into the equation that they follow: a network, known terms with unknown constants, or both.

    A trajectory begins at its first observation, or at a state that is learnt, and is followed by the solver through
    the times of the others. States are normalised by mean and deviation of what is trained on; an equation is in the
    units of the data, and so are its constants and the root mean square error (rmse). The end of each trajectory is
    seen by nobody: rmse_later is the error there.

    Args:
        data: trajectories.
        model: right-hand side.
        solver: how it is solved.
        shooting: how long trajectories are fitted.
        criterion: what is lowered: mse, the mean square of the normalised error, or mae, its mean size.
    """

    name: ClassVar[str] = "dynamics"
    kind_of_facts: ClassVar[type[TrajectoryFacts]] = TrajectoryFacts
    unit: ClassVar[str] = "trajectories"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("loss", ".3e"), Figure("rmse", ".4g"))
    usual: ClassVar[Mapping[str, Any]] = {
        "optimizer.name": "adam",
        "optimizer.lr": 0.01,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup": 0.05,
        "epochs": 100,
    }

    data: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    model: DynamicsModel = field(default_factory=DynamicsModel)
    solver: Solver = field(default_factory=Solver)
    shooting: ShootingConfig = field(default_factory=ShootingConfig)
    criterion: Literal["mse", "mae"] = "mse"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise unknown_name("criterion", self.criterion, CRITERIA)

    @property
    def title(self) -> str:
        """Data and right-hand side."""
        return f"{self.source}-{self.model.name}"

    # Data and network

    @cached_property
    def series(self) -> SeriesDataset:
        """The data."""
        found: SeriesDataset = self.found()
        self.check_features(found.train.features)
        return found

    @cached_property
    def known(self) -> TrajectoryFacts:
        """What the network needs to know of the data."""
        train = self.series.train
        windows = windows_of(train.times.shape[1], self.shooting.window)
        return facts_of_trajectories(train, self._known_of(train), windows)

    @cached_property
    def constants(self) -> tuple[str, ...]:
        """The names of the constants of the equation; none of a network."""
        return tuple(constants_of(make_equation(self.model.equation))) if self.model.equation else ()

    def check(self) -> None:
        if self.model.equation:
            make_equation(self.model.equation)

    def load(self) -> str:
        later = f"; the last {self.data.later:.0%} of the time of each is not trained on" if self.data.later else ""
        return self.series.note + later

    def build(self) -> nn.Module:
        starts = None
        if (self.model.start == "learnt" or self.shooting.window) and "series" in vars(self):
            batch = self._whole(self.series.train, HERE)
            starts = first_states(batch.values, batch.known, batch.times, self.shooting.window, self.model.order)
        return DynamicsNet(self.model, self.solver, self.shooting, self.known, starts)

    def _known_of(self, series: SeriesSet) -> Tensor:
        """The observations that are trained on: those seen, but for the end of each trajectory."""
        begin = series.times[:, :1]
        end = series.times.gather(1, series.lengths[:, None] - 1)
        early = series.times <= begin + (1 - self.data.later) * (end - begin)
        early[:, :2] = True
        return series.observed & (series.seen & early)[..., None]

    def _whole(self, series: SeriesSet, place: Place) -> TrajectoryBatch:
        known = self.known
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (known.mean, known.std))
        train = vars(self).get("series")
        mine = {name: row for row, name in enumerate(train.train.ids)} if train is not None else {}
        rows = torch.tensor([mine.get(name, -1) for name in series.ids])
        trained = self._known_of(series)
        values = ((series.values - mean) / std).where(series.observed, 0.0)
        tensors = (
            (series.times - known.origin).to(place.dtype), values.to(place.dtype), trained,
            series.observed & series.wanted[..., None] | trained, rows, torch.ones((), dtype=place.dtype),
        )  # fmt: skip
        return TrajectoryBatch(*(each.to(place.device) for each in tensors))

    def batches(self, split: SplitName, place: Place) -> Rounds[TrajectoryBatch]:
        data = self.data
        whole = self._whole(getattr(self.series, split), place)

        def make(rows: Tensor, moment: Moment) -> TrajectoryBatch:
            found = whole.select(rows.to(whole.times.device))
            return found._replace(progress=found.progress * moment.progress)

        return Rounds(len(whole.times), make, data.batch_size, data.steps, place, data.test_batch_size)

    def rehearsal(self, batches: Batches[TrajectoryBatch]) -> Iterator[TrajectoryBatch]:
        yield next(iter(batches.training(0))).select(slice(FEW))

    # Numbers

    @property
    def sums(self) -> tuple[str, ...]:
        features = self.known.features
        counted = (f"{what}_{name}" for what in ("count", "square") for name in features)
        return (
            "trajectories",
            "loss",
            *counted,
            "later",
            "later_square",
            *(f"constant_{name}" for name in self.constants),
        )

    def loss(self, net: nn.Module, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        fit: Fit = net(batch)
        length, number = fit.values.shape[1], len(batch.times)
        errors = fit.values - batch.values[:, :length].to(fit.values.dtype)
        known = batch.known[:, :length]
        if self.model.start == "observed" and not self.shooting.window:
            # A trajectory begins there, so that there is no error.
            known = torch.cat((torch.zeros_like(known[:, :1]), known[:, 1:]), dim=1)
        later = (batch.wanted & ~batch.known)[:, :length]
        sizes = errors.abs() if self.criterion == "mae" else errors.square()
        loss = sizes.where(known, 0.0).sum() / known.sum().clamp_min(1) + self.shooting.continuity * fit.gap
        with torch.no_grad():
            std = torch.tensor(self.known.std, dtype=errors.dtype, device=errors.device)
            squares = (errors.detach() * std).square()
            sums = torch.cat([
                torch.stack((torch.full_like(loss, number), number * loss.detach())),
                known.sum((0, 1)).to(errors.dtype), squares.where(known, 0.0).sum((0, 1)),
                torch.stack((later.sum().to(errors.dtype), squares.where(later, 0.0).sum())),
                number * fit.constants.to(errors.dtype),
            ])  # fmt: skip
        return loss, sums

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        features, number = self.known.features, sums["trajectories"]
        counts, squares = ([sums[f"{what}_{name}"] for name in features] for what in ("count", "square"))
        found = {"loss": sums["loss"] / number, "rmse": (sum(squares) / max(sum(counts), 1.0)) ** 0.5}
        if len(features) > 1:
            for name, count, square in zip(features, counts, squares, strict=True):
                found[f"rmse_{name}"] = (square / max(count, 1.0)) ** 0.5
        if sums["later"]:
            found["rmse_later"] = (sums["later_square"] / sums["later"]) ** 0.5
        return found | {f"constant_{name}": sums[f"constant_{name}"] / number for name in self.constants}

    # What the commands ask for

    def inputs(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        return batch

    def predict(
        self, net: nn.Module, x: Any, place: Place = HERE, *, batch_size: int | None = None, resize: bool = False
    ) -> SeriesPrediction:
        """Trajectories from their first states: ``x`` is a pair, states (n, features) and times, a file, or series."""
        if resize:
            raise ConfigurationError("trajectories are not resized; leave out resize")
        series = given_series(x, self.known.features, self.data.id, self.data.time)
        whole = self._whole(replace(series, ids=tuple(f"{place}" for place in range(len(series)))), place)
        # Whoever is predicted is none of the training, whatever it is called.
        whole = whole._replace(rows=torch.full_like(whole.rows, -1), known=whole.wanted)
        unknown = ~whole.known.any(1)
        if bool(unknown.any()):
            row, column = unknown.nonzero()[0].tolist()
            raise ConfigurationError(
                f"series {series.ids[row]} has no value of {self.known.features[column]!r}, and a trajectory begins at "
                "a value of each; give one at its first time"
            )
        mean, std = (torch.tensor(each, dtype=torch.float64) for each in (self.known.mean, self.known.std))
        values = []
        for rows in torch.split(torch.arange(len(series)), check_rows(batch_size, self.data.test_batch_size)):
            fit: Fit = answer_of(net, whole.select(rows.to(place.device)))
            values.append(fit.values.cpu().double() * std + mean)
        return SeriesPrediction(series.times, together(values), series.lengths, series.ids, series.features)

    def conclude(self, net: nn.Module, place: Place, folder: Path) -> list[Path]:
        # matplotlib is imported where something is drawn, not with every command.
        from dynamicblocks.tasks.dynamics_pictures import draw_trajectories, shown_of

        dtype = next((weight.dtype for weight in net.parameters()), place.dtype)
        place = replace(place, dtype=dtype)
        with evaluation_mode(net), torch.no_grad():
            shown = shown_of(net, self._whole(self.series.test, place), self.known, self.series.test.ids)
        return draw_trajectories(shown, folder)
