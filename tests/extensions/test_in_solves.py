"""Integrators and a gradient mode of a user's own in odeint and solve, as objects and by name."""

from typing import ClassVar

import pytest
import torch
from torch import nn

import dynamicblocks as db
from tests.extensions.cases import INTEGRATORS, WIDTH, Truncated
from tests.extensions.leapfrog import Leapfrog
from tests.extensions.learned_multistep import LearnedMultistep
from tests.extensions.semi_implicit import SemiImplicit
from tests.extensions.verlet import Verlet

every = pytest.mark.parametrize("name", INTEGRATORS)
TIMES = (0.1, 0.3, 0.35, 0.7, 1.0, 1.6)
STEPS = len(TIMES) - 1


class Function(nn.Module):
    """A field of time, state and an argument, with all parts that any of the integrators reads."""

    parts: ClassVar = {"field": "forward", "solve": "solve", "first_half": "f1", "second_half": "f2"}

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2)
        self.turn = nn.Parameter(torch.randn(2, 2) / 2)

    def forward(self, t, y, rate):
        return torch.tanh(y @ self.weight + torch.cos(t)) - rate * y

    def solve(self, y, h, rate):
        return y / (1 + h * (self.weight.diagonal() ** 2 + rate))

    def f1(self, t, p, rate):
        return rate * torch.tanh(p @ self.turn) + torch.sin(t)

    def f2(self, q, rate):
        return -q * rate


@pytest.fixture
def function(float64):
    return Function()


def integrator(name):
    """The instance for so many steps, whose weights, if it has any, are not those it begins with."""
    made = INTEGRATORS[name]()
    return LearnedMultistep(torch.linspace(-0.3, 0.4, STEPS)) if isinstance(made, nn.Module) else made


def gradients_of(function, method, gradient="backprop", *, moving=True, solver=db.solve, **options):
    """Of the initial state, the times, the argument and the weights, for a loss of all states."""
    y0 = torch.linspace(-1, 1, 3 * WIDTH).view(3, WIDTH).requires_grad_()
    t, rate = torch.tensor(TIMES, requires_grad=moving), torch.tensor(0.7, requires_grad=True)
    keywords = {"method": method, "gradient": gradient, **options}
    if solver is db.solve:
        states = db.solve(function, y0, t, args=(rate,), **keywords).y
    else:
        states = db.odeint(WithRate(function, rate), y0, t, **keywords)
    loss = (torch.linspace(1, 2, states.numel()).view_as(states) * states).sum()
    own = list(method.parameters()) if isinstance(method, nn.Module) else []
    return torch.autograd.grad(
        loss, [y0, *([t] if moving else []), rate, *function.parameters(), *own], allow_unused=True
    )


class WithRate(nn.Module):
    """A function with its argument inside, for odeint; the parts are those of the function."""

    parts: ClassVar = Function.parts

    def __init__(self, function, rate):
        super().__init__()
        self.function, self.rate = function, rate

    def forward(self, t, y):
        return self.function(t, y, self.rate)

    def solve(self, y, h):
        return self.function.solve(y, h, self.rate)

    def f1(self, t, p):
        return self.function.f1(t, p, self.rate)

    def f2(self, q):
        return self.function.f2(q, self.rate)


def assert_equal(found, expected):
    assert [each is None for each in found] == [each is None for each in expected]
    for one, two in zip(found, expected, strict=True):
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@every
@pytest.mark.parametrize("moving", [True, False], ids=["times", "fixed"])
def test_checkpoints_give_the_gradients_of_backpropagation(name, moving, function):
    method = integrator(name)
    expected = gradients_of(function, method, moving=moving)
    assert sum(each is not None for each in expected) >= 3 + moving
    for gradient in ("checkpoint", "checkpoint(states=2)"):
        assert_equal(gradients_of(function, method, gradient, moving=moving), expected)


@every
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_odeint_and_solve_take_the_same_steps(name, gradient, function):
    method = integrator(name)
    found = gradients_of(function, method, gradient, moving=False, solver=db.odeint)
    assert_equal(found, gradients_of(function, method, moving=False))


@every
def test_gradients_are_those_of_finite_differences(name, function):
    y0 = torch.randn(2, WIDTH, requires_grad=True)
    t, rate = torch.tensor(TIMES[:4], requires_grad=True), torch.tensor(0.7, requires_grad=True)
    method = integrator(name)
    own = list(method.parameters()) if isinstance(method, nn.Module) else []

    def solved(y0, t, rate, *_):
        return db.solve(function, y0, t, args=(rate,), method=method).y

    assert torch.autograd.gradcheck(solved, (y0, t, rate, *function.parameters(), *own), fast_mode=True)


