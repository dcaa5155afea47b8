"""Solves whose loop is compiled."""

import pytest
import torch
from torch import nn

import dynamicblocks as db


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, t, y):
        return self.net(y) + torch.sin(t)


T = torch.linspace(0, 2, 5, dtype=torch.float64)
TOLERANCE = {"rtol": 1e-7, "atol": 1e-7}


@pytest.fixture(scope="module", autouse=True)
def _fresh():
    torch._dynamo.reset()


def test_compiled_solves_are_those_of_the_loop(float64):
    field, y0 = Field(), torch.randn(4, 3)
    with torch.no_grad():
        expected = db.odeint(field, y0, T, **TOLERANCE)
        found = db.odeint(field, y0, T, **TOLERANCE, options={"compile": True})
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        batched = db.solve(field, y0, T, batched=True, **TOLERANCE)
        compiled = db.solve(field, y0, T, batched=True, compile=True, **TOLERANCE)
    torch.testing.assert_close(compiled.y, batched.y, rtol=1e-9, atol=1e-9)
    assert torch.equal(compiled.statistics.accepted, batched.statistics.accepted)
    # New weights and another initial state are no reason to compile again.
    frames = torch._dynamo.utils.counters["frames"]["ok"]
    with torch.no_grad():
        field.net[0].weight.mul_(0.5)
        other = db.odeint(field, -y0, T, **TOLERANCE, options={"compile": True})
        torch.testing.assert_close(other, db.odeint(field, -y0, T, **TOLERANCE), rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] == frames


def test_gradients_go_through_the_compiled_loop(float64):
    field, y0 = Field(), torch.randn(4, 3, requires_grad=True)
    inputs = [y0, *field.parameters()]
    expected = torch.autograd.grad((db.odeint(field, y0, T, **TOLERANCE) ** 2).sum(), inputs)
    states = db.odeint(field, y0, T, **TOLERANCE, options={"compile": True})
    found = torch.autograd.grad((states**2).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_compiled_runs_as_usual(float64):
    def field(t, y):
        return -y * float(y.detach().abs().max() > -1)  # reads a number back

    with pytest.warns(UserWarning, match="was not compiled and runs as usual"):
        found = db.odeint(field, torch.ones(2), T, options={"compile": True})
    torch.testing.assert_close(found[:, 0], torch.exp(-T), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("adjoint method does not run compiled", lambda f, y: db.odeint_adjoint(f, y, T, options={"compile": True})),
        ("by 'backprop'", lambda f, y: db.solve(f, y, T, compile=True, gradient="adjoint")),
        ("do not go together", lambda f, y: db.solve(f, y, T, compile=True, dense=True)),
        ("do not go together", lambda f, y: db.odeint(f, y, T[:2], event_fn=f, options={"compile": True})),
        ("explicit adaptive method", lambda f, y: db.odeint(f, y, T, method="kvaerno3", options={"compile": True})),
    ],
)
def test_what_does_not_go_with_it(message, call, float64):
    with pytest.raises(db.ConfigurationError, match=message):
        call(Field(), torch.ones(2, 3))
