"""OT-Flow's field: the gradient of a potential, whose Laplacian has a closed form."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows.fields.condition import Condition, TimeName
from dynamicblocks.flows.fields.field import fields
from dynamicblocks.times import check_count

RANK = 10
SMALL = 0.1
# Beyond it softplus is its argument to the last bit of double precision; PyTorch's 20 leaves 2e-9.
EXACT = 40.0


@fields.register("potential")
class PotentialField(nn.Module):
    """v(t, x) = grad_x Phi(x, t), with Phi(s) = w . N(s) + |A s|^2 / 2 + b . s and s = (x, t, context).

    N is a residual network, u_0 = sigma(K_0 s + b_0), u_i = u_{i-1} + h sigma(K_i u_{i-1} + b_i) with
    sigma(a) = log(exp a + exp -a) and h = 1 / (layers - 1). Gradient and Laplacian are written down, so that the trace
    of df/dx is exact. Where the ways of samples are the shortest, d Phi/dt = -|grad Phi|^2 / 2 along them (the
    Hamilton-Jacobi-Bellman equation); how far that is missed is the penalty ``hjb``.

    A new field moves samples little: w and A are small, for w = 1 and A of size 1 stretch the base by powers of e.

    Source: OT-Flow (Onken, Wu Fung, Li, Ruthotto 2021).

    Args:
        features: numbers of a sample.
        hidden: widths of the layers of N, all equal: (32, 32) are K_0 and one residual layer.
        activation: the derivative of sigma, tanh, alone.
        context: numbers of context of a sample.
        horizon: the last time.
        time: linear alone, for the potential is differentiated by it.

    Raises:
        ConfigurationError: the widths differ, or another activation or form of the time is asked for.

    >>> field = PotentialField(2, hidden=(16, 16))
    >>> slope, trace, residual = field.with_residual(torch.tensor(0.5), torch.zeros(5, 2))
    >>> slope.shape, trace.shape, residual.shape
    (torch.Size([5, 2]), torch.Size([5]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (32, 32),
        activation: str = "tanh",
        context: int = 0,
        horizon: float = 1.0,
        time: TimeName = "linear",
    ) -> None:
        super().__init__()
        check_count(features, "features")
        if not hidden or len(set(hidden)) > 1:
            raise ConfigurationError(
                "the layers of the field 'potential' are as wide as each other, such as 32, 32; got "
                f"{', '.join(map(str, hidden)) or 'none'}"
            )
        if activation != "tanh" or time != "linear":
            raise ConfigurationError(
                "the field 'potential' takes the activation tanh and the time as it is (linear), got "
                f"{activation!r} and {time!r}"
            )
        self.condition = Condition(time, context, horizon)
        self.context_width, self.features, self.horizon = context, features, horizon
        width, size = check_count(hidden[0], "hidden"), features + self.condition.width
        self.h = 1.0 / max(len(hidden) - 1, 1)
        self.opening = nn.Linear(size, width)
        self.residual = nn.ModuleList(nn.Linear(width, width) for _ in hidden[1:])
        self.w = nn.Parameter(torch.full((width,), 1.0 / width))
        self.A = nn.Parameter(torch.empty(min(RANK, features), size))
        self.b = nn.Parameter(torch.zeros(size))
        nn.init.xavier_uniform_(self.A, gain=SMALL)

    def potential(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Phi, (n,)."""
        s = self._input(t, x, context)
        u = _sigma(self.opening(s))
        for layer in self._layers:
            u = u + self.h * _sigma(layer(u))
        return u @ self.w + 0.5 * (s @ self.A.t()).square().sum(-1) + s @ self.b

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The slope, (n, features)."""
        s = self._input(t, x, context)
        slopes, z = self._backward(s)
        return self._gradient(s, slopes, z)[..., : self.features]

    def divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, features), and the trace of df/dx, (n,)."""
        slope, trace, _ = self._all(t, x, context)
        return slope, trace

    def with_residual(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The slope (n, features), the trace of df/dx (n,), and |d Phi/dt + |grad Phi|^2 / 2|, (n,)."""
        slope, trace, by_time = self._all(t, x, context)
        return slope, trace, (by_time + 0.5 * slope.square().sum(-1)).abs()

    def _input(self, t: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        c = self.condition(t, context)
        return torch.cat((x, c.expand(len(x), -1)), dim=-1)

    @property
    def _layers(self) -> list[nn.Linear]:
        return cast(list[nn.Linear], list(self.residual))

    def _backward(self, s: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Of each layer sigma' = tanh, (n, width), and d Phi by what it gives: (n, width), the last (width,)."""
        a = self.opening(s)
        slopes, u = [torch.tanh(a)], _sigma(a)
        for layer in self._layers:
            a = layer(u)
            slopes.append(torch.tanh(a))
            if layer is not self._layers[-1]:
                u = u + self.h * _sigma(a)
        z: list[Tensor] = [self.w]
        for layer, slope in zip(reversed(self._layers), reversed(slopes), strict=False):
            z.append(z[-1] + self.h * (slope * z[-1]) @ layer.weight)
        return slopes, z[::-1]

    def _gradient(self, s: Tensor, slopes: Sequence[Tensor], z: Sequence[Tensor]) -> Tensor:
        """D Phi/ds, (n, size)."""
        return (slopes[0] * z[0]) @ self.opening.weight + s @ self.A.t() @ self.A + self.b

    def _all(self, t: Tensor, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Slope, trace of its Jacobian, and d Phi/dt."""
        s = self._input(t, x, context)
        slopes, z = self._backward(s)
        gradient = self._gradient(s, slopes, z)
        first = self.opening.weight[:, : self.features]
        # Each layer gives z sigma'' |its row of d a/dx|^2 to the Laplacian; sigma'' = 1 - tanh^2.
        bends = [1 - slope * slope for slope in slopes]
        laplacian = (bends[0] * z[0]) @ first.square().sum(1) + self.A[:, : self.features].square().sum()
        pushed = first.t()[:, None] * slopes[0]  # d u_0/dx, (features, n, width)
        for place, layer in enumerate(self._layers, 1):
            turned = pushed @ layer.weight.t()
            laplacian = laplacian + self.h * (bends[place] * z[place] * turned.square().sum(0)).sum(-1)
            if layer is not self._layers[-1]:
                pushed = pushed + self.h * slopes[place] * turned
        # The condition holds t / horizon.
        return gradient[:, : self.features], laplacian, gradient[:, self.features] / self.horizon


def _sigma(a: Tensor) -> Tensor:
    """log(exp a + exp -a)."""
    return functional.softplus(2 * a, threshold=EXACT) - a
