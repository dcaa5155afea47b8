"""Solves end: too many steps are refused before they are made, and SciPy's are counted."""

import math
import tracemalloc

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks import times
from tests.optional import optional

integrate = optional("scipy.integrate")


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, t, y):
        return -self.rate * y


def solves(options):
    """Each face that takes steps of one size, as a function without arguments."""
    y0, t, field = torch.ones(2), torch.tensor([0.0, 0.5, 3.0]), Decay()
    asked = {"method": "rk4", "options": options}

    def to_event(face):
        return db.odeint_event(
            field, y0, torch.tensor(5.0), event_fn=lambda t, y: y[0] - 0.5, odeint_interface=face, **asked
        )

    return {
        "odeint": lambda: db.odeint(field, y0, t, **asked),
        "backwards": lambda: db.odeint(field, y0, t.flip(0), **asked),
        "checkpoint": lambda: db.odeint(field, y0, t, gradient="checkpoint", **asked),
        "adjoint": lambda: db.odeint_adjoint(field, y0, t, **asked),
        "adjoint-options": lambda: db.odeint_adjoint(field, y0, t, adjoint_method="rk4", adjoint_options=options),
        "solve": lambda: db.solve(field, y0, t, **asked),
        "solve-adjoint": lambda: db.solve(field, y0, t, gradient="adjoint", **asked),
        "event": lambda: to_event(db.odeint),
        "event-adjoint": lambda: to_event(db.odeint_adjoint),
    }


@pytest.mark.parametrize("face", solves({}))
@pytest.mark.parametrize("size", [3e-11, 1e-300, 5e-324])
def test_a_tiny_step_size_is_refused_before_anything_is_allocated(face, size):
    solves({"step_size": 0.5})[face]()  # names of the package are imported when they are asked for
    tracemalloc.start()
    try:
        with pytest.raises(db.ConfigurationError, match=r"step_size = .* (at most 1,000,000|does not change the time)"):
            solves({"step_size": size})[face]()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_the_error_tells_the_steps_the_bound_and_what_to_do(float64):
    with pytest.raises(
        db.ConfigurationError, match=r"3e\+08 steps in a time of 3, and at most 1,000,000 .* longer step_size"
    ):
        db.odeint(Decay(), torch.ones(2), torch.tensor([1.0, 4.0]), method="midpoint", options={"step_size": 1e-8})


def test_the_bound_of_a_grid_can_be_chosen(float64):
    y0, t = torch.ones(1), torch.linspace(0, 1, 30)
    few = {"step_size": 0.1, "max_num_steps": 10}
    assert db.odeint(Decay(), y0, t, method="rk4", options=few).shape == (30, 1)
    assert db.solve(Decay(), y0, t, method="rk4", options={"step_size": 0.1}, max_steps=10).success
    for wrong in ({"step_size": 0.09}, {"grid_constructor": lambda f, y, t: torch.linspace(0, 1, 12)}):
        with pytest.raises(db.ConfigurationError, match="at most 10 are allowed"):
            db.odeint(Decay(), y0, t, method="rk4", options={**wrong, "max_num_steps": 10})
        with pytest.raises(db.ConfigurationError, match="at most 10 are allowed"):
            db.solve(Decay(), y0, t, method="rk4", options=wrong, max_steps=10)
    # Times that the caller wrote are no steps that an option makes.
    assert db.odeint(Decay(), y0, t, method="rk4", options={"max_num_steps": 10}).shape == (30, 1)


@pytest.mark.parametrize(("kind", "size"), [(torch.float32, 1e-4), (torch.float64, 1e-13)])
def test_a_step_below_the_precision_of_the_times_is_refused(kind, size):
    t = torch.tensor([2000.0, 2000.0 + 100 * size, 2000.0 + 2000 * size], dtype=kind).unique()
    with pytest.raises(db.ConfigurationError, match=r"does not change the time: near t = 200.* apart"):
        db.odeint(Decay(), torch.ones(1, dtype=kind), t, method="euler", options={"step_size": size})


@pytest.mark.parametrize("most", [0, -3, 2.5, math.inf, math.nan])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver"])
def test_a_limit_of_steps_is_a_whole_number(method, most):
    options = {"max_num_steps": most, **({"step_size": 0.1} if method == "rk4" else {})}
    with pytest.raises(db.ConfigurationError, match="max_num_steps must be a whole number"):
        db.odeint(Decay(), torch.ones(1), torch.tensor([0.0, 1.0]), method=method, options=options)


