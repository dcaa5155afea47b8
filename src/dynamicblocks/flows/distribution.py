"""A flow as one of PyTorch's distributions."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from dynamicblocks.errors import ArgumentError

if TYPE_CHECKING:
    from dynamicblocks.flows.flow import Flow


class FlowDistribution(Distribution):
    """p(x), or p(x | context), of a flow.

    Args:
        flow: whose density it is.
        context: (..., c); the leading dimensions are the batches of the distribution.

    >>> from dynamicblocks.flows import make_flow
    >>> density = make_flow(2, hidden=(16,)).distribution()
    >>> density.log_prob(density.sample((3, 4))).shape
    torch.Size([3, 4])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, flow: "Flow", context: Tensor | None = None) -> None:
        self.flow, self.context = flow, context
        if context is not None and not isinstance(context, Tensor):
            raise ArgumentError(f"context must be a tensor (..., c), got {type(context).__name__}")
        batch = torch.Size() if context is None else context.shape[:-1]
        super().__init__(batch, torch.Size(flow.shape), validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        """All of the space."""
        return constraints.independent(constraints.real, len(self.event_shape))  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        """The distribution with more batches.

        Raises:
            ArgumentError: there is no context, whose dimensions the batches are.
        """
        if self.context is None:
            raise ArgumentError("a flow without context has no batches to expand; draw with sample((n, ...))")
        return FlowDistribution(self.flow, self.context.expand(*batch_shape, self.context.shape[-1]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p of values (..., *shape), whose leading dimensions meet the batches as PyTorch broadcasts."""
        shape = torch.broadcast_shapes(value.shape[: value.ndim - len(self.event_shape)], self.batch_shape)  # type: ignore[no-untyped-call]
        x = value.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        return self.flow.log_prob(x, self._contexts(shape)).reshape(shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """New samples, (*sample_shape, *batch_shape, *shape), without gradients."""
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.flow.sample(shape.numel(), self._contexts(shape)).reshape(shape + self.event_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """New samples with gradients by weights and context."""
        shape = torch.Size(sample_shape) + self.batch_shape
        z = self.flow.base.sample(shape.numel())
        return self.flow.inverse(z, self._contexts(shape)).reshape(shape + self.event_shape)

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """New samples with gradients, and log p of each, in one pass."""
        shape = torch.Size(sample_shape) + self.batch_shape
        x, log_prob = self.flow.rsample_and_log_prob(shape.numel(), self._contexts(shape))
        return x.reshape(shape + self.event_shape), log_prob.reshape(shape)

    def _contexts(self, shape: torch.Size) -> Tensor | None:
        """A row for each of as many samples as ``shape`` has places."""
        if self.context is None:
            return None
        width = self.context.shape[-1]
        return self.context.expand(*shape, width).reshape(-1, width)