@every
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.usefixtures("registered")
def test_a_bare_name_takes_the_options_of_a_grid(name, gradient, function):
    """Steps of 0.05 and the states between them, against the grid given as times."""
    y0, rate = torch.randn(3, WIDTH, requires_grad=True), torch.tensor(0.7)
    t = torch.tensor([0.0, 0.1, 0.22, 0.4])
    options = {"step_size": 0.05}
    found = db.solve(function, y0, t, args=(rate,), method=name, options=options, gradient=gradient)
    fine = torch.linspace(0, 0.4, 9)
    # As a block has it: the instance for so many steps.
    method = INTEGRATORS[name]().for_block(8, None)
    states = db.solve(function, y0, fine, args=(rate,), method=method).y
    expected = torch.stack([states[0], states[2], 0.6 * states[4] + 0.4 * states[5], states[8]])
    torch.testing.assert_close(found.y, expected, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(each.sum(), [y0, function.weight], allow_unused=True) for each in (found.y, expected)]
    for one, two in zip(*slopes, strict=True):
        if two is not None:
            torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)
    direct = db.odeint(WithRate(function, rate), y0, t, method=name, options=options, gradient=gradient)
    torch.testing.assert_close(direct, found.y, rtol=1e-14, atol=1e-14)


@every
@pytest.mark.usefixtures("registered")
def test_a_name_with_arguments_is_an_object(name, function):
    rate = torch.tensor(0.7)
    y0, t = torch.randn(3, WIDTH), torch.tensor([0.0, 0.4])
    found = db.solve(function, y0, t, args=(rate,), method=f"{name}()").y
    assert torch.equal(found, db.solve(function, y0, t, args=(rate,), method=INTEGRATORS[name]()).y)
    message = f"method {name} is an object.*so options beside it would have no effect"
    with pytest.raises(db.ConfigurationError, match=message):
        db.solve(function, y0, t, args=(rate,), method=f"{name}()", options={"step_size": 0.1})


@every
def test_a_solve_is_counted(name, function):
    found = db.solve(function, torch.ones(1, WIDTH), torch.tensor(TIMES), args=(0.7,), method=integrator(name))
    # One for the slope from which the leapfrog makes the state before the first.
    assert found.statistics.evaluations == STEPS * INTEGRATORS[name]().evaluations + (name == "own_leapfrog")


class Trap:
    """Parts, none of which may be called."""

    def __init__(self, **parts):
        self.parts = {"field": "__call__", **parts}

    def __call__(self, t, y):
        raise AssertionError("evaluated")

    other = __call__


@pytest.mark.parametrize("solver", [db.odeint, db.solve], ids=lambda solver: solver.__name__)
@pytest.mark.parametrize(
    ("method", "parts", "missing"),
    [
        (Verlet(), {}, "own_verlet reads 'first_half' and 'second_half'"),
        (Verlet(), {"first_half": "other"}, "own_verlet reads 'second_half', and Trap has only 'field', 'first_half'"),
        (SemiImplicit(), {}, "semi_implicit reads 'solve', and Trap has only 'field'"),
        (SemiImplicit(), {"solve": "absent"}, "Trap.parts must name a method.*'solve': 'absent' is none of Trap"),
    ],
)
def test_a_function_without_the_parts_is_refused_before_it_is_evaluated(solver, method, parts, missing):
    for gradient in ("backprop", "checkpoint"):
        with pytest.raises(db.ConfigurationError, match=missing):
            solver(Trap(**parts), torch.ones(2, 2), torch.tensor([0.0, 1.0]), method=method, gradient=gradient)


def test_parts_of_what_is_no_module(float64):
    class Oscillator:
        parts: ClassVar = {"field": "__call__", "first_half": "drift", "second_half": "kick"}

        def __call__(self, t, y):
            raise AssertionError("not read")

        def drift(self, p):
            return p

        def kick(self, t, q):
            return -q * t

    y = db.odeint(Oscillator(), torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 0.1, 0.3]), method=Verlet())
    q, p = 1.0, 0.0
    for begin, h in ((0.0, 0.1), (0.1, 0.2)):
        p -= h / 2 * q * begin
        q += h * p
        p -= h / 2 * q * (begin + h)
    torch.testing.assert_close(y[-1], torch.tensor([[q, p]]), rtol=1e-14, atol=1e-14)


def test_nested_states_have_no_parts():
    with pytest.raises(db.ConfigurationError, match=r"own_verlet reads .*, and a nested state has only 'field'"):
        db.solve(lambda t, y: y, {"q": torch.ones(1), "p": torch.ones(1)}, torch.tensor([0.0, 1.0]), method=Verlet())


@pytest.mark.parametrize("method", [Verlet(), SemiImplicit()], ids=lambda each: each.name)
def test_the_adjoint_equation_is_that_of_the_field_alone(method, function):
    t = torch.tensor(TIMES)
    with pytest.raises(db.ConfigurationError, match=f"that of the field alone, and {method.name} reads other parts"):
        db.solve(function, torch.ones(1, WIDTH), t, args=(0.7,), method=method, gradient="adjoint")


