"""Solver classes of a caller's own, entered into SOLVERS, beside the same in torchdiffeq."""

import importlib
import warnings

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.torchdiffeq._impl.odeint import SOLVERS
from dynamicblocks.torchdiffeq._impl.solvers import FixedGridODESolver

OURS, THEIRS = "dynamicblocks.torchdiffeq", "torchdiffeq"


def ralston_of(package):
    """Ralston's method of order two in torchdiffeq's form; it looks at times, sides and an option of its own."""
    base = importlib.import_module(f"{package}._impl.solvers").FixedGridODESolver
    perturb = importlib.import_module(f"{package}._impl.misc").Perturb

    class Ralston(base):
        order = 2

        def __init__(self, func, y0, drift=0.0, **rest):
            super().__init__(func, y0, **rest)
            self.drift = torch.as_tensor(drift, dtype=self.dtype, device=self.device)

        def _step_func(self, func, t0, dt, t1, y0):
            assert dt > 0
            assert torch.isclose(t0 + dt, t1)
            f0 = func(t0, y0, perturb=perturb.NEXT if self.perturb else perturb.NONE)
            f1 = func(t0 + dt * 2 / 3, y0 + dt * 2 / 3 * f0, perturb=perturb.NONE)
            return dt * (f0 / 4 + 3 / 4 * f1) + self.drift * dt * torch.sin(t1), f0

    return Ralston


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, t, y):
        return self.rate * torch.sin(3 * t) * y - y**2 / 5


@pytest.fixture
def both():
    """Solvers named mine in both packages."""
    theirs = pytest.importorskip(THEIRS)
    ours = importlib.import_module(OURS)
    tables = [importlib.import_module(f"{name}._impl.odeint").SOLVERS for name in (OURS, THEIRS)]
    for table, name in zip(tables, (OURS, THEIRS), strict=True):
        table["mine"] = ralston_of(name)
    yield ours, theirs
    for table in tables:
        del table["mine"]


