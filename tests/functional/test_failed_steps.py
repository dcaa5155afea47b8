"""Steps that cannot be made, or not exactly: what solve, odeint and blocks say of them."""

import math
import warnings

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.errors import SolverError
from dynamicblocks.integrators import FieldStage, Integrator, as_integrator

ON_GRID = [
    "implicit_euler",
    "implicit_midpoint",
    "trapezoid",
    "gl4",
    "gl6",
    "radauIIA3",
    "radauIIA5",
    "sdirk2",
    "trbdf2",
]
EXPLICIT = ["euler", "midpoint", "rk4_classic", "reversible_heun", "alf", "explicit_adams"]
ADAPTIVE = ["dopri5", "bosh3", "kvaerno3", "kencarp4"]
T = torch.linspace(0, 2, 9)


def broken_after(time, value=math.nan):
    """Fades till a time; then it has no value in the last entry of the first sample."""

    def field(t, y):
        lost = torch.zeros_like(y).index_put_(
            (torch.tensor([0]), torch.tensor([1])), torch.tensor(value, dtype=y.dtype)
        )
        return torch.where(t > time, lost, 0.0) - y

    return field


def no_root(t, y):
    """A tangent in time: beyond its pole implicit equations have no real root."""
    return 1 + y * y


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, math.nan) for name in (*ON_GRID, *EXPLICIT, "implicit_adams", "bosh3", "kvaerno3")),
        *((name, math.inf) for name in ("gl4", "trapezoid", "rk4_classic", "alf", "dopri5")),
    ],
)
def test_states_that_are_not_finite_are_a_failure(name, value):
    y0 = torch.ones(2, 2, dtype=torch.float64)
    options = {"max_iters": 30} if name == "implicit_adams" else None
    found = db.solve(broken_after(1.1, value), y0, T, method=name, options=options, on_failure="return")
    assert found.status is db.Status.NOT_FINITE
    assert not found.success
    assert "finite" in found.message
    assert (found.y[:5, 0, 0] - torch.exp(-T[:5].double())).abs().max() < 0.1
    assert torch.isnan(found.y[6:]).all()
    with pytest.raises(db.NotFiniteStateError) as caught:
        db.solve(broken_after(1.1, value), y0, T, method=name, options=options)
    assert 1.0 <= caught.value.circumstances.t <= 1.5
    assert torch.equal(
        torch.stack(list(caught.value.circumstances.states)), found.y[: len(caught.value.circumstances.states)]
    )
    try:
        y = db.odeint(broken_after(1.1, value), y0, T, method=name, rtol=1e-5, atol=1e-7, options=options)
    except db.NotFiniteStateError:
        return
    assert not torch.isfinite(y[-1]).all()


@pytest.mark.parametrize("name", [*ON_GRID, *EXPLICIT, *ADAPTIVE])
def test_nothing_is_solved_from_the_start(name):
    for field, y0 in (
        (lambda t, y: y * math.nan, torch.ones(3)),
        (lambda t, y: -y, torch.tensor([1.0, math.inf])),
        (lambda t, y: torch.cos(t).expand_as(y), torch.tensor([math.nan, 1.0])),
    ):
        found = db.solve(field, y0, T, method=name, on_failure="return")
        assert found.status is db.Status.NOT_FINITE
        assert torch.isnan(found.y[1:]).all()


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint(states=2)", "adjoint", "reversible"])
@pytest.mark.parametrize("name", ["gl4", "alf", "kvaerno3"])
def test_what_was_solved_has_its_gradient_in_every_mode(name, gradient):
    if gradient == "reversible" and name != "alf":
        pytest.skip("its steps cannot be taken back")
    y0 = torch.full((2, 2), 1.5, dtype=torch.float64, requires_grad=True)
    found = db.solve(
        broken_after(1.3), y0, T, method=name, rtol=1e-3, atol=1e-3, gradient=gradient, on_failure="return"
    )
    assert found.status is db.Status.NOT_FINITE
    (by_y0,) = torch.autograd.grad(found.y[4].sum(), y0)
    assert (by_y0 - math.exp(-1)).abs().max() < 0.02


def test_dense_and_event_solves_say_so_too():
    y0 = torch.ones(1, 2)
    for name in ("gl4", "rk4", "dopri5"):
        found = db.solve(broken_after(1.1), y0, T, method=name, dense=True, on_failure="return")
        assert found.status is db.Status.NOT_FINITE
        assert found.interpolant(0.75)[0, 0].item() == pytest.approx(math.exp(-0.75), abs=0.02)
        found = db.solve(
            broken_after(1.1), y0, T, method=name, event_fn=lambda t, y: y[0, 0] - 1e-3, on_failure="return"
        )
        assert found.status is db.Status.NOT_FINITE
        assert torch.isnan(found.event_t)
    with pytest.raises(ValueError, match="reaches from 0 to 1,"):
        db.solve(broken_after(1.1), y0, T, method="gl4", dense=True, on_failure="return").interpolant(1.5)


@pytest.mark.parametrize("options", [{}, {"min_step": 0.01}], ids=str)
def test_samples_with_steps_of_their_own(options):
    y0 = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    found = db.solve(
        broken_after(1.1), y0, T, batched=True, method="bosh3", options=options, max_steps=2000, on_failure="return"
    )
    assert found.status == [db.Status.NOT_FINITE, db.Status.DONE]
    assert torch.isnan(found.y[5:, 0]).all()
    assert found.y[-1, 1, 0].item() == pytest.approx(math.exp(-2), abs=1e-4)


