"""Names below torchdiffeq's _impl, by value."""

import importlib
import math

import pytest
import torch
from torch import nn

from dynamicblocks.torchdiffeq._impl import adjoint, event_handling, interp, misc, rk_common

torchdiffeq = pytest.importorskip("torchdiffeq")


def theirs(module):
    return importlib.import_module(f"torchdiffeq._impl.{module}")


def agree(ours, other, **close):
    if isinstance(other, tuple | list):
        assert len(ours) == len(other)
        for a, b in zip(ours, other, strict=True):
            agree(a, b, **close)
    else:
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(other), check_dtype=False, **close)


MODULES = {
    "odeint": ("SOLVERS", "odeint", "odeint_event", "odeint_dense"),
    "adjoint": ("SOLVERS", "find_parameters", "odeint", "odeint_adjoint"),
    "misc": (
        "Perturb", "_rms_norm", "_linf_norm", "_mixed_norm", "_zero_norm", "_flat_to_shape", "_check_inputs",
        "_select_initial_step", "_compute_error_ratio", "_optimal_step_size", "_handle_unused_kwargs", "_decreasing",
        "_null_callback", "_all_callback_names", "_all_adjoint_callback_names", "_PerturbFunc", "_ReverseFunc",
        "_TupleFunc", "_TupleInputOnlyFunc",
    ),
    "solvers": ("AdaptiveStepsizeODESolver", "AdaptiveStepsizeEventODESolver", "FixedGridODESolver"),
    "fixed_grid": ("Euler", "Midpoint", "Heun2", "Heun3", "RK4"),
    "fixed_adams": ("AdamsBashforth", "AdamsBashforthMoulton"),
    "rk_common": ("RKAdaptiveStepsizeODESolver", "rk4_alt_step_func"),
    "interp": ("_interp_fit", "_interp_evaluate"),
    "event_handling": ("find_event", "combine_event_functions"),
    "dopri5": ("Dopri5Solver",),
    "dopri8": ("Dopri8Solver",),
    "bosh3": ("Bosh3Solver",),
    "fehlberg2": ("Fehlberg2",),
    "adaptive_heun": ("AdaptiveHeunSolver",),
    "scipy_wrapper": ("ScipyWrapperODESolver",),
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_each_name_is_where_torchdiffeq_has_it(module):
    ours = importlib.import_module(f"dynamicblocks.torchdiffeq._impl.{module}")
    for name in MODULES[module]:
        assert hasattr(ours, name)
        assert hasattr(theirs(module), name)


def test_every_method_of_torchdiffeq_is_listed_under_a_class_of_that_name():
    ours = importlib.import_module("dynamicblocks.torchdiffeq._impl.odeint").SOLVERS
    found = {name: ours[name].__name__ for name in theirs("odeint").SOLVERS}
    assert found == {name: solver.__name__ for name, solver in theirs("odeint").SOLVERS.items()}
    for name, solver in theirs("odeint").SOLVERS.items():
        if name != "scipy_solver":
            assert ours[name].valid_callbacks() == solver.valid_callbacks()


def test_norms():
    y = torch.tensor([[3.0, -4.0], [0.5, 1.0]])
    z = torch.tensor([1 + 2j, -3j])
    for name in ("_rms_norm", "_linf_norm", "_zero_norm"):
        agree(getattr(misc, name)(y), getattr(theirs("misc"), name)(y))
        agree(getattr(misc, name)(z), getattr(theirs("misc"), name)(z))
    for parts in ((), (y,), (y, 10 * y[0], z)):
        agree(misc._mixed_norm(parts), theirs("misc")._mixed_norm(parts))


def test_flat_tensors_and_their_parts():
    shapes = [torch.Size([2, 3]), torch.Size([]), torch.Size([4])]
    flat = torch.arange(22.0).reshape(2, 11)
    agree(misc._flat_to_shape(flat, (2,), shapes), theirs("misc")._flat_to_shape(flat, (2,), shapes))
    agree(misc._flat_to_shape(flat[0], (), shapes), theirs("misc")._flat_to_shape(flat[0], (), shapes))


def test_sizes_of_steps():
    t0, y0 = torch.tensor(0.2, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
    for order, norm in ((4, misc._rms_norm), (2, misc._linf_norm)):
        for func in (lambda t, y: torch.cos(3 * t) * y, lambda t, y: 0 * y, lambda t, y: 1e6 * y):
            arguments = (func, t0, y0, order, 1e-4, 1e-6, norm)
            agree(misc._select_initial_step(*arguments), theirs("misc")._select_initial_step(*arguments))
    error = torch.tensor([1e-5, 2e-5, -3e-4], dtype=torch.float64)
    arguments = (error, 1e-4, 1e-6, y0, 2 * y0, misc._rms_norm)
    agree(misc._compute_error_ratio(*arguments), theirs("misc")._compute_error_ratio(*arguments))
    bounds = [torch.tensor(each, dtype=torch.float64) for each in (0.9, 10.0, 0.2)]
    for ratio in (0.0, 1e-9, 0.3, 1.0 - 1e-9, 1.7, 1e6):
        arguments = (t0, torch.tensor(ratio, dtype=torch.float64), *bounds, 5)
        agree(misc._optimal_step_size(*arguments), theirs("misc")._optimal_step_size(*arguments))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_sides_of_a_time(kind):
    y, t = torch.zeros(1, dtype=kind), torch.tensor(1.25, dtype=torch.float64, requires_grad=True)
    for side in misc.Perturb:
        other = theirs("misc").Perturb[side.name]
        ours = misc._PerturbFunc(lambda t, y: t)(t, y, perturb=side)
        assert ours == theirs("misc")._PerturbFunc(lambda t, y: t)(t, y, perturb=other)
        (slope,) = torch.autograd.grad(ours, t)
        assert slope == 1
    with pytest.raises(AssertionError, match="enum Perturb"):
        misc._PerturbFunc(lambda t, y: t)(t, y, perturb="next")


@pytest.mark.parametrize("times", [(0.0, 0.5, 1.0), (1.0, 0.25)])
@pytest.mark.parametrize("is_tuple", [False, True])
def test_checked_inputs_make_the_solver_classes_go(times, is_tuple):
    class Field(nn.Module):
        def forward(self, t, y):
            return (y[1] * t, -y[0]) if is_tuple else torch.sin(t) * y

        def callback_step(self, t, y, dt):
            seen.append((float(t), tuple(each.shape for each in y) if is_tuple else y.shape, float(dt) > 0))

    y0 = (torch.ones(2), torch.zeros(2)) if is_tuple else torch.tensor([[1.0, 2.0]])
    t, found, calls = torch.tensor(times), [], []
    for package in ("dynamicblocks.torchdiffeq", "torchdiffeq"):
        seen = []
        solvers = importlib.import_module(f"{package}._impl.odeint").SOLVERS
        check = importlib.import_module(f"{package}._impl.misc")._check_inputs
        options = {"step_size": 0.1}
        shapes, func, y, s, rtol, atol, method, options, _, back = check(
            Field(), y0, t, 1e-4, 1e-5, "rk4", options, None, solvers
        )
        assert back == (times[0] > times[1])
        norm = options["norm"](y)
        states = solvers[method](func=func, y0=y, rtol=rtol, atol=atol, **options).integrate(s)
        found.append((func(s[1], y), norm, states))
        calls.append(seen)
        assert shapes == ([each.shape for each in y0] if is_tuple else None)
    agree(*found, rtol=1e-5, atol=1e-6)
    assert [call[1:] for call in calls[0]] == [call[1:] for call in calls[1]]
    assert [call[0] for call in calls[0]] == pytest.approx([call[0] for call in calls[1]], abs=1e-6)


@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, -1.0)])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_checked_events_end_a_solver(times, method):
    t, found = torch.tensor(times, dtype=torch.float64), []
    for package in ("dynamicblocks.torchdiffeq", "torchdiffeq"):
        solvers = importlib.import_module(f"{package}._impl.odeint").SOLVERS
        check = importlib.import_module(f"{package}._impl.misc")._check_inputs
        _, func, y, s, rtol, atol, name, options, event, _ = check(
            lambda t, y: torch.ones_like(y), torch.zeros(2, dtype=torch.float64), t, 1e-6, 1e-8, method,
            {"step_size": 0.1} if method == "rk4" else None, lambda t, y: y[0].abs() - 0.45, solvers,
        )  # fmt: skip
        solver = solvers[name](func=func, y0=y, rtol=rtol, atol=atol, **options)
        found.append(solver.integrate_until_event(s[0], event))
    agree(*found, rtol=0, atol=3e-8)
    assert float(found[0][0]) == pytest.approx(0.45, abs=3e-8)


