"""Momentum residual networks: the published formula, and how many steps their way back survives."""

import copy
import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import drift
from dynamicblocks.gradients import DriftError
from dynamicblocks.integrators import FieldStage, Momentum


def layers(count, width=16):
    return [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(count)]


def test_the_published_formula():
    modules, x = layers(5, 4), torch.randn(3, 4, dtype=torch.float64)
    net = db.MomentumNet(modules, gamma=0.7).double()
    y, v = x, torch.zeros_like(x)
    for f in modules:
        v = 0.7 * v + (1 - 0.7) * f(y)
        y = y + v
    torch.testing.assert_close(net(x), y)
    after, speed = net(x, velocity=torch.zeros_like(x))
    torch.testing.assert_close((after, speed), (y, v))
    torch.testing.assert_close(net.inverse(after, velocity=speed), (x, torch.zeros_like(x)))


def test_velocities_have_gradients():
    net = db.MomentumNet(layers(4, 3)).double()
    x, v = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def gradients(net):
        after, speed = net(x, velocity=v)
        return torch.autograd.grad((after.square() + speed.sin()).sum(), (x, v, *net.parameters()))

    expected = copy.deepcopy(net)
    expected.gradient = "backprop"
    for one, two in zip(gradients(net), gradients(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_what_a_velocity_may_be():
    net, x = db.MomentumNet(layers(2, 4)), torch.ones(2, 4)
    with pytest.raises(db.ConfigurationError, match=r"needs the velocity at the end.*net\.inverse\(y, velocity=v\)"):
        net.inverse(x)
    with pytest.raises(db.ConfigurationError, match=r"shape of the state, \(2, 4\), got \(2, 3\)"):
        net(x, velocity=torch.ones(2, 3))
    with pytest.raises(db.ConfigurationError, match="couplings have no velocity"):
        db.AdditiveCoupling(nn.Tanh())(x, velocity=x)


def measured(gamma, modules, x):
    """The drift after each number of steps."""
    method, carry, found = Momentum(gamma), (x, torch.zeros_like(x)), []
    carries = [carry]
    for f in modules:
        carry = method.advance(FieldStage(lambda _, y, f=f: f(y)), 1.0, carry)
        carries.append(carry)
    for count, carry in enumerate(carries):
        for f in reversed(modules[:count]):
            carry = method.unstep(FieldStage(lambda _, y, f=f: f(y)), 1.0, carry)
        found.append(float(torch.cat([carry[0] - x, carry[1]]).norm() / x.norm()))
    return found


@pytest.mark.parametrize(("gamma", "bound"), [(0.5, 1e-3), (0.8, 1e-3), (0.9, 1e-4), (0.9, 1e-2)])
@torch.no_grad()
def test_the_number_of_steps_that_a_drift_allows(gamma, bound):
    torch.manual_seed(0)
    predicted = db.momentum_steps(gamma, bound, torch.float32)
    drifts = measured(gamma, layers(predicted + predicted // 3 + 2), torch.randn(64, 16))
    allowed = max(n for n, each in enumerate(drifts) if each <= bound)
    # A few units in the last place are a few steps.
    assert abs(allowed - predicted) <= math.log(8) / -math.log(gamma)
    assert drifts[predicted] < 4 * bound


@pytest.mark.parametrize("wide", [True, False])
def test_more_steps_than_that_are_a_solver_error(wide):
    torch.manual_seed(0)
    x, bound = torch.randn(8, 16), torch.finfo(torch.float32).eps ** 0.5
    most = db.momentum_steps(0.7, bound)
    db.ReversibleSequential(layers(most // 2), "momentum", 0.7, wide=wide)(x).sum().backward()
    many = db.ReversibleSequential(layers(6 * most), "momentum", 0.7, wide=wide)
    with pytest.raises(db.SolverError, match=f"max_drift={bound:g}.*momentum_steps") as raised:
        many(x).sum().backward()
    assert isinstance(raised.value, DriftError)
    assert raised.value.drift > bound
    many.gradient = db.Reversible(max_drift=math.inf)
    many(x).sum().backward()
    many.gradient = "checkpoint"
    many(x).sum().backward()


def test_in_blocks():
    torch.manual_seed(0)
    times = db.uniform(0, 1, steps=20)
    block = db.DynamicBlock("symmetric(4)", "linear(3)", times, "momentum(gamma=0.8)", "reversible").double()
    x = torch.randn(2, 4, 5, 5).double().requires_grad_()
    found = torch.autograd.grad(block(x).square().sum(), (x, *block.parameters()))
    expected = torch.autograd.grad(block.replaced(gradient="backprop")(x).square().sum(), (x, *block.parameters()))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)
    assert drift(block, x) < 1e-12
    many = block.replaced(times=db.uniform(0, 1, steps=300)).float()
    with pytest.raises(DriftError):
        many(x.float()).sum().backward()
    with pytest.raises(db.ConfigurationError, match="momentum carries more than the state"):
        block.inverse(x)


def test_order_one():
    errors = []
    for steps in (40, 80, 160):
        y = db.odeint(lambda t, y: -y, torch.ones(1).double(), torch.linspace(0, 1, steps + 1), method="momentum(0.5)")
        errors.append(abs(float(y[-1]) - math.exp(-1)))
    assert 1.9 < errors[0] / errors[1] < 2.1
    assert 1.9 < errors[1] / errors[2] < 2.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 1e-3), "gamma must be"),
        ((0.9, 0.0), "drift must be a positive number"),
        ((0.9, 1e-3, torch.int64), "floating-point type"),
    ],
)
def test_what_cannot_be_asked(arguments, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.momentum_steps(*arguments)
