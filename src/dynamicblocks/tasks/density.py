"""Points into the density that they were drawn from, and new points of it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynamicblocks.data.densities import DensityDataset, PointSet
from dynamicblocks.errors import ConfigurationError, SolverError, unknown_name
from dynamicblocks.flows.images import Marginals
from dynamicblocks.functional import Solver
from dynamicblocks.tasks.density_batches import PointBatch, point_batches
from dynamicblocks.tasks.density_facts import DensityFacts, facts_of_points
from dynamicblocks.tasks.density_flow import check_flow, counts_pixels, flow_of
from dynamicblocks.tasks.density_given import given_context, given_points, handed_points
from dynamicblocks.tasks.density_net import OBJECTIVES, TOLD, DensityNet, ObjectiveName
from dynamicblocks.tasks.density_options import DensityConfig, DensityModel, PenaltyConfig
from dynamicblocks.tasks.handed import Handed
from dynamicblocks.tasks.registry import tasks
from dynamicblocks.tasks.rounds import Rounds
from dynamicblocks.times import check_amount, check_count, check_seed
from dynamicblocks.training.evaluation import evaluation_mode
from dynamicblocks.training.predicting import check_rows
from dynamicblocks.training.task import HERE, Batches, Figure, Place, SplitName

NLL = Figure("nll", ".4f", title="negative log-likelihood (nats)")
BITS = Figure("bits_per_dim", ".4f", title="bits/dim")

# Training steps of an epoch, so that ten take a minute or a few: by whether equations are solved, and of images.
STEPS = {(True, False): 100, (False, False): 1000, (True, True): 50, (False, True): 200}
# Points, and images, of a training step.
POINTS, IMAGES = 200, 32
# Points of a rehearsal.
FEW = 4


@tasks.register("density")
@dataclass(frozen=True)
class Density(Handed[PointBatch]):
    """Points into the density that they were drawn from: a continuous normalizing flow, dx/dt = v(t, x, context).

    A point is moved by the solver from noise at time 0 to the data at the horizon. Lowered is the negative
    log-likelihood, or the distance of v to the straight paths from noise to data (flow matching), which no equation is
    solved for; in any case the figure is the negative log-likelihood, in nats a point, of images in bits/dim.

    Args:
        data: points.
        model: the flow.
        solver: how its equation is solved.
        objective: what is lowered: likelihood; flow-matching, of noise and data paired at random; ot-flow-matching, of
            those of a batch that are nearest, by exact optimal transport within each context.
        trace: of dv/dx, for the likelihood: exact, hutchinson (estimated with one random vector a solve),
            hutchinson(noise='gaussian'); auto is exact for 16 features at most, or where the field has it in closed
            form.
        penalties: beside the likelihood, for paths that are short and straight.
        sigma: of flow matching, the deviation of the noise about each path.
    """

    name: ClassVar[str] = "density"
    kind_of_facts: ClassVar[type[DensityFacts]] = DensityFacts
    unit: ClassVar[str] = "points"
    usual: ClassVar[Mapping[str, Any]] = {
        "optimizer.name": "adam",
        "optimizer.lr": 0.005,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup": 0.05,
        "epochs": 10,
    }

    data: DensityConfig = field(default_factory=DensityConfig)
    model: DensityModel = field(default_factory=DensityModel)
    solver: Solver = field(default_factory=lambda: Solver(rtol=1e-4, atol=1e-4))
    objective: ObjectiveName = "likelihood"
    trace: str = "auto"
    penalties: PenaltyConfig = field(default_factory=PenaltyConfig)
    sigma: float = 0.1

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise unknown_name("objective", self.objective, OBJECTIVES)
        check_amount(self.sigma, "sigma")
        check_flow(self.model, self.solver, self.trace)
        if self.objective == "likelihood":
            return
        for option in ("flows", "scales"):
            if getattr(self.model, option) > 1:
                raise ConfigurationError(
                    f"model.{option} {getattr(self.model, option)}: {self.objective} fits one equation from noise to "
                    "data; take 1, or the objective likelihood"
                )
        if self.penalties.weights:
            raise ConfigurationError(
                f"penalties.{next(iter(self.penalties.weights))} is added to a likelihood, and {self.objective} solves "
                "nothing that it could be measured on; leave it out, or take the objective likelihood"
            )

    @property
    def figures(self) -> tuple[Figure, ...]:  # type: ignore[override]
        """The loss; and the negative log-likelihood, of images in bits/dim."""
        return (Figure("loss", ".4f"), BITS if self.known.levels else NLL)

    @property
    def title(self) -> str:
        """Data and objective."""
        return f"{self.source}-{self.objective}"

    # Data and network

    @cached_property
    def densities(self) -> DensityDataset:
        """The data."""
        found: DensityDataset = self.found()
        if "known" in vars(self):
            self._check_known(found.train)
        return found

    def _check_known(self, points: PointSet) -> None:
        known = self.known
        now = (tuple(points.shape), points.levels, tuple(points.context_names))
        if (known.shape, known.levels, known.context_names) != now:
            raise ConfigurationError(
                f"the run was trained on points of shape {known.shape}, {known.levels or 'no'} levels and the context "
                f"{', '.join(known.context_names) or 'none'}, but {self.data.name} now has {now[0]}, "
                f"{now[1] or 'no'} levels and {', '.join(now[2]) or 'none'}; give the data of the training"
            )
        if known.features:
            self.check_features(tuple(points.features))

    def with_data(self, given: Any) -> "Density":
        return super().with_data(handed_points(given))

    @cached_property
    def known(self) -> DensityFacts:
        """What the flow needs to know of the data."""
        return facts_of_points(self.densities.train, self.model.alpha)

    def check(self) -> None:
        self.data.check()

    def load(self) -> str:
        return self.densities.note

    def build(self) -> DensityNet:
        weights = self.penalties.weights
        # Of a run that is read, what was counted is among its weights.
        counts = self._counts if "densities" in vars(self) else None
        flow = flow_of(self.model, self.known, self.solver, self.trace, tuple(weights), counts)
        return DensityNet(flow, self.known, self.objective, weights, self.sigma, self.batch_size)

    @cached_property
    def _counts(self) -> Tensor | None:
        """How often each value is at each pixel of the training; None where no flow asks."""
        if self.known.levels is None or not counts_pixels(self.model, self.known):
            return None
        # Once, for a network is built to look at it first, and then to be trained.
        return Marginals.count(self.densities.train.points, self.known.levels)

    @property
    def batch_size(self) -> int:
        """Points in a training step."""
        return self.data.batch_size or (IMAGES if self.known.levels else POINTS)

    def batches(self, split: SplitName, place: Place) -> Rounds[PointBatch]:
        points: PointSet = getattr(self.densities, split)
        steps = self.data.steps or STEPS[self.objective == "likelihood", self.known.levels is not None]
        return point_batches(points, self.batch_size, steps, place, self.data.test_batch_size)

    def rehearsal(self, batches: Batches[PointBatch]) -> Iterator[PointBatch]:
        yield next(iter(batches.training(0))).select(slice(FEW))

    # Numbers

    @property
    def sums(self) -> tuple[str, ...]:
        return ("points", *TOLD)

    def loss(self, net: nn.Module, batch: PointBatch) -> tuple[Tensor, Tensor]:
        told: Tensor = net(batch)
        means, number = told.detach(), len(batch.points)
        return told[0], torch.cat([torch.full_like(means[:1], number), number * means])

    def measured(self, sums: Mapping[str, float]) -> dict[str, float]:
        points, scored = sums["points"], sums["scored"]
        found = {"loss": sums["loss"] / points}
        if scored:  # which training by flow matching is not
            found["nll"] = sums["nll"] / scored
            if self.known.levels:
                found["bits_per_dim"] = found["nll"] / (self.known.numbers * math.log(2))
        return found

    # What the commands ask for

    def inputs(self, batch: PointBatch) -> PointBatch:
        return batch

    def predict(
        self,
        net: nn.Module,
        x: Any,
        place: Place = HERE,
        *,
        batch_size: int | None = None,
        resize: bool = False,
        context: Any = None,
        seed: int = 0,
    ) -> Tensor:
        """The logarithm of the density at each point, in nats: (n,), float64, in the units of the data.

        Args:
            net: the flow.
            x: a PointSet; a file (.csv, .parquet, .npy, .npz) with the columns of the training; or numbers (n, *shape).
            place: of the flow.
            batch_size: points at a time.
            resize: nothing here.
            context: (n, c), or one for all, where densities are conditional and ``x`` does not hold it.
            seed: of the random vectors of an estimated trace.
        """
        if resize:
            raise ConfigurationError("points are not resized; leave out resize")
        check_seed(seed, "seed")
        points, given = given_points(x, context, self.known)
        assert isinstance(net, DensityNet)
        found = []
        rows = check_rows(batch_size, self.data.test_batch_size or self.batch_size)
        for number, part in enumerate(torch.split(torch.arange(len(points)), rows)):
            some = None if given is None else given[part].to(place.device, place.dtype)
            found.append(net.log_prob(points[part].to(place.device, place.dtype), some, seed + number).cpu().double())
        told = torch.cat(found)
        if bool(told.isnan().any()):
            raise SolverError("the density is not a number at some of these points; as weights are, a solve diverges")
        return told

    def sample(
        self,
        net: nn.Module,
        number: int,
        place: Place = HERE,
        *,
        times: Any = None,
        seed: int = 0,
        context: Any = None,
        solver: Solver | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """New points, (number, *shape), float64, in the units of the data.

        Args:
            net: the flow.
            number: how many.
            place: of the flow.
            times: nothing here.
            seed: of the noise.
            context: (number, c), or one for all, where densities are conditional.
            solver: another one than that of the training, as ``Solver("euler", step_size=0.1)``.
            batch_size: points at a time.
        """
        check_count(number, "number")
        check_seed(seed, "seed")
        if times is not None:
            raise ConfigurationError("points have no times; leave out times")
        given = given_context(context, self.known, number)
        assert isinstance(net, DensityNet)
        rows = check_rows(batch_size, self.data.test_batch_size or self.batch_size)
        found = []
        for place_of, part in enumerate(torch.split(torch.arange(number), rows)):
            some = None if given is None else given[part].to(place.device, place.dtype)
            found.append(net.sample(len(part), some, seed=seed + place_of, solver=solver).cpu().double())
        drawn = torch.cat(found)
        if not bool(torch.isfinite(drawn).all()):
            raise SolverError("new points are not finite; as weights are, a solve diverges")
        return drawn

    def draw_samples(self, samples: Any, path: Path) -> bool:
        # matplotlib is imported where something is drawn, not with every command.
        from dynamicblocks.tasks.density_pictures import draw_points

        return draw_points(samples, path, self.known)

    def conclude(self, net: nn.Module, place: Place, folder: Path) -> list[Path]:
        from dynamicblocks.tasks.density_pictures import draw_density

        assert isinstance(net, DensityNet)
        with evaluation_mode(net):
            return draw_density(net, self.known, self.densities.test, folder)
