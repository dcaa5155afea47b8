"""Networks motivated by partial differential equations (Ruthotto & Haber 2018, arXiv:1804.04272)."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening, PooledConnector
from dynamicblocks.controls import Basis
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import Style, layers
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.layers.one_kernel import OneKernel
from dynamicblocks.models.registry import models
from dynamicblocks.models.units import check_layer, in_units
from dynamicblocks.network import DynamicNet
from dynamicblocks.registry import parse_call
from dynamicblocks.times import check_counts

PUBLISHED = "published"


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
    connector_norm: NormSpec | None = None,
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    bias: bool = False,
    gradient: Gradient | str = "backprop",
    initial: str = "torch",
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
        norm: normalisation of the layers: batch, group, tv, none.
        connector_norm: of the opening and the connectors. None for that of the layers, or batch, as published, where
            layers have tv: behind it all pixels have length one, and their means hardly tell images apart.
        activation: of every convolution: relu, tanh, silu, ...
        boundary: of every convolution: zeros, replicate, reflect, circular.
        bias: whether layers have biases.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        initial: ``torch`` (PyTorch's own draw) or ``published``: the classifier normal of deviation 0.1 within +-0.2;
            kernels normal of deviation s = sqrt(2 / (k in_channels)), what is beyond 2 s drawn again, of deviation
            one, and clipped to 2 s; all controls of a block alike.
        dims: 1 for signals, 2 for images, 3 for volumes; a function for ``layer`` makes layers that fit.

    >>> pde_cnn().num_weights, pde_cnn(widths=(32, 64, 128, 256), num_classes=100).num_weights
    (502570, 652484)
    """
    widths = check_counts(widths, "widths")
    if len(widths) < 2:
        raise ConfigurationError(f"widths must be those of the blocks and the one before the head, got {list(widths)}")
    if initial not in ("torch", PUBLISHED):
        raise unknown_name("initialisation", initial, ("torch", PUBLISHED))
    check_layer(layer)
    basis, grid = in_units(units, step, controls)
    inside = Style(norm=norm, activation=activation, boundary=boundary, dims=dims)
    around = inside | Style(norm=_around(norm) if connector_norm is None else connector_norm)
    body: list[nn.Module] = []
    for index, (width, after) in enumerate(pairwise(widths)):
        named = partial(layers.create, layer, bias=bias, **inside) if isinstance(layer, str) else layer
        last = index == len(widths) - 2
        body += [
            DynamicBlock(partial(named, width), basis, grid, integrator, gradient),
            PooledConnector(width, after, pool="none" if last else "average", **around),
        ]
    net = DynamicNet(Opening(in_channels, widths[0], **around), body, Head(widths[-1], num_classes, dims=dims))
    return _as_published(net) if initial == PUBLISHED else net


def _around(norm: NormSpec) -> NormSpec:
    return "batch" if isinstance(norm, str) and parse_call(norm)[0] == "tv" else norm


def _as_published(net: DynamicNet) -> DynamicNet:
    """``net`` with its kernels and its classifier drawn as the published program draws them."""
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | OneKernel):
            _draw_kernel(module.weight)
        elif isinstance(module, nn.Linear):
            for weight in module.parameters():
                nn.init.normal_(weight, std=0.1).data.clamp_(-0.2, 0.2)
    for block in net.blocks:
        first, *others = block.controls.layers
        for layer in others:
            layer.load_state_dict(first.state_dict())
    return net


@torch.no_grad()
def _draw_kernel(kernel: Tensor) -> None:
    deviation = sqrt(2 / (kernel.shape[1] * kernel.shape[2]))
    nn.init.normal_(kernel, std=deviation)
    again = torch.where(kernel.abs() > 2 * deviation, torch.randn_like(kernel), kernel)
    kernel.copy_(again.clamp(-2 * deviation, 2 * deviation))


models.register("parabolic_cnn")(pde_cnn)
models.register("hamiltonian_cnn")(partial(pde_cnn, layer="hamiltonian", integrator="symplectic_euler"))
models.register("second_order_cnn")(partial(pde_cnn, integrator="leapfrog"))
