"""ODE-Net and its partners, against the network written plainly and solved by torchdiffeq, and exact solutions."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamicblocks import (
    ConfigurationError,
    DynamicBlock,
    create_model,
    refine,
    with_gradient,
    with_integrator,
    with_tolerance,
)
from dynamicblocks.counting import counting
from dynamicblocks.layers import SecondOrder, TimedDouble
from dynamicblocks.structure import structure, with_structure

torchdiffeq = pytest.importorskip("torchdiffeq")


@pytest.mark.parametrize(
    ("name", "downsampling", "weights"),
    [
        ("odenet", "conv", 208_266),
        ("odenet", "residual", 232_970),
        ("rknet", "conv", 208_266),
        ("rknet", "residual", 232_970),
        ("odenet_resnet", "conv", 576_778),
        ("odenet_resnet", "residual", 601_482),
    ],
)
def test_published_weight_counts(name: str, downsampling: str, weights: int) -> None:
    assert create_model(name, in_channels=1, downsampling=downsampling).num_weights == weights


class PlainField(nn.Module):
    """The published field; of a state that is wider, and of second order: of position and velocity."""

    def __init__(self, state: int, hidden: int, outputs: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        widths = (state, hidden, outputs)
        self.norms = nn.ModuleList(nn.GroupNorm(width, width) for width in widths)
        self.convs = nn.ModuleList(nn.Conv2d(a + 1, b, 3, padding=1) for a, b in pairwise(widths))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        state = y
        for norm, conv in zip(self.norms[:2], self.convs, strict=True):
            y = self.activation(norm(y))
            y = conv(torch.cat([t.expand_as(y[:, :1]), y], dim=1))
        y, outputs = self.norms[2](y), y.shape[1]
        return y if outputs == state.shape[1] else torch.cat([state[:, outputs:], y], dim=1)


class Plain(nn.Module):
    """The network of the published example with convolutions for downsampling, solved by torchdiffeq."""

    def __init__(
        self,
        width: int,
        augment: int = 0,
        order: int = 1,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        **solver: Any,
    ) -> None:
        super().__init__()
        position = width + augment
        self.zeros, self.position, self.solver = position * order - width, position, solver
        self.before = nn.Sequential(
            nn.Conv2d(1, width, 3),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, 2, 1),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, 2, 1),
        )
        self.field = PlainField(position * order, width, position, activation)
        self.after = nn.Sequential(
            nn.GroupNorm(position, position), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(position, 10)
        )

    def weights(self) -> list[nn.Parameter]:
        """In the order of ``odenet``."""
        found = [*self.before.parameters()]
        for norm, conv in zip(self.field.norms, [*self.field.convs, None], strict=True):
            found += [*norm.parameters(), *(conv.parameters() if conv is not None else ())]
        return [*found, *self.after.parameters()]

    def forward(self, images: Tensor) -> Tensor:
        y = self.before(images)
        y = torch.cat([y, y.new_zeros(len(y), self.zeros, *y.shape[2:])], dim=1)
        end = torchdiffeq.odeint(self.field, y, torch.tensor([0.0, 1.0], dtype=y.dtype), **self.solver)[1]
        return self.after(end[:, : self.position])


def check_alike(net: nn.Module, plain: Plain, tolerance: float) -> None:
    """Logits and all gradients agree, relative to the largest of each."""
    mine, theirs = [*net.parameters()], plain.weights()
    with torch.no_grad():
        for one, other in zip(mine, theirs, strict=True):
            other.copy_(one)
    images = torch.randn(2, 1, 10, 10, dtype=torch.float64)
    logits = net(images), plain(images)
    for each in logits:
        each.square().sum().backward()
    pairs = [logits, *((one.grad, other.grad) for one, other in zip(mine, theirs, strict=True))]
    # Of a bias before a norm the gradient is zero but for rounding.
    most = max(other.grad.abs().max() for other in theirs)
    for one, other in pairs:
        assert (one - other).abs().max() <= tolerance * max(other.abs().max(), 1e-3 * most)


WIDER = [{}, {"augment": 5}, {"order": 2}, {"augment": 1, "order": 2}]


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("options", WIDER)
def test_outputs_and_gradients_of_the_published_example(gradient: str, options: dict[str, int]) -> None:
    """On the same steps, so that both differ by rounding alone."""
    torch.manual_seed(0)
    choices = {"integrator": "rk4", "steps": 4, "gradient": gradient, **options}
    net = create_model("odenet", in_channels=1, width=4, **choices).double()
    check_alike(net, Plain(4, **options, method="rk4", options={"step_size": 0.25}).double(), 1e-10)


@pytest.mark.parametrize(
    ("gradient", "options", "tolerance", "bound"),
    [
        ("backprop", {}, 1e-8, 1e-5),
        # The gradient of the equation, and that of torchdiffeq's steps: both have errors of their own.
        ("adjoint(interpolant=True)", {}, 1e-6, 1e-2),
    ],
)
def test_adaptive_steps(gradient: str, options: dict[str, int], tolerance: float, bound: float) -> None:
    """Both choose steps of their own, so they differ by the errors of these.

    With a smooth activation: at every kink of ReLU the order is lost, and gradients are off by more than a tolerance.
    """
    torch.manual_seed(0)
    net = create_model("odenet", in_channels=1, width=4, tolerance=tolerance, gradient=gradient, **options).double()
    for layer in net.modules():
        if isinstance(layer, TimedDouble):
            layer.act1 = layer.act2 = nn.Tanh()
    plain = Plain(4, **options, activation=torch.tanh, method="dopri5", rtol=tolerance, atol=tolerance)
    check_alike(net, plain.double(), bound)


def test_adaptive_steps_of_a_wider_equation_of_second_order() -> None:
    """Logits alone: where the velocity is zero its norm is so steep that gradients need far finer steps than they."""
    torch.manual_seed(0)
    net = create_model("odenet", in_channels=1, width=4, tolerance=1e-6, augment=1, order=2).double()
    layer = net.blocks[0].controls.layers[0].acceleration
    layer.act1 = layer.act2 = nn.Tanh()
    plain = Plain(4, augment=1, order=2, activation=torch.tanh, method="dopri5", rtol=1e-6, atol=1e-6).double()
    with torch.no_grad():
        for one, other in zip(net.parameters(), plain.weights(), strict=True):
            other.copy_(one)
        images = torch.randn(2, 1, 10, 10, dtype=torch.float64)
        torch.testing.assert_close(net(images), plain(images), rtol=0, atol=1e-4)


def test_partners_are_their_plain_writings() -> None:
    """RK-Net against torchdiffeq's grid, the residual network against a loop over its units."""
    torch.manual_seed(0)
    check_alike(
        create_model("rknet", in_channels=1, width=4, integrator="rk4").double(),
        Plain(4, method="rk4", options={"step_size": 0.25}).double(),
        1e-10,
    )
    net = create_model("odenet_resnet", in_channels=1, width=4, units=3).double()
    images = torch.randn(2, 1, 10, 10, dtype=torch.float64)
    y = net.opening(images)
    for layer in net.body[0].controls.layers:
        y = y + layer(y)
    torch.testing.assert_close(net(images), net.head(y))