@pytest.mark.parametrize("make", [
    lambda: times.uniform(0, 1, steps=10**11),
    lambda: times.graded(0, 1, steps=10**11, ratio=2),
    lambda: times.as_grid(10**11),
    lambda: times.as_grid("uniform(0, 1, steps=2000000)"),
    lambda: times.Grid((0, 1, 2)).refine(10**10),
    lambda: db.DynamicBlock("preact_double(4)", "constant(2)", 10**11),
])  # fmt: skip
def test_grids_of_blocks_are_bounded(make):
    with pytest.raises(db.ConfigurationError, match="at most 1,000,000, got"):
        make()


def test_a_long_graded_grid_is_made_in_a_time_that_grows_with_it():
    grid = times.graded(0, 2, steps=20_000, ratio=5.0)
    sizes = torch.tensor(grid.sizes, dtype=torch.float64)
    torch.testing.assert_close(sizes[1:] / sizes[:-1], torch.full((19_999,), 5 ** (1 / 19_999), dtype=torch.float64))
    assert grid.span == (0, 2)


SOLVERS = ["BDF", "DOP853", "LSODA", "RK23", "RK45", "Radau"]


def by_scipy(field, y0, t, **options):
    pytest.importorskip("scipy", reason="the method is SciPy's")
    return db.odeint(field, y0, t, method="scipy_solver", options=options, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_scipy_gives_what_solve_ivp_gives(solver, float64):
    t = torch.linspace(3, 0, 40)
    found = by_scipy(lambda t, y: torch.cos(t) * y, torch.tensor([1.0, 2.0]), t, solver=solver)
    same = integrate.solve_ivp(
        lambda t, y: math.cos(t) * y, (3, 0), [1.0, 2.0], t_eval=t.numpy(), method=solver, rtol=1e-6, atol=1e-8
    )
    torch.testing.assert_close(found, torch.as_tensor(same.y.T), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_scipy_ends_at_the_limit_of_evaluations(solver, float64):
    calls, t = 0, torch.tensor([0.0, 1e-6, 50.0])

    def fast(t, y):
        nonlocal calls
        calls += 1
        return 1e3 * torch.cos(1e3 * t) - y

    with pytest.raises(db.SolveError, match="max_num_steps exceeded: SciPy evaluated the field 60 times") as caught:
        by_scipy(fast, torch.zeros(2), t, solver=solver, max_num_steps=60)
    met = caught.value.circumstances
    assert type(caught.value).__name__ == "StepLimitError"
    assert calls <= 121
    assert met.tally.evaluations == calls
    assert 0 < met.t < 50
    assert met.times == t[:2].tolist()
    torch.testing.assert_close(met.states[1], torch.full((2,), 1e-3), rtol=1e-2, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_scipy_explains_values_that_are_not_finite(solver, float64):
    def lost(t, y):
        return torch.where(t > 0.3, math.nan, 1.0) * y

    with pytest.raises(db.SolveError, match=f"SciPy's {solver} stopped") as caught:
        by_scipy(lost, torch.ones(2), torch.linspace(0, 1, 11), solver=solver, max_num_steps=5000)
    assert len(caught.value.circumstances.states) in (3, 4)
    with pytest.raises(db.SolveError, match="non-finite values in the state at t = 0"):
        by_scipy(lost, torch.tensor([1.0, math.inf]), torch.linspace(0, 1, 3), solver=solver)


@pytest.mark.parametrize(("message", "y0", "options"), [
    ("did you mean 'RK45'", torch.ones(1), {"solver": "RK54"}),
    ("SciPy's LSODA cannot solve this problem: `y0` is complex", torch.ones(1) + 0j, {}),
    ("SciPy's RK45 cannot solve this problem: .*max_step", torch.ones(1), {"solver": "RK45", "max_step": -1.0}),
])  # fmt: skip
def test_what_scipy_cannot_use_is_told(message, y0, options):
    with pytest.raises(db.ConfigurationError, match=message):
        by_scipy(lambda t, y: -y, y0, torch.tensor([0.0, 1.0]), **options)


def test_an_error_of_the_function_is_its_own():
    def wrong(t, y):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        by_scipy(wrong, torch.ones(1), torch.tensor([0.0, 1.0]))
