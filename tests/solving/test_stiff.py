"""Stiff problems, in double precision: explicit steps stay short, implicit ones arrive, and gradients pass through.

The tolerances of the problems: robertson rtol 1e-4, atol 1e-9; van_der_pol 1e-4, 1e-6; hires 1e-4, 1e-7; brusselator
1e-4, 1e-4.
"""

import math
from dataclasses import replace

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.solving import Status, StepLimitError
from tests.stiff_problems import STIFF, robertson

IMPLICIT = ("kvaerno3", "kvaerno5", "kencarp4")


def _solve(problem, method, **keywords):
    return db.solve(
        problem.func, problem.y0, problem.t, method=method, rtol=problem.rtol, atol=problem.atol, **keywords
    )


def _steps(found):
    return found.statistics.accepted + found.statistics.rejected


@pytest.mark.parametrize("name", ["robertson", "van_der_pol"])
def test_an_explicit_method_ends_at_the_limit_of_steps(name):
    """Robertson, 3 equations, to t = 1e5, and van der Pol, 2 equations, mu = 1000, to t = 2000: dopri5 reaches t = 11
    and 9. Ten thousand steps, and a message that says where; what was solved till then is right, and is kept."""
    problem = STIFF[name]
    with pytest.raises(StepLimitError, match=r"10000 steps .* ended at t = [\d.]+ with dt = [\d.e-]+") as caught:
        _solve(problem, "dopri5", max_steps=10_000)
    met = caught.value.circumstances
    assert f"t = {met.t:.9g} with dt = {met.h:.3g}" in str(caught.value)
    assert met.t < problem.times[-1] / 100
    assert met.h < met.t / 100
    assert met.tally.accepted + met.tally.rejected == 10_000
    reached = [t for t in problem.times if t <= met.t]
    assert list(met.times) == reached
    assert len(reached) > 1
    part = replace(problem, times=tuple(reached))
    assert part.error(torch.stack(list(met.states)).reshape(-1, *problem.y0.shape)) < problem.within


def test_the_part_that_was_solved_is_returned_on_request():
    """HIRES, 8 equations, to t = 321.8: 2,000 steps of dopri5 meet t = 5 only."""
    problem = STIFF["hires"]
    found = _solve(problem, "dopri5", max_steps=2000, on_failure="return")
    assert not found.success
    assert found.status is Status.STEP_LIMIT
    assert _steps(found) == 2000
    part = replace(problem, times=problem.times[:2])
    assert part.error(found.y[:2]) < problem.within
    assert found.y[2:].isnan().all()


@pytest.mark.parametrize("method", IMPLICIT)
@pytest.mark.parametrize("name", ["robertson", "van_der_pol"])
def test_implicit_methods_arrive(name, method):
    """Robertson, 3 equations, to t = 1e5, and van der Pol, 2 equations, mu = 1000, over two jumps to t = 2000: within
    5 tolerances of Radau at 1e-10, in at most a tenth of the 10,000 steps that dopri5 is not content with."""
    problem = STIFF[name]
    found = _solve(problem, method, max_steps=10_000)
    assert found.status is Status.DONE
    assert problem.error(found.y) < problem.within
    assert _steps(found) <= 1000
    if name == "robertson":
        assert found.y.sum(1).sub(1).abs().max() < 1e-4


@pytest.mark.parametrize("method", IMPLICIT)
@pytest.mark.parametrize("name", ["hires", "brusselator"])
def test_implicit_methods_need_a_tenth_of_the_steps(name, method):
    """HIRES, 8 equations, to t = 321.8, within 20 tolerances of Radau at 1e-10; the brusselator, 2 x 32 x 32 equations,
    eigenvalues to -8192, to t = 1, within 2 tolerances of DOP853 at 1e-10. Given almost ten times as many steps, and
    the same tolerance, dopri5 does not arrive."""
    problem = STIFF[name]
    found = _solve(problem, method)
    assert found.status is Status.DONE
    assert problem.error(found.y) < problem.within
    explicit = _solve(problem, "dopri5", max_steps=10 * _steps(found) - 1, on_failure="return")
    assert explicit.status is Status.STEP_LIMIT


@pytest.mark.parametrize(
    ("gradient", "gradient_options"),
    [("backprop", {}), ("adjoint", {"interpolant": True, "options": {"norm": "seminorm"}})],
)
def test_gradients_pass_through_a_stiff_solve(gradient, gradient_options):
    """Robertson to t = 10 by kvaerno5, rtol 1e-7, atol 1e-11: how each concentration changes with the logarithm of each
    rate, to 1e-4 of itself, against central differences of Radau at 1e-11."""
    rates = (0.04, 3e7, 1e4)
    logarithms = torch.tensor([math.log(rate) for rate in rates], dtype=torch.float64, requires_grad=True)
    problem = replace(STIFF["robertson"], times=(0.0, 10.0), reference_tolerance=(1e-11, 1e-15))
    found = db.solve(
        lambda t, y, logarithms: robertson(t, y, logarithms.exp()),
        problem.y0,
        problem.t,
        args=(logarithms,),
        method="kvaerno5",
        rtol=1e-7,
        atol=1e-11,
        gradient=gradient,
        gradient_options=gradient_options,
    )
    by_rates = torch.stack(
        [torch.autograd.grad(entry, logarithms, retain_graph=True)[0] for entry in found.y[-1].unbind()]
    )

    def end(change):
        changed = (logarithms.detach() + change).exp()
        return replace(problem, func=lambda t, y: robertson(t, y, changed)).reference[-1]

    changes = 1e-3 * torch.eye(3, dtype=torch.float64)
    differences = torch.stack([(end(change) - end(-change)) / 2e-3 for change in changes], 1)
    torch.testing.assert_close(by_rates, differences, rtol=1e-4, atol=0)
