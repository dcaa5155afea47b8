"""Orders of all methods, and what a tolerance means, measured through odeint in double precision.

Every error is one at the last time, of a nonlinear problem whose field depends on time. The orders are those over three
halvings of the step, as a mean; all errors are above 1e-12, where rounding does not show.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import dynamicblocks as db
from dynamicblocks.integrators import METHODS, AdaptiveMethod

MEASURED = [name for name in METHODS if name != "scipy_solver"]
ADAMS = [name for name in MEASURED if "max_order" in METHODS[name].own]
ADAPTIVE = [name for name in MEASURED if isinstance(METHODS[name], AdaptiveMethod)]
# Each step solves equations by Newton's method, at ten times the cost: fewer steps have to do.
NEWTON = [name for name in MEASURED if METHODS[name].own == ("max_iters",)]


def cases(names):
    """Methods in both directions of time; the dear ones run back with -m slow."""
    for name in names:
        yield pytest.param(name, False, id=f"{name}-forward")
        yield pytest.param(name, True, id=f"{name}-back", marks=[pytest.mark.slow] if name in NEWTON else [])


SIGNS = torch.tensor([1.0, -1.0], dtype=torch.float64)


@dataclass(frozen=True)
class Problem:
    """y' = s'(t) F(y), of which the solution is z(s(t)), where z is one of z' = F(z)."""

    field: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[Tensor], Tensor]


def logarithms(s):
    return torch.stack([torch.exp(torch.sin(s)), torch.exp(torch.cos(s))], -1)


def circle(s):
    return torch.stack([torch.cos(s), -torch.sin(s)], -1)


PROBLEMS = {
    # y' = cos t (y_1 log y_2, -y_2 log y_1)
    "slow": Problem(lambda t, y: torch.cos(t) * y * y.log().flip(0) * SIGNS, lambda t: logarithms(torch.sin(t))),
    # y' = 2 t (y_1 log y_2, -y_2 log y_1)
    "fast": Problem(lambda t, y: 2 * t * y * y.log().flip(0) * SIGNS, lambda t: logarithms(t * t)),
    # y' = 2 t |y|^2 (y_2, -y_1)
    "circle": Problem(lambda t, y: 2 * t * (y @ y) * y.flip(0) * SIGNS, lambda t: circle(t * t)),
}


def setting(name, order):
    """Where a method is in its asymptotic range: the problem, its ends in time, steps of the coarsest grid and most.

    Grids are halved as long as errors stay above 1e-12; the finest four count. Their sizes are dyadic, so that steps
    meet the last time exactly. In dopri5 and tsit5 the coefficients of h^5 are so small beside those of h^6 that many
    problems show order six, down to rounding; dopri8 has four grids above 1e-12 at most.
    """
    if order >= 6:
        return "fast", (0.0, 2.5), *((20, 160) if name in NEWTON else (10, 80))
    most = 96 if name in NEWTON else 1536
    return ("slow", (-3.0, 0.0), 12, most) if order == 5 else ("slow", (0.0, 2.0), 12, most)


def error(name, problem, ends, steps, options):
    """At the last time, after so many steps of one size, Euclidean."""
    size = abs(ends[1] - ends[0]) / steps
    if name in ADAPTIVE:
        # A step of the least size is taken whatever its error.
        options = {"first_step": size, "min_step": size, "max_step": size, **options}
    else:
        options = {"step_size": size, **options}
    t = torch.tensor(ends, dtype=torch.float64)
    states = db.odeint(problem.field, problem.exact(t[0]), t, method=name, options=options, rtol=1e-13, atol=1e-14)
    return (states[-1] - problem.exact(t[1])).norm().item()


def errors_of_finest_grids(measure, first, most):
    """The errors on the finest four of the grids of first, 2 first, ... steps that stay above 1e-12."""
    found, steps = [], first
    while steps <= most:
        found.append(measure(steps))
        if found[-1] < 1e-12:
            found.pop()
            break
        steps *= 2
    assert len(found) >= 4, found
    return found[-4:]


def order_over_three_halvings(errors):
    return math.log2(errors[0] / errors[3]) / 3


