"""ContinuousNet and its wide form (Queiruga, Erichson, Taylor & Mahoney 2020, arXiv:2008.02389)."""

from dataclasses import replace
from functools import partial

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening, ResidualConnector
from dynamicblocks.controls import Basis, as_basis
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import Conv2d, ResidualUnit, Style
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.initial import initialised
from dynamicblocks.models.registry import models
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import MAX_BLOCK_STEPS, MAX_CONTROLS, check_count, check_positive, check_steps, uniform


@models.register("continuousnet")
def continuousnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    width: int = 16,
    widen: int = 1,
    units: int = 2,
    integrator: Integrator | str = "euler",
    steps_per_unit: int = 1,
    time_epsilon: float | None = None,
    controls: Basis | str | int = "constant",
    skipinit: bool = False,
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    activation_first: bool = False,
    stitch: bool = True,
    boundary: str = "zeros",
    gradient: Gradient | str = "backprop",
    initial: str = "he",
) -> DynamicNet:
    """Three blocks of continuous depth, widths w, 2 w and 4 w, with a stitch before each.

    A unit is convolution, activation, norm, twice; a stitch is such a unit with a 1x1 shortcut, of stride 1, 2 and 2.
    With the defaults each Euler step is a unit of the residual network of equal size.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        width: channels of the opening, alpha in the paper; of the first block when multiplied by ``widen``.
        widen: widen factor of the blocks.
        units: control intervals of each block.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        steps_per_unit: time steps in each control interval.
        time_epsilon: length of each block's time; None for ``units``, which makes Euler with one step a unit the
            residual network.
        controls: the basis of the weights in time, on ``units`` intervals unless it has a size of its own.
        skipinit: whether each branch ends with a trainable scalar, zero at first.
        norm: normalisation of all convolutions: batch, group, tv, none.
        activation: of all convolutions: relu, tanh, silu, ...
        boundary: of all convolutions: zeros, replicate, reflect, circular.
        activation_first: norm, activation, convolution, twice, and a norm before the head.
        stitch: False for a strided 1x1 convolution between blocks, and nothing before the first.
        initial: ``he`` (by fan-out, as published) or ``torch``.

    >>> continuousnet(units=2).num_weights, continuousnet(units=2, activation_first=True).num_weights
    (273210, 273242)
    """
    check_count(width, "width")
    check_count(widen, "widen")
    check_count(units, "units", most=MAX_CONTROLS)
    steps = units * check_count(steps_per_unit, "steps_per_unit")
    check_steps(steps, "units times steps_per_unit", MAX_BLOCK_STEPS)
    horizon = (
        float(units) if time_epsilon is None else check_positive(time_epsilon, "time_epsilon", ": a block takes time")
    )
    grid = uniform(0.0, horizon, steps=steps)
    basis = as_basis(controls)
    if basis.size is None:
        basis = replace(basis, size=basis.size_of(units))
    unit = "e" if activation_first else "post"
    style = Style(norm=norm, activation=activation, boundary=boundary)
    biased: Style = {**style, "bias": True}
    body: list[nn.Module] = []
    before = width
    for stage in range(3):
        after, stride = width * widen * 2**stage, 1 if stage == 0 else 2
        if stitch:
            connector = ResidualConnector(
                before,
                after,
                stride=stride,
                unit=unit,
                shortcut="convolution",
                skipinit=skipinit,
                step=grid.sizes[0],
                **biased,
            )
            body.append(connector)
        elif before != after or stride != 1:
            body.append(Conv2d(before, after, kernel_size=1, stride=stride))
        make = partial(ResidualUnit, after, unit, skipinit=skipinit, **biased)
        body.append(DynamicBlock(make, basis, grid, integrator, gradient))
        before = after
    head = Head(before, num_classes, order="norm" if activation_first else "", norm=norm)
    return initialised(DynamicNet(Opening(in_channels, width, **style), body, head), initial)


models.register("wide_continuousnet")(partial(continuousnet, widen=4, units=8, activation_first=True))