@pytest.mark.parametrize("name", ["dopri5", "kvaerno3", "kencarp4"])
def test_a_shortest_step_does_not_pass_on_what_it_did_not_find(name):
    found = db.solve(
        broken_after(1.1), torch.ones(1, 2), T, method=name, options={"min_step": 0.05}, on_failure="return"
    )
    assert found.status is db.Status.NOT_FINITE
    with pytest.raises(db.NotFiniteStateError, match="the shortest there is"):
        db.odeint(broken_after(1.1), torch.ones(1, 2), T, method=name, options={"min_step": 0.05})


@pytest.mark.parametrize("name", ["implicit_euler", "radauIIA5", "sdirk2", "gl6", "implicit_adams"])
def test_an_equation_without_a_solution(name):
    y0, t = torch.zeros(1, dtype=torch.float64), torch.tensor([0.0, 0.5, 1.0, 1.9, 2.8])
    found = db.solve(no_root, y0, t, method=name, on_failure="return")
    assert found.status is db.Status.NOT_CONVERGED
    assert not found.success
    assert found.statistics.not_converged == 1
    assert f"a stage of {name} did not converge" in found.message
    reached = int(torch.isfinite(found.y[:, 0]).sum())
    assert 1 <= reached < 5
    assert (found.y[:reached, 0] - torch.tan(t[:reached].double())).abs().max() < 0.6
    with pytest.raises(db.NotConvergedError, match=r"in the step from t = .* of size .*of the increment is left"):
        db.solve(no_root, y0, t, method=name)


def test_odeint_warns_once_and_goes_on():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        y = db.odeint(lambda t, y: -(y**3), torch.full((2,), 3.0), T, method="gl4", options={"max_iters": 1})
    assert torch.isfinite(y).all()
    (one,) = caught
    assert str(one.message).startswith(
        "Functional iteration did not converge. Solution may be incorrect. A stage of gl4"
    )


def test_too_few_iterations_are_no_success():
    found = db.solve(
        lambda t, y: -(y**3), torch.full((2,), 3.0), T, method="trbdf2", options={"max_iters": 1}, on_failure="return"
    )
    assert found.status is db.Status.NOT_CONVERGED
    assert torch.isnan(found.y[1:]).all()


def test_attempts_of_adaptive_methods_are_counted():
    options = {"max_iters": 2, "first_step": 1.0}
    found = db.solve(
        lambda t, y: -50 * y**3, torch.ones(1), T, method="kvaerno3", rtol=1e-3, atol=1e-3, options=options
    )
    assert found.success
    assert 0 < found.statistics.not_converged <= found.statistics.rejected


def test_the_adjoint_pass_fails_as_the_forward_one():
    """The field is linear; only its derivative with respect to a parameter is lost."""
    rate = torch.tensor(0.0, requires_grad=True)
    y = db.odeint_adjoint(
        lambda t, y: -y * (1 + torch.sqrt(rate * 0)), torch.ones(1), T, method="gl4", adjoint_params=(rate,)
    )
    with pytest.raises(db.NotFiniteStateError):
        y[-1].sum().backward()


class Half(Integrator):
    """A step of the implicit midpoint rule, in two calls of our own solver."""

    name, order, reads = "half", 2, ((0.25, "field"), (0.75, "field"))

    def __init__(self, wrapped):
        self.inner, self.wrapped = as_integrator("implicit_midpoint"), wrapped

    def advance(self, stage, h, carry):
        inside = FieldStage(lambda c, y: stage(c, y)) if self.wrapped else stage
        first = self.inner.advance(Squeezed(inside, 0.0) if not self.wrapped else inside, h / 2, carry)
        return self.inner.advance(inside, h / 2, first)


class Squeezed:
    """The first half of a step."""

    def __init__(self, stage, start):
        self.stage, self.start, self.unsolved = stage, start, stage.unsolved

    def __call__(self, c, y):
        return self.stage(self.start + c / 2, y)


@pytest.mark.parametrize("wrapped", [True, False])
def test_integrators_of_ones_own_that_solve_with_ours(wrapped):
    found = db.solve(broken_after(1.1), torch.ones(1, 2), T, method=Half(wrapped), on_failure="return")
    assert found.status is db.Status.NOT_FINITE
    assert torch.isfinite(found.y[:5]).all()
    block = db.DynamicBlock("symmetric(3)", 2, integrator=Half(wrapped)).eval()
    for weight in block.parameters():
        weight.data.fill_(math.nan)
    with pytest.raises(SolverError, match="not finite"):
        block(torch.randn(1, 3, 5, 5))


@pytest.mark.parametrize("method", ["euler", "midpoint", "ralston2", "explicit_adams", "alf"])
def test_a_field_that_is_not_finite_at_the_last_time_is_no_success(method):
    def func(t, y):
        return torch.cos(t) * y + torch.where(t > 1.9, math.inf, 0.0)

    t = torch.linspace(0, 2, 5, dtype=torch.float64)
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    found = db.solve(func, y0, t, method=method, on_failure="return")
    assert found.status.name == "NOT_FINITE"
    assert "the last time" in found.message
    with pytest.raises(db.SolverError, match="at t = 2, the last time"):
        db.solve(func, y0, t, method=method)


def test_a_field_that_ends_at_the_last_time_is_not_read_beyond_it():
    forces = torch.tensor([1.0, 3.0])
    found = db.solve(lambda t, y: forces[int(t)] + 0 * y, torch.zeros(1), torch.tensor([0.0, 1.0, 2.0]), method="euler")
    assert found.success
    assert found.y.flatten().tolist() == [0.0, 1.0, 4.0]
