"""odeint: states, layouts, precisions, options, callbacks."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import dynamicblocks as db
from dynamicblocks.integrators import METHODS, AdaptiveMethod, GridMethod
from tests.optional import optional
from tests.problems import PROBLEMS

(solve_ivp,) = optional("scipy.integrate", "solve_ivp")

ADAPTIVE = [name for name, method in METHODS.items() if isinstance(method, AdaptiveMethod)]
ON_GRID = [name for name, method in METHODS.items() if isinstance(method, GridMethod)]
EXPLICIT_PAIRS = ["dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun"]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("ends", [(0.0, 3.0), (3.0, 0.0)], ids=["forward", "back"])
def test_adaptive_methods_reach_the_exact_solution(problem, method, ends, float64):
    chosen = PROBLEMS[problem]
    t = torch.linspace(*ends, 13)
    exact = chosen.exact(t)
    tolerance = 1e-5 if METHODS[method].make().order < 4 else 1e-8
    found = db.odeint(chosen.field, exact[0], t, rtol=tolerance, atol=tolerance, method=method)
    assert found.shape == exact.shape
    assert torch.equal(found[0], exact[0])
    # Back in time two of the problems amplify errors, by exp(3) and by 100; the two states of fehlberg2 differ by
    # 1/512 of a slope, so its estimate is small by design.
    growth = {"rational": 100, "forced": 20}.get(problem, 1) if ends[0] else 1
    assert (found - exact).abs().max() < 100 * tolerance * growth * (10 if method == "fehlberg2" else 1)


# Errors of the first step, of Euler's method, stay, and the midpoint rule's grow where solutions decay.
LARGER = {"adams_bashforth": 15, "two_step_midpoint": 60}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", ON_GRID)
@pytest.mark.parametrize("ends", [(0.0, 3.0), (3.0, 0.0)], ids=["forward", "back"])
def test_methods_on_a_grid_reach_the_exact_solution(problem, method, ends, float64):
    chosen = PROBLEMS[problem]
    t = torch.linspace(*ends, 7)
    exact = chosen.exact(t)
    options = {"step_size": 0.01}
    found = db.odeint(chosen.field, exact[0], t, method=method, options=options)
    order = 1 if "euler" in method else 2
    assert (found - exact).abs().max() < LARGER.get(method, 5) * 0.01**order


@pytest.mark.parametrize("method", [*ADAPTIVE, "scipy_solver"])
def test_adaptive_methods_agree_with_scipy(method, float64):
    """Lotka and Volterra, which has no exact solution."""

    def field(t, y):
        return torch.stack([y[0] * (1.5 - y[1]), y[1] * (y[0] - 3.0)])

    t = torch.linspace(0, 4, 9)
    reference = solve_ivp(
        lambda t, y: [y[0] * (1.5 - y[1]), y[1] * (y[0] - 3.0)],
        (0, 4),
        [10.0, 5.0],
        t_eval=t.numpy(),
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    found = db.odeint(field, torch.tensor([10.0, 5.0]), t, rtol=1e-7, atol=1e-7, method=method)
    np.testing.assert_allclose(found.numpy(), reference.y.T, rtol=2e-4, atol=1e-5)


# Where steps of the first size, halved three times, are in the asymptotic range: problem, first size, last time.
ASYMPTOTIC = {
    "dopri8": ("complex", 1.0, 4.5),
    "dopri5": ("forced", 1 / 2, 4.5),
    "tsit5": ("complex", 1 / 64, 10.5),
    "bosh3": ("forced", 1 / 8, 4.5),
    "fehlberg2": ("forced", 1 / 16, 4.5),
    "adaptive_heun": ("forced", 1 / 32, 4.5),
}


@pytest.mark.parametrize("method", EXPLICIT_PAIRS)
def test_order_of_the_state_that_is_kept(method, float64):
    """At steps of one length, the error falls with the declared order over three halvings."""
    problem, first, end = ASYMPTOTIC[method]
    chosen, order = PROBLEMS[problem], METHODS[method].make().order
    t = torch.tensor([0.5, end])
    errors = []
    for halvings in range(4):
        size = first / 2**halvings
        fixed = {"first_step": size, "min_step": size, "max_step": size}
        found = db.odeint(chosen.field, chosen.y0(t[0]), t, method=method, options=fixed)
        errors.append((found[-1] - chosen.exact(t[1])).abs().max().item())
    assert errors[-1] > 1e-12, "below rounding nothing is measured"
    slope = math.log2(errors[0] / errors[-1]) / 3
    assert slope == pytest.approx(order, abs=0.6 if order == 8 else 0.1), errors


@pytest.mark.parametrize("method", EXPLICIT_PAIRS)
def test_interpolated_states_are_as_exact_as_steps(method, float64):
    """Local error of the states on a step: of the order of the method but one, or better."""
    chosen = PROBLEMS["turn"]
    order = METHODS[method].make().order
    errors = []
    for size in (0.2, 0.1):
        fixed = {"first_step": size, "min_step": size, "max_step": size}
        t = 1 + size * torch.linspace(0, 1, 8)
        found = db.odeint(chosen.field, chosen.y0(t[0]), t, method=method, options=fixed)
        errors.append((found - chosen.exact(t)).abs().max().item())
    assert math.log2(errors[0] / errors[1]) > min(order, 5) - 0.3


@pytest.mark.parametrize("method", EXPLICIT_PAIRS)
@pytest.mark.parametrize("back", [False, True])
def test_error_is_proportional_to_the_tolerance(method, back, float64):
    chosen = PROBLEMS["turn"]
    t = torch.tensor([6.0, 0.0]) if back else torch.tensor([0.0, 6.0])
    low = {"dopri8": 10, "dopri5": 9, "tsit5": 9, "fehlberg2": 8}.get(method, 7)
    tolerances = [10.0**-power for power in range(low - 4, low + 1)]
    errors = [
        (db.odeint(chosen.field, chosen.y0(t[0]), t, rtol=tol, atol=tol, method=method)[-1] - chosen.exact(t[1]))
        .abs()
        .max()
        .item()
        for tol in tolerances
    ]
    slope = math.log10(errors[0] / errors[-1]) / 4
    assert 0.7 < slope < 1.3, errors
    assert all(
        error < (1000 if method == "fehlberg2" else 100) * tol for error, tol in zip(errors, tolerances, strict=True)
    ), errors


@pytest.mark.parametrize("method", [*EXPLICIT_PAIRS, "euler", "rk4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_states_keep_their_type_and_the_field_sees_times_of_its_precision(method, dtype):
    real = torch.empty(0, dtype=dtype).real.dtype
    seen = set()

    def field(t, y):
        seen.add((t.dtype, t.shape, y.dtype))
        return -y

    t = torch.linspace(0, 1, 3, dtype=torch.float64)
    found = db.odeint(field, torch.ones(2, dtype=dtype), t, rtol=1e-4, atol=1e-4, method=method)
    assert found.dtype == dtype
    assert seen == {(real, torch.Size([]), dtype)}


@pytest.mark.parametrize("shape", [(), (1,), (3, 0), (2, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_states_of_any_shape(shape, method, float64):
    t = torch.tensor([0.0, 0.5, 1.0])
    y0 = torch.rand(shape)
    found = db.odeint(lambda t, y: -y, y0, t, method=method, options={} if method == "dopri5" else {"step_size": 0.05})
    assert found.shape == (3, *shape)
    torch.testing.assert_close(found[-1], y0 * math.exp(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "euler", "scipy_solver"])
def test_one_time_is_the_initial_state(method):
    y0 = torch.rand(3)
    assert torch.equal(db.odeint(lambda t, y: y, y0, torch.tensor([2.0]), method=method), y0[None])


@pytest.mark.parametrize("method", ["dopri5", "rk4", "scipy_solver"])
def test_tuples_are_solved_together(method, float64):
    def field(t, state):
        y, z = state
        return -y, y.sum() * torch.ones_like(z)

    y0 = (torch.ones(2, 3), torch.zeros(4))
    t = torch.linspace(0, 1, 5)
    options = {"step_size": 0.02} if method == "rk4" else None
    y, z = db.odeint(field, y0, t, rtol=1e-8, atol=1e-8, method=method, options=options)
    assert y.shape == (5, 2, 3)
    assert z.shape == (5, 4)
    torch.testing.assert_close(z[-1], torch.full((4,), 6 * (1 - math.exp(-1))), rtol=1e-6, atol=1e-6)


def test_each_tensor_of_a_tuple_may_have_its_tolerance(float64):
    t = torch.tensor([0.0, 5.0])
    calls = []

    def field(t, state):
        calls.append(1)
        return state[0] * torch.cos(t), -state[1]

    y0 = (torch.ones(1), torch.ones(2))
    db.odeint(field, y0, t, rtol=(1e-3, 1e-3), atol=(1e-3, 1e-3))
    loose = len(calls)
    calls.clear()
    db.odeint(field, y0, t, rtol=(1e-3, 1e-10), atol=(1e-3, torch.tensor([1e-10, 1e-10])))
    assert len(calls) > 3 * loose


def test_tolerance_of_each_entry(float64):
    t = torch.tensor([0.0, 5.0])
    atol = torch.tensor([1e-2, 1e-10])
    found = db.odeint(lambda t, y: torch.cos(t) * y, torch.ones(2), t, rtol=0.0, atol=atol)
    assert (found[-1] - math.exp(math.sin(5))).abs().max() < 1e-8


def test_first_step_and_bounds_are_kept(float64):
    sizes = []

    class Decay(torch.nn.Module):
        def forward(self, t, y):
            return -y

        def callback_accept_step(self, t, y, h):
            sizes.append(h.item())

    options = {"first_step": 0.01, "max_step": 0.25, "ifactor": 2.0}
    db.odeint(Decay(), torch.ones(1), torch.tensor([0.0, 3.0]), rtol=1e-3, atol=1e-3, options=options)
    assert sizes[0] == pytest.approx(0.01)
    assert max(sizes) == pytest.approx(0.25)
    assert all(b / a < 2.0001 for a, b in pairwise(sizes))


def test_steps_meet_given_times(float64):
    ends = []

    class Decay(torch.nn.Module):
        def forward(self, t, y):
            return -y

        def callback_accept_step(self, t, y, h):
            ends.append((t + h).item())

    kinks = torch.tensor([0.3, 1.7, -4.0])
    db.odeint(Decay(), torch.ones(1), torch.tensor([0.0, 3.0]), options={"step_t": kinks})
    assert {0.3, 1.7} <= set(ends)


@pytest.mark.parametrize("back", [False, True])
def test_a_jump_that_is_known_costs_no_steps_and_no_accuracy(back, float64):
    """f = 1 before t = 1, 3 from there on; seen from inside each step."""
    calls = []

    def field(t, y):
        calls.append(t.item())
        return torch.where(t < 1, 1.0, 3.0) * torch.ones_like(y)

    t = torch.tensor([2.5, -0.5] if back else [-0.5, 2.5])
    unknown = db.odeint(field, torch.zeros(1), t, rtol=1e-9, atol=1e-9)
    without = len(calls)
    calls.clear()
    known = db.odeint(field, torch.zeros(1), t, rtol=1e-9, atol=1e-9, options={"jump_t": torch.tensor([1.0])})
    exact = -(4.5 + 1.5) if back else 4.5 + 1.5
    assert known[-1].item() == pytest.approx(exact, abs=1e-12)
    assert unknown[-1].item() == pytest.approx(exact, abs=1e-5)
    assert len(calls) < without / 2


def test_callbacks_see_every_step(float64):
    events = []

    class Stiffening(torch.nn.Module):
        def forward(self, t, y):
            return -(1 + 200 * t) * y[0], torch.zeros_like(y[1])

        def callback_step(self, t, y, h):
            events.append("step")
            assert isinstance(y, tuple)
            assert y[0].shape == (2,)
            assert h > 0
            assert t.ndim == 0

        def callback_accept_step(self, t, y, h):
            events.append("accept")

        def callback_reject_step(self, t, y, h):
            events.append("reject")

    db.odeint(Stiffening(), (torch.ones(2), torch.zeros(1)), torch.tensor([2.0, 1.0]).flip(0), rtol=1e-3, atol=1e-3)
    assert events.count("step") == events.count("accept") + events.count("reject")
    assert events.count("accept") > 0
    assert events.count("reject") > 0


def test_callback_on_a_grid():
    seen = []

    class Decay(torch.nn.Module):
        def forward(self, t, y):
            return -y

        def callback_step(self, t, y, h):
            seen.append((t.item(), h.item()))

    db.odeint(Decay(), torch.ones(1), torch.tensor([1.0, 0.0]), method="euler", options={"step_size": 0.5})
    assert seen == [(1.0, 0.5), (0.5, 0.5)]


def test_norm_of_the_callers_own(float64):
    """Errors in the second entry do not count."""
    calls = []

    def field(t, y):
        calls.append(1)
        return torch.stack([-y[0], torch.cos(40 * t) * 40])

    t = torch.tensor([0.0, 3.0])
    db.odeint(field, torch.tensor([1.0, 0.0]), t)
    both = len(calls)
    calls.clear()
    db.odeint(field, torch.tensor([1.0, 0.0]), t, options={"norm": lambda y: y[0].abs()})
    assert len(calls) < both / 3


def test_norm_of_a_tuple_is_given_a_tuple(float64):
    seen = []

    def norm(state):
        seen.append(tuple(each.shape for each in state))
        return state[0].abs().max()

    y0 = (torch.ones(2), torch.ones(3, 1))
    db.odeint(lambda t, y: y, y0, torch.tensor([0.0, 1.0]), options={"norm": norm})
    assert set(seen) == {((2,), (3, 1))}


@pytest.mark.parametrize("control", [{"pcoeff": 0.4, "icoeff": 0.3}, {"pcoeff": 0.3, "icoeff": 0.3, "dcoeff": 0.05}])
def test_pi_and_pid_control_reject_fewer_steps(control, float64):
    """Van der Pol's oscillator, where a purely integral control is often turned down."""

    def run(options):
        class VanDerPol(torch.nn.Module):
            rejected = 0

            def forward(self, t, y):
                return torch.stack([y[1], 10 * (1 - y[0] ** 2) * y[1] - y[0]])

            def callback_reject_step(self, t, y, h):
                self.rejected += 1

        field = VanDerPol()
        found = db.odeint(
            field, torch.tensor([2.0, 0.0]), torch.tensor([0.0, 40.0]), rtol=1e-6, atol=1e-6, options=options
        )
        return field.rejected, found[-1]

    plain, reference = run({})
    rejected, found = run(control)
    assert rejected < plain
    torch.testing.assert_close(found, reference, rtol=1e-3, atol=1e-3)


