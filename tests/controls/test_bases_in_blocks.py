"""Blocks with every basis: training, storage, gradients, order of convergence."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

import dynamicblocks as db
from tests.layer_tools import Bend
from tests.optional import optional

(BSpline,) = optional("scipy.interpolate", "BSpline")

BASES = ["constant(4)", "linear(5)", "discontinuous_linear(4)", "bspline(5)", "legendre(4)", "chebyshev(3)"]
every_basis = pytest.mark.parametrize("controls", BASES)


@every_basis
def test_a_step_of_gradient_descent_lowers_the_loss(controls, float64):
    block = db.DynamicBlock("preact_single(3)", controls, times=4, integrator="midpoint")
    images, target = torch.randn(4, 3, 6, 6), torch.randn(4, 3, 6, 6)
    before = copy.deepcopy(block)
    loss = (block(images) - target).square().mean()
    loss.backward()
    with torch.no_grad():
        for weight in block.parameters():
            weight -= 1e-3 * weight.grad
    assert (block(images) - target).square().mean() < loss
    used = set(range(len(block.controls))) - block.unused_controls()
    for index in used:
        weight, old = block.controls.layers[index].conv1.weight, before.controls.layers[index].conv1.weight
        assert not torch.equal(weight, old)


@every_basis
def test_weights_load_under_other_integrators_and_grids(controls):
    block = db.DynamicBlock("preact_single(3)", controls, times=4)
    block(torch.randn(4, 3, 6, 6))
    basis = block.controls.basis
    for integrator in ("midpoint", "rk4"):
        other = db.DynamicBlock("preact_single(3)", basis, "uniform(0, 4, steps=3)", integrator)
        other.load_state_dict(block.state_dict(), strict=True)
        images = torch.randn(2, 3, 6, 6)
        twin = db.with_integrator(block, integrator, steps=3).eval()
        assert torch.equal(other.eval()(images), twin(images))


@every_basis
def test_recomputation_gives_the_gradients_of_backpropagation(controls):
    block = db.DynamicBlock("preact_single(3)", controls, times=4, integrator="midpoint")
    twin = db.with_gradient(block, "checkpoint")
    images = torch.randn(4, 3, 6, 6)
    for net in (block, twin):
        net(images).square().sum().backward()
    for weight, other in zip(block.parameters(), twin.parameters(), strict=True):
        assert (weight.grad is None and other.grad is None) or torch.equal(weight.grad, other.grad)
    for buffer, other in zip(block.buffers(), twin.buffers(), strict=True):
        assert torch.equal(buffer, other)


@every_basis
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("norm", ["tv", "none"])
def test_refined_controls_on_the_same_grid_are_the_same_function(controls, factor, norm, float64):
    block = db.DynamicBlock(f"preact_single(3, norm={norm!r})", controls, times=4, integrator="rk4")
    images = torch.randn(2, 3, 6, 6)
    finer = db.refine(block, factor, steps=False)
    assert len(finer.controls) > len(block.controls)
    torch.testing.assert_close(finer(images), block(images), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("controls", BASES[:4])
def test_refined_normalisations_without_negative_weights_are_the_same_function(controls, float64):
    block = db.DynamicBlock("preact_single(3)", controls, times=4, integrator="rk4")
    for _ in range(3):
        block(torch.randn(8, 3, 6, 6))
    images = torch.randn(2, 3, 6, 6)
    finer = db.refine(block.eval(), 2, steps=False)
    torch.testing.assert_close(finer(images), block(images), rtol=1e-12, atol=1e-12)


CUBIC = Polynomial([0.5, 1.5, -1.2, 0.4])


def values_at_nodes(basis):
    return [CUBIC(basis.time(node)) for node in basis.nodes], CUBIC.integ()(2) - CUBIC.integ()(0)


def a_spline(basis):
    coefficients = np.array([0.5, 1.0, 2.0, 1.5, 0.8])
    spline = BSpline(np.pad(np.array(basis.knots), 3, mode="edge"), coefficients, 3)
    return coefficients, spline.integrate(0, 2).item()


@pytest.mark.parametrize(
    ("basis", "theta"),
    [
        (db.Legendre(4, (0, 2)), values_at_nodes),
        (db.Chebyshev(4, (0, 2)), values_at_nodes),
        (db.CubicBSpline(knots=(0, 1, 2)), a_spline),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("integrator", ["euler", "midpoint", "kutta3", "rk4_classic"])
def test_blocks_converge_at_the_order_of_the_integrator(basis, theta, integrator, float64):
    controls, integral = theta(basis)
    exact = (1 + 2 * integral) ** -0.5
    errors = []
    for steps in (32, 64, 128):
        block = db.DynamicBlock(Bend, basis, db.uniform(0, 2, steps=steps), integrator)
        with torch.no_grad():
            for layer, value in zip(block.controls.layers, controls, strict=True):
                layer.theta.fill_(value)
            errors.append(abs(block(torch.ones(1, 1)).item() - exact))
    assert errors[-1] > 1e-13, "below rounding nothing is measured"
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(db.as_integrator(integrator).order, abs=0.15)