def test_structure_and_changes_keep_the_weights() -> None:
    torch.manual_seed(0)
    net = create_model("odenet", in_channels=1, width=4, augment=1, order=2, tolerance=1e-2, gradient="adjoint")
    images = torch.randn(2, 1, 10, 10)
    again = with_structure(create_model("odenet", in_channels=1, width=4, augment=1, order=2), structure(net))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(images), net(images))
    assert again.evaluations == net.evaluations
    (block,) = with_tolerance(net, 1e-4).blocks
    assert (block.integrator.rtol, block.integrator.atol) == (1e-4, 1e-4)
    on_grid = refine(with_integrator(with_gradient(net, "checkpoint"), "rk4_classic", steps=4))
    assert on_grid.evaluations == 32
    as_fine = with_integrator(net, "rk4_classic", steps=8)
    torch.testing.assert_close(on_grid(images), as_fine(images), rtol=1e-5, atol=1e-5)


class Spring(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return -4.0 * y[:, :1]


def test_second_order_is_a_spring() -> None:
    block = DynamicBlock(lambda: SecondOrder(Spring()), times=[0.0, 1.0], integrator="dopri5(rtol=1e-9, atol=1e-9)")
    found = block(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    exact = torch.tensor([[math.cos(2.0), -2.0 * math.sin(2.0)]], dtype=torch.float64)
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)


def test_second_order_begins_at_rest_and_its_position_is_classified() -> None:
    net = create_model("odenet", in_channels=1, width=4, order=2)
    state = net.body[0](net.opening(torch.randn(2, 1, 12, 12)))
    assert state.shape[1] == 8
    assert not state[:, 4:].any()
    assert net.body[2](state).shape[1] == 4 == net.head.linear.in_features


def test_augmented_channels_begin_at_zero() -> None:
    net = create_model("odenet", in_channels=1, width=8, augment=5)
    state = net.body[0](net.opening(torch.randn(2, 1, 12, 12)))
    assert state.shape[1] == 13
    assert not state[:, 8:].any()
    assert net.body[1](state)[:, 8:].any()
    assert net.head.linear.in_features == 13


def test_time_has_a_gradient() -> None:
    layer = TimedDouble(2, norm="none", activation="tanh").double()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: layer(t, y), (t,))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_evaluations_are_those_that_hooks_see(gradient: str) -> None:
    net = create_model("odenet", in_channels=1, width=4, gradient=gradient, integrator="dopri5(rtol=0.1, atol=0.1)")
    seen = [0]
    forward = TimedDouble.forward

    def watched(self: TimedDouble, t: Tensor, y: Tensor) -> Tensor:
        seen[0] += 1
        return forward(self, t, y)

    with pytest.MonkeyPatch.context() as patch, counting() as count:
        patch.setattr(TimedDouble, "forward", watched)
        loss = net(torch.randn(2, 1, 10, 10)).square().sum()
        assert count.forward == seen[0] == net.evaluations
        loss.backward()
    assert count.forward + count.backward == seen[0]
    assert (count.backward == 0) == (gradient == "backprop")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"downsampling": "pool"}, "downsampling"),
        ({"order": 3}, "order"),
        ({"augment": -1}, "augment"),
        ({"integrator": "rk4", "tolerance": 1e-3}, "tolerance"),
        *(({"tolerance": wrong}, "tolerance") for wrong in (0.0, -1e-3, math.nan, math.inf, "fine", True)),
        *(({"order": wrong}, "order") for wrong in (0, 1.5, True, "2", None)),
        *(({"augment": wrong}, "augment") for wrong in (1.5, True, None, "5")),
        *(({"width": wrong}, "width") for wrong in (0, -4, 2.0)),
        *(({"steps": wrong}, "steps") for wrong in (0, 1.5)),
        ({"downsampling": None}, "downsampling"),
        ({"integrator": "dopri6"}, "dopri5"),
        ({"gradient": "adjoin"}, "adjoint"),
        ({"gradient": "reversible"}, "reversible"),
        ({"augmented": 5}, "augment"),
        ({"in_channels": 0}, "in_channels"),
        ({"num_classes": 0}, "classes"),
    ],
)
def test_wrong_options(options: dict, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        create_model("odenet", **options)


@pytest.mark.parametrize(("downsampling", "least"), [("conv", 10), ("residual", 7)])
def test_of_images_there_must_be_more_than_one_pixel_left(downsampling: str, least: int) -> None:
    net = create_model("odenet", in_channels=1, width=4, downsampling=downsampling)
    assert net.opening(torch.zeros(1, 1, least, least)).shape[2:] == (2, 2)
    with pytest.raises(ConfigurationError, match=f"at least {least} x {least}.*got"):
        net(torch.zeros(1, 1, least, least - 1))