def test_grid_of_ones_own_and_its_interpolation(float64):
    t = torch.tensor([0.0, 0.25, 1.0])
    grid = torch.tensor([0.0, 0.5, 1.0])
    arguments = []

    def constructor(func, y0, times):
        arguments.append((func, y0, times))
        return grid

    def field(t, y):
        return 2 * t * torch.ones_like(y)

    y0 = torch.zeros(1)
    options = {"grid_constructor": constructor}
    line = db.odeint(field, y0, t, method="midpoint", options=options)
    assert line.flatten().tolist() == pytest.approx([0, 0.125, 1])
    curve = db.odeint(field, y0, t, method="midpoint", options={**options, "interp": "cubic"})
    assert curve.flatten().tolist() == pytest.approx([0, 0.0625, 1])
    assert arguments[0][0] is field
    assert torch.equal(arguments[0][1], y0)  # a copy: the constructor may change it
    assert torch.equal(arguments[0][2], t)


@pytest.mark.parametrize(("ends", "steps"), [((0.0, 1.0), 10), ((1.0, 0.0), 10), ((0.0, 1.05), 11)])
def test_steps_of_one_size_and_a_shorter_last_one(ends, steps):
    calls = []

    def field(t, y):
        calls.append(t.item())
        return torch.ones_like(y)

    found = db.odeint(field, torch.zeros(1), torch.tensor(ends), method="euler", options={"step_size": 0.1})
    assert len(calls) == steps
    assert found[-1].item() == pytest.approx(ends[1] - ends[0], abs=1e-6)


