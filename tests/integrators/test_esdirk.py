"""Adaptive implicit methods."""

import math
from itertools import pairwise

import pytest
import torch

from dynamicblocks.integrators.esdirk import ESDIRKS, Esdirk
from dynamicblocks.integrators.tolerance import Tolerance, rms_norm
from tests.optional import optional

(solve_ivp,) = optional("scipy.integrate", "solve_ivp")

double = torch.float64
BY_NAME = {tableau.name: tableau for tableau in ESDIRKS}
every_method = pytest.mark.parametrize("tableau", ESDIRKS, ids=lambda tableau: tableau.name)
TIGHT = Tolerance(1e-13, 1e-13)


def field(t, y):
    """Two fields that depend on time, the second one nonlinear."""
    return torch.stack([math.cos(t) * y[0], -(1 + math.sin(2 * t)) * y[1] ** 2])


def exact(t):
    return torch.tensor([math.exp(math.sin(t)), 1 / (1 + t + (1 - math.cos(2 * t)) / 2)], dtype=double)


def attempt(integrator, f, t, h, y, tolerance=TIGHT, slope=None):
    slope = f(t, y) if slope is None else slope
    # A stage may stand at the declared fractions only.
    times = {c: t + c * h for c in integrator.fractions}
    return integrator.attempt(lambda c, y: f(times[c], y), h, y, slope, tolerance)


def drive(integrator, f, y, t, t1, rtol, atol, h=1e-6):
    """The shortest possible loop: the state at the end, and the numbers of steps taken and tried."""
    tolerance, slope, taken, tried = Tolerance(rtol, atol), f(t, y), 0, 0
    while t < t1:
        h = min(h, t1 - t)
        trial = attempt(integrator, f, t, h, y, tolerance, slope)
        ratio = float(rms_norm(trial.error / tolerance.scale(y, trial.y1)))
        tried += 1
        if ratio <= 1:
            t, y, slope, taken = (t1 if t + h >= t1 else t + h), trial.y1, trial.end, taken + 1
        h *= min(5.0, max(0.2, 0.9 * max(ratio, 1e-10) ** (-1 / integrator.error_order)))
        assert tried < 5000
    return y, taken, tried


def trees(order):
    """Every rooted tree with so many vertices, as the sorted tuple of the trees at its root."""
    if order == 1:
        return [()]
    found = set()

    def forests(left, largest):
        if left == 0:
            yield ()
        for size in range(1, min(left, largest) + 1):
            for first in trees(size):
                for rest in forests(left - size, size):
                    yield (first, *rest)

    for forest in forests(order - 1, order - 1):
        found.add(tuple(sorted(forest)))
    return sorted(found)


def vertices(tree):
    return 1 + sum(vertices(child) for child in tree)


def density(tree):
    return vertices(tree) * math.prod(density(child) for child in tree)


def weight(tree, a):
    """The elementary weights of a tree at the stages."""
    product = torch.ones(len(a), dtype=double)
    for child in tree:
        product = product * (a @ weight(child, a))
    return product


def holds_to(weights, a):
    """The largest order to which all order conditions hold."""
    for order in range(1, 7):
        for tree in trees(order):
            if abs((weights @ weight(tree, a)).item() - 1 / density(tree)) > 1e-11:
                return order - 1
    return 6


def matrix(tableau):
    a = torch.zeros(len(tableau.c), len(tableau.c), dtype=double)
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = torch.tensor(row, dtype=double)
        a[i, i] = tableau.gamma if i else 0
    return a


def test_there_are_seventeen_trees_to_order_five():
    assert [len(trees(order)) for order in range(1, 6)] == [1, 1, 2, 4, 9]


@every_method
def test_order_conditions(tableau):
    a = matrix(tableau)
    b = a[-1]
    assert torch.allclose(a.sum(dim=1), torch.tensor(tableau.c, dtype=double), rtol=0, atol=1e-14)
    assert holds_to(b, a) == tableau.order
    assert holds_to(b - torch.tensor(tableau.error, dtype=double), a) == tableau.order - 1


@every_method
def test_stable_far_to_the_left(tableau):
    """R(z) = det(I - z A + z 1 b^T) / det(I - z A) vanishes at infinity and is at most 1 on the imaginary axis."""
    a = matrix(tableau).to(torch.complex128)
    ones, b = torch.ones(len(a), 1, dtype=torch.complex128), a[-1:]
    eye = torch.eye(len(a), dtype=torch.complex128)
    for y in torch.logspace(-2, 4, 100):
        z = 1j * y.item()
        ratio = torch.linalg.det(eye - z * a + z * ones @ b) / torch.linalg.det(eye - z * a)
        assert ratio.abs() <= 1 + 1e-9
    y = torch.ones(2, dtype=double)
    trial = attempt(Esdirk(tableau), lambda t, y: -1e8 * y, 0.0, 1.0, y, Tolerance(1e-6, 1e-9))
    assert trial.y1.abs().max() < 1e-4


