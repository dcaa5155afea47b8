"""Residual networks whose steps are a linear multistep method's."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator, LinearMultistep, as_integrator
from dynamicblocks.layers import Branch, ResidualUnit, Style, unit_order
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.inputs import check_input, telling_causes
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.initial import initialised
from dynamicblocks.models.registry import models
from dynamicblocks.models.units import units_of_depth
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import check_counts

DRAWN = (-0.1, 0.0)
"""From where the published networks draw their coefficients."""


class MultistepStage(nn.Module):
    """A strided residual unit, and the block that follows it with what the unit's shortcut gave as the state before.

        s = S(x),    y = s + F(x),    block(y, before=s)

    The unit is a step of length 1 that leads from s to y. A block whose steps are of another length h is given the
    state that lies h before y on the line through both. One whose integrator begins from one state is given y alone.

    Shapes:
        (batch, in_channels, H, W) -> (batch, width, ceil(H / 2), ceil(W / 2)), and alike for other ``dims``.

    Args:
        in_channels, width: channels before and after.
        block: of states of so many channels; None for the unit alone.
        norm, activation, boundary, bias, dims: of the unit's convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        block: DynamicBlock | None,
        *,
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = False,
        dims: int = 2,
    ) -> None:
        super().__init__()
        style = Style(norm=norm, activation=activation, boundary=boundary, bias=bias, dims=dims)
        self.shortcut = Branch("norm act conv", in_channels, width, kernel_size=1, stride=2, **style)
        self.branch = Branch(unit_order("e").branch, in_channels, width, stride=2, **style)
        self.block = block

    @telling_causes
    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.branch.width, "a state", self.branch.dims)
        before = self.shortcut(x)
        y = before + self.branch(x)
        block = self.block
        if block is None:
            return y
        if not block.integrator.takes_past:
            return block(y)
        h = block.times.sizes[0]
        return block(y, before if h == 1 else torch.lerp(y, before, h))


@models.register("lm_resnet")
def lm_resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    depth: int = 20,
    widths: Sequence[int] = (16, 32, 64),
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    bias: bool = False,
    per_channel: bool = False,
    integrator: Integrator | str = f"lm(initial={DRAWN})",
    gradient: Gradient | str = "backprop",
    initial: str = "he",
    dims: int = 2,
) -> DynamicNet:
    """The residual networks of Lu et al. (2018, arXiv:1710.10121) of depth 6 n + 2, for 32 x 32 images.

    Each width has n residual units with full pre-activation, which are steps of the linear multistep method, with a
    trained coefficient each, but for the first one: at the first width it is an Euler step, at later widths it is
    strided and has a shortcut (norm, activation, 1x1 convolution) whose output is the state before of the second unit.

    For 10 classes the published networks have 35 weights more, which nothing uses: 32 of a normalisation that is never
    applied, and coefficients of the three first units.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        depth: 6 n + 2 layers; published are 20, 32, 44, 56 and 110.
        widths: channels of the stages.
        norm: normalisation of every convolution: batch, group, tv, none.
        activation: of every convolution: relu, tanh, silu, ...
        boundary: of every convolution: zeros, replicate, reflect, circular.
        bias: whether convolutions have one.
        per_channel: whether each channel has coefficients of its own.
        integrator: a linear multistep method, or another integrator: ``"euler"`` makes the plain partner, the same
            network without coefficients.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        initial: ``he`` (by fan-out, as published) or ``torch``.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> lm_resnet(depth=20).num_weights
    272384
    """
    widths = check_counts(widths, "widths")
    units = units_of_depth(depth, len(widths))
    method = as_integrator(integrator)
    after_another = method
    if isinstance(method, LinearMultistep):
        method = method.changed(per_channel=per_channel or method.per_channel, past=False)
        after_another = method.changed(past=True)
    style = Style(norm=norm, activation=activation, boundary=boundary, bias=bias, dims=check_dims(dims))

    def block(width: int, steps: int, integrator: Integrator) -> DynamicBlock | None:
        make = partial(ResidualUnit, width, "e", **style)
        return DynamicBlock(make, steps, steps, integrator, gradient) if steps else None

    first = block(widths[0], units, method)
    assert first is not None
    body: list[nn.Module] = [first]
    for before, width in pairwise(widths):
        body.append(MultistepStage(before, width, block(width, units - 1, after_another), **style))
    opening = Opening(in_channels, widths[0], order="conv", **style)
    head = Head(widths[-1], num_classes, order="norm act", norm=norm, activation=activation, dims=dims)
    return initialised(DynamicNet(opening, body, head), initial)
