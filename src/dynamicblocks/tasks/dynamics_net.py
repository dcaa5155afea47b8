"""The network of the task dynamics: a neural ODE in normalised numbers, and the states that trajectories begin at."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamicblocks.sequences import MLPField, NeuralODE, Solver, Sum, constants_of, first_states, shoot
from dynamicblocks.sequences.equation import check_field
from dynamicblocks.sequences.shooting import horizon, windows_of
from dynamicblocks.tasks.dynamics_facts import TrajectoryFacts
from dynamicblocks.tasks.dynamics_options import DynamicsModel, ShootingConfig
from dynamicblocks.tasks.own_equation import make_equation


class TrajectoryBatch(NamedTuple):
    """Trajectories as the network sees them.

    Args:
        times: (n, length), since the origin; the last is repeated behind the end of a series.
        values: (n, length, features), normalised.
        known: (n, length, features), bool: what is observed and trained on; the first is what a trajectory begins at.
        wanted: (n, length, features), bool: all that is observed and has to be told.
        rows: (n,), the number of each among those of the training; -1 for others.
        progress: (), the share of the training that lies behind.
    """

    times: Tensor
    values: Tensor
    known: Tensor
    wanted: Tensor
    rows: Tensor
    progress: Tensor

    def select(self, rows: Tensor | slice) -> "TrajectoryBatch":
        """Some of the trajectories."""
        return TrajectoryBatch(
            self.times[rows], self.values[rows], self.known[rows], self.wanted[rows], self.rows[rows], self.progress
        )


class Fit(NamedTuple):
    """What the network says of trajectories.

    Args:
        values: (n, length, features), normalised; length is that of the horizon.
        gap: (), the mean square of the gaps between windows.
        constants: (constants,), those of the equation.
    """

    values: Tensor
    gap: Tensor
    constants: Tensor


class InUnits(nn.Module):
    """An equation in the units of the data as a field of normalised states.

    Args:
        equation: f(t, y).
        known: of the data.
        order: of the equation.
        augment: numbers of each part of the state that the equation does not see; they stay as they are.
    """

    origin: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, equation: nn.Module, known: TrajectoryFacts, order: int, augment: int) -> None:
        super().__init__()
        self.equation = equation
        self.order, self.augment = order, augment
        self.register_buffer("origin", torch.tensor(known.origin), persistent=False)
        self.register_buffer("mean", torch.tensor([*known.mean, *[0.0] * (len(known.mean) * (order - 1))]))
        self.register_buffer("std", torch.tensor([*known.std] * order))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.augment:
            y = y.reshape(*y.shape[:-1], self.order, -1)[..., : -self.augment].flatten(-2)
        slopes = self.equation(t + self.origin, self.mean + self.std * y) / self.std[: len(self.std) // self.order]
        rest = slopes.new_zeros(*slopes.shape[:-1], self.augment)
        return torch.cat((slopes, rest), dim=-1) if self.augment else slopes


class Paced(nn.Module):
    """A network whose input and output are of size one, in the time of the data.

    Args:
        network: of the state, and perhaps of time.
        known: of the data.
        order: of the equation.
    """

    def __init__(self, network: nn.Module, known: TrajectoryFacts, order: int) -> None:
        super().__init__()
        self.network = network
        self.order = order
        self.rate, self.span = known.rate, known.span

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if self.order > 1:
            parts = y.reshape(*y.shape[:-1], self.order, -1)
            powers = torch.tensor([self.rate**-part for part in range(self.order)], dtype=y.dtype, device=y.device)
            y = (parts * powers[:, None]).flatten(-2)
        return self.network(t / self.span, y) * self.rate**self.order


class DynamicsNet(nn.Module):
    """A neural ODE that is fitted to trajectories.

    Args:
        model: which right-hand side.
        solver: how it is solved.
        shooting: how long trajectories are fitted.
        known: of the data.
        starts: (series, windows, order * features), first guesses of learnt states; zeros where they come from a file.
    """

    def __init__(
        self,
        model: DynamicsModel,
        solver: Solver,
        shooting: ShootingConfig,
        known: TrajectoryFacts,
        starts: Tensor | None = None,
    ) -> None:
        super().__init__()
        features, self.order, self.shooting = len(known.features), model.order, shooting
        width = features + model.augment
        fields: list[nn.Module] = []
        if model.equation:
            equation = make_equation(model.equation)
            check_field(equation, features * model.order, features, f"the equation {model.equation}")
            fields.append(InUnits(equation, known, model.order, model.augment))
        if model.network:
            network = MLPField(
                width * model.order, model.hidden, model.layers, model.activation,
                time=model.time, power=model.power, outputs=width,
            )  # fmt: skip
            fields.append(Paced(network, known, model.order))
        self.ode = NeuralODE(fields[0] if len(fields) == 1 else Sum(*fields), solver, model.augment, model.order)
        self.features = features
        self.size = (known.series, known.windows, features * model.order)
        self.starts: nn.Parameter | None = None
        if model.start == "learnt" or shooting.window:
            # In one dimension, as biases: a decay of weights is to leave states alone.
            guess = torch.zeros(self.size) if starts is None else starts
            self.starts = nn.Parameter(guess.flatten().float())

    def forward(self, batch: TrajectoryBatch) -> Fit:
        times, window, gap = batch.times, 0, batch.values.new_zeros(())
        if self.training:
            times, window = self._within(batch), self.shooting.window
        begins = self.begins(batch, window)
        if window:
            begins = begins[:, : windows_of(times.shape[1], window)]
        found, gaps = shoot(self.ode, begins, times, window)
        if gaps.numel():
            gap = gaps.square().mean()
        values = list(self.constants.values())
        constants = torch.stack(values) if values else batch.values.new_zeros(0)
        return Fit(found[..., : self.features], gap, constants)

    @property
    def constants(self) -> dict[str, Tensor]:
        """The constants of the equation, by name."""
        equations = [module.equation for module in self.modules() if isinstance(module, InUnits)]
        return constants_of(equations[0]) if equations else {}

    def begins(self, batch: TrajectoryBatch, window: int = 0) -> Tensor:
        """The states at the begin of each window, (n, windows, order * features), normalised."""
        observed = first_states(batch.values, batch.known, batch.times, window, self.order)
        if self.starts is None:
            return observed
        learnt = self.starts.view(self.size)[batch.rows.clamp_min(0), : observed.shape[1]]
        return torch.where((batch.rows >= 0)[:, None, None], learnt, observed)

    def states(self, starts: Tensor, times: Tensor) -> Tensor:
        """Normalised values, (n, length, features), from states (n, order * features)."""
        return self.ode(starts, times)[..., : self.features]

    def _within(self, batch: TrajectoryBatch) -> Tensor:
        """The times up to the horizon, two at least."""
        share = horizon(float(batch.progress), self.shooting.horizon, self.shooting.until)
        used = batch.known.any(-1).any(0).nonzero()
        length = max(2, int(used[-1]) + 1 if len(used) else 2)
        times = batch.times[:, :length]
        if share < 1:
            begin, end = times[:, :1], times[:, -1:]
            within = int((times <= begin + share * (end - begin)).sum(1).max())
            times = times[:, : max(2, within)]
        return times