@every_method
def test_measured_orders_of_state_and_estimate(tableau):
    integrator = Esdirk(tableau)
    counts = [8, 16, 32, 64] if tableau.order == 5 else [16, 32, 64, 128]
    errors = []
    for n in counts:
        y, slope, h = exact(0), field(0, exact(0)), 2 / n
        for step in range(n):
            trial = attempt(integrator, field, step * h, h, y, slope=slope)
            y, slope = trial.y1, trial.end
        errors.append((y - exact(2)).abs().max().item())
    assert errors[-1] > 1e-13, "below rounding nothing is measured"
    assert [math.log2(a / b) for a, b in pairwise(errors)][-1] == pytest.approx(integrator.order, abs=0.1)
    estimates = [attempt(integrator, field, 1.0, h, exact(1)).error.abs().max().item() for h in (0.08, 0.04, 0.02)]
    slopes = [math.log2(a / b) for a, b in pairwise(estimates)]
    # It comes to its power of h as p + O(h).
    assert 2 * slopes[1] - slopes[0] == pytest.approx(integrator.error_order, abs=0.1), slopes


@every_method
def test_slopes_at_both_ends(tableau):
    y = exact(0.5)
    trial = attempt(Esdirk(tableau), field, 0.5, 0.1, y)
    assert torch.equal(trial.start, field(0.5, y))
    assert torch.allclose(trial.end, field(0.6, trial.y1), rtol=0, atol=1e-10)


@every_method
def test_a_stiff_linear_problem_takes_steps_of_its_slow_solution(tableau):
    """y' = -1e6 (y - cos t) - sin t, from off the slow solution."""

    def stiff(t, y):
        return -1e6 * (y - math.cos(t)) - math.sin(t)

    y, taken, _ = drive(Esdirk(tableau), stiff, torch.full((1,), 1.5, dtype=double), 0.0, 2.0, 1e-6, 1e-8)
    assert abs(y.item() - math.cos(2)) < 1e-5
    assert taken < 300


def van_der_pol(_t, y):
    return torch.stack([y[1], 1000 * ((1 - y[0] ** 2) * y[1]) - y[0]])


def robertson(_t, y):
    slow, fast = 0.04 * y[0] - 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return torch.stack([-slow, slow - fast, fast])


PROBLEMS = {
    "van der Pol": (van_der_pol, [2.0, 0.0], 900.0, 1e-5, 1e-7),
    "Robertson": (robertson, [1.0, 0.0, 0.0], 1e4, 1e-5, 1e-9),
}


@every_method
@pytest.mark.parametrize("problem", PROBLEMS)
def test_stiff_problems_against_radau(tableau, problem):
    f, y0, t1, rtol, atol = PROBLEMS[problem]
    reference = solve_ivp(
        lambda t, y: f(t, torch.from_numpy(y)).numpy(), (0, t1), y0, method="Radau", rtol=1e-10, atol=1e-13
    )
    y, _, tried = drive(Esdirk(tableau), f, torch.tensor(y0, dtype=double), 0.0, t1, rtol, atol, h=1e-4)
    expected = torch.from_numpy(reference.y[:, -1])
    assert ((y - expected).abs() <= 1e-3 * expected.abs() + 1e-7).all(), (y, expected)
    assert tried < (900 if tableau.order == 3 else 250)


@every_method
def test_a_tight_tolerance_is_met(tableau):
    if tableau.order < 5:
        pytest.skip("too many steps")
    y, _, _ = drive(Esdirk(tableau), field, exact(0), 0.0, 2.0, 1e-11, 1e-12, h=1e-3)
    assert (y - exact(2)).abs().max() < 1e-9


def swing(theta):
    return lambda t, y: torch.stack([torch.sin(y[1]) - theta * y[0] * (1 + t), y[0] * theta - y[1] ** 3])


@every_method
def test_gradients(tableau):
    y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
    theta = torch.tensor(1.3, dtype=double, requires_grad=True)

    def two_steps(y, theta):
        first = attempt(Esdirk(tableau), swing(theta), 0.0, 0.3, y)
        second = attempt(Esdirk(tableau), swing(theta), 0.3, 0.2, first.y1, slope=first.end)
        return second.y1, second.end

    assert torch.autograd.gradcheck(two_steps, (y, theta), atol=1e-6)


def test_second_derivatives():
    y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
    theta = torch.tensor(1.3, dtype=double, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda y, theta: attempt(Esdirk(ESDIRKS[0], derivatives=2), swing(theta), 0.0, 0.3, y).y1, (y, theta), atol=1e-5
    )


def test_gradients_are_those_of_the_step_whatever_the_tolerance():
    """Stages that are found coarsely still have the gradient of the exact step at that accuracy."""
    gradients = []
    for rtol in (1e-3, 1e-12):
        y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
        one = attempt(Esdirk(BY_NAME["kvaerno5"]), swing(1.3), 0.0, 0.3, y, Tolerance(rtol, rtol)).y1
        gradients.append(torch.autograd.grad(one.sum(), y)[0])
    assert torch.allclose(*gradients, rtol=0, atol=1e-4)