def test_mistakes_are_refused_as_torchdiffeq_does():
    solvers = importlib.import_module("dynamicblocks.torchdiffeq._impl.odeint").SOLVERS
    t, y = torch.tensor([0.0, 1.0]), torch.ones(1)
    with pytest.raises(ValueError, match="unknown method"):
        misc._check_inputs(lambda t, y: y, y, t, 1e-3, 1e-3, "dopri6", None, None, solvers)
    with pytest.raises(ValueError, match=r"len\(t\) == 2"):
        misc._check_inputs(lambda t, y: y, y, torch.arange(3.0), 1e-3, 1e-3, None, None, lambda t, y: y, solvers)
    with pytest.raises(AssertionError, match="strictly increasing or decreasing"):
        misc._check_inputs(lambda t, y: y, y, torch.ones(2), 1e-3, 1e-3, None, None, None, solvers)
    with pytest.raises(AssertionError, match=r"nn\.Module"):
        adjoint.find_parameters(lambda t, y: y)


def test_parameters_are_found():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    assert adjoint.find_parameters(module) == theirs("adjoint").find_parameters(module)


def test_interpolation():
    y0, y1, mid, f0, f1 = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    t0, t1 = torch.tensor([0.2, 0.9], dtype=torch.float64)
    arguments = (y0, y1, mid, f0, f1, t1 - t0)
    ours, other = interp._interp_fit(*arguments), theirs("interp")._interp_fit(*arguments)
    agree(ours, other)
    for t in (t0, t0 + 0.3, t1):
        agree(interp._interp_evaluate(ours, t0, t1, t), theirs("interp")._interp_evaluate(other, t0, t1, t))
    with pytest.raises(AssertionError, match="invalid interpolation"):
        interp._interp_evaluate(ours, t0, t1, t1 + 1)


