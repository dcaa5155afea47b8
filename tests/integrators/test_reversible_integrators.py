"""Methods whose steps can be taken back."""

import math
from itertools import pairwise

import pytest
import torch

from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, ReversibleHeun

double = torch.float64
METHODS = {
    "reversible_heun": ReversibleHeun(),
    "reversible_heun, two evaluations": ReversibleHeun(reuse=False),
    "alf": AsynchronousLeapfrog(),
}
every_method = pytest.mark.parametrize("name", METHODS)


def field(t, y):
    """Two fields that depend on time, the second one nonlinear."""
    return torch.stack([math.cos(t) * y[0], -(1 + math.sin(2 * t)) * y[1] ** 2])


def exact(t):
    return torch.tensor([math.exp(math.sin(t)), 1 / (1 + t + (1 - math.cos(2 * t)) / 2)], dtype=double)


def grid(steps, end=2.0, bend=0.0):
    """Times from 0 to ``end``; steps differ where ``bend`` is not zero."""
    return [end * (n / steps + bend * math.sin(2 * math.pi * n / steps) / (2 * math.pi)) for n in range(steps + 1)]


def forth(integrator, f, carry, times):
    for t0, t1 in pairwise(times):
        carry = integrator.step(f, t0, t1 - t0, carry)
    return carry


def back(integrator, f, carry, times):
    for t0, t1 in reversed(list(pairwise(times))):
        carry = integrator.unstep(lambda c, y, t0=t0, h=t1 - t0: f(t0 + c * h, y), t1 - t0, carry)
    return carry


@every_method
@pytest.mark.parametrize("bend", [0.0, 0.5], ids=["uniform", "graded"])
def test_measured_order_is_the_declared_one(name, bend):
    integrator = METHODS[name]
    errors = []
    for n in (32, 64, 128, 256):
        carry = forth(integrator, field, integrator.start(field, 0.0, 0.1, exact(0)), grid(n, bend=bend))
        errors.append((integrator.finish(carry) - exact(2)).abs().max().item())
    assert [math.log2(a / b) for a, b in pairwise(errors)][-1] == pytest.approx(integrator.order, abs=0.1)


@every_method
def test_steps_are_taken_back_exactly(name):
    integrator, times = METHODS[name], grid(50, bend=0.5)
    there = forth(integrator, field, integrator.start(field, 0.0, 0.1, exact(0)), times)
    start = back(integrator, field, there, times)
    assert torch.allclose(integrator.finish(start), exact(0), rtol=0, atol=1e-13)
    # So is the memory: it is where it was when the march began.
    again = forth(integrator, field, start, times)
    assert torch.allclose(integrator.finish(again), integrator.finish(there), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["reversible_heun, two evaluations", "alf"])
def test_steps_are_taken_back_where_the_field_jumps_between_them(name):
    """Each step has weights of its own, as with piecewise constant controls."""
    integrator = METHODS[name]
    weights = torch.randn(20, 3, 3, dtype=double) / 2
    y = torch.randn(3, dtype=double)
    stages = [lambda c, y, w=w: torch.tanh(w @ y) * (1 + c) for w in weights]
    carry = integrator.begin(stages[0], 0.1, y)
    for stage in stages:
        carry = integrator.advance(stage, 0.1, carry)
    for stage in reversed(stages):
        carry = integrator.unstep(stage, 0.1, carry)
    assert torch.allclose(integrator.finish(carry), y, rtol=0, atol=1e-12)


@every_method
def test_first_step(name):
    """By hand, for y' = t + y from y(1) = 2 with h = 1/2."""
    integrator = METHODS[name]
    y, f = torch.tensor([2.0], dtype=double), lambda t, y: t + y
    found = integrator.finish(integrator.step(f, 1.0, 0.5, integrator.start(f, 1.0, 0.5, y)))
    # Heun: f0 = 3, z1 = 3.5, f1 = 5, y1 = 4. Leapfrog: v0 = 3, m = 2.75, u = 4, v1 = 5, y1 = 4.
    assert found.item() == 4


@every_method
def test_gradients(name):
    integrator = METHODS[name]
    y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
    theta = torch.tensor(1.3, dtype=double, requires_grad=True)
    h = torch.tensor(0.3, dtype=double, requires_grad=True)

    def steps(y, theta, h):
        stage = lambda c, y: torch.sin(theta * y) * (1 + c) - y.flip(0)  # noqa: E731
        carry = integrator.begin(stage, h, y)
        for size in (h, h * h, 0.2):
            carry = integrator.advance(stage, size, carry)
        return integrator.finish(carry)

    assert torch.autograd.gradcheck(steps, (y, theta, h))


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
def test_types_and_shapes(name, dtype):
    integrator = METHODS[name]
    y = torch.randn(2, 1, 3, dtype=dtype)
    carry = integrator.start(lambda t, y: -y * y.abs(), 0.0, 0.05, y)
    for _ in range(10):
        carry = integrator.step(lambda t, y: -y * y.abs(), 0.0, 0.05, carry)
    assert integrator.finish(carry).dtype == dtype
    assert integrator.finish(carry).shape == y.shape
    for _ in range(10):
        carry = integrator.unstep(lambda c, y: -y * y.abs(), 0.05, carry)
    assert torch.allclose(integrator.finish(carry), y, rtol=0, atol=1e-5)


@every_method
def test_evaluations_are_those_that_are_made(name):
    integrator, seen = METHODS[name], []

    def stage(c, y):
        seen.append(c)
        return -y

    carry = integrator.advance(stage, 0.1, integrator.begin(stage, 0.1, torch.ones(1)))
    seen.clear()
    integrator.advance(stage, 0.1, carry)
    assert len(seen) == integrator.evaluations
    assert set(seen) <= set(integrator.fractions)


@every_method
def test_amend_changes_the_state_only(name):
    integrator = METHODS[name]
    carry = integrator.step(field, 0.0, 0.1, integrator.start(field, 0.0, 0.1, exact(0)))
    changed = integrator.amend(carry, lambda y: y + 1)
    assert torch.equal(integrator.finish(changed), integrator.finish(carry) + 1)
    assert type(changed) is type(carry)


def test_the_leapfrog_goes_back_from_a_state_of_unknown_slope():
    leapfrog = AsynchronousLeapfrog()
    f = lambda t, y: 1.0 + 0 * y  # noqa: E731
    there = leapfrog.step(f, 0.0, 0.5, leapfrog.start(f, 0.0, 0.5, torch.zeros(1)))
    start = leapfrog.unstep(lambda c, y: 1.0 + 0 * y, 0.5, leapfrog.start(f, 0.5, 0.5, leapfrog.finish(there)))
    assert leapfrog.finish(start).item() == 0
