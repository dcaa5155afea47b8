"""A flow of images in one call."""

from collections.abc import Sequence

from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows.base import make_base
from dynamicblocks.flows.continuous import USUAL, ContinuousTransform
from dynamicblocks.flows.fields import FieldMaker, TimeName
from dynamicblocks.flows.fields.conv import ConvField, image_shape
from dynamicblocks.flows.flow import Flow
from dynamicblocks.flows.images.dequantise import Dequantise
from dynamicblocks.flows.images.marginals import Marginals
from dynamicblocks.flows.images.multiscale import Multiscale
from dynamicblocks.flows.trace import Trace
from dynamicblocks.flows.transform import Compose, Standardise, Transform
from dynamicblocks.functional import Solver


def make_image_flow(
    shape: Sequence[int],
    levels: int,
    *,
    field: FieldMaker | None = None,
    hidden: Sequence[int] = (64, 64, 64),
    activation: str = "softplus",
    context: int = 0,
    horizon: float = 1.0,
    time: TimeName = "linear",
    patch: int = 1,
    scales: int = 1,
    flows: int = 1,
    alpha: float = 1e-6,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    counts: Tensor | None = None,
    solver: Solver = USUAL,
    trace: Trace | str = "auto",
    penalties: Sequence[str] = (),
) -> Flow:
    """A flow of images of whole pixel values, by equations whose right-hand sides are convolutions.

    Args:
        shape: of an image, (channels, height, width).
        levels: pixel values are 0 ... levels - 1.
        field: what makes a module f(t, x[, context]) of the shape of an image (at each scale) and the width of the
            context; by default a :class:`ConvField`.
        hidden, activation, time, patch: of that, see there.
        context: numbers of context of an image.
        horizon: the time of the data.
        scales: how many, see :class:`Multiscale`.
        flows: continuous transforms before and after each squeeze; flow matching is of one flow and one scale.
        alpha: see :class:`Dequantise`.
        mean, std: of the logits of the data, broadcasting to an image: they are standardised before they move.
        counts: how often each value is at each pixel of the training, (levels, *shape): pixels become normal by these
            instead of by a logit, see :class:`Marginals`.
        solver, trace, penalties: of the continuous transforms.

    Raises:
        ConfigurationError: options that cannot be, or sides that cannot be halved so often.

    >>> flow = make_image_flow((1, 8, 8), 17, hidden=(8,), scales=2)
    >>> flow.sample(3).shape
    torch.Size([3, 1, 8, 8])
    """
    whole = image_shape(shape)

    def transform(of: tuple[int, int, int]) -> Transform:
        made: nn.Module
        if field is not None:
            made = field(of, context)
        else:
            made = ConvField(
                of, hidden=hidden, activation=activation, context=context, horizon=horizon, time=time, patch=patch
            )
        return ContinuousTransform(
            made, horizon=horizon, solver=solver, trace=trace, penalties=penalties, context=context,
            features=of[0] * of[1] * of[2],
        )  # fmt: skip

    parts: list[Transform] = [Dequantise(levels, alpha)]
    if counts is not None:
        if tuple(counts.shape) != (levels, *whole):
            raise ConfigurationError(
                f"counts must be of shape {(levels, *whole)}, levels and then an image's, got {tuple(counts.shape)}"
            )
        parts = [Marginals(counts)]
    elif mean is not None and std is not None:
        parts.append(Standardise(mean, std))
    parts += Multiscale(whole, transform, scales=scales, flows=flows).parts
    return Flow(Compose(parts), make_base("gaussian", whole))
