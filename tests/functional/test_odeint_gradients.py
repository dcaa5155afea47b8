"""Gradients of solves: exact ones of the steps, and those of the adjoint equation."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import dynamicblocks as db
from dynamicblocks.integrators import METHODS, AdaptiveMethod


class Field(nn.Module):
    """A small nonlinear field that depends on time."""

    def __init__(self, size=2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size))
        self.bias = nn.Parameter(torch.randn(size))
        self.frozen = nn.Parameter(torch.randn(size), requires_grad=False)

    def forward(self, t, y):
        return torch.tanh(y @ self.weight + self.bias * t) * 0.7 + self.frozen * torch.sin(t)


class Pair(Field):
    """Over a tuple."""

    def forward(self, t, state):
        y, z = state
        slope = super().forward(t, y)
        return slope * z.mean(), slope.sum(-1) - z


T = [0.1, 0.7, 0.8, 1.5]
# The solution with fixed steps: a smooth function of all of its arguments.
METHOD_OPTIONS = [
    ("dopri5", {"first_step": 0.2, "min_step": 0.2, "max_step": 0.2}),
    ("dopri8", {"first_step": 0.3, "min_step": 0.3, "max_step": 0.3}),
    ("bosh3", {"first_step": 0.2, "min_step": 0.2, "max_step": 0.2}),
    ("euler", {}),
    ("rk4", {"step_size": 0.17}),
    ("heun3", {"step_size": 0.17, "interp": "cubic"}),
]


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("method", "options"), METHOD_OPTIONS)
def test_gradients_of_the_steps_against_finite_differences(method, options, back, float64):
    field = Field()
    t = torch.tensor(T[::-1] if back else T, requires_grad=True)
    y0 = torch.randn(3, 2, requires_grad=True)

    def solve(y0, t, weight, bias):
        return torch.func.functional_call(
            Solve(field, method, options), {"field.weight": weight, "field.bias": bias}, (y0, t)
        )

    assert gradcheck(solve, (y0, t, field.weight, field.bias))
    assert gradgradcheck(solve, (y0, t.detach(), field.weight, field.bias))


class Solve(nn.Module):
    def __init__(self, field, method, options):
        super().__init__()
        self.field, self.method, self.options = field, method, options

    def forward(self, y0, t):
        return db.odeint(self.field, y0, t, method=self.method, options=self.options)


def gradients(interface, field, y0, t, **keywords):
    y0 = tuple(y.clone().requires_grad_() for y in y0) if isinstance(y0, tuple) else y0.clone().requires_grad_()
    t = t.clone().requires_grad_()
    states = interface(field, y0, t, **keywords)
    parts = states if isinstance(states, tuple) else (states,)
    loss = sum((part * torch.linspace(1, 2, part.numel()).view_as(part)).sum() for part in parts)
    inputs = [*(y0 if isinstance(y0, tuple) else (y0,)), t, *(p for p in field.parameters() if p.requires_grad)]
    return torch.autograd.grad(loss, inputs)


def largest_entry(parts):
    return max(part.abs().max() for part in parts)


@pytest.mark.parametrize("interpolant", [False, True])
@pytest.mark.parametrize(
    ("state", "norm", "back"), [("tensor", None, False), ("tuple", "seminorm", True), ("tuple", largest_entry, False)]
)
@pytest.mark.parametrize(
    "method",
    [name for name, method in METHODS.items() if isinstance(method, AdaptiveMethod) and method.make().order > 2],
)
def test_adjoint_gradients_are_those_of_the_steps(method, state, norm, back, interpolant, float64):
    field = Field() if state == "tensor" else Pair()
    y0 = torch.randn(3, 2) if state == "tensor" else (torch.randn(3, 2), torch.rand(3))
    t = torch.tensor(T[::-1] if back else T)
    tolerance = {3: 1e-6, 4: 1e-7}.get(METHODS[method].make().order, 1e-9)
    keywords = {"rtol": tolerance, "atol": tolerance, "method": method}
    options = {"interpolant": interpolant, **({} if norm is None else {"norm": norm})}
    params = tuple(field.parameters())[:2]
    expected = gradients(db.odeint, field, y0, t, **keywords)
    found = gradients(db.odeint_adjoint, field, y0, t, **keywords, adjoint_options=options, adjoint_params=params)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e4 * tolerance, atol=1e4 * tolerance)


@pytest.mark.parametrize("method", ["rk4", "midpoint"])
def test_adjoint_on_a_grid_tends_to_the_gradients_of_the_steps(method, float64):
    field, y0, t = Field(), torch.randn(3, 2), torch.tensor(T)
    errors = []
    for size in (0.02, 0.01):
        keywords = {"method": method, "options": {"step_size": size}}
        expected = gradients(db.odeint, field, y0, t, **keywords)
        found = gradients(db.odeint_adjoint, field, y0, t, **keywords)
        # Between the points of a grid states lie on straight lines: gradients of the times are of first order only.
        pairs = [pair for n, pair in enumerate(zip(found, expected, strict=True)) if n != 1]
        errors.append(max((a - b).abs().max().item() for a, b in pairs))
    assert errors[0] / errors[1] > 3
    assert errors[1] < 1e-3


def test_gradients_of_times_sum_to_zero_where_time_does_not_matter(float64):
    t = torch.tensor(T, requires_grad=True)
    for interface in (db.odeint, db.odeint_adjoint):
        keywords = {"adjoint_params": ()} if interface is db.odeint_adjoint else {}
        y = interface(lambda t, y: torch.sin(y), torch.tensor([1.0]), t, **keywords)
        (found,) = torch.autograd.grad((y * torch.arange(4.0)[:, None]).sum(), t)
        assert found.sum().item() == pytest.approx(0, abs=1e-6)
        assert found.abs().min() > 1e-3


def test_adjoint_without_parameters_and_with_those_that_are_named(float64):
    rate = torch.tensor([0.5], requires_grad=True)
    t = torch.tensor([0.0, 2.0])
    y = db.odeint_adjoint(lambda t, y: -rate * y, torch.ones(1), t, adjoint_params=(rate,))
    y[-1].backward()
    assert rate.grad.item() == pytest.approx(-2 * math.exp(-1), rel=1e-6)


def test_a_parameter_that_is_no_leaf(float64):
    leaf = torch.tensor([0.25], requires_grad=True)
    rate = 2 * leaf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = db.odeint_adjoint(lambda t, y: -rate * y, torch.ones(1), torch.tensor([0.0, 2.0]), adjoint_params=(rate,))
        y[-1].backward()
    assert leaf.grad.item() == pytest.approx(-4 * math.exp(-1), rel=1e-6)


def test_a_gradient_that_the_adjoint_would_lose_is_named(float64):
    outside = torch.ones(2, requires_grad=True)

    class Closure(Field):
        def forward(self, t, y):
            return super().forward(t, y) * outside

    y = db.odeint_adjoint(Closure(), torch.ones(1, 2, requires_grad=True), torch.tensor([0.0, 1.0]))
    with pytest.warns(UserWarning, match=r"1 tensors .* \(2,\)"):
        y[-1].sum().backward()


def test_parameters_the_field_does_not_use_get_zeros(float64):
    field = Field()
    field.unused = nn.Parameter(torch.ones(3))
    y = db.odeint_adjoint(field, torch.ones(1, 2), torch.tensor([0.0, 1.0]))
    y[-1].sum().backward()
    assert torch.equal(field.unused.grad, torch.zeros(3))
    assert field.frozen.grad is None


def test_a_field_without_any_gradient(float64):
    y0 = torch.ones(2, requires_grad=True)
    y = db.odeint_adjoint(lambda t, y: torch.ones(2), y0, torch.tensor([0.0, 1.0]), adjoint_params=())
    y[-1].sum().backward()
    torch.testing.assert_close(y0.grad, torch.ones(2))


def test_adjoint_callbacks(float64):
    seen = []

    class Watched(Field):
        def callback_step(self, t, y, h):
            seen.append("forward")

        def callback_accept_step_adjoint(self, t, state, h):
            seen.append("back")
            assert len(state) == 5

    y = db.odeint_adjoint(Watched(), torch.ones(1, 2), torch.tensor([0.0, 1.0]))
    forward = len(seen)
    assert set(seen) == {"forward"}
    y[-1].sum().backward()
    assert set(seen[forward:]) == {"back"}


def test_second_derivatives_through_the_adjoint_are_refused(float64):
    y0 = torch.ones(1, 2, requires_grad=True)
    y = db.odeint_adjoint(Field(), y0, torch.tensor([0.0, 1.0]))
    (slope,) = torch.autograd.grad(y[-1].sum(), y0, create_graph=True)
    with pytest.raises(db.ConfigurationError, match="no second derivatives; use odeint"):
        slope.sum().backward()


def test_complex_states(float64):
    rate = torch.tensor(-0.3 + 1.0j, dtype=torch.complex128, requires_grad=True)
    real = torch.tensor(0.4, requires_grad=True)
    y0 = torch.tensor([1.0 + 0.5j], dtype=torch.complex128, requires_grad=True)
    t = torch.tensor([0.2, 0.9], requires_grad=True)

    def loss(interface, **keywords):
        y = interface(lambda t, y: rate * y * t + real, y0, t, rtol=1e-10, atol=1e-10, **keywords)
        return (y[-1] * (0.3 - 0.2j)).real.sum() + y[-1].abs().sum()

    expected = torch.autograd.grad(loss(db.odeint), (rate, real, y0, t))
    found = torch.autograd.grad(loss(db.odeint_adjoint, adjoint_params=(rate, real)), (rate, real, y0, t))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("interface", [db.odeint, db.odeint_adjoint])
def test_autocast_keeps_the_state_wide_and_gradients_close(interface):
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, t, y):
            return self.net(y)

    def run():
        net.zero_grad()
        y = interface(Network(), torch.linspace(-1, 1, 16).view(2, 8), torch.tensor([0.0, 1.0]), rtol=1e-2, atol=1e-2)
        assert y.dtype == torch.float32
        (y[-1] ** 2).sum().backward()
        return [y[-1].detach(), *(p.grad.clone() for p in net.parameters())]

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run()
    for a, b in zip(found, expected, strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).abs().max() <= 2e-2 * b.abs().max()


@pytest.mark.parametrize("weighted", [False, True])
def test_adjoint_parameters_that_are_made_of_each_other_count_once(weighted, float64):
    lin = nn.Linear(2, 2)
    y0, t = torch.randn(3, 2, requires_grad=True), torch.tensor([0.0, 0.4, 1.0])

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = lin

        def forward(self, t, y, total, double):
            return torch.tanh((self.lin(y) if weighted else y) * total) - double.mean() * y

    def found(**keywords):
        total = (lin.weight**2).sum()
        y = db.solve(Scaled(), y0, t, args=(total, 2 * total), rtol=1e-10, atol=1e-10, **keywords).y
        return torch.autograd.grad((y**2).sum(), (y0, lin.weight))

    for a, b in zip(found(gradient="adjoint"), found(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_the_adjoint_sees_a_slope_that_is_a_tensor_it_does_not_know(float64):
    rate, y0, t = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True), torch.tensor([0.0, 1.0])
    y = db.solve(lambda t, y: rate, y0, t, gradient="adjoint").y
    with pytest.raises(db.ConfigurationError, match="the adjoint method would lose it"):
        y[-1].sum().backward()
    y = db.solve(lambda t, y, rate: rate, y0, t, args=(rate,), gradient="adjoint").y
    y[-1].sum().backward()
    torch.testing.assert_close(rate.grad, torch.ones(2))
