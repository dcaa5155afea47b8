"""The general network of dynamic blocks, and the default network of the original toolbox."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening, Pool, PooledConnector, ResidualConnector
from dynamicblocks.controls import Basis, as_basis
from dynamicblocks.errors import unknown_name
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import Style, layers
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.registry import models
from dynamicblocks.models.units import check_layer
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import MAX_BLOCK_STEPS, MAX_CONTROLS, check_count, check_counts, check_steps, uniform


@models.register("dynamicnet")
def dynamicnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    widths: Sequence[int] = (16, 32, 64),
    layer: str | Callable[[int], nn.Module] = "preact_double",
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    units: int = 2,
    controls: Basis | str | int = "constant",
    steps: int | None = None,
    integrator: Integrator | str = "euler",
    gradient: Gradient | str = "backprop",
    connector: str = "pooled",
    pool: Pool = "average",
    dims: int = 2,
) -> DynamicNet:
    """A network with one dynamic block for each width and a connector between blocks.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        widths: channels of each block.
        layer: the layer function, by name, made with the width, norm, activation and boundary; or a function that
            makes a layer of a width.
        norm: normalisation of layers, connectors and opening: batch, group, tv, none.
        activation: of layers, connectors and opening: relu, tanh, silu, ...
        boundary: of layers, connectors and opening: zeros, replicate, reflect, circular.
        units: depth of a block in units of layers: its time goes from 0 to ``units``, in so many control intervals.
        controls: the basis of the weights in time, ``"constant"`` or ``"linear"``, or one with a size of its own.
        steps: equal steps of each block; None for one a unit.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        connector: ``pooled`` (1x1 convolution and pooling) or ``residual`` (a strided residual unit).
        pool: of pooled connectors: average, max or none.
        dims: 1 for signals, 2 for images, 3 for volumes; a function for ``layer`` makes layers that fit.

    >>> import torch
    >>> dynamicnet(in_channels=1, widths=(8, 16), dims=1)(torch.zeros(2, 1, 64)).shape
    torch.Size([2, 10])
    """
    widths = check_counts(widths, "widths")
    check_layer(layer)
    check_count(units, "units", most=MAX_CONTROLS)
    grid = uniform(0, units, steps=units if steps is None else check_steps(steps, "steps", MAX_BLOCK_STEPS))
    basis = as_basis(controls)
    if basis.size is None:
        basis = replace(basis, size=basis.size_of(units))
    style = Style(norm=norm, activation=activation, boundary=boundary)
    if check_dims(dims) != 2:  # a layer of the caller's own may know images alone
        style["dims"] = dims
    body: list[nn.Module] = []
    for index, width in enumerate(widths):
        if index:
            before = widths[index - 1]
            if connector == "pooled":
                body.append(PooledConnector(before, width, pool=pool, **style))
            elif connector == "residual":
                body.append(ResidualConnector(before, width, **style))
            else:
                raise unknown_name("connector", connector, ("pooled", "residual"))
        make = partial(layers.create, layer, width, **style) if isinstance(layer, str) else partial(layer, width)
        body.append(DynamicBlock(make, basis, grid, integrator, gradient))
    opening = Opening(in_channels, widths[0], **style)
    head = Head(widths[-1], num_classes, order="norm act", norm=norm, activation=activation, dims=dims)
    return DynamicNet(opening, body, head)


models.register("dynamicnet_small")(
    partial(dynamicnet, widths=(24, 48), units=2, controls="linear", integrator="midpoint")
)


@models.register("dynamicblocks_rk4")
def dynamicblocks_rk4(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    norm: NormSpec = "tv(weight=False)",
    boundary: str = "zeros",
    integrator: Integrator | str = "rk4_classic",
    gradient: Gradient | str = "backprop",
) -> DynamicNet:
    """The default network of the original DynamicBlocks toolbox: 251,866 weights for 10 classes of colour images.

    Three blocks of symmetric layers (widths 16, 32, 64), piecewise linear weights at t = 0, 1, 2, 3, 4, states at the
    same times, classical Runge-Kutta; 1x1 connectors, the last one 64 to 64 before the head.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        norm: normalisation of the layers: batch, group, tv, none.
        boundary: of every convolution: zeros, replicate, reflect, circular.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
    """
    widths = (16, 32, 64, 64)
    grid = uniform(0, 4, steps=4)
    body: list[nn.Module] = []
    for index, (width, after) in enumerate(pairwise(widths)):
        make = partial(layers.create, "symmetric", width, norm=norm, boundary=boundary)
        last = index == len(widths) - 2
        body += [
            DynamicBlock(make, "linear(5)", grid, integrator, gradient),
            PooledConnector(width, after, bias=True, pool="none" if last else "average"),
        ]
    return DynamicNet(
        Opening(in_channels, widths[0], boundary=boundary, bias=True), body, Head(widths[-1], num_classes)
    )
