"""Adams methods on uniform and other grids."""

import math
import warnings
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import RungeKutta
from dynamicblocks.integrators.adams import Adams, adams_weights
from dynamicblocks.integrators.tableaus import TABLEAUS

double = torch.float64
EXACTLY = {"rtol": 0.0, "atol": 1e-15, "max_iters": 100}
both = pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])

# Hairer, Norsett and Wanner I, III.1, tables 1.1 and 1.2; newest slope first.
BASHFORTH = {
    1: ([1], 1),
    2: ([3, -1], 2),
    3: ([23, -16, 5], 12),
    4: ([55, -59, 37, -9], 24),
    5: ([1901, -2774, 2616, -1274, 251], 720),
    6: ([4277, -7923, 9982, -7298, 2877, -475], 1440),
}
MOULTON = {
    1: ([1], 1),
    2: ([1, 1], 2),
    3: ([5, 8, -1], 12),
    4: ([9, 19, -5, 1], 24),
    5: ([251, 646, -264, 106, -19], 720),
    6: ([475, 1427, -798, 482, -173, 27], 1440),
}


def adams(implicit, max_order, **keywords):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="max_order is below 4")
        return Adams(implicit, max_order, **keywords)


def field(t, y):
    """Two fields that depend on time, the second one nonlinear."""
    return torch.stack([math.cos(t) * y[0], -(1 + math.sin(2 * t)) * y[1] ** 2])


def exact(t):
    return torch.tensor([math.exp(math.sin(t)), 1 / (1 + t + (1 - math.cos(2 * t)) / 2)], dtype=double)


def uniform(steps):
    return [2 * n / steps for n in range(steps + 1)]


def uneven(steps):
    """Long and short steps in turn, between grades: ratios of 1.5 and more in both directions."""
    times = [(n + 0.1 * (n % 2)) / steps for n in range(steps)] + [1.0]
    return [2 * (x + 0.3 * math.sin(2 * math.pi * x) / (2 * math.pi)) for x in times]


def integrate(integrator, f, carry, times):
    for t0, t1 in pairwise(times):
        carry = integrator.step(f, t0, t1 - t0, carry)
    return integrator.finish(carry)


def growth(t, y):
    """y' = 2 t y, y = exp(t^2): all derivatives have one sign, so errors of high orders show no zeros."""
    return 2 * t * y


def grown(t):
    return torch.tensor([math.exp(t * t)], dtype=double)


def started_exactly(integrator, times):
    """The error at the end, where the slopes at the first points are those of the exact solution."""
    first = integrator.max_order - (2 if integrator.implicit else 1)
    first = max(first, 0)
    past = [(times[first] - t, growth(t, grown(t))) for t in reversed(times[:first])]
    carry = integrator.begin_with(grown(times[first]), past)
    return (integrate(integrator, growth, carry, times[first:]) - grown(times[-1])).abs().max().item()


@pytest.mark.parametrize("order", BASHFORTH)
def test_classical_coefficients(order):
    numerators, denominator = BASHFORTH[order]
    found = adams_weights([-float(n) for n in range(order)])
    assert found == pytest.approx([n / denominator for n in numerators], rel=1e-14)
    numerators, denominator = MOULTON[order]
    *known, last = adams_weights([*(-float(n) for n in range(order - 1)), 1.0])
    assert [last, *known] == pytest.approx([n / denominator for n in numerators], rel=1e-14)


def rational_weights(nodes):
    """The integrals over [0, 1] of the Lagrange polynomials, in rational numbers."""
    weights = []
    for x in nodes:
        coefficients = [Fraction(1)]
        for other in nodes:
            if other != x:
                shifted = zip([0, *coefficients], [*coefficients, 0], strict=True)
                coefficients = [(low - other * high) / (x - other) for low, high in shifted]
        weights.append(sum(c / (power + 1) for power, c in enumerate(coefficients)))
    return weights


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("count", range(1, 13))
def test_weights_at_uneven_nodes_are_those_of_lagrange(count, ahead):
    nodes = [Fraction(0)]
    for n in range(1, count):
        nodes.append(nodes[-1] - Fraction(1 + n * n % 5, 4))
    if ahead:
        nodes.append(Fraction(1))
    expected = [float(weight) for weight in rational_weights(nodes)]
    assert adams_weights([float(x) for x in nodes]) == pytest.approx(expected, rel=1e-13)


