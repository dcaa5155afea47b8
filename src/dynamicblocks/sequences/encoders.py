"""What the seen part of a series tells of its begin: encoders, which read from the last observation to the first.

None reads time itself, only gaps, so a series that is moved in time together with its begin is read as before. What is
missing is zero, beside a mask, and times at which nothing was seen, padding among them, are not read at all.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.integrators import RungeKutta, as_integrator
from dynamicblocks.sequences.observations import Observations
from dynamicblocks.sequences.perceptron import perceptron
from dynamicblocks.times import check_count

EncoderName = Literal["ode_rnn", "rnn", "gru"]


class Encoder(nn.Module, ABC):
    """From the observations of series to a state each.

    Args:
        features: how many each observation has.
        width: of the state.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features, self.width = features, width

    def forward(self, times: Tensor, values: Tensor, seen: Tensor, begin: Tensor) -> Tensor:
        """The states, (n, width), at the begins, (n,); the rest is that of a ``SeriesModel``."""
        read = Observations.of(times, values, seen, begin)
        if not len(read.inputs):
            return values.new_zeros(len(values), self.width)
        return self.read(read)

    @abstractmethod
    def read(self, observations: Observations) -> Tensor:
        """The states after the first observation, (n, width); zero for a series without any."""


class RecurrentEncoder(Encoder):
    """A recurrent network that is told the gaps between observations: plain (tanh), or a GRU as baseline."""

    def __init__(self, features: int, width: int, cell: Literal["rnn", "gru"] = "rnn") -> None:
        super().__init__(features, width)
        kind = nn.GRU if cell == "gru" else nn.RNN
        self.recurrent = kind(2 * features + 1, width)

    def read(self, observations: Observations) -> Tensor:
        """The states after the first observation."""
        inputs, gaps, there = observations
        states, _ = self.recurrent(torch.cat([inputs, gaps], -1))
        count = there.sum(0)
        last = (count - 1).clamp_min(0)[None].expand(1, -1, self.width)
        state: Tensor = states.gather(0, last)[0]
        return state.where(count > 0, 0.0)


class ODERNN(Encoder):
    """A GRU at the observations, and between them the solution of dh/dt = f(h).

    Each gap is scaled to length one, so series with times of their own are one batch, and a gap costs ``steps`` steps
    whatever its length. It is the integrator alone that steps: a solve for each gap would cost several times as much as
    what it evaluates.

    Args:
        features: how many each observation has.
        width: of the state.
        hidden, layers: of f.
        method: an explicit Runge-Kutta method.
        steps: for each gap.
    """

    def __init__(
        self, features: int, width: int, hidden: int = 50, layers: int = 1, method: str = "euler", steps: int = 1
    ) -> None:
        super().__init__(features, width)
        integrator = as_integrator(method)
        if not isinstance(integrator, RungeKutta):
            raise ConfigurationError(
                f"between observations the state is moved by an explicit Runge-Kutta method such as euler, midpoint or "
                f"rk4, got {method!r}"
            )
        self.integrator, self.steps = integrator, check_count(steps, "steps between observations")
        self.field = perceptron(width, hidden, width, layers)
        self.cell = nn.GRUCell(2 * features, width)

    def read(self, observations: Observations) -> Tensor:
        """The states at the begins."""
        state = observations.inputs.new_zeros(observations.inputs.shape[1], self.width)
        for inputs, gap, there in zip(*observations, strict=True):
            state = self.between(self.cell(inputs, state).where(there, state), gap)
        return state

    def between(self, state: Tensor, gap: Tensor) -> Tensor:
        """The states, a gap later."""
        for step in range(self.steps):
            state = self.integrator.step(lambda _, h: gap * self.field(h), step / self.steps, 1 / self.steps, state)
        return state


def make_encoder(name: EncoderName, features: int, width: int, ode_rnn: dict[str, Any]) -> Encoder:
    """The encoder of that name; ``ode_rnn``: what :class:`ODERNN` takes beside the sizes."""
    if name == "ode_rnn":
        return ODERNN(features, width, **ode_rnn)
    if name not in get_args(EncoderName):
        raise unknown_name("encoder", name, get_args(EncoderName))
    return RecurrentEncoder(features, width, name)
