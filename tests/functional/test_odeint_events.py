"""Solves that end at events, and the gradients of their times."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db


def falling(t, state):
    _height, speed = state
    return speed, torch.full_like(speed, -9.81)


def ground(t, state):
    return state[0]


@pytest.mark.parametrize(
    ("method", "options"), [("dopri5", None), ("bosh3", None), ("rk4", {"step_size": 0.01, "interp": "cubic"})]
)
@pytest.mark.parametrize("interface", [db.odeint, db.odeint_adjoint])
def test_a_stone_reaches_the_ground(method, options, interface, float64):
    height = torch.tensor(2.0, requires_grad=True)
    speed = torch.tensor(1.0, requires_grad=True)
    keywords = {"adjoint_params": ()} if interface is db.odeint_adjoint else {}
    time, (heights, speeds) = db.odeint_event(
        falling,
        (height, speed),
        torch.tensor(0.5),
        event_fn=ground,
        odeint_interface=interface,
        rtol=1e-9,
        atol=1e-9,
        method=method,
        options=options,
        **keywords,
    )
    root = math.sqrt(1 + 2 * 9.81 * 2)
    assert time.item() == pytest.approx(0.5 + (1 + root) / 9.81, abs=1e-7)
    assert heights[0].item() == 2.0
    assert heights[1].item() == pytest.approx(0, abs=1e-6)
    assert speeds[1].item() == pytest.approx(-root, abs=1e-6)
    # dt*/dh = 1 / root, dt*/dv = (1 + v / root) / g
    by_height, by_speed = torch.autograd.grad(time, (height, speed), retain_graph=True)
    assert by_height.item() == pytest.approx(1 / root, abs=1e-6)
    assert by_speed.item() == pytest.approx((1 + 1 / root) / 9.81, abs=1e-6)
    # The last speed is -root: d/dh = -g / root, d/dv = -v / root; the last height does not move.
    by_height, by_speed = torch.autograd.grad(speeds[1], (height, speed), retain_graph=True)
    assert by_height.item() == pytest.approx(-9.81 / root, abs=1e-6)
    assert by_speed.item() == pytest.approx(-1 / root, abs=1e-6)
    (by_height,) = torch.autograd.grad(heights[1], height)
    assert by_height.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("interface", [db.odeint, db.odeint_adjoint])
def test_an_event_moves_with_the_first_time(interface, float64):
    t0 = torch.tensor(0.5, requires_grad=True)
    keywords = {"adjoint_params": ()} if interface is db.odeint_adjoint else {}
    time, _ = db.odeint_event(
        lambda t, y: torch.cos(y),
        torch.tensor([0.0]),
        t0,
        event_fn=lambda t, y: y - 1,
        odeint_interface=interface,
        **keywords,
    )
    (found,) = torch.autograd.grad(time, t0)
    assert found.item() == pytest.approx(1, abs=1e-6)


def test_parameters_of_field_and_event_get_gradients(float64):
    rate = torch.tensor(0.7, requires_grad=True)
    level = torch.tensor(3.0, requires_grad=True)
    time, states = db.odeint_event(
        lambda t, y: rate * y, torch.tensor([1.0]), torch.tensor(0.0), event_fn=lambda t, y: y - level
    )
    by_rate, by_level = torch.autograd.grad(time, (rate, level), retain_graph=True)
    assert time.item() == pytest.approx(math.log(3) / 0.7, abs=1e-7)
    assert by_rate.item() == pytest.approx(-math.log(3) / 0.49, rel=1e-5)
    assert by_level.item() == pytest.approx(1 / 2.1, rel=1e-5)
    (by_level,) = torch.autograd.grad(states[-1].sum(), level)
    assert by_level.item() == pytest.approx(1, rel=1e-5)


def test_an_event_that_depends_on_time(float64):
    """y = t meets the line 3 - t / 2 at t = 2; d/dy0: -1 / 1.5."""
    y0 = torch.tensor([0.0], requires_grad=True)
    time, _ = db.odeint_event(
        lambda t, y: torch.ones_like(y), y0, torch.tensor(0.0), event_fn=lambda t, y: y - (3 - t / 2)
    )
    assert time.item() == pytest.approx(2, abs=1e-8)
    (slope,) = torch.autograd.grad(time, y0)
    assert slope.item() == pytest.approx(-1 / 1.5, rel=1e-6)


def test_back_in_time(float64):
    time, states = db.odeint_event(
        lambda t, y: torch.ones_like(y),
        torch.tensor([0.0]),
        torch.tensor([1.0]),
        event_fn=lambda t, y: y + 2,
        reverse_time=True,
    )
    assert time.item() == pytest.approx(-1, abs=1e-8)
    assert states[-1].item() == pytest.approx(-2, abs=1e-8)


def test_the_first_of_several_events_ends_the_solve(float64):
    def events(t, y):
        return torch.stack([y[0] - 5, 3 - y[0], y[0] + 1])

    time, _ = db.odeint_event(lambda t, y: torch.ones_like(y), torch.zeros(1), torch.tensor(0.0), event_fn=events)
    assert time.item() == pytest.approx(3, abs=1e-8)


def test_an_event_at_the_begin(float64):
    time, states = db.odeint(
        lambda t, y: torch.ones_like(y), torch.zeros(1), torch.tensor([1.0, 2.0]), event_fn=lambda t, y: y
    )
    assert time.item() == 1
    assert torch.equal(states, torch.zeros(2, 1))


def test_a_bouncing_ball_learns_where_to_fall(float64):
    """Gradients through three bounces against finite differences."""

    class Ball(nn.Module):
        def __init__(self):
            super().__init__()
            self.gravity = nn.Parameter(torch.tensor(9.8))

        def forward(self, t, state):
            _height, speed = state
            return speed, -self.gravity * torch.ones_like(speed)

    def last_time(gravity, height):
        ball = Ball()
        state = (height, torch.zeros(1))
        time = torch.tensor(0.0)
        for _ in range(3):
            time, (heights, speeds) = torch.func.functional_call(Bounce(ball), {"ball.gravity": gravity}, (state, time))
            state = (heights[-1].clamp_min(1e-9), -0.8 * speeds[-1])
        return time

    class Bounce(nn.Module):
        def __init__(self, ball):
            super().__init__()
            self.ball = ball

        def forward(self, state, time):
            return db.odeint_event(self.ball, state, time, event_fn=lambda t, s: s[0], rtol=1e-10, atol=1e-10)

    gravity = torch.tensor(9.8, requires_grad=True)
    height = torch.tensor([1.3], requires_grad=True)
    time = last_time(gravity, height)
    fall = math.sqrt(2 * 1.3 / 9.8)
    assert time.item() == pytest.approx(fall * (1 + 2 * 0.8 + 2 * 0.64), abs=1e-5)
    by_gravity, by_height = torch.autograd.grad(time, (gravity, height))
    assert by_gravity.item() == pytest.approx(-time.item() / (2 * 9.8), rel=1e-4)
    assert by_height.item() == pytest.approx(time.item() / (2 * 1.3), rel=1e-4)


def test_an_event_that_depends_on_nothing(float64):
    """As where a caller ends a solve at a time: zeros without a graph from then on."""

    def event(t, y):
        return torch.zeros_like(t) if t > 1.5 else torch.ones_like(t)

    y0 = torch.zeros(1, requires_grad=True)
    time, states = db.odeint_event(lambda t, y: torch.ones_like(y), y0, torch.tensor(0.0), event_fn=event)
    assert time.item() == pytest.approx(1.5, abs=1e-6)
    (slope,) = torch.autograd.grad(states[-1].sum(), y0)
    assert slope.item() == 1
