"""ResNet with a twist: residual networks whose convolutions have coefficients that vary over the image (liuyao12)."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening, ResidualConnector
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import ResidualUnit, Style, unit_order
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.branch import EXPANSION
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.initial import initialised
from dynamicblocks.models.registry import models
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import check_count, check_counts
from dynamicblocks.twisting import twist


def twist_resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    units: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    unit: str = "e",
    stages: str = "TTTT",
    parametrisation: str = "vector",
    degree: int = 1,
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    integrator: Integrator | str = "euler",
    gradient: Gradient | str = "backprop",
    initial: str = "torch",
) -> DynamicNet:
    """The residual networks of four stages (He et al. 2015), for 32 x 32 images, with twisted 3x3 convolutions.

    The opening is a 3x3 convolution of stride 1 without pooling. Each stage has twice the width of the one before, on
    half the pixels; its first unit is a connector where width or size change, the others are Euler steps of a dynamic
    block with a control each. With ``stages="FFFF"`` it is the plain ResNet.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        units: residual units of each stage: (2, 2, 2, 2) in twist_resnet18, (3, 4, 6, 3) in the others.
        width: channels that are convolved in the first stage: 64; the originals also have 32 and 16.
        unit: a (as in He et al. 2015), e (norm and activation first, as in the originals), ..., or, in twist_resnet50,
            bottleneck_a or bottleneck_e.
        stages: a letter for each stage: T, its 3x3 convolutions are twisted, or F, they are not.
        parametrisation: of the twists: vector, independent, full; see :class:`~dynamicblocks.layers.TwistConv2d`.
        degree: of the coefficients in the coordinates of a pixel, 1 or 2.
        norm: normalisation of every convolution: batch, group, tv, none.
        activation: of every convolution: relu, tanh, silu, ...
        boundary: of every convolution: zeros, replicate, reflect, circular.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        initial: ``torch`` (PyTorch's own draw) or ``he`` (by fan-out).

    >>> twist_resnet(units=(2, 2, 2, 2), unit="a", stages="FFFF").num_weights
    11173962
    """
    units = check_counts(units, "units")
    check_count(width, "width")
    if not isinstance(stages, str) or len(stages) != len(units) or set(stages) - set("TF"):
        raise ConfigurationError(f"stages must have a letter T or F for each of {len(units)} stages, got {stages!r}")
    order = unit_order(unit)
    expansion = EXPANSION if "reduce" in order.branch else 1
    style = Style(norm=norm, activation=activation, boundary=boundary, bias=False)
    body: list[nn.Module] = []
    twisted: list[str] = []
    before = width
    for (index, count), letter in zip(enumerate(units), stages, strict=True):
        first = len(body)
        after, stride = width * expansion * 2**index, 1 if index == 0 else 2
        steps = count
        if before != after or stride != 1:
            body.append(
                ResidualConnector(before, after, stride=stride, unit=unit, shortcut="convolution_norm", **style)
            )
            steps -= 1
        if steps:
            body.append(DynamicBlock(partial(ResidualUnit, after, unit, **style), steps, steps, integrator, gradient))
        twisted += [f"body.{place}.*" for place in range(first, len(body)) if letter == "T"]
        before = after
    head = Head(before, num_classes, order=order.head, norm=norm, activation=activation)
    net = initialised(DynamicNet(Opening(in_channels, width, order=order.opening, **style), body, head), initial)
    return twist(net, twisted, parametrisation=parametrisation, degree=degree) if twisted else net


models.register("twist_resnet18")(twist_resnet)
models.register("twist_resnet34")(partial(twist_resnet, units=(3, 4, 6, 3)))
models.register("twist_resnet50")(partial(twist_resnet, units=(3, 4, 6, 3), unit="bottleneck_e"))