@pytest.mark.parametrize(("name", "back"), list(cases(MEASURED)))
def test_the_measured_order_is_the_declared_one(name, back):
    """To 0.1, or 0.6 for dopri8, over three halvings.

    Adams methods run at order four, which their start by rk4 does not change, with their equations solved to rounding.
    """
    options = {"max_order": 4, "max_iters": 100} if name in ADAMS else {}
    order = METHODS[name].make(**({"max_order": 4} if name in ADAMS else {})).order
    problem, ends, first, most = setting(name, order)
    if back:
        ends = ends[::-1]
    with torch.no_grad():
        errors = errors_of_finest_grids(lambda steps: error(name, PROBLEMS[problem], ends, steps, options), first, most)
    assert order_over_three_halvings(errors) == pytest.approx(order, abs=0.6 if name == "dopri8" else 0.1), errors


@pytest.mark.parametrize("name", ADAMS)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_adams_methods_that_start_exactly_have_every_order(name, order):
    """On uniform grids, with past slopes of the exact solution; to 0.1 over three halvings.

    Higher orders are further from their limit above 1e-12: test_adams measures them, extrapolated.
    """
    problem = PROBLEMS["circle"]
    implicit = name != "explicit_adams"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="max_order is below 4")
        integrator = METHODS[name].make(
            max_order=order, max_iters=100, **({"rtol": 0.0, "atol": 1e-15} if implicit else {})
        )

    def measure(steps):
        times = [torch.tensor(2 * n / steps, dtype=torch.float64) for n in range(steps + 1)]
        start = max(order - (2 if implicit else 1), 0)
        past = [((times[start] - t).item(), problem.field(t, problem.exact(t))) for t in reversed(times[:start])]
        carry = integrator.begin_with(problem.exact(times[start]), past)
        for t in times[start:-1]:
            carry = integrator.step(lambda t, y: problem.field(torch.as_tensor(t), y), t.item(), 2 / steps, carry)
        return (integrator.finish(carry) - problem.exact(times[-1])).norm().item()

    errors = errors_of_finest_grids(measure, 16, 1024)
    assert order_over_three_halvings(errors) == pytest.approx(order, abs=0.1), errors


# The first of five tolerances, each a tenth of the one before: steps are short enough there for errors to follow their
# orders, and errors stay above rounding.
LOOSEST = {2: 1e-3, 3: 1e-3, 4: 1e-4}
# The estimate of fehlberg2 is the difference of two slopes, times h / 512: small by design, and errors are larger.
SMALL_ESTIMATE = {"fehlberg2": 1000}
# The steps of dopri8 are few, and at some tolerances their errors cancel to a twentieth of those 1.5 times further on,
# whatever controls their length: its ratio in a decade is the root mean square at four tolerances.
SAMPLES = {"dopri8": 4}


@pytest.mark.parametrize(("name", "back"), list(cases(ADAPTIVE)))
def test_errors_are_proportional_to_the_tolerance(name, back):
    """Over four decades, with rtol = atol: a logarithmic slope of 1, to 0.2, and error / tolerance within a factor 10.

    The error is the root mean square over twelve times, at which steps end; error / tolerance is below 100. The slopes
    are 0.82 to 1.11: at the loosest tolerances the twelve times cut steps short, which lowers the errors there.
    """
    problem = PROBLEMS["slow"]
    loosest = LOOSEST.get(METHODS[name].make().order, 1e-6) / (10 if name in SMALL_ESTIMATE else 1)
    t = torch.linspace(0, 6, 13, dtype=torch.float64)
    t = t.flip(0) if back else t
    exact, options = problem.exact(t), {"step_t": t[1:-1]}

    def ratio(tol):
        states = db.odeint(problem.field, exact[0], t, method=name, rtol=tol, atol=tol, options=options)
        return (states - exact)[1:].square().mean().sqrt().item() / tol

    count = SAMPLES.get(name, 1)
    with torch.no_grad():
        decades = [[ratio(loosest / 10 ** (decade + n / count)) for n in range(count)] for decade in range(5)]
    ratios = [math.hypot(*each) / math.sqrt(count) for each in decades]
    assert 1 + math.log10(ratios[0] / ratios[-1]) / 4 == pytest.approx(1, abs=0.2), ratios
    assert max(ratios) < 10 * min(ratios), ratios
    assert max(ratios) < SMALL_ESTIMATE.get(name, 100), ratios
