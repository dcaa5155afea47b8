"""ODE-Net and its partners, against the network written plainly and solved by torchdiffeq, and exact solutions."""

import math

import pytest
import torch
from torch import Tensor, nn

from dynamicblocks import ConfigurationError, DynamicBlock, create_model
from dynamicblocks.counting import counting
from dynamicblocks.layers import SecondOrder, TimedDouble

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
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(width, width) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(width + 1, width, 3, padding=1) for _ in range(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        for norm, conv in zip(self.norms[:2], self.convs, strict=True):
            y = torch.relu(norm(y))
            y = conv(torch.cat([t.expand_as(y[:, :1]), y], dim=1))
        return self.norms[2](y)


class Plain(nn.Module):
    """The network of the published example with convolutions for downsampling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.Sequential(
            nn.Conv2d(1, width, 3),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, 2, 1),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, 2, 1),
        )
        self.field = PlainField(width)
        self.after = nn.Sequential(
            nn.GroupNorm(width, width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        t = torch.tensor([0.0, 1.0], dtype=images.dtype)
        return self.after(
            torchdiffeq.odeint(self.field, self.before(images), t, method="rk4", options={"step_size": 0.25})[1]
        )


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_outputs_and_gradients_of_the_published_example(gradient: str) -> None:
    """On the same steps, so that both differ by rounding alone."""
    torch.manual_seed(0)
    net = create_model("odenet", in_channels=1, width=4, integrator="rk4", steps=4, gradient=gradient).double()
    plain = Plain(4).double()
    order = [*plain.before.parameters()]
    for norm, conv in zip(plain.field.norms, [*plain.field.convs, None], strict=True):
        order += [*norm.parameters(), *(conv.parameters() if conv is not None else ())]
    order += [*plain.after.parameters()]
    assert len(order) == len([*net.parameters()])
    with torch.no_grad():
        for mine, theirs in zip(net.parameters(), order, strict=True):
            theirs.copy_(mine)
    images = torch.randn(2, 1, 10, 10, dtype=torch.float64)
    for model in (net, plain):
        model(images).square().sum().backward()
    torch.testing.assert_close(net(images), plain(images), rtol=1e-9, atol=1e-11)
    for mine, theirs in zip(net.parameters(), order, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-10)


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
    ],
)
def test_wrong_options(options: dict, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        create_model("odenet", **options)


def test_too_small_images() -> None:
    with pytest.raises(ConfigurationError, match="at least 6 x 6"):
        create_model("odenet", in_channels=1, width=4)(torch.zeros(1, 1, 5, 5))
