"""IMEXnet: semi-implicit networks, in which each pixel of a state is reached in one step (Haber et al. 2019)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import DenseHead, Head, Opening, Pool, PooledConnector
from dynamicblocks.controls import Basis, as_basis
from dynamicblocks.errors import unknown_name
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import SemiImplicit, Style, Symmetric
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.implicit_operators import OperatorSpec
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.dense import DenseNet
from dynamicblocks.models.initial import initialised
from dynamicblocks.models.registry import models
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import MAX_BLOCK_STEPS, MAX_CONTROLS, check_count, check_counts, check_steps, uniform

PUBLISHED = "published"
# Kernels and classifier of the published network are uniform between 0 and this.
SPREAD = 1e-3


@models.register("imexnet")
def imexnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    widths: Sequence[int] = (64, 128, 256),
    units: int = 3,
    steps: int | None = None,
    controls: Basis | str | int = "constant",
    operator: OperatorSpec | None = "depthwise",
    dense: bool = False,
    pool: Pool = "none",
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    integrator: Integrator | str | None = None,
    gradient: Gradient | str = "backprop",
    initial: str = "torch",
    dims: int = 2,
) -> DynamicNet:
    """The semi-implicit network of Haber, Lensink, Treister & Ruthotto 2019, or its explicit partner.

    For each width a 3x3 convolution with norm and activation onto it, then a block of f(y) = K^T a(N(K y)), K of mean
    zero, and a depthwise L: with the defaults each step is y <- (I + L^T L)^-1 N(y + f(y)), solved by FFT. There is no
    pooling: a pixel reaches all others by the solve. With ``operator=None`` the steps are y <- y + f(y).

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        widths: channels of each block.
        units: depth of a block in units of layers: its time goes from 0 to ``units``, in so many control intervals.
        steps: equal steps of each block; None for one a unit.
        controls: the basis of the weights in time, on ``units`` intervals unless it has a size of its own.
        operator: of the implicit half, such as ``"depthwise(boundary='reflecting')"``, see
            :class:`~dynamicblocks.layers.SemiImplicit`; None for the explicit partner.
        dense: logits for each pixel, as published (interpolated where there is pooling), else for the image:
            activation, mean over all pixels, classifier. That is a matrix without bias in both cases.
        pool: between blocks: none, as published, average or max, for images where that would be too dear.
        norm: normalisation of all convolutions but the implicit one: batch, group, tv, none.
        activation: of all convolutions but the implicit one: relu, tanh, silu, ...
        boundary: of all convolutions but the implicit one: zeros, replicate, reflect, circular.
        integrator: None for ``imex(norm=True)``, as published, or ``euler`` for the explicit partner;
            ``imex`` leaves out the second norm, ``imex(balanced=True)`` takes away what the operator adds.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        initial: ``torch`` (PyTorch's own draw), ``he`` (by fan-out) or ``published``: kernels and classifier uniform in
            (0, 1e-3), so that all channels of a block are alike at first.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> def weights(net):  # all but those of norms and classifier
    ...     return sum(weight.numel() for weight in net.parameters() if weight.ndim > 2)
    >>> weights(imexnet(in_channels=1)), weights(imexnet(in_channels=1, operator=None))
    (2703744, 2691648)
    """
    widths = check_counts(widths, "widths")
    check_count(units, "units", most=MAX_CONTROLS)
    if initial not in (PUBLISHED, "torch", "he"):
        raise unknown_name("initialisation", initial, (PUBLISHED, "torch", "he"))
    basis = as_basis(controls)
    if basis.size is None:
        basis = replace(basis, size=basis.size_of(units))
    grid = uniform(0, units, steps=units if steps is None else check_steps(steps, "steps", MAX_BLOCK_STEPS))
    style = Style(norm=norm, activation=activation, boundary=boundary, dims=dims)
    if integrator is None:
        integrator = "euler" if operator is None else "imex(norm=True)"
    layer: Callable[..., nn.Module] = (
        partial(Symmetric, sign=1, zero_mean=True, bias=False)
        if operator is None
        else partial(SemiImplicit, operator=operator)
    )
    body: list[nn.Module] = []
    for before, width in zip((None, *widths), widths, strict=False):
        if before is not None:
            body.append(PooledConnector(before, width, kernel_size=3, pool=pool, **style))
        body.append(DynamicBlock(partial(layer, width, **style), basis, grid, integrator, gradient))
    opening = Opening(in_channels, widths[0], **style)
    if dense:
        net: DynamicNet = DenseNet(opening, body, DenseHead(widths[-1], num_classes, bias=False, dims=dims))
    else:
        # The last solve keeps the mean, which alone would be read without an activation.
        head = Head(widths[-1], num_classes, order="act", activation=activation, bias=False, dims=dims)
        net = DynamicNet(opening, body, head)
    return _as_published(net) if initial == PUBLISHED else initialised(net, initial)


def _as_published(net: DynamicNet) -> DynamicNet:
    """``net`` with the kernels of its convolutions and its classifier drawn as in the published network."""
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | Symmetric):
            nn.init.uniform_(module.weight, 0, SPREAD)
    return net