OPTIONS = [
    {},
    {"step_size": 0.07},
    {"step_size": 0.07, "interp": "cubic", "drift": 0.3},
    {"perturb": True, "drift": 0.2},
    {"grid_constructor": lambda func, y0, t: torch.linspace(float(t[0]), float(t[-1]), 23, dtype=t.dtype)},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("times", [(0.0, 0.4, 1.5), (1.2, 0.3, -0.5)])
def test_a_solver_of_ones_own_does_what_it_does_in_torchdiffeq(both, options, times):
    t, found = torch.tensor(times, dtype=torch.float64), []
    for package in both:
        for interface in ("odeint", "odeint_adjoint"):
            field, y0 = Field(), torch.tensor([1.0, 0.4], dtype=torch.float64, requires_grad=True)
            y = getattr(package, interface)(field, y0, t, method="mine", options=options)
            y[1:].sin().sum().backward()
            found.append((y.detach(), y0.grad, field.rate.grad))
    for ours, theirs in ((found[0], found[2]), (found[1], found[3])):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_tuples_gradients_of_times_and_events_go_with_it(both):
    found = []
    for package in both:
        y0 = (torch.tensor([1.0]), torch.tensor([[0.5, 0.2]]))
        t = torch.tensor([0.0, 0.3, 1.0], requires_grad=True)
        y = package.odeint(lambda t, y: (y[1].sum(-1) * t, -y[1]), y0, t, method="mine")
        (y[0].sum() + y[1].square().sum()).backward()
        rate = torch.tensor(0.8, requires_grad=True)
        time, at = package.odeint_event(
            lambda t, y, rate=rate: rate * torch.ones_like(y), torch.zeros(1), torch.tensor(0.0),
            event_fn=lambda t, y: y - 1, method="mine", options={"step_size": 0.1}, atol=1e-7,
        )  # fmt: skip
        time.backward()
        found.append((*y, t.grad, time, at, rate.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture
def mine():
    SOLVERS["mine"] = ralston_of(OURS)
    yield SOLVERS["mine"]
    SOLVERS.pop("mine", None)


def test_an_entry_serves_until_it_is_taken_out(mine):
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    y0 = torch.ones(2, dtype=torch.float64)
    by_name = db.odeint(lambda t, y: -t * y, y0, t, method="mine")
    assert torch.equal(by_name, db.solve(lambda t, y: -t * y, y0, t, method="mine").y)
    assert torch.equal(by_name, mine(func=lambda t, y: -t * y, y0=y0, rtol=0.0, atol=0.0).integrate(t))
    checkpointed = db.solve(lambda t, y: -t * y, y0.clone().requires_grad_(), t, method="mine", gradient="checkpoint")
    assert torch.equal(by_name, checkpointed.y)
    with pytest.raises(db.ConfigurationError, match="steps of a block have none"):
        db.as_integrator("mine")
    del SOLVERS["mine"]
    with pytest.raises(db.ConfigurationError, match="unknown method 'mine'"):
        db.odeint(lambda t, y: -y, y0, t, method="mine")


def test_a_method_of_the_package_can_be_replaced_and_comes_back():
    t, y0 = torch.linspace(0, 1, 3), torch.ones(1)
    usual, before = SOLVERS["euler"], db.odeint(lambda t, y: -y, y0, t, method="euler")
    SOLVERS["euler"] = ralston_of(OURS)
    assert not torch.equal(db.odeint(lambda t, y: -y, y0, t, method="euler"), before)
    assert db.as_integrator("euler").order == 1
    del SOLVERS["euler"]
    assert SOLVERS["euler"] is usual
    assert torch.equal(db.odeint(lambda t, y: -y, y0, t, method="euler"), before)
    with pytest.raises(db.ConfigurationError, match="it stays"):
        del SOLVERS["euler"]
    SOLVERS["alias"] = usual
    assert torch.equal(db.odeint(lambda t, y: -y, y0, t, method="alias"), before)
    del SOLVERS["alias"]


class OwnLoop(FixedGridODESolver):
    order = 1

    def _step_func(self, func, t0, dt, t1, y0):
        return dt * func(t0, y0), None

    def integrate(self, t):
        return t


class OneTensor(FixedGridODESolver):
    order = 1

    def _step_func(self, func, t0, dt, t1, y0):
        return dt * func(t0, y0)


@pytest.mark.parametrize("entry", [OwnLoop, FixedGridODESolver, db.RungeKutta, "euler", lambda **_: None])
def test_what_no_steps_can_be_made_of_is_refused(entry):
    with pytest.raises(db.ConfigurationError, match="subclasses of FixedGridODESolver"):
        SOLVERS["mine"] = entry
    assert "mine" not in SOLVERS


def test_mistakes_of_a_solver_are_named(mine):
    y0, t = torch.ones(1), torch.linspace(0, 1, 3)
    with pytest.raises(TypeError, match="name"):
        SOLVERS["mine(2)"] = mine
    with pytest.warns(UserWarning, match="Ralston: unexpected options stepsize"):
        db.odeint(lambda t, y: -y, y0, t, method="mine", options={"stepsize": 0.1})
    SOLVERS["mine"] = OneTensor
    with pytest.raises(db.ConfigurationError, match="_step_func of OneTensor must return two tensors"):
        db.odeint(lambda t, y: -y, y0, t, method="mine")


def test_every_listed_class_solves_as_its_name_does():
    t, y0 = torch.linspace(0, 0.3, 5, dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    for name, solver in SOLVERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = solver(func=lambda t, y: -y + t, y0=y0, rtol=1e-6, atol=1e-8).integrate(t)
        torch.testing.assert_close(found, db.odeint(lambda t, y: -y + t, y0, t, rtol=1e-6, atol=1e-8, method=name))


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun2", "heun3", "rk4"])
@pytest.mark.parametrize("perturb", [False, True])
def test_single_steps_are_those_of_torchdiffeq(name, perturb):
    theirs = pytest.importorskip("torchdiffeq._impl.odeint").SOLVERS[name]
    t0, dt, y0 = torch.tensor(0.3), torch.tensor(0.2), torch.tensor([0.7, -0.1])
    found = []
    for solver in (SOLVERS[name], theirs):
        seen = {}

        def func(t, y, perturb=None, seen=seen):
            seen[round(float(t), 6)] = getattr(perturb, "name", "NONE")
            return torch.cos(5 * t) * y

        made = solver(func=func, y0=y0, rtol=0.0, atol=0.0, perturb=perturb)
        found.append((*made._step_func(func, t0, dt, t0 + dt, y0), seen))
    (ours, f0, seen), (other, other_f0, other_seen) = found
    torch.testing.assert_close(ours, other)
    torch.testing.assert_close(f0, other_f0)
    assert seen == other_seen


def test_a_listed_class_takes_the_options_of_its_method():
    t, y0 = torch.linspace(0, 1, 9, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for name, options in (
        ("explicit_adams", {"max_order": 5}),
        ("dopri5", {"max_step": 0.01}),
        ("rk4", {"step_size": 0.3}),
    ):
        found = SOLVERS[name](func=lambda t, y: -y, y0=y0, rtol=1e-3, atol=1e-3, **options).integrate(t)
        usual = db.odeint(lambda t, y: -y, y0, t, rtol=1e-3, atol=1e-3, method=name, options=options)
        assert torch.equal(found, usual)
    with pytest.warns(UserWarning, match="Dopri5Solver: unexpected options maxstep"):
        SOLVERS["dopri5"](func=lambda t, y: -y, y0=y0, maxstep=1.0)


def test_a_subclass_of_a_listed_solver_may_change_its_steps():
    class Clamped(SOLVERS["rk4"]):
        def _step_func(self, func, t0, dt, t1, y0):
            dy, f0 = super()._step_func(func, t0, dt, t1, y0)
            return (y0 + dy).clamp_max(1.5) - y0, f0

    SOLVERS["clamped"] = Clamped
    y = db.odeint(lambda t, y: y, torch.ones(1, dtype=torch.float64), torch.linspace(0, 1, 11), method="clamped")
    del SOLVERS["clamped"]
    assert y[3].item() == pytest.approx(torch.tensor(0.3).exp().item(), rel=1e-5)
    assert y[-1].item() == 1.5
