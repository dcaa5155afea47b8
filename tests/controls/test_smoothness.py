"""The penalty on d theta / dt."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls import Controls
from dynamicblocks.training import OptimizerConfig
from dynamicblocks.training.smoothness import SmoothnessPenalty
from tests.optional import optional
from tests.weights_in_time import (
    Chebyshev,
    Constant,
    Discontinuous,
    Legendre,
    Linear,
    Scalar,
    Spline,
    scalar_controls,
)

KINDS = ["l2", "l1", "smooth_l1"]
(fixed_quad,) = optional("scipy.integrate", "fixed_quad")


def test_smoothness_of_a_line_is_the_integral_of_its_squared_slope():
    controls = scalar_controls(Linear(knots=(0, 1, 4, 4.5)), [0, 2, -1, 1])
    # Slopes 2, -1 and 4 on lengths 1, 3 and 1/2.
    assert controls.smoothness().item() == pytest.approx(4 * 1 + 1 * 3 + 16 * 0.5, rel=1e-15)
    integral = sum(
        fixed_quad(lambda t: (np.gradient(np.interp(t, controls.basis.knots, [0, 2, -1, 1]), t)) ** 2, a, b, n=5)[0]
        for a, b in pairwise(controls.basis.knots)
    )
    assert controls.smoothness("l2").item() == pytest.approx(integral, rel=1e-12)


def test_smoothness_of_constants_measures_between_midpoints():
    controls = scalar_controls(Constant(knots=(0, 2, 4, 10)), [1, 4, 0])
    # Midpoints 1, 3 and 7: slopes 3/2 and -1 on lengths 2 and 4.
    assert controls.smoothness().item() == pytest.approx(2.25 * 2 + 1 * 4, rel=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothness_of_lines_with_jumps_is_that_of_a_line_or_of_constants(kind):
    knots = (0, 2, 4, 10)
    jumping = Discontinuous(knots=knots)
    assert jumping.distances() == (2, 2, 2, 4, 6)
    line, constants = (
        scalar_controls(Linear(knots=knots), [1, 4, 0, 2]),
        scalar_controls(Constant(knots=knots), [1, 4, 0]),
    )
    for plain in (line, constants):
        same = plain.project(jumping)
        assert same.smoothness(kind).item() == pytest.approx(plain.smoothness(kind).item(), rel=1e-12)


@pytest.mark.parametrize("kind", [Legendre, Chebyshev])
def test_smoothness_of_polynomials_measures_between_nodes(kind):
    basis = kind(4, (1, 3))
    times = [basis.time(node) for node in basis.nodes]
    assert basis.distances() == pytest.approx(np.diff(times), rel=1e-14)
    slope = 3.0
    line = scalar_controls(basis, [slope * time for time in times])
    assert line.smoothness().item() == pytest.approx(slope**2 * (times[-1] - times[0]), rel=1e-13)


def test_smoothness_l1_is_the_total_variation_and_smooth_l1_the_rounded_one():
    controls = scalar_controls(Linear(knots=(0, 1, 4, 4.5)), [0, 2, -1, 1])
    assert controls.smoothness("l1").item() == pytest.approx(2 + 3 + 2, rel=1e-15)
    rounded = [math.hypot(slope, 0.5) - 0.5 for slope in (2, -1, 4)]
    expected = rounded[0] * 1 + rounded[1] * 3 + rounded[2] * 0.5
    assert controls.smoothness("smooth_l1", eps=0.5).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothness_adds_over_entries_and_parameters(kind):
    basis, values = Linear(knots=(0, 1, 4)), [(0, 3), (2, 1), (5, 5)]
    together = scalar_controls(basis, values).smoothness(kind)
    alone = [scalar_controls(basis, [value[entry] for value in values]).smoothness(kind) for entry in (0, 1)]
    torch.testing.assert_close(together, alone[0] + alone[1], rtol=1e-14, atol=0)
    pairs = Controls([nn.Sequential(Scalar(a), Scalar(b)) for a, b in values], basis)
    torch.testing.assert_close(pairs.smoothness(kind), together, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothness_has_the_gradient_of_finite_differences(kind):
    controls = scalar_controls(Linear(knots=(0, 1, 4)), [0.3, 2.0, -1.0])
    controls.smoothness(kind).backward()
    for layer in controls.layers:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                layer.theta.add_(sign * 1e-6)
                ends.append(controls.smoothness(kind).item())
                layer.theta.sub_(sign * 1e-6)
        assert layer.theta.grad.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-7)


BASES = [
    Constant(knots=(0, 1, 4, 4.5)),
    Linear(knots=(0, 1, 4, 4.5)),
    Discontinuous(knots=(0, 1, 4)),
    Spline(knots=(0, 1, 4)),
    Legendre(4, (1, 3)),
    Chebyshev(4, (1, 3)),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_smoothness_is_its_formula_and_has_the_gradient_of_finite_differences_in_every_basis(kind, basis):
    """Of layers of several tensors, written a second time from the nodes."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(basis.size, 2))
    controls = Controls([nn.Sequential(Scalar(a), Scalar(b)) for a, b in values], basis)

    def formula(theta):
        d = np.array(basis.distances())[:, None]
        s = np.diff(theta, axis=0) / d
        return (d * {"l2": s**2, "l1": abs(s), "smooth_l1": np.hypot(s, 0.5) - 0.5}[kind]).sum()

    found = controls.smoothness(kind, eps=0.5)
    assert found.item() == pytest.approx(formula(values), rel=1e-12)
    found.backward()
    for k, j in np.ndindex(*values.shape):
        step = np.zeros_like(values)
        step[k, j] = 1e-6
        difference = (formula(values + step) - formula(values - step)) / 2e-6
        assert controls.layers[k][j].theta.grad.item() == pytest.approx(difference, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("basis", BASES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_a_line_in_time_costs_its_slope_in_every_basis(basis, kind):
    """Where controls are no values of theta, too: those of a line lie on it."""
    times = np.array([basis.time(node) for node in basis.nodes])
    line = scalar_controls(basis, list(3.0 * times))
    penalty = {"l2": 9.0, "l1": 3.0, "smooth_l1": math.hypot(3.0, 1e-3) - 1e-3}[kind]
    if isinstance(basis, Discontinuous):
        return  # no time passes at its knots: see below
    assert line.smoothness(kind).item() == pytest.approx(penalty * (times[-1] - times[0]), rel=1e-12)


def test_refinement_keeps_the_integral_of_a_line_and_lets_a_jump_cost_more():
    line = scalar_controls(Linear(knots=(0, 1, 4)), [0, 2, -1])
    jumps = scalar_controls(Constant(knots=(0, 2, 4)), [1, 4])
    for factor in (2, 3):
        for kind in KINDS:
            same = line.refine(factor).smoothness(kind)
            torch.testing.assert_close(same, line.smoothness(kind), rtol=1e-12, atol=0)
        # |3|^2 over a distance of 2 / factor: no penalty on the squared slope bounds a jump.
        assert jumps.refine(factor).smoothness().item() == pytest.approx(9 / 2 * factor, rel=1e-12)
        assert jumps.refine(factor).smoothness("l1").item() == pytest.approx(3, rel=1e-12)


def test_kernels_alone_are_matrices_and_filters_and_no_norms():
    def make():
        return nn.Sequential(
            nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm([2, 4, 4]), nn.PReLU(2), nn.Linear(4, 4)
        )

    layers = [make().double(), make().double()]
    with torch.no_grad():
        for weight in layers[1].parameters():
            weight.add_(torch.randn_like(weight))
    controls = Controls(layers, Linear(knots=(0, 0.5)))
    changes = [(b - a) for name in ("0.weight", "4.weight") for a, b in [(m.get_parameter(name) for m in layers)]]
    expected = sum((0.5 * (change / 0.5) ** 2).sum() for change in changes)
    torch.testing.assert_close(controls.smoothness(kernels_only=True), expected, rtol=1e-12, atol=0)
    assert controls.smoothness("l2", True) < controls.smoothness("l2")
    assert scalar_controls(Linear(knots=(0, 1)), [1, 2]).smoothness(kernels_only=True).item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_controls_that_nothing_reads_cost_what_they_would_at_their_best(kind):
    """Euler with steps over two pieces reads every other one; of a line it never reads the last value."""
    block = db.DynamicBlock(lambda: Scalar(*torch.randn(3).tolist()), "constant(6)", (0, 2, 4, 6))
    assert len(db.freeze_unused_controls(block)) == 3
    theta = torch.stack([layer.theta.detach() for layer in block.controls.layers]).numpy()[[0, 2, 4]]
    coarse = scalar_controls(Constant(knots=(0, 2, 4, 6)), theta.tolist())
    found = block.controls.smoothness(kind)
    assert found.item() == pytest.approx(coarse.smoothness(kind).item(), rel=1e-12)
    line = db.DynamicBlock(lambda: Scalar(*torch.randn(3).tolist()), "linear(2)", 1)
    db.freeze_unused_controls(line)
    assert line.controls.smoothness(kind).item() == 0


def test_half_precision_is_summed_in_single():
    controls = scalar_controls(Linear(knots=(0, 1)), [0.0, 300.0]).half()
    assert controls.smoothness().item() == 90_000


@pytest.mark.parametrize("kind", KINDS)
def test_weights_vary_less_in_time_the_larger_the_penalty(kind):
    """Small trainings on the same data: the total variation of the kernels falls with alpha."""
    torch.manual_seed(0)
    start = db.create_model("dynamicnet", in_channels=1, widths=(4,), units=6, layer="preact_single", norm="group")
    images, labels = torch.randn(32, 1, 6, 6), torch.randint(0, 10, (32,))
    variations = []
    for alpha in (0.0, 1e-3, 1e-2, 1e-1):
        net = copy.deepcopy(start)
        penalty = SmoothnessPenalty(net, OptimizerConfig(smoothness=alpha, smoothness_kind=kind))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for _ in range(15):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels) + penalty(torch.device("cpu"))
            loss.backward()
            optimizer.step()
        variations.append(net.blocks[0].controls.smoothness("l1", True).item())
    assert variations == sorted(variations, reverse=True)
    assert variations[-1] < 0.8 * variations[0]


def test_a_training_is_penalised_by_kind_and_blocks_without_weights_are_refused():
    net = db.create_model("dynamicnet", in_channels=1, widths=(4, 4), units=2)
    options = OptimizerConfig(smoothness=0.5, smoothness_kind="l1", smoothness_kernels_only=True)
    expected = 0.5 * sum(block.controls.smoothness("l1", True) for block in net.blocks)
    torch.testing.assert_close(SmoothnessPenalty(net, options)(torch.device("cpu")), expected)
    with pytest.raises(db.ConfigurationError, match=r"optimizer.smoothness is a penalty on weights that vary"):
        SmoothnessPenalty(db.DynamicBlock(lambda: nn.ReLU(), 2), OptimizerConfig(smoothness=0.5))
    plain = SmoothnessPenalty(nn.Sequential(nn.Linear(2, 2)), OptimizerConfig(smoothness=0.5))
    assert plain(torch.device("cpu")) == 0


class ValueAndSlope(db.Basis):
    """On each interval a line of its own, by its value and slope at the begin: coefficients, and no values."""

    degree = 1

    def size_of(self, intervals):
        return 2 * intervals

    def terms(self, interval, fraction):
        return (2 * interval, 1.0), (2 * interval + 1, fraction)


def test_controls_that_are_no_values_of_theta_have_no_slope():
    controls = scalar_controls(ValueAndSlope(knots=(0, 1, 4)), [1, 2, 3, 4])
    with pytest.raises(db.ConfigurationError, match="functions of ValueAndSlope do not sum to one"):
        controls.smoothness()


def test_smooth_l1_needs_a_radius():
    with pytest.raises(db.ConfigurationError, match=r"eps of smooth_l1 must be above 0, got 0.0"):
        scalar_controls(Constant(knots=(0, 1)), [1]).smoothness("smooth_l1", eps=0.0)
    with pytest.raises(db.ConfigurationError, match=r"kernels_only must be True or False, got 0.5; eps is"):
        scalar_controls(Constant(knots=(0, 1)), [1]).smoothness("smooth_l1", 0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "controls",
    [
        scalar_controls(Constant(knots=(0, 4)), [3.0]),
        scalar_controls(Linear(knots=(0, 1, 4)), [3.0] * 3),
        Controls([nn.ReLU(), nn.ReLU()], Constant(2)),
    ],
    ids=["single", "equal", "weightless"],
)
def test_controls_that_do_not_change_are_smooth(kind, controls):
    basis = controls.basis.over(db.Grid((0, 4)))
    assert Controls(controls.layers, basis).smoothness(kind).item() == 0


def test_unknown_penalties_are_named():
    with pytest.raises(db.ConfigurationError, match=r"unknown smoothness penalty 'l3'\. Known: l1, l2, smooth_l1"):
        scalar_controls(Constant(knots=(0, 1)), [1]).smoothness("l3")
