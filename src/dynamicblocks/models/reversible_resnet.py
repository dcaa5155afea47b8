"""Residual networks whose steps can be taken back (Chang et al. 2018, arXiv:1709.03698), trained in constant memory."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import Head, Opening, PaddedConnector
from dynamicblocks.controls import Basis
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import LayerFactory, Style, layers
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.models.registry import models
from dynamicblocks.models.units import check_layer, in_units, units_of_depth
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import check_counts

# As published: the deeper networks are wider in the last stage.
STAGES = 3  # by which depths are counted
NARROW, WIDE = (32, 64, 112), (32, 64, 128)

Block = Callable[[LayerFactory, int], DynamicBlock]


@models.register("hamiltonian_resnet")
def hamiltonian_resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    depth: int = 74,
    widths: Sequence[int] | None = None,
    unit: str = "preact_symmetric",
    controls: Basis | str | int = "constant",
    step: float = 1.0,
    integrator: Integrator | str = "symplectic_euler",
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    bias: bool | None = None,
    gradient: Gradient | str = "reversible",
    dims: int = 2,
) -> DynamicNet:
    """Hamiltonian pairs, y + h F1(z) and z - h F2(y) on the halves of the channels, with connectors without weights.

    Each stage has n units for a depth of 12 n + 2. As in the published code, the first unit of a later stage runs at
    the width before it, and the very first one has no norm and activation in front of F1.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        depth: 12 n + 2 layers; 74, 110, 218 and 1202 are published.
        widths: channels of the stages; None for (32, 64, 112), or (32, 64, 128) from depth 110 on.
        unit: what F1 and F2 are: ``preact_symmetric`` as in the published code, or ``symmetric`` as in the paper.
        controls: the basis of the weights in time, on one interval a unit unless it has a size of its own.
        step: length of each step.
        norm: normalisation of every convolution: batch, group, tv, none.
        activation: of every convolution: relu, tanh, silu, ...
        boundary: of every convolution: zeros, replicate, reflect, circular.
        bias: whether ``symmetric`` units have biases; None for those that have no norm to shift them.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> hamiltonian_resnet(depth=74).num_weights
    432010
    """
    units = units_of_depth(depth, STAGES, layers=4)
    widths = _widths(widths, wide=depth >= 110)
    style = Style(norm=norm, activation=activation, boundary=boundary, dims=dims)
    preactivated = unit == "preact_symmetric"
    biased = {} if preactivated and bias is None else {"bias": _biased(bias, norm)}
    pair = partial(layers.create, "hamiltonian", unit=unit, **biased, **style)
    body = _body(
        units,
        widths,
        pair,
        partial(_block, controls=controls, step=step, integrator=integrator, gradient=gradient),
        first=partial(pair, lead=False) if preactivated else None,
        connector=partial(PaddedConnector, streams=2, dims=dims),
    )
    return _network(in_channels, num_classes, widths, body, style)


def two_step_resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    depth: int = 26,
    widths: Sequence[int] | None = None,
    layer: str | Callable[[int], nn.Module] = "antisymmetric",
    controls: Basis | str | int = "constant",
    step: float = 1.0,
    integrator: Integrator | str = "two_step_midpoint",
    norm: NormSpec = "batch",
    activation: ActivationSpec = "relu",
    boundary: str = "zeros",
    bias: bool | None = None,
    gradient: Gradient | str = "reversible",
    dims: int = 2,
) -> DynamicNet:
    """Networks of two-step methods, with connectors without weights.

    ``midpoint_resnet``: dy/dt = a((K - K^T) y + b), antisymmetric layers, by the two-step midpoint method.
    ``leapfrog_resnet``: d2y/dt2 = -K^T a(K y + b), symmetric layers, by leapfrog. Stages are those of
    :func:`hamiltonian_resnet`, for a depth of 6 n + 2. A norm's shift takes the place of b.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        depth: 6 n + 2 layers; 26 and 62 are published.
        widths: channels of the stages; None for (32, 64, 112), or (32, 64, 128) from depth 62 on.
        layer: the layer function, by name, made with the width, norm, activation, boundary and bias; or a function
            that makes a layer of a width.
        controls: the basis of the weights in time, on one interval a unit unless it has a size of its own.
        step: length of each step.
        norm: normalisation of every convolution: batch, group, tv, none.
        activation: of every convolution: relu, tanh, silu, ...
        boundary: of every convolution: zeros, replicate, reflect, circular.
        bias: whether layers have biases; None for those that have no norm to shift them.
        integrator: of all blocks, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of all blocks: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.
        dims: 1 for signals, 2 for images, 3 for volumes; a function for ``layer`` makes layers that fit.
    """
    units = units_of_depth(depth, STAGES)
    widths = _widths(widths, wide=depth >= 62)
    check_layer(layer)
    style = Style(norm=norm, activation=activation, boundary=boundary, dims=dims)
    body = _body(
        units,
        widths,
        partial(layers.create, layer, bias=_biased(bias, norm), **style) if isinstance(layer, str) else layer,
        partial(_block, controls=controls, step=step, integrator=integrator, gradient=gradient),
        first=None,
        connector=partial(PaddedConnector, dims=dims),
    )
    return _network(in_channels, num_classes, widths, body, style)


models.register("midpoint_resnet")(two_step_resnet)
models.register("leapfrog_resnet")(partial(two_step_resnet, layer="symmetric", integrator="leapfrog"))


def _widths(widths: Sequence[int] | None, *, wide: bool) -> Sequence[int]:
    if widths is None:
        return WIDE if wide else NARROW
    return check_counts(widths, "widths")


def _biased(bias: bool | None, norm: NormSpec) -> bool:
    """In front of a norm a bias does nothing, and behind none it is missed."""
    return norm == "none" if bias is None else bias


def _block(
    layer: LayerFactory,
    units: int,
    *,
    controls: Basis | str | int,
    step: float,
    integrator: Integrator | str,
    gradient: Gradient | str,
) -> DynamicBlock:
    basis, grid = in_units(units, step, controls)
    return DynamicBlock(layer, basis, grid, integrator, gradient)


def _body(
    units: int,
    widths: Sequence[int],
    layer: Callable[[int], nn.Module],
    block: Block,
    *,
    first: Callable[[int], nn.Module] | None,
    connector: Callable[[int, int], nn.Module],
) -> list[nn.Module]:
    """Blocks with connectors between them; the first unit of a later stage runs at the width before it.

    A very first layer of another form is a block of its own.
    """
    body: list[nn.Module] = []
    last = len(widths) - 1
    for index, width in enumerate(widths):
        count = units + (index < last) - (index > 0)
        if index == 0 and first is not None:
            body.append(block(partial(first, width), 1))
            count -= 1
        if count:
            body.append(block(partial(layer, width), count))
        if index < last:
            body.append(connector(width, widths[index + 1]))
    return body


def _network(
    in_channels: int, num_classes: int, widths: Sequence[int], body: Sequence[nn.Module], style: Style
) -> DynamicNet:
    head = Head(
        widths[-1],
        num_classes,
        order="norm act",
        norm=style["norm"],
        activation=style["activation"],
        dims=style["dims"],
    )
    return DynamicNet(Opening(in_channels, widths[0], **style), body, head)
