"""Right-hand sides that are learnt: networks of the state, and sums of several."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.activations import ActivationSpec, make_activation
from dynamicblocks.times import check_count

LAST = 0.1
"""The weights of the last layer are drawn so many times as large as usual: the first trajectories hardly move, so that
the first solves are cheap whatever the span of time."""


class MLPField(nn.Module):
    """A field f(t, y) that is a small network of the state, and perhaps of time.

    Args:
        features: of the state, with those that it is augmented by.
        hidden: units of each hidden layer.
        layers: hidden layers.
        activation: by name, or a function that makes one.
        time: whether the network sees the time as well.
        power: to which each number of the state is raised first; 3 for the spiral of the well-known example.
        outputs: numbers that it gives; by default as many as features. The accelerations of a state of positions and
            velocities are half as many.

    >>> MLPField(2, hidden=50)(torch.tensor(0.0), torch.zeros(8, 2)).shape
    torch.Size([8, 2])
    """

    def __init__(
        self,
        features: int,
        hidden: int = 50,
        layers: int = 1,
        activation: ActivationSpec = "tanh",
        *,
        time: bool = False,
        power: int = 1,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        outputs = features if outputs is None else outputs
        for name, value in {"features": features, "hidden": hidden, "power": power, "outputs": outputs}.items():
            check_count(value, name)
        check_count(layers, "layers", least=0)
        self.features, self.time, self.power = features, time, power
        widths = [features + time, *[hidden] * layers, outputs]
        modules: list[nn.Module] = []
        for before, after in pairwise(widths):
            modules += [nn.Linear(before, after), make_activation(activation)]
        self.net = nn.Sequential(*modules[:-1])
        with torch.no_grad():
            for weight in self.net[-1].parameters():
                weight.mul_(LAST)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        if y.shape[-1] != self.features:
            raise ConfigurationError(
                f"the field was made for a state of {self.features} features, in the last dimension, got "
                f"{tuple(y.shape)}; with augment the field's features are those of the data and augment more"
            )
        if self.power != 1:
            y = y**self.power
        if self.time:
            y = torch.cat((y, t.to(y.dtype).expand(*y.shape[:-1], 1)), dim=-1)
        return self.net(y)

    def extra_repr(self) -> str:
        return "" if self.power == 1 else f"power={self.power}"


class Sum(nn.Module):
    """The sum of fields: what is known of a right-hand side, and a network for the rest.

    >>> from dynamicblocks.sequences import Equation
    >>> field = Sum(Equation("lotka_volterra"), MLPField(2))
    >>> field(torch.tensor(0.0), torch.ones(8, 2)).shape
    torch.Size([8, 2])
    """

    def __init__(self, *fields: nn.Module) -> None:
        super().__init__()
        if not fields or not all(isinstance(each, nn.Module) for each in fields):
            given = ", ".join(type(each).__name__ for each in fields) or "nothing"
            raise ConfigurationError(f"fields must be one or more modules f(t, y), got {given}")
        self.fields = nn.ModuleList(fields)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        first, *others = self.fields
        total = first(t, y)
        for each in others:
            total = total + each(t, y)
        return total