def test_events_between_two_times():
    t0, t1 = torch.tensor([0.0, 2.0], dtype=torch.float64)
    arguments = (torch.sin, torch.tensor(-1.0), t0, t1, lambda t, y: y - 0.5, 1e-8)
    agree(event_handling.find_event(*arguments), theirs("event_handling").find_event(*arguments))
    assert float(event_handling.find_event(*arguments)[0]) == pytest.approx(math.pi / 6, abs=1e-8)
    events, y = (lambda t, y: torch.stack([y - 1, 2 - y, t + 1])), torch.tensor(0.3)
    ours, other = (each.combine_event_functions(events, t0, y) for each in (event_handling, theirs("event_handling")))
    for at in (0.3, 1.1, 2.5):
        agree(ours(t0, torch.tensor(at)), other(t0, torch.tensor(at)))


def test_a_step_of_the_three_eighths_rule():
    t0, dt, y0 = torch.tensor(0.3), torch.tensor(0.2), torch.tensor([0.7, -0.1])

    def func(t, y, perturb=None):
        return torch.cos(5 * t) * y

    for f0 in (None, func(t0, y0)):
        arguments = (func, t0, dt, t0 + dt, y0, f0)
        agree(rk_common.rk4_alt_step_func(*arguments), theirs("rk_common").rk4_alt_step_func(*arguments))
