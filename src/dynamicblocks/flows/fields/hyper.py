"""The field of the first continuous normalizing flow: hidden units whose weights a small network makes of the time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows.fields.condition import Condition, TimeName
from dynamicblocks.flows.fields.field import fields
from dynamicblocks.times import check_count


@fields.register("hyper")
class Hyper(nn.Module):
    """v(t, x) = 1/m sum_k u_k sigmoid(g_k) tanh(w_k . x + b_k), with u, g, w, b made of the time by a network.

    Its trace is 1/m sum_k (u_k sigmoid(g_k) . w_k) (1 - tanh^2), so a density costs hardly more than a path.

    Source: Chen et al. 2018, section 4; the field of torchdiffeq's example of a flow.

    Args:
        features: numbers of a sample.
        hidden: two widths: m, the number of hidden units, and that of the network that makes their weights.
        activation: of the hidden units: tanh alone.
        context: numbers of context of a sample.
        horizon: the last time.
        time: how the network reads it, see :class:`Condition`.

    Raises:
        ConfigurationError: ``hidden`` has not two widths, or another activation is asked for.

    >>> field = Hyper(2, hidden=(64, 32))
    >>> sum(weight.numel() for weight in field.parameters())
    15904
    """

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (64, 32),
        activation: str = "tanh",
        context: int = 0,
        horizon: float = 1.0,
        time: TimeName = "linear",
    ) -> None:
        super().__init__()
        check_count(features, "features")
        if len(hidden) != 2:
            raise ConfigurationError(
                "the field 'hyper' has two widths, hidden units and those of the network that makes their weights, "
                f"such as 64, 32; got {', '.join(map(str, hidden))}"
            )
        if activation != "tanh":
            raise ConfigurationError(f"the hidden units of the field 'hyper' are of tanh, got {activation!r}")
        units, width = (check_count(each, "hidden") for each in hidden)
        self.condition = Condition(time, context, horizon)
        self.context_width, self.features, self.units = context, features, units
        self.net = nn.Sequential(
            nn.Linear(self.condition.width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, units * (3 * features + 1)),
        )  # fmt: skip

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The slope, (n, features)."""
        w, u, b = self._weights(t, context)
        return self._slope(torch.tanh(_products(x, w, b)), u)

    def divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, features), and the trace of df/dx, (n,)."""
        w, u, b = self._weights(t, context)
        value = torch.tanh(_products(x, w, b))
        weight = (u * w).sum(-1) / self.units
        # sum_k weight_k (1 - tanh_k^2)
        square = value * value
        found = square @ weight if weight.ndim == 1 else (square * weight).sum(-1)
        return self._slope(value, u), weight.sum(-1) - found

    def jvp(self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, features), and df/dx times each of the ``tangents`` (k, n, features)."""
        w, u, b = self._weights(t, context)
        value = torch.tanh(_products(x, w, b))
        pushed = _products(tangents, w) * (1 - value * value)
        return self._slope(value, u), self._slope(pushed, u)

    def _weights(self, t: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """W and gated u, (units, features), and b, (units,), with the samples first where they differ among them."""
        made = self.net(self.condition(t, context))
        size = self.units * self.features
        w, u, gate, b = made.split((size, size, size, self.units), -1)
        shape = (*made.shape[:-1], self.units, self.features)
        return w.reshape(shape), (u * torch.sigmoid(gate)).reshape(shape), b

    def _slope(self, value: Tensor, u: Tensor) -> Tensor:
        if u.ndim == 2:
            return value @ u / self.units
        return torch.einsum("...nk,nkd->...nd", value, u) / self.units


def _products(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """w_k . x + b_k, (..., n, units)."""
    found = x @ w.t() if w.ndim == 2 else torch.einsum("...nd,nkd->...nk", x, w)
    return found if b is None else found + b