@pytest.mark.parametrize("name", ["own_leapfrog", "own_adams_bashforth", "ssprk43"])
def test_events_dense_output_and_times_that_run_back(name, function, registered):
    def decay(t, y):
        return -y

    y0 = torch.ones(1)
    time, _ = db.odeint_event(
        decay, y0, torch.tensor(0.0), event_fn=lambda t, y: y - 0.5, method=name, options={"step_size": 0.01}
    )
    assert time.item() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    dense = db.solve(decay, y0, torch.tensor([0.0, 1.0]), method=name, options={"step_size": 0.01}, dense=True)
    assert dense.interpolant(0.555).item() == pytest.approx(torch.tensor(-0.555).exp().item(), abs=1e-4)
    back = db.odeint(decay, y0, torch.tensor([0.0, -1.0]), method=name, options={"step_size": 0.01})
    assert back[-1].item() == pytest.approx(torch.tensor(1.0).exp().item(), abs=1e-3)


# Weights of an integrator


def test_weights_of_an_integrator_get_gradients_where_nothing_else_does(float64):
    """With a state and a field that have none."""
    for gradient in ("backprop", "checkpoint"):
        method = LearnedMultistep(torch.full((4,), 0.3))
        states = db.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 5), method=method, gradient=gradient)
        states[-1].sum().backward()
        assert (method.k.grad[1:] != 0).all()


def test_weights_of_an_integrator_may_be_named(function):
    method = integrator("learned_multistep")
    expected = gradients_of(function, method)
    found = gradients_of(function, method, "checkpoint", gradient_options={"params": [method.k]})
    assert_equal(found, expected)


def test_the_adjoint_does_not_lose_weights_of_an_integrator(function):
    """They are no part of the adjoint equation."""
    method = integrator("learned_multistep")
    with pytest.raises(db.ConfigurationError, match="learned_multistep"):
        gradients_of(function, method, "adjoint")


# A gradient mode of one's own


@pytest.mark.parametrize("name", ["own_leapfrog", "own_verlet", "learned_multistep"])
@pytest.mark.parametrize("kept", [1, 3, 5, 9])
def test_truncated_gradients_are_those_of_the_last_steps(name, kept, function):
    """Of the last state: as if the carry before the last steps were a constant; all of them are backpropagation."""
    rate, method = torch.tensor(0.7, requires_grad=True), integrator(name)
    y0, t = torch.randn(3, WIDTH, requires_grad=True), torch.tensor(TIMES)
    found = db.solve(function, y0, t, args=(rate,), method=method, gradient=Truncated(kept)).y
    exact = db.solve(function, y0, t, args=(rate,), method=method).y
    torch.testing.assert_close(found, exact, rtol=0, atol=0)
    inputs = [y0, rate, *function.parameters()]
    gradients = torch.autograd.grad(found[-1].square().sum(), inputs, allow_unused=True)
    if kept >= 5:
        assert_equal(gradients, torch.autograd.grad(exact[-1].square().sum(), inputs, allow_unused=True))
    else:
        assert not gradients[0].any()
        by_hand = truncated_by_hand(function, method, y0, t, rate, inputs, kept)
        assert_equal(gradients[1:], by_hand[1:])


def truncated_by_hand(function, method, y0, t, rate, inputs, kept):
    """The steps one by one, by the public face of an integrator for a field and by its parts."""

    class Stage:
        def __init__(self, begin, h):
            self.begin, self.h = begin, h

        def __call__(self, c, y):
            return function(self.begin + c * self.h, y, rate)

        def part(self, name, c, y):
            return function.f2(y, rate) if name == "second_half" else function.f1(self.begin + c * self.h, y, rate)

    points = t.tolist()
    stages = [Stage(t[n], points[n + 1] - points[n]) for n in range(5)]
    carry = method.begin(stages[0], stages[0].h, y0)
    for n, stage in enumerate(stages):
        with torch.set_grad_enabled(n >= 5 - kept):
            carry = method.advance(stage, stage.h, carry)
        if n < 5 - kept:
            carry = tuple(detached(each) for each in carry) if isinstance(carry, tuple) else carry.detach()
    return torch.autograd.grad(method.finish(carry).square().sum(), inputs, allow_unused=True)


def detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


def test_a_mode_that_runs_the_steps_of_grids_says_where_it_cannot(function):
    with pytest.raises(db.ConfigurationError, match=r"Truncated\(kept=1\) runs the steps of a grid, but dopri5"):
        db.solve(function, torch.ones(1, WIDTH), torch.tensor(TIMES), args=(0.7,), gradient=Truncated())
    with pytest.raises(db.ConfigurationError, match=r"Truncated\(kept=1\) runs the steps of a grid, but dopri5"):
        db.DynamicBlock(lambda: nn.Linear(2, 2), 3, integrator="dopri5", gradient=Truncated())


def test_a_mode_has_a_name_in_solves(function, registered):
    y0, t = torch.randn(3, WIDTH, requires_grad=True), torch.tensor(TIMES)
    by_object = db.solve(function, y0, t, args=(0.7,), method=Leapfrog(), gradient=Truncated(2)).y
    for keywords in (
        {"gradient": "truncated(kept=2)"},
        {"gradient": "truncated", "gradient_options": {"kept": 2}},
    ):
        found = db.solve(function, y0, t, args=(0.7,), method=Leapfrog(), **keywords).y
        (one,) = torch.autograd.grad(found[-1].sum(), [function.weight])
        (two,) = torch.autograd.grad(by_object[-1].sum(), [function.weight], retain_graph=True)
        assert torch.equal(one, two)
