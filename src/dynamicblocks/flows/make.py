"""A flow of points in one call."""

from collections.abc import Sequence

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows.base import make_base
from dynamicblocks.flows.continuous import USUAL, ContinuousTransform
from dynamicblocks.flows.fields import FieldMaker, TimeName, make_field
from dynamicblocks.flows.flow import Flow
from dynamicblocks.flows.trace import Trace
from dynamicblocks.flows.transform import Compose, Standardise, Transform
from dynamicblocks.functional import Solver


def make_flow(
    features: int,
    *,
    field: str | FieldMaker = "concatsquash",
    hidden: Sequence[int] = (64, 64, 64),
    activation: str = "tanh",
    context: int = 0,
    horizon: float = 1.0,
    time: TimeName = "linear",
    flows: int = 1,
    base: str = "gaussian",
    mean: Tensor | None = None,
    std: Tensor | None = None,
    solver: Solver = USUAL,
    trace: Trace | str = "auto",
    penalties: Sequence[str] = (),
) -> Flow:
    """A flow of points of so many features.

    Args:
        features: numbers of a point.
        field: concat, concatsquash, hyper, potential, or what makes a module f(t, x[, context]) of the shape of a
            point and the width of the context.
        hidden, activation, time: of a field by name, see :func:`~dynamicblocks.flows.make_field`.
        context: numbers of context of a point.
        horizon: the time of the data.
        flows: continuous transforms one after the other, each with a field of its own; flow matching is of one.
        base: gaussian, or eight_gaussians.
        mean, std: of the data, (features,): points are standardised before they move.
        solver, trace, penalties: of the continuous transforms.

    Raises:
        ConfigurationError: options that cannot be.

    >>> import torch
    >>> make_flow(2, hidden=(16, 16), context=3).distribution(torch.zeros(5, 3)).batch_shape
    torch.Size([5])
    """
    if flows < 1:
        raise ConfigurationError(f"flows must be at least 1, got {flows}")

    def made() -> nn.Module:
        if not isinstance(field, str):
            return field((features,), context)
        return make_field(
            field, features, hidden=hidden, activation=activation, context=context, horizon=horizon, time=time
        )

    parts: list[Transform] = [
        ContinuousTransform(
            made(), horizon=horizon, solver=solver, trace=trace, penalties=penalties, context=context,
            features=features,
        )
        for _ in range(flows)
    ]  # fmt: skip
    if mean is not None and std is not None:
        parts.insert(0, Standardise(mean, std))
    return Flow(Compose(parts) if len(parts) > 1 else parts[0], make_base(base, (features,)))
