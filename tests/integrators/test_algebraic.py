"""Explicit Runge-Kutta methods made algebraically reversible, on steps that are given."""

import math
from itertools import pairwise

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.integrators import PAIRS, RungeKutta, Tableau, reversible
from dynamicblocks.structure import discretisation, with_discretisation
from tests.integrators.test_reversible_integrators import back, exact, field, forth, grid

double = torch.float64
DOPRI5 = RungeKutta(next(pair.tableau for pair in PAIRS if pair.name == "dopri5"))
METHODS = ["euler", "midpoint", "heun2", "ralston2", "heun3", "rk4", "rk4_classic", DOPRI5]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: getattr(method, "name", method))


def logistic(t, y):
    return 2 * math.cos(t) * y * (1 - y)


# Of one solution alone the error may change its sign with the size of the steps.
STARTS = torch.linspace(0.1, 0.9, 8, dtype=double)


def grown(t):
    return 1 / (1 + (1 / STARTS - 1) * math.exp(-2 * math.sin(t)))


@every_method
@pytest.mark.parametrize("bend", [0.0, 0.5], ids=["uniform", "graded"])
def test_the_order_is_that_of_the_method(method, bend):
    integrator, wanted = reversible(method), grown(2.0)
    errors = []
    for n in (16, 32, 64):
        carry = forth(integrator, logistic, integrator.start(logistic, 0.0, 0.1, STARTS), grid(n, bend=bend))
        errors.append((integrator.finish(carry) - wanted).abs().max().item())
    measured = [math.log2(a / b) for a, b in pairwise(errors)][-1]
    assert measured == pytest.approx(integrator.order, abs=0.3)


@every_method
@pytest.mark.parametrize("coupling", [1.0, 0.999, 0.95])
def test_steps_are_taken_back(method, coupling):
    integrator, times = reversible(method, coupling), grid(40, bend=0.5)
    there = forth(integrator, field, integrator.start(field, 0.0, 0.1, exact(0)), times)
    begin = back(integrator, field, there, times)
    for state in (begin.y, begin.z):
        assert torch.allclose(state, exact(0), rtol=0, atol=1e-13 * coupling**-40)


@every_method
def test_steps_are_taken_back_where_the_field_jumps_between_them(method):
    """Each step has weights of its own, as with piecewise constant controls."""
    integrator = reversible(method)
    weights, y = torch.randn(20, 3, 3, dtype=double) / 2, torch.randn(3, dtype=double)
    stages = [lambda c, y, w=w: torch.tanh(w @ y) * (1 + c) for w in weights]
    carry = integrator.begin(stages[0], 0.1, y)
    for stage in stages:
        carry = integrator.advance(stage, 0.1, carry)
    for stage in reversed(stages):
        carry = integrator.unstep(stage, 0.1, carry)
    assert torch.allclose(integrator.finish(carry), y, rtol=0, atol=1e-12)


def test_a_step_by_hand():
    """Euler, y' = t + y from y(1) = 2 with h = 1/2: y1 = 2 + 3/2, z1 = 2 + (1.5 + 3.5) / 2; then from both."""
    euler, f = reversible("euler", 0.5), lambda t, y: t + y
    carry = euler.step(f, 1.0, 0.5, euler.start(f, 1.0, 0.5, torch.tensor([2.0], dtype=double)))
    assert (carry.y.item(), carry.z.item()) == (3.5, 4.5)
    # y2 = 3.5 / 2 + 4.5 / 2 + (1.5 + 4.5) / 2 = 7, z2 = 4.5 + (2 + 7) / 2 = 9.
    carry = euler.step(f, 1.5, 0.5, carry)
    assert (carry.y.item(), carry.z.item()) == (7.0, 9.0)


@every_method
def test_evaluations_are_those_that_are_declared(method):
    integrator, seen = reversible(method), []

    def stage(c, y):
        seen.append(c)
        return -y

    carry = integrator.begin(stage, 0.1, torch.ones(1))
    for turn in (integrator.advance, integrator.unstep):
        seen.clear()
        carry = turn(stage, 0.1, carry)
        assert len(seen) == integrator.evaluations
        assert set(seen) == set(integrator.fractions)
    if isinstance(method, str):
        assert integrator.evaluations == 2 * db.as_integrator(method).evaluations


@every_method
def test_gradients(method):
    integrator = reversible(method, 0.9)
    y = torch.tensor([0.7, -0.4], dtype=double, requires_grad=True)
    theta, h = (torch.tensor(value, dtype=double, requires_grad=True) for value in (1.3, 0.3))

    def there_and_back(y, theta, h):
        stage = lambda c, y: torch.sin(theta * y) * (1 + c) - y.flip(0)  # noqa: E731
        carry = integrator.begin(stage, h, y)
        for size in (h, h * h):
            carry = integrator.advance(stage, size, carry)
        before = integrator.unstep(stage, h, carry)
        return carry.y, carry.z, before.y, before.z

    assert torch.autograd.gradcheck(there_and_back, (y, theta, h))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_types_and_shapes(dtype):
    integrator, y = reversible("rk4"), torch.randn(2, 1, 3, dtype=dtype)
    f = lambda t, y: -y * y.abs()  # noqa: E731
    carry = integrator.start(f, 0.0, 0.05, y)
    for _ in range(10):
        carry = integrator.step(f, 0.0, 0.05, carry)
    assert integrator.finish(carry).dtype == dtype
    for _ in range(10):
        carry = integrator.unstep(lambda c, y: f(0.0, y), 0.05, carry)
    assert torch.allclose(integrator.finish(carry), y, rtol=0, atol=1e-5)


