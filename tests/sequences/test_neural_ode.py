"""Neural ODEs on trajectories beside exact solutions, solves one by one, and finite differences."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.sequences import Equation, MLPField, NeuralODE, Solver, Sum, filled, first_states, shoot
from dynamicblocks.sequences.equation import check_field, constants_of

EXACT = Solver(rtol=1e-9, atol=1e-10)


class Fall(nn.Module):
    """Height and velocity of what falls."""

    def __init__(self, gravity=9.0):
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(gravity, dtype=torch.float64))

    def forward(self, t, y):
        return torch.stack((y[..., 1], -self.gravity.expand(y.shape[:-1])), dim=-1)


def height(t, y):
    return y[..., 0]


def clock(t, y):
    return torch.cos(t) * torch.ones_like(y)


@pytest.mark.parametrize("times", ["union", "own"])
def test_times_of_their_own_are_those_of_solves_one_by_one(times):
    torch.manual_seed(0)
    model = NeuralODE(MLPField(2, hidden=8, time=True).double(), EXACT, times=times)
    y0, t = torch.randn(3, 2, dtype=torch.float64), 0.5 + torch.rand(3, 4, dtype=torch.float64).cumsum(1)
    t[1, 3] = t[1, 2]  # a shorter series
    found = model(y0, t)
    for row, length in ((0, 4), (1, 3), (2, 4)):
        alone = db.odeint(model.field, y0[row : row + 1], t[row, :length], rtol=1e-10, atol=1e-11)[:, 0]
        torch.testing.assert_close(found[row, :length], alone, rtol=0, atol=1e-7)
    torch.testing.assert_close(found[1, 3], found[1, 2], rtol=0, atol=1e-7)


def test_a_field_of_time_sees_the_time_of_each():
    class Clock(nn.Module):
        def forward(self, t, y):
            return clock(t, y)

    t = torch.tensor([[0.0, 1.0], [2.0, 4.0]], dtype=torch.float64)
    found = NeuralODE(Clock(), EXACT)(torch.zeros(2, 1, dtype=torch.float64), t)[:, 1, 0]
    torch.testing.assert_close(found, t[:, 1].sin() - t[:, 0].sin(), rtol=0, atol=1e-8)


def test_second_order_and_augmented_states():
    class Spring(nn.Module):
        def forward(self, t, y):
            return -y[..., :2]  # one position and one zero beside it

    y0 = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    t = torch.linspace(0, 2, 5, dtype=torch.float64)
    found = NeuralODE(Spring(), EXACT, augment=1, order=2)(y0, t)
    assert found.shape == (2, 5, 2)
    torch.testing.assert_close(found[0], torch.stack((t.cos(), -t.sin()), 1), rtol=0, atol=1e-7)
    torch.testing.assert_close(found[1], torch.stack((2 * t.sin(), 2 * t.cos()), 1), rtol=0, atol=1e-7)


def test_event_times_and_their_gradients_are_exact():
    field = Fall()
    model = NeuralODE(field, EXACT, event_fn=height)
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]], dtype=torch.float64, requires_grad=True)
    times, states = model.events(y0, torch.tensor([0.0, 5.0], dtype=torch.float64))
    exact = (2 * y0[:, 0] / 9).sqrt()
    torch.testing.assert_close(times, exact.detach(), rtol=0, atol=1e-7, check_dtype=False)
    torch.testing.assert_close(states[:, 1], -(18 * y0[:, 0]).sqrt(), rtol=0, atol=1e-6)
    drops = (2 * y0[:, 0].detach()).sqrt().sum().item()
    gravity, heights = torch.autograd.grad(times.sum(), (field.gravity, y0), retain_graph=True)
    assert gravity.item() == pytest.approx(-drops / 2 * 9**-1.5, rel=1e-6)
    torch.testing.assert_close(heights[:, 0], 1 / (18 * y0[:, 0]).sqrt().detach(), rtol=1e-6, atol=0)
    (speed,) = torch.autograd.grad(states[:, 1].sum(), field.gravity)
    assert speed.item() == pytest.approx(-drops / 2 / 3, rel=1e-6)
    behind = model(y0, torch.tensor([0.0, 0.1, 5.0], dtype=torch.float64))
    assert torch.isfinite(behind[:, :2]).all()
    assert behind[:, 2].isnan().all()


def test_gravity_is_learnt_from_event_times():
    field = Fall(5.0)
    model = NeuralODE(field, Solver(rtol=1e-6, atol=1e-8), event_fn=height)
    y0 = torch.tensor([[1.0, 0.0], [3.0, 0.5]], dtype=torch.float64)
    seen = (y0[:, 1] + (y0[:, 1] ** 2 + 2 * 9.81 * y0[:, 0]).sqrt()) / 9.81
    optimizer = torch.optim.LBFGS(field.parameters(), max_iter=15, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        found = (model.events(y0, torch.tensor([0.0, 5.0], dtype=torch.float64))[0] - seen).square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    assert field.gravity.item() == pytest.approx(9.81, rel=1e-4)


def test_windows_join_into_the_whole_and_gaps_are_what_is_between_them():
    model = NeuralODE(Equation("oscillator", damping=0.0).double(), EXACT)
    t = torch.linspace(0, 3, 10, dtype=torch.float64).expand(2, -1)
    y0 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    whole, none = shoot(model, y0[:, None], t, 0)
    assert none.shape == (2, 0, 2)
    starts = whole[:, [0, 4, 8]].detach()
    parts, gaps = shoot(model, starts, t, 5)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-7)
    torch.testing.assert_close(gaps, torch.zeros_like(gaps), rtol=0, atol=1e-7)
    moved = starts.clone()
    moved[0, 1, 0] += 0.5
    _, gaps = shoot(model, moved, t, 5)
    assert gaps[0, 0, 0].item() == pytest.approx(-0.5, abs=1e-7)


def test_missing_values_are_filled_and_velocities_are_quotients():
    values = torch.tensor([[[9.0, 1.0], [2.0, 9.0], [3.0, 9.0]]])
    observed = torch.tensor([[[False, True], [True, False], [True, False]]])
    assert filled(values, observed).tolist() == [[[2.0, 1.0], [2.0, 1.0], [3.0, 1.0]]]
    t = torch.tensor([[0.0, 0.5, 1.0]])
    all_seen = torch.ones_like(observed)
    assert first_states(values, all_seen, t, order=2).tolist() == [[[9.0, 1.0, -14.0, 16.0]]]


def test_constants_are_arguments_with_first_guesses():
    def growth(t, y, rate=0.5, *, capacity=2.0):
        return rate * y * (1 - y / capacity)

    field = Sum(Equation(growth, rate=0.25), MLPField(1))
    assert field.fields[0].values() == {"rate": 0.25, "capacity": 2.0}
    assert {name: float(value) for name, value in constants_of(field.fields[0]).items()} == field.fields[0].values()
    field(torch.tensor(0.0), torch.ones(3, 1)).sum().backward()
    assert field.fields[0].constants["rate"].grad.item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Equation("lotka_voltera"), "did you mean 'lotka_volterra'"),
        (lambda: Equation("pendulum", mass=1.0), "unknown constant of pendulum 'mass'"),
        (lambda: Equation(lambda y: y), "must begin with t and y"),
        (lambda: Equation(lambda t, y, a: a * y), "'a' of <lambda> has no first guess"),
        (lambda: Equation("pendulum", gravity=math.nan), "a finite number"),
        (lambda: Sum(), "one or more modules"),
        (lambda: NeuralODE(MLPField(2), times="mine"), "unknown kind of times"),
        (lambda: NeuralODE(MLPField(2)).events(torch.zeros(1, 2), torch.ones(2)), "no event_fn"),
        (lambda: NeuralODE(MLPField(2))(torch.zeros(2), torch.arange(3.0)), "y0 must be a tensor"),
        (lambda: NeuralODE(MLPField(2))(torch.zeros(3, 2), torch.zeros(2, 4)), "t must be a tensor"),
        (lambda: NeuralODE(MLPField(2), augment=1)(torch.zeros(3, 2), torch.arange(3.0)), "made for a state of 2"),
        (lambda: check_field(Equation("pendulum"), 3, 3, "the equation"), "state of 3 features"),
        (lambda: shoot(NeuralODE(MLPField(2)), torch.zeros(1, 1, 2), torch.arange(9.0)[None], 1), "window must be"),
    ],
)
def test_what_cannot_be_is_said(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_times_that_turn_back_are_refused():
    with pytest.raises(ArgumentError, match="must increase, or decrease"):
        NeuralODE(MLPField(1))(torch.zeros(1, 1), torch.tensor([[0.0, 2.0, 1.0]]))
