"""Plain residual networks for small images, as dynamic blocks with Euler and unit steps."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening, ResidualConnector, Shortcut
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import ResidualUnit, Style, unit_order
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.initial import initialised
from dynamicblocks.models.registry import models
from dynamicblocks.models.units import units_of_depth
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import MAX_CONTROLS, check_count, check_counts

DEPTHS = (20, 32, 44, 56, 110)


def resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    depth: int = 20,
    widths: Sequence[int] = (16, 32, 64),
    unit: str = "e",
    shortcut: Shortcut = "padding",
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    bias: bool = False,
    integrator: Integrator | str = "euler",
    gradient: Gradient | str = "backprop",
    initial: str = "torch",
) -> DynamicNet:
    """The residual networks of He et al. (2015, 2016) for 32 x 32 images, of depth 6 n + 2.

    Each width has n residual units. The first unit of a later width is a connector with a strided shortcut; the
    others are Euler steps of a dynamic block with a control of its own for each step.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        depth: 6 n + 2 layers.
        widths: channels of the three stages.
        unit: a, b, c, d, e or post; see :class:`~dynamicblocks.layers.ResidualUnit`.
        shortcut: ``padding`` (no weights), ``convolution`` (1x1) or ``convolution_norm``.
        norm: normalisation of every convolution: batch, group, tv, none.
        activation: of every convolution: relu, tanh, silu, ...
        boundary: of every convolution: zeros, replicate, reflect, circular.
        bias: whether convolutions have one.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        initial: ``torch`` (PyTorch's own draw) or ``he`` (by fan-out).

    >>> net = resnet(depth=20, unit="post", shortcut="convolution_norm")
    >>> sum(weight.numel() for weight in net.parameters())
    272474
    """
    widths = check_counts(widths, "widths")
    units = units_of_depth(depth, len(widths))
    order = unit_order(unit)
    style = Style(norm=norm, activation=activation, boundary=boundary, bias=bias)
    body: list[nn.Module] = []
    for index, width in enumerate(widths):
        steps = units
        if index:
            body.append(ResidualConnector(widths[index - 1], width, unit=unit, shortcut=shortcut, **style))
            steps -= 1
        if steps:
            make = partial(ResidualUnit, width, unit, **style)
            body.append(DynamicBlock(make, steps, steps, integrator, gradient))
    opening = Opening(in_channels, widths[0], order=order.opening, **style)
    head = Head(widths[-1], num_classes, order=order.head, norm=norm, activation=activation)
    return initialised(DynamicNet(opening, body, head), initial)


@models.register("wide_resnet")
def wide_resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    depth: int = 58,
    widen: int = 4,
    width: int = 16,
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    integrator: Integrator | str = "euler",
    gradient: Gradient | str = "backprop",
    initial: str = "he",
) -> DynamicNet:
    """Wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146) of depth 6 n + 4, with biases.

    Three widths, each a connector with a 1x1 shortcut and a block of n - 1 units with full pre-activation.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        depth: 6 n + 4 layers.
        widen: widen factor of the three stages.
        width: channels of the opening.
        norm: normalisation of every convolution: batch, group, tv, none.
        activation: of every convolution: relu, tanh, silu, ...
        boundary: of every convolution: zeros, replicate, reflect, circular.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        initial: ``he`` (by fan-out) or ``torch``.

    >>> wide_resnet(num_classes=100).num_weights
    13631108
    """
    check_count(width, "width")
    check_count(widen, "widen")
    units, rest = divmod(check_count(depth, "depth", most=2 * MAX_CONTROLS) - 4, 6)
    if rest or units < 1:
        raise ConfigurationError(f"depth must be 6 n + 4 for n = 1, 2, ..., got {depth}")
    style = Style(norm=norm, activation=activation, boundary=boundary, bias=True)
    body: list[nn.Module] = []
    before = width
    for stage in range(3):
        after = width * widen * 2**stage
        body.append(
            ResidualConnector(
                before,
                after,
                stride=1 if stage == 0 else 2,
                unit="e",
                shortcut="convolution",
                shortcut_bias=True,
                **style,
            )
        )
        if units > 1:
            body.append(
                DynamicBlock(partial(ResidualUnit, after, "e", **style), units - 1, units - 1, integrator, gradient)
            )
        before = after
    opening = Opening(in_channels, width, order="conv", **style)
    head = Head(before, num_classes, order="norm act", norm=norm, activation=activation)
    return initialised(DynamicNet(opening, body, head), initial)


models.register("resnet")(resnet)
for _depth in DEPTHS:
    models.register(f"resnet{_depth}")(partial(resnet, depth=_depth))
