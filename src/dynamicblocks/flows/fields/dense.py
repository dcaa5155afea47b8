"""Fields of dense layers that read the time: concat and concatsquash, with their Jacobian in forward mode.

A solve of a density needs the trace of df/dx at every evaluation. Dense layers push tangents along with the state,
without a backward pass, so that gradients of the likelihood go through each layer once and not through its derivative.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicblocks.flows.fields.activations import activation_named
from dynamicblocks.flows.fields.condition import Condition, TimeName
from dynamicblocks.flows.fields.field import fields
from dynamicblocks.times import check_count


class DenseField(nn.Module):
    """v(t, x): dense layers h <- phi(gate(c) * (W h + b) + shift(c)) with c the time and the context; the last without
    phi.

    Args:
        features: numbers of a sample.
        hidden: widths of the hidden layers.
        activation: phi: tanh, softplus, silu, elu, selu.
        context: numbers of context of a sample.
        horizon: the last time.
        time: how the layers read it, see :class:`Condition`.
    """

    gated: ClassVar[bool] = False
    """Whether c scales what a layer gives, or is added alone."""

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (64, 64, 64),
        activation: str = "tanh",
        context: int = 0,
        horizon: float = 1.0,
        time: TimeName = "linear",
    ) -> None:
        super().__init__()
        check_count(features, "features")
        for width in hidden:
            check_count(width, "hidden")
        self.condition = Condition(time, context, horizon)
        self.context_width, self.features = context, features
        self.activation = activation
        self._phi = activation_named(activation)
        widths = (features, *hidden, features)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.outputs = list(widths[1:])
        # Shifts and gates of all layers at once: one small product an evaluation, not two a layer.
        self.shift = nn.Linear(self.condition.width, sum(self.outputs), bias=False)
        self.gate = nn.Linear(self.condition.width, sum(self.outputs)) if self.gated else None

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The slope, (n, features)."""
        *hidden, last = self._linears
        shifts, gates = self._conditioned(t, context)
        h = x
        for layer, shift, gate in zip(hidden, shifts, gates, strict=False):
            h = self._phi.value(_modulated(layer(h), shift, gate))
        return _modulated(last(h), shifts[-1], gates[-1])

    def jvp(self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, features), and df/dx times each of the ``tangents`` (k, n, features)."""
        *hidden, last = self._linears
        shifts, gates = self._conditioned(t, context)
        h = x
        for layer, shift, gate in zip(hidden, shifts, gates, strict=False):
            a = _modulated(layer(h), shift, gate)
            h = self._phi.value(a)
            tangents = functional.linear(tangents, layer.weight) * _scaled(self._phi.slope(a, h), gate)
        products = functional.linear(tangents, last.weight)
        if gates[-1] is not None:
            products = products * gates[-1]
        return _modulated(last(h), shifts[-1], gates[-1]), products

    def divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, features), and the trace of df/dx, (n,): a tangent for each feature, without the products with
        unit vectors that would begin it, and of the last ones the diagonal alone.
        """
        *hidden, last = self._linears
        shifts, gates = self._conditioned(t, context)
        if not hidden:
            slope = _modulated(last(x), shifts[0], gates[0])
            diagonal = last.weight.diagonal()
            return slope, (diagonal if gates[0] is None else diagonal * gates[0]).sum(-1).expand(len(x))
        h, tangents = x, None
        for layer, shift, gate in zip(hidden, shifts, gates, strict=False):
            a = _modulated(layer(h), shift, gate)
            h = self._phi.value(a)
            pushed = layer.weight.t()[:, None] if tangents is None else functional.linear(tangents, layer.weight)
            tangents = pushed * _scaled(self._phi.slope(a, h), gate)
        assert tangents is not None
        gate = gates[-1]
        # Row i of the last weights meets the tangent of feature i.
        if gate is None:
            trace = torch.einsum("ink,ik->n", tangents, last.weight)
        elif gate.ndim == 1:
            trace = torch.einsum("ink,ik->n", tangents, last.weight * gate[:, None])
        else:
            trace = torch.einsum("ink,ik,ni->n", tangents, last.weight, gate)
        return _modulated(last(h), shifts[-1], gate), trace

    @property
    def _linears(self) -> list[nn.Linear]:
        return cast(list[nn.Linear], list(self.layers))

    def _conditioned(self, t: Tensor, context: Tensor | None) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        """Of each layer the shift, and the gate if there is one: (width,), or (n, width)."""
        c = self.condition(t, context)
        shifts = torch.split(self.shift(c), self.outputs, -1)
        if self.gate is None:
            return shifts, (None,) * len(shifts)
        return shifts, torch.split(torch.sigmoid(self.gate(c)), self.outputs, -1)


def _modulated(a: Tensor, shift: Tensor, gate: Tensor | None) -> Tensor:
    return a + shift if gate is None else torch.addcmul(shift, a, gate)


def _scaled(slope: Tensor, gate: Tensor | None) -> Tensor:
    return slope if gate is None else slope * gate


@fields.register("concat")
class Concat(DenseField):
    """v(t, x) of dense layers that have the time, and the context, as further inputs.

    Source: FFJORD (Grathwohl et al. 2019). Options as of :class:`DenseField`.

    >>> field = Concat(2, hidden=(16,))
    >>> field(torch.tensor(0.5), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """


@fields.register("concatsquash")
class ConcatSquash(DenseField):
    """v(t, x) of dense layers whose results the time, and the context, scale and shift:
    (W x + b) * sigmoid(G c + g) + S c.

    Source: FFJORD (Grathwohl et al. 2019), there the default. Options as of :class:`DenseField`.

    >>> field = ConcatSquash(2, hidden=(16, 16))
    >>> slope, trace = field.divergence(torch.tensor(0.5), torch.zeros(5, 2))
    >>> slope.shape, trace.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    gated = True