@every_method
def test_complex_states(tableau):
    y = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128)
    rates = torch.tensor([-1 + 20j, -1e5 + 1j], dtype=torch.complex128)
    trial = attempt(Esdirk(tableau), lambda t, y: rates * y, 0.0, 0.01, y, Tolerance(1e-10, 1e-12))
    assert trial.y1[0].item() == pytest.approx((torch.exp(rates[0] * 0.01) * y[0]).item(), abs=1e-4)
    assert trial.y1[1].abs() < 0.1
    apart = [
        attempt(Esdirk(tableau), lambda t, y, n=n: rates[n] * y, 0.0, 0.01, y[n : n + 1], Tolerance(1e-10, 1e-12)).y1
        for n in range(2)
    ]
    assert torch.allclose(torch.cat(apart), trial.y1, rtol=0, atol=1e-11)


@every_method
def test_single_precision(tableau):
    y, _, _ = drive(Esdirk(tableau), field, exact(0).float(), 0.0, 2.0, 1e-5, 1e-6, h=1e-2)
    assert y.dtype == torch.float32
    assert (y - exact(2)).abs().max() < 1e-4


def test_a_step_without_solution_has_an_infinite_error():
    y = torch.ones(2, dtype=double)
    for f in (lambda t, y: 50 + y**2, lambda t, y: y * math.nan if t > 0 else y):
        trial = attempt(Esdirk(ESDIRKS[0]), f, 0.0, 1.0, y, Tolerance(1e-6, 1e-9))
        assert torch.isinf(trial.error).all()
        assert torch.isfinite(trial.y1).all()
    complex_trial = attempt(Esdirk(ESDIRKS[0]), lambda t, y: y * math.nan if t > 0 else y, 0.0, 1.0, y + 0j)
    assert torch.isinf(complex_trial.error.abs()).all()


def test_rows_are_systems_of_their_own():
    rates = torch.tensor([0.1, 10.0, 1e4], dtype=double)[:, None]
    y = torch.rand(3, 4, dtype=double) + 0.5
    tolerance = Tolerance(1e-8, 1e-10)
    together = attempt(
        Esdirk(BY_NAME["kvaerno3"], rows=True), lambda t, y: rates * torch.cos(y), 0.0, 0.1, y, tolerance
    )
    for n in range(3):
        alone = attempt(
            Esdirk(BY_NAME["kvaerno3"]),
            lambda t, y, n=n: rates[n] * torch.cos(y),
            0.0,
            0.1,
            y[n : n + 1],
            tolerance,
        )
        assert torch.isfinite(alone.error).all()
        assert torch.allclose(together.y1[n : n + 1], alone.y1, rtol=0, atol=1e-9)
        assert torch.allclose(together.error[n : n + 1], alone.error, rtol=0, atol=1e-8)


def test_samples_with_steps_of_their_own():
    """Sizes as a tensor, one of them zero for a sample that has arrived."""
    rates = torch.tensor([1.0, 2.0, 3.0], dtype=double)[:, None]
    sizes = torch.tensor([0.02, 0.0, 0.05], dtype=double)[:, None]
    y = torch.rand(3, 4, dtype=double, requires_grad=True)
    integrator, tolerance = Esdirk(BY_NAME["kencarp4"], rows=True), Tolerance(1e-9, 1e-11)
    trial = integrator.attempt(lambda c, y: -rates * y, sizes, y, -rates * y, tolerance)
    assert torch.allclose(trial.y1, torch.exp(-rates * sizes) * y, rtol=0, atol=1e-5)
    assert torch.allclose(trial.end, -rates * trial.y1, rtol=0, atol=1e-9)
    assert (trial.error[1] == 0).all()
    (gradient,) = torch.autograd.grad((trial.y1 + trial.end).sum(), y)
    assert torch.allclose(gradient, ((1 - rates) * torch.exp(-rates * sizes)).expand(3, 4), rtol=0, atol=1e-4)


def test_a_row_that_fails_does_not_fail_the_others():
    y = torch.ones(2, 3, dtype=double)
    forces = torch.tensor([[0.0], [50.0]], dtype=double)
    integrator = Esdirk(BY_NAME["kvaerno5"], rows=True)
    trial = attempt(
        integrator, lambda t, y: torch.where(forces > 0, forces + y**2, -y), 0.0, 1.0, y, Tolerance(1e-6, 1e-9)
    )
    assert torch.isinf(trial.error[1]).all()
    assert torch.isfinite(trial.error[0]).all()
    assert torch.allclose(trial.y1[0], torch.full((3,), math.exp(-1), dtype=double), atol=1e-3)
    assert torch.isfinite(trial.y1).all()


def test_zero_tolerances_for_single_entries():
    y = torch.tensor([1.0, 0.0], dtype=double)
    trial = attempt(Esdirk(BY_NAME["kencarp4"]), lambda t, y: -y, 0.0, 0.1, y, Tolerance(1e-8, 0.0))
    assert trial.y1.tolist() == pytest.approx([math.exp(-0.1), 0.0], abs=1e-6)