def test_a_projection_leaves_one_state():
    integrator = reversible("midpoint")
    carry = integrator.step(field, 0.0, 0.1, integrator.start(field, 0.0, 0.1, exact(0)))
    changed = integrator.amend(carry, torch.relu)
    assert torch.equal(changed.y, carry.y.relu())
    assert torch.equal(changed.z, changed.y)


def test_the_coupling_bounds_the_difference_of_both_states_where_the_solution_decays():
    """For y' = -y it does for steps up to about 1 - coupling; without it the difference grows as the solution falls."""
    sizes = {}
    for coupling in (1.0, 0.9):
        integrator, f = reversible("heun2", coupling), lambda t, y: -y
        carry = integrator.start(f, 0.0, 0.05, torch.ones(1, dtype=double))
        for _ in range(600):
            carry = integrator.step(f, 0.0, 0.05, carry)
        sizes[coupling] = carry.y.abs().item()
    assert sizes[1.0] > 1e6
    assert sizes[0.9] < 1e-9


@pytest.mark.parametrize(
    ("text", "shorthand"),
    [
        ("reversible('rk4')", "reversible('rk4', coupling=0.999)"),
        ("reversible(method='ralston', coupling=1)", "reversible('ralston2', coupling=1)"),
        (
            "reversible('dopri5(rtol=1e-6, atol=1e-8, max_step=0.5)', coupling=0.99)",
            "reversible('dopri5(rtol=1e-06, atol=1e-08, max_step=0.5)', coupling=0.99)",
        ),
    ],
)
def test_shorthands_lead_back(text, shorthand):
    made = db.as_integrator(text)
    assert made.shorthand == shorthand
    assert db.as_integrator(shorthand) == made
    block = db.DynamicBlock("symmetric(4)", 2, integrator=text)
    assert with_discretisation(block, discretisation(block)).integrator == made
    assert db.refine(db.with_integrator(block, "rk4")).integrator != made
    assert db.refine(block).integrator == made


def test_a_method_without_a_name_cannot_be_stored():
    mine = RungeKutta(Tableau("of_mine", 1, ((),), (1,)))
    block = db.DynamicBlock("symmetric(4)", 2, integrator=reversible(mine))
    with pytest.raises(db.ConfigurationError, match="'of_mine' has no name"):
        discretisation(block)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reversible('gl4')", "gl4 is implicit"),
        ("reversible('kvaerno3')", r"kvaerno3 is implicit"),
        ("reversible('kvaerno5')", "kvaerno5 is no explicit Runge-Kutta method"),
        ("reversible('scipy_solver')", "scipy_solver is no explicit Runge-Kutta method"),
        ("reversible('explicit_adams')", "explicit_adams is a multistep method"),
        ("reversible('alf')", r"euler, midpoint, .*dopri8, or one of your own\), and alf is reversible already"),
        ("reversible(\"reversible('rk4')\")", "is reversible already"),
        ("reversible(\"reversible('dopri5')\")", "is reversible already"),
        ("reversible('rk44')", "did you mean 'rk4'"),
        ("reversible('rk4', coupling=0)", "coupling must be a number above 0 and at most 1.*got 0"),
        ("reversible('dopri5', coupling=1.5)", "coupling must be a number above 0 and at most 1.*got 1.5"),
        ("reversible('rk4', coupling='much')", "coupling of .* expects a number, got 'much'"),
        ("reversible('rk4', coupling=True)", "coupling of .* expects a number, got True"),
        ("reversible", r"gradient='reversible'.*\"reversible\('rk4'\)\""),
        ("reversible()", r"gradient='reversible'.*\"reversible\('rk4'\)\""),
    ],
)
def test_what_cannot_be_is_refused_everywhere(text, message):
    makers = [
        lambda: db.DynamicBlock("symmetric(4)", 2, integrator=text),
        lambda: db.odeint(None, torch.ones(1), torch.tensor([0.0, 1.0]), method=text),
        lambda: db.solve(None, torch.ones(1), torch.tensor([0.0, 1.0]), method=text),
    ]
    for make in makers:
        with pytest.raises(db.ConfigurationError, match=message):
            make()


def test_the_gradient_mode_is_no_integrator():
    text = "reversible('rk4')"
    for make in (
        lambda: db.DynamicBlock("symmetric(4)", 2, gradient=text),
        lambda: db.odeint(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), gradient=text),
        lambda: db.solve(lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), gradient=text),
    ):
        with pytest.raises(db.ConfigurationError, match=r"integrator=\"reversible\('rk4'\)\""):
            make()


def test_an_integrator_that_wraps_another_is_not_among_the_names():
    assert "reversible" not in db.list_integrators()
    assert {"rk4", "alf"} <= set(db.list_integrators())