@both
@pytest.mark.parametrize("order", range(1, 9))
@pytest.mark.parametrize("grid", [uniform, uneven])
def test_measured_order_after_an_exact_start(implicit, order, grid):
    integrator = adams(implicit, order, **EXACTLY)
    errors = [started_exactly(integrator, grid(n)) for n in (24, 48, 96, 192)]
    assert errors[-1] > 1e-11, "below rounding nothing is measured"
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    # High orders are far from their limit before rounding sets in; they come to it as p + O(h).
    assert 2 * slopes[-1] - slopes[-2] == pytest.approx(order, abs=0.1), (errors, slopes)


@both
@pytest.mark.parametrize("max_order", [4, 5, 8, 12])
@pytest.mark.parametrize("grid", [uniform, uneven])
def test_measured_order_after_its_own_start(implicit, max_order, grid):
    integrator = Adams(implicit, max_order, **EXACTLY)
    errors = [
        (integrate(integrator, field, integrator.begin(None, 0.0, exact(0)), grid(n)) - exact(2)).abs().max().item()
        for n in (64, 128, 256, 512)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert integrator.order == (4 if max_order == 4 else 5)
    assert slopes[-1] == pytest.approx(integrator.order, abs=0.1), (errors, slopes)


@both
def test_polynomials_are_exact(implicit):
    """On a grid of wild steps: y' = 7 t^6 needs seven slopes."""
    times = [0.0, 0.3, 0.4, 0.8, 0.9, 1.3, 1.6, 1.7, 2.2, 2.3]
    first = 6
    integrator = adams(implicit, 7, **EXACTLY)
    past = [(times[first] - t, torch.tensor(7 * t**6, dtype=double)) for t in reversed(times[:first])]
    carry = integrator.begin_with(torch.tensor(times[first] ** 7, dtype=double), past)
    y = integrate(integrator, lambda t, y: torch.tensor(7 * t**6, dtype=double), carry, times[first:])
    assert y.item() == pytest.approx(2.3**7, rel=1e-12)


@pytest.mark.parametrize(("implicit", "h"), [(False, 0.01), (True, 0.03)], ids=["explicit", "implicit"])
def test_high_orders_do_not_blow_up(implicit, h):
    """At h lambda = -0.1 and -0.3 the formulas of order 12 multiply errors by more than two a step."""
    integrator = Adams(implicit, max_iters=20)
    times = [h * n for n in range(500)]
    y = integrate(integrator, lambda t, y: -10 * y, integrator.begin(None, 0.0, torch.ones(1, dtype=double)), times)
    assert abs(y.item()) < 1e-15


@both
def test_steps_that_grow_tenfold_do_not_blow_up(implicit):
    """In single precision, on logarithmic times: weights of a million would bring up rounding."""
    times = [10.0**n for n in range(-6, 1)]
    integrator = Adams(implicit, max_iters=20)
    y0 = torch.tensor([math.exp(-times[0])])
    y = integrate(integrator, lambda t, y: -y, integrator.begin(None, 0.0, y0), times)
    assert y.item() == pytest.approx(math.exp(-1), abs=0.1)


@both
def test_below_order_four_it_is_rk4(implicit):
    with pytest.warns(UserWarning, match="max_order is below 4, so the solver reduces to `rk4`"):
        integrator = Adams(implicit, 3)
    rk4 = RungeKutta(next(tableau for tableau in TABLEAUS if tableau.name == "rk4"))
    times = uneven(10)
    expected = exact(0)
    for t0, t1 in pairwise(times):
        expected = rk4.step(field, t0, t1 - t0, expected)
    assert torch.equal(integrate(integrator, field, integrator.begin(None, 0.0, exact(0)), times), expected)
    assert integrator.order == 4
    assert integrator.evaluations == 4


def test_an_iteration_that_does_not_converge_is_reported():
    integrator = Adams(implicit=True)
    carry = integrator.begin(None, 0.0, torch.ones(1, dtype=double))
    with pytest.warns(UserWarning, match=r"Functional iteration did not converge\. Solution may be incorrect\."):
        integrate(integrator, lambda t, y: -8 * y, carry, [0.5 * n for n in range(5)])


def test_the_iteration_stops_at_its_tolerance():
    def evaluations(**keywords):
        seen = []

        def counted(t, y):
            seen.append(t)
            return field(t, y)

        integrator = Adams(implicit=True, max_order=4, **keywords)
        integrate(integrator, counted, integrator.begin(None, 0.0, exact(0)), uniform(100))
        return len(seen)

    assert evaluations(rtol=1e-3, atol=1e-3) == 8 + 2 * 98
    assert evaluations(rtol=0.0, atol=1e-14, max_iters=50) > 400


@both
def test_one_evaluation_of_the_slope_at_the_beginning_of_a_step(implicit):
    integrator, seen = Adams(implicit, 5), []

    def stage(c, y):
        seen.append(c)
        return -y

    carry = integrator.begin(None, 0.0, torch.ones(1, dtype=double))
    for _ in range(8):
        seen.clear()
        carry = integrator.advance(stage, 0.01, carry)
    assert seen.count(0.0) == 1
    assert len(seen) <= integrator.evaluations
    assert set(seen) <= set(integrator.fractions)
    assert len(carry.slopes) <= integrator.max_order


@both
def test_gradients(implicit):
    integrator = adams(implicit, 5, **EXACTLY)
    y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
    theta = torch.tensor(1.3, dtype=double, requires_grad=True)
    sizes = torch.tensor([0.1, 0.15, 0.1, 0.2, 0.1, 0.12, 0.1], dtype=double, requires_grad=True)

    def steps(y, theta, sizes):
        carry = integrator.begin(None, 0.0, y)
        for h in sizes.unbind():
            carry = integrator.advance(lambda c, y: torch.sin(theta * y) * (1 + c) - y.flip(0), h, carry)
        return integrator.finish(carry)

    assert torch.autograd.gradcheck(steps, (y, theta, sizes))
    as_numbers = integrator.begin(None, 0.0, y)
    for h in sizes.tolist():
        as_numbers = integrator.advance(lambda c, y: torch.sin(theta * y) * (1 + c) - y.flip(0), h, as_numbers)
    assert torch.allclose(integrator.finish(as_numbers), steps(y, theta, sizes), rtol=0, atol=1e-14)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_types_and_shapes(implicit, dtype):
    y = torch.ones(2, 1, 3, dtype=dtype)
    rate = -1.0 if dtype == torch.float32 else -0.5 + 2j
    integrator = Adams(implicit, rtol=1e-6, atol=1e-7)
    found = integrate(integrator, lambda t, y: rate * y, integrator.begin(None, 0.0, y), [0.02 * n for n in range(51)])
    assert found.dtype == dtype
    assert torch.allclose(found, torch.exp(torch.tensor(rate)) * y, atol=2e-6)


def test_a_grid_that_runs_back():
    integrator = Adams(implicit=True)
    y = integrate(integrator, field, integrator.begin(None, 0.0, exact(2)), uniform(100)[::-1])
    assert torch.allclose(y, exact(0), rtol=0, atol=1e-6)


def test_amend_changes_the_state_only():
    integrator = Adams(implicit=False)
    carry = integrator.step(field, 0.0, 0.1, integrator.begin(None, 0.0, exact(0)))
    changed = integrator.amend(carry, lambda y: y + 1)
    assert torch.equal(integrator.finish(changed), integrator.finish(carry) + 1)
    assert changed.slopes is carry.slopes


def test_bad_options():
    with pytest.raises(ConfigurationError, match="max_order must be at most 12, got 13"):
        Adams(False, 13)
    with pytest.raises(ConfigurationError, match="max_order"):
        Adams(False, 0)
    with pytest.raises(ConfigurationError, match="max_iters"):
        Adams(True, max_iters=0)
