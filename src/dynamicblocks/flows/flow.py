"""Flows: a base distribution and a transform, which together are a density that can be told and drawn from."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows.base import Base
from dynamicblocks.flows.continuous import ContinuousTransform
from dynamicblocks.flows.distribution import FlowDistribution
from dynamicblocks.flows.transform import Compose, Transform, Transformed
from dynamicblocks.functional import Solver
from dynamicblocks.times import check_count


class Flow(nn.Module):
    """The density p(x) = p_0(z) |det dz/dx| of x whose image z has the density p_0.

    Densities and samples take one pass each. Gradients of ``log_prob`` are there by x, by the context and by the
    weights, whatever the gradient mode of the solver.

    Args:
        transform: between x and z, such as ``Compose([Standardise(mean, std), ContinuousTransform(field)])``.
        base: p_0.

    >>> from dynamicblocks.flows import make_flow
    >>> flow = make_flow(2, hidden=(16, 16))
    >>> x = flow.sample(5)
    >>> flow.log_prob(x).shape
    torch.Size([5])
    """

    def __init__(self, transform: Transform, base: Base) -> None:
        super().__init__()
        self.transform, self.base = transform, base

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.base.shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Z of x: from the data to the base."""
        context = self.checked(x, context)
        return self.transform.encode(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """X of z: from the base to the data."""
        context = self.checked(z, context)
        return self.transform.decode(z, context)

    def transformed(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Transformed]:
        """Log p(x), (n,), and all that the pass told, penalties among them."""
        context = self.checked(x, context)
        found = self.transform.to_base(x, context, generator)
        return self.base.log_prob(found.value) + found.log_det, found

    def log_prob(self, x: Tensor, context: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Log p(x), or log p(x | context), in nats, (n,).

        Args:
            x: (n, *shape).
            context: (n, c), or (c,) for all.
            generator: of the draws of an estimated trace; by default PyTorch's own.

        Raises:
            ArgumentError: a shape does not fit.
            SolverError: the solve failed.
        """
        return self.transformed(x, context, generator)[0]

    @torch.no_grad()
    def sample(self, number: int, context: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """New samples, (number, *shape), without gradients and without their densities."""
        z = self.base.sample(check_count(number, "number"), generator)
        return self.inverse(z, context)

    def rsample_and_log_prob(
        self, number: int, context: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """New samples (number, *shape), with gradients by weights and context, and log p of each, in one pass."""
        z = self.base.sample(check_count(number, "number"), generator)
        context = self.checked(z, context)
        found = self.transform.to_data(z, context, generator)
        return found.value, self.base.log_prob(z) - found.log_det

    def distribution(self, context: Tensor | None = None) -> FlowDistribution:
        """The density as a :class:`torch.distributions.Distribution`; the context, (..., c), has its batches."""
        return FlowDistribution(self, context)

    # The continuous part

    @property
    def continuous(self) -> ContinuousTransform:
        """Its one continuous transform.

        Raises:
            ConfigurationError: it has none, or several, as a flow of many scales.
        """
        return self._parts()[1]

    def near_base(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """X as the continuous transform meets it at its last time: standardised, or whatever stands before it."""
        before, _ = self._parts()
        context = self.checked(x, context)
        for each in before:
            x = each.encode(x, context)
        return x

    @torch.no_grad()
    def paths(self, z: Tensor, times: Sequence[float], context: Tensor | None = None) -> Tensor:
        """Particles that begin at ``z``, at increasing times from 0, in units of the data: (len(times), n, *shape)."""
        before, continuous = self._parts()
        context = self.checked(z, context)
        states = []
        for x in continuous.path(z, times, context):
            for each in reversed(before):
                x = each.decode(x, context)
            states.append(x)
        return torch.stack(states)

    def with_solver(self, solver: Solver) -> "Flow":
        """The same flow, with the same weights, whose equations are solved in another way."""
        other = copy.copy(self)
        other._modules = {**self._modules, "transform": _with_solver(self.transform, solver)}
        return other

    def _parts(self) -> tuple[list[Transform], ContinuousTransform]:
        """What stands between the data and the continuous transform, and that transform."""
        transform = self.transform
        parts = transform.parts if isinstance(transform, Compose) else [transform]
        *before, last = parts
        if not isinstance(last, ContinuousTransform) or any(_continuous(each) for each in before):
            raise ConfigurationError(
                "particles and flow matching are of a flow with one continuous transform, next to its base; this one "
                f"is made of {', '.join(type(each).__name__ for each in parts)}"
            )
        return before, last

    def checked(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """The context, a row for each sample.

        Raises:
            ArgumentError: x or the context has not the shape that is expected.
        """
        if not isinstance(x, Tensor) or x.shape[1:] != self.shape or not x.is_floating_point():
            came = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentError(f"samples must be floats of shape (n, {', '.join(map(str, self.shape))}), got {came}")
        if context is None:
            return None
        if not isinstance(context, Tensor) or context.ndim not in (1, 2):
            came = f"{tuple(context.shape)}" if isinstance(context, Tensor) else type(context).__name__
            raise ArgumentError(f"context must be a tensor (n, c), a row for each sample, got {came}")
        if context.ndim == 1:
            context = context.expand(len(x), -1)
        if len(context) != len(x):
            raise ArgumentError(f"{len(x)} samples have a context of {len(context)} rows; give a row for each")
        return context


def _continuous(transform: nn.Module) -> bool:
    return any(isinstance(each, ContinuousTransform) for each in transform.modules())


def _with_solver(transform: nn.Module, solver: Solver) -> nn.Module:
    """A copy that shares everything but the solvers."""
    if isinstance(transform, ContinuousTransform):
        return transform.with_solver(solver)
    if not _continuous(transform):
        return transform
    other = copy.copy(transform)
    other._modules = {name: each and _with_solver(each, solver) for name, each in transform._modules.items()}
    return other
