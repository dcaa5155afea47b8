"""Networks motivated by partial differential equations (Ruthotto & Haber 2018, arXiv:1804.04272)."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening, PooledConnector
from dynamicblocks.controls import Basis
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import Style, layers
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.registry import models
from dynamicblocks.models.units import in_units
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import check_counts


def pde_cnn(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    widths: Sequence[int] = (32, 64, 112, 112),
    units: int = 3,
    layer: str | Callable[[int], nn.Module] = "symmetric",
    controls: Basis | str | int = "constant",
    step: float = 1.0,
    integrator: Integrator | str = "euler",
    norm: NormSpec = "tv",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    bias: bool = False,
    gradient: Gradient | str = "backprop",
    dims: int = 2,
) -> DynamicNet:
    """Blocks of one partial differential equation, with 1x1 connectors and average pooling between them.

    ``parabolic_cnn``: dy/dt = F(y), F symmetric, by Euler's method: it diffuses. ``hamiltonian_cnn``: the halves of the
    channels follow dy/dt = F1(z), dz/dt = -F2(y), by symplectic Euler. ``second_order_cnn``: d2y/dt2 = F(y), by
    leapfrog: waves. The published second-order network starts as ``leapfrog('equal')`` does, an error of first order.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        widths: channels of each block, and, last, those before the head: (32, 64, 112, 112) for CIFAR-10, (32, 64, 128,
            256) for CIFAR-100, (16, 32, 64, 128, 128) for STL-10.
        units: steps of each block, each with a control of its own.
        layer: the layer function, by name, made with the width, norm, activation, boundary and bias; or a function
            that makes a layer of a width.
        controls: the basis of the weights in time, on ``units`` intervals unless it has a size of its own.
        step: length of each step.
        norm, activation, boundary: of every convolution.
        bias: whether layers have biases.
        integrator, gradient: see :class:`~dynamicblocks.DynamicBlock`.
        dims: 1 for signals, 2 for images, 3 for volumes; a function for ``layer`` makes layers that fit.

    >>> pde_cnn().num_weights, pde_cnn(widths=(32, 64, 128, 256), num_classes=100).num_weights
    (502570, 652484)
    """
    widths = check_counts(widths, "widths")
    if len(widths) < 2:
        raise ConfigurationError(f"widths must be those of the blocks and the one before the head, got {list(widths)}")
    basis, grid = in_units(units, step, controls)
    style = Style(norm=norm, activation=activation, boundary=boundary, dims=dims)
    body: list[nn.Module] = []
    for index, (width, after) in enumerate(pairwise(widths)):
        named = partial(layers.create, layer, bias=bias, **style) if isinstance(layer, str) else layer
        last = index == len(widths) - 2
        body += [
            DynamicBlock(partial(named, width), basis, grid, integrator, gradient),
            PooledConnector(width, after, pool="none" if last else "average", **style),
        ]
    return DynamicNet(Opening(in_channels, widths[0], **style), body, Head(widths[-1], num_classes, dims=dims))


models.register("parabolic_cnn")(pde_cnn)
models.register("hamiltonian_cnn")(partial(pde_cnn, layer="hamiltonian", integrator="symplectic_euler"))
models.register("second_order_cnn")(partial(pde_cnn, integrator="leapfrog"))
