"""The ODE-Net of Chen et al. 2018 (arXiv:1806.07366) for images, and its partners RK-Net and ResNet."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.connectors import FirstChannels, Head, ZeroChannels
from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.gradients import Gradient
from dynamicblocks.integrators import Adaptive, Integrator, as_integrator
from dynamicblocks.layers import PreactDouble, SecondOrder, TimedDouble
from dynamicblocks.layers.inputs import check_input, telling_causes
from dynamicblocks.models.registry import models
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import MAX_BLOCK_STEPS, MAX_CONTROLS, check_count, check_positive, check_steps, uniform

MOST_GROUPS = 32
# The fewest pixels along an axis of which the strides leave two. Of one pixel a group of two channels keeps nothing but
# their order, and nothing is learnt.
DOWNSAMPLINGS: Mapping[str, int] = {"conv": 10, "residual": 7}
TOLERANCE = 1e-3


def odenet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    width: int = 64,
    downsampling: str = "conv",
    augment: int = 0,
    order: int = 1,
    integrator: Integrator | str = f"dopri5(rtol={TOLERANCE}, atol={TOLERANCE})",
    tolerance: float | None = None,
    steps: int = 1,
    gradient: Gradient | str = "backprop",
) -> DynamicNet:
    """One equation for an image network: downsampling, dy/dt = f(t, y; theta) on [0, 1], classifier.

    f is norm, activation, convolution, twice, and a norm; both convolutions read the time as a channel, and theta does
    not depend on time. The steps are as long as a tolerance allows, so the cost of an image is not fixed.
    ``rknet`` is the same network with the classical Runge-Kutta method on a grid of equal steps.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        width: channels of the state.
        downsampling: ``conv``, two strided convolutions, or ``residual``, two strided residual units.
        augment: zero channels that the state has besides, in which trajectories may pass each other (Dupont et al.
            2019, arXiv:1904.01681).
        order: 2 for x'' = f(t, x, x'), from rest: the state is position and velocity, and the position is classified.
        integrator: of the block, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        tolerance: rtol and atol of an adaptive integrator, in the place of its own.
        steps: equal steps of an integrator on the grid.
        gradient: backward pass of the block: backprop, checkpoint, adjoint (as published), or, with methods that can be
            taken back, reversible; see :class:`~dynamicblocks.DynamicBlock`.

    >>> odenet(1).num_weights, odenet(1, downsampling="residual").num_weights
    (208266, 232970)
    """
    check_count(width, "width")
    check_count(augment, "augment", least=0)
    if isinstance(order, bool) or order not in (1, 2):
        raise ConfigurationError(f"order, of the equation, must be 1 or 2, got {order!r}")
    grid = uniform(0, 1, steps=check_steps(steps, "steps", MAX_BLOCK_STEPS))
    position = width + augment
    state = position * order
    layer: Callable[[], nn.Module] = partial(
        TimedDouble, state, hidden=width, outputs=position, norm=published_norm, bias=True
    )
    body: list[nn.Module] = [ZeroChannels(state - width)] if state > width else []
    body.append(
        DynamicBlock(
            layer if order == 1 else partial(_second_order, layer),
            controls=1,
            times=grid,
            integrator=_to_tolerance(as_integrator(integrator), tolerance),
            gradient=gradient,
        )
    )
    if order == 2:
        body.append(FirstChannels(position))
    return DynamicNet(Downsampling(in_channels, width, downsampling), body, _head(position, num_classes))


@models.register("odenet_resnet")
def odenet_resnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    width: int = 64,
    downsampling: str = "conv",
    units: int = 6,
    integrator: Integrator | str = "euler",
    gradient: Gradient | str = "backprop",
) -> DynamicNet:
    """The residual network that ODE-Net is compared with: the same downsampling, residual units, the same classifier.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
        width: channels of the state.
        downsampling: ``conv``, two strided convolutions, or ``residual``, two strided residual units.
        units: residual units, each a step of one block with weights of its own.
        integrator: of the block, one of ``dynamicblocks integrators``; see :class:`~dynamicblocks.DynamicBlock`.
        gradient: backward pass of the block: backprop, checkpoint, adjoint, or, with methods that can be taken back,
            reversible; see :class:`~dynamicblocks.DynamicBlock`.

    >>> odenet_resnet(1).num_weights, odenet_resnet(1, downsampling="residual").num_weights
    (576778, 601482)
    """
    check_count(width, "width")
    check_count(units, "units", most=MAX_CONTROLS)
    block = DynamicBlock(partial(PreactDouble, width, norm=published_norm), units, units, integrator, gradient)
    return DynamicNet(Downsampling(in_channels, width, downsampling), [block], _head(width, num_classes))


models.register("odenet")(odenet)
models.register("rknet")(partial(odenet, integrator="rk4_classic", steps=4))


class Downsampling(nn.Module):
    """Image to state, with a quarter of its height and width: a 3x3 convolution without padding, then two strides of 2.

    Shapes:
        (batch, in_channels, H, W) -> (batch, width, H', W'), of 28 x 28 pixels 6 x 6 (``conv``) or 7 x 7.

    Args:
        in_channels: channels of the images.
        width: channels of the state.
        kind: ``conv`` (4x4 convolutions, each after norm and activation) or ``residual`` (residual units).

    Raises:
        ConfigurationError: the images have other channels, or so few pixels that nothing is left.
    """

    def __init__(self, in_channels: int, width: int, kind: str = "conv") -> None:
        super().__init__()
        if not isinstance(kind, str) or kind not in DOWNSAMPLINGS:
            raise unknown_name("downsampling", kind, DOWNSAMPLINGS)
        self.kind, self.least = kind, DOWNSAMPLINGS[kind]
        self.in_channels = check_count(in_channels, "in_channels")
        self.opening = nn.Conv2d(in_channels, width, kernel_size=3)
        parts: list[nn.Module] = []
        for _ in range(2):
            if kind == "conv":
                parts += [published_norm(width), nn.ReLU(), nn.Conv2d(width, width, 4, stride=2, padding=1)]
            else:
                parts.append(_PreactivatedShortcut(width))
        self.strided = nn.Sequential(*parts)

    @telling_causes
    def forward(self, images: Tensor) -> Tensor:
        check_input(self, images, self.in_channels, "images")
        if min(images.shape[2:]) < self.least:
            other = "" if self.kind == "residual" else "; the downsampling 'residual' takes 7 x 7 and more"
            raise ConfigurationError(
                f"the downsampling {self.kind!r} needs images of at least {self.least} x {self.least} pixels, of which "
                f"its strides leave 2 x 2; got {tuple(images.shape)}{other}"
            )
        return self.strided(self.opening(images))


class _PreactivatedShortcut(nn.Module):
    """S(z) + F(z) with z = a(N(y)): the shortcut, a strided 1x1 convolution, begins after norm and activation too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.Sequential(published_norm(width), nn.ReLU())
        self.shortcut = nn.Conv2d(width, width, 1, stride=2, bias=False)
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            published_norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, y: Tensor) -> Tensor:
        z = self.before(y)
        return self.shortcut(z) + self.branch(z)


def published_norm(width: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups, or as many, of at most 32, as divide ``width``."""
    return nn.GroupNorm(next(groups for groups in range(min(MOST_GROUPS, width), 0, -1) if width % groups == 0), width)


def _head(width: int, num_classes: int) -> Head:
    return Head(width, num_classes, order="norm act", norm=published_norm)


def _second_order(acceleration: Callable[[], nn.Module]) -> SecondOrder:
    return SecondOrder(acceleration())


def _to_tolerance(integrator: Integrator, tolerance: float | None) -> Integrator:
    """The integrator with this tolerance, if one is given."""
    if tolerance is None:
        return integrator
    if not isinstance(integrator, Adaptive):
        raise ConfigurationError(
            f"tolerance is of integrators that choose their steps, and {integrator.name} takes those of the grid: give "
            "steps, or an adaptive integrator such as 'dopri5'"
        )
    check_positive(tolerance, "tolerance")
    return replace(integrator, rtol=tolerance, atol=tolerance)