def test_perturbed_times_lie_inside_the_step():
    seen = []

    def field(t, y):
        seen.append(t.item())
        return -y

    t = torch.tensor([0.0, 1.0, 2.0])
    db.odeint(field, torch.ones(1), t, method="heun2", options={"perturb": True})
    assert 0 < seen[0] < 1e-6
    assert 1 - 1e-6 < seen[1] < 1 < seen[2] < 1 + 1e-6


def test_a_known_jump_on_a_grid_is_exact_with_perturbed_times(float64):
    def field(t, y):
        return torch.where(t < 1, 1.0, 3.0) * torch.ones_like(y)

    t = torch.tensor([0.0, 1.0, 2.0])
    exact = db.odeint(field, torch.zeros(1), t, method="heun2", options={"perturb": True})
    assert exact[-1].item() == pytest.approx(4, abs=1e-12)
    assert db.odeint(field, torch.zeros(1), t, method="heun2")[-1].item() != pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("back", [False, True])
def test_dense_solutions(back, float64):
    chosen = PROBLEMS["turn"]
    ends = (3.0, 0.0) if back else (0.0, 3.0)
    y = db.odeint_dense(
        chosen.field, chosen.exact(torch.tensor(ends[0])), *map(torch.tensor, ends), rtol=1e-9, atol=1e-9
    )
    t = torch.rand(4, 5) * 3
    torch.testing.assert_close(y(t), chosen.exact(t), rtol=1e-7, atol=1e-7)
    assert y(torch.tensor(1.0)).shape == (2,)
    assert torch.equal(y(ends[0]), chosen.exact(torch.tensor(ends[0])))
    slope = torch.autograd.functional.jacobian(y, torch.tensor(1.3))
    torch.testing.assert_close(slope, chosen.field(torch.tensor(1.3), y(1.3)), rtol=1e-5, atol=1e-5)


def test_nothing_is_left_of_a_solve_in_the_initial_state():
    y0 = torch.ones(3)
    for method in ("dopri5", "rk4"):
        found = db.odeint(lambda t, y: y, y0, torch.linspace(0, 1, 4), method=method)
        found.mul_(0)
        assert torch.equal(y0, torch.ones(3))


def test_vmap_and_grad_of_fixed_grids(float64):
    t = torch.linspace(0, 1, 5)

    def last(rate, y):
        return db.odeint(lambda t, y: -rate * y, y, t, method="rk4")[-1]

    rates, states = torch.rand(6), torch.rand(6, 3)
    alone = torch.stack([last(rate, y) for rate, y in zip(rates, states, strict=True)])
    torch.testing.assert_close(torch.func.vmap(last)(rates, states), alone)
    slope = torch.func.grad(lambda rate: last(rate, states[0]).sum())(rates[0])
    assert slope.item() == pytest.approx(-(states[0] * torch.exp(-rates[0])).sum().item(), rel=1e-3)
