"""Implicit methods for states in half precision, and for states without entries."""

import math

import pytest
import torch

import dynamicblocks as db

T = torch.linspace(0, 1, 9)
ON_GRID = ["implicit_euler", "implicit_midpoint", "trapezoid", "gl4", "gl6", "radauIIA5", "sdirk2", "trbdf2"]
half = pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)


@half
@pytest.mark.parametrize("name", [*ON_GRID, "kvaerno3", "implicit_adams"])
def test_half_precision_is_as_exact_as_its_numbers(name, kind):
    y0 = torch.tensor([1.0, -0.5], dtype=kind, requires_grad=True)
    tolerances = {"rtol": 0.03, "atol": 0.03} if name[0] == "k" else {}
    if name == "implicit_adams":
        tolerances = {"rtol": torch.finfo(kind).eps}
    options = {"max_iters": 20}
    y = db.odeint(lambda t, y: -2 * t * y, y0, T[::2], method=name, options=options, **tolerances)
    reference = y0.detach().float()
    expected = db.odeint(lambda t, y: -2 * t * y, reference, T[::2], method=name, options=options, **tolerances)
    assert y.dtype == kind
    bound = 6 * torch.finfo(kind).eps + (0.06 if name[0] == "k" else 0)
    assert (y.float() - expected).abs().max() <= bound
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    assert gradient.dtype == kind
    assert (gradient.float() - math.exp(-1)).abs().max() < 0.1


@half
def test_a_stiff_field_in_half_precision_reaches_its_end(kind):
    found = db.solve(lambda t, y: -300 * (y - 0.5), torch.ones(3, dtype=kind), T, method="radauIIA5")
    assert found.success
    assert (found.y[-1] - 0.5).abs().max() <= 4 * torch.finfo(kind).eps


@half
def test_a_block_in_half_precision(kind):
    torch.manual_seed(2)
    block = db.DynamicBlock("symmetric(4)", 2, integrator="gl4").eval()
    x = torch.randn(2, 4, 6, 6)
    expected, y = block(x), block.to(kind)(x.to(kind))
    assert y.dtype == kind
    assert (y.float() - expected).abs().max() < 40 * torch.finfo(kind).eps
    y.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())


@pytest.mark.parametrize("name", [*ON_GRID, "kvaerno3", "implicit_adams", "rk4", "dopri5"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)], ids=str)
def test_empty_states_cost_no_more_than_others(name, shape):
    y0 = torch.ones(shape, requires_grad=True)
    found = db.solve(lambda t, y: -y, y0, T, method=name)
    assert found.success
    assert found.y.shape == (9, *shape)
    found.y.sum().backward()
    assert y0.grad.shape == shape
    if name in ON_GRID:
        full = db.solve(lambda t, y: -y, torch.ones(2), T, method=name)
        assert found.statistics.evaluations < full.statistics.evaluations


@pytest.mark.parametrize("name", ["gl4", "trbdf2", "kencarp4"])
def test_a_block_of_no_images(name):
    block = db.DynamicBlock("symmetric(4)", 2, integrator=name)
    y = block(torch.zeros(0, 4, 6, 6))
    assert y.shape == (0, 4, 6, 6)
    cost = block.evaluations
    y.sum().backward()
    block(torch.randn(1, 4, 6, 6))
    assert cost < block.evaluations
