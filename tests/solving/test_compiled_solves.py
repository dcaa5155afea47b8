"""Solves whose loop is compiled."""

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.solving import compiled_loop as compiled


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
        # New weights and another initial state are no reason to compile again.
        frames = torch._dynamo.utils.counters["frames"]["ok"]
        field.net[0].weight.mul_(0.5)
        other = db.odeint(field, -y0, T, **TOLERANCE, options={"compile": True})
        torch.testing.assert_close(other, db.odeint(field, -y0, T, **TOLERANCE), rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] == frames


@pytest.mark.slow
def test_compiled_samples_are_those_of_the_loop(float64):
    field, y0 = Field(), torch.randn(4, 3)
    with torch.no_grad():
        batched = db.solve(field, y0, T, batched=True, **TOLERANCE)
        found = db.solve(field, y0, T, batched=True, compile=True, **TOLERANCE)
    torch.testing.assert_close(found.y, batched.y, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.statistics.accepted, batched.statistics.accepted)
    # Attempts that turn out not to be needed are evaluated, too.
    assert batched.statistics.evaluations <= found.statistics.evaluations <= batched.statistics.evaluations + 12 * 6


def test_gradients_go_through_the_compiled_loop(float64):
    field, y0 = Field(), torch.randn(4, 3, requires_grad=True)
    inputs = [y0, *field.parameters()]
    expected = torch.autograd.grad((db.odeint(field, y0, T, **TOLERANCE) ** 2).sum(), inputs)
    states = db.odeint(field, y0, T, **TOLERANCE, options={"compile": True})
    found = torch.autograd.grad((states**2).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [None, pytest.param("seminorm", marks=pytest.mark.slow)])
def test_the_adjoint_runs_compiled(norm, float64, monkeypatch):
    monkeypatch.setattr(compiled, "ATTEMPTS", 2)  # twelve attempts take a minute to compile
    field = Field()
    y0 = (torch.randn(4, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.field = field

        def forward(self, t, state):
            return tuple(self.field(t, each) for each in state)

    both = Both()
    both.field.net[0].bias.requires_grad_(False)
    wanted = [*y0, *(each for each in both.parameters() if each.requires_grad)]

    def gradients(interface, **keywords):
        states = interface(both, y0, T, **TOLERANCE, **keywords)
        return torch.autograd.grad(sum((part**2).sum() for part in states), wanted)

    options = {} if norm is None else {"adjoint_options": {"norm": norm}}
    expected = gradients(db.odeint)
    found = gradients(db.odeint_adjoint, options={"compile": True}, **options)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_arguments_get_gradients_from_the_compiled_adjoint(float64, monkeypatch):
    monkeypatch.setattr(compiled, "ATTEMPTS", 2)
    rate, shift = torch.tensor(0.5, requires_grad=True), {"of": [torch.tensor([0.1, 0.2], requires_grad=True)], "n": 3}
    y0 = {"x": torch.ones(2, requires_grad=True)}

    def field(t, y, rate, shift):
        return {"x": -rate * y["x"] + shift["of"][0] * shift["n"]}

    def gradients(**keywords):
        found = db.solve(field, y0, T, args=(rate, shift), gradient="adjoint", **TOLERANCE, **keywords)
        assert found.success
        assert found.statistics.accepted > 0
        return torch.autograd.grad((found.y["x"] ** 2).sum(), (y0["x"], rate, shift["of"][0]))

    for a, b in zip(gradients(compile=True), gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    found = db.solve(field, y0, T, args=(rate, shift), gradient="adjoint", compile=True, **TOLERANCE)
    (once,) = torch.autograd.grad((found.y["x"] ** 2).sum(), rate, create_graph=True)
    with pytest.raises(db.ConfigurationError, match="no second derivatives"):
        once.backward()


def test_a_compiled_adjoint_does_not_lose_a_gradient(float64):
    outside = torch.ones(1, requires_grad=True)
    with pytest.raises(db.ConfigurationError, match=r"1 tensors .*shapes \(1,\).*compiled adjoint would lose"):
        db.solve(lambda t, y: -outside * y, torch.ones(1), T, compile=True, gradient="adjoint")


def test_what_cannot_be_compiled_runs_as_usual(float64):
    def field(t, y):
        return -y * float(y.detach().abs().max() > -1)  # reads a number back

    with pytest.warns(UserWarning, match="was not compiled and runs as usual"):
        found = db.odeint(field, torch.ones(2), T, options={"compile": True})
    torch.testing.assert_close(found[:, 0], torch.exp(-T), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("by 'backprop'", lambda f, y: db.solve(f, y, T, compile=True, gradient="checkpoint")),
        ("by 'backprop'", lambda f, y: db.solve(f, y, T, compile=True, gradient="adjoint", batched=True)),
        ("does not take event_fn", lambda f, y: db.solve(f, y, T, compile=True, gradient="adjoint", event_fn=f)),
        (
            "does not take interpolant",
            lambda f, y: db.solve(f, y, T, compile=True, gradient="adjoint", gradient_options={"interpolant": True}),
        ),
        (
            "tolerances must be numbers",
            lambda f, y: db.odeint_adjoint(f, y, T, rtol=torch.ones(3), options={"compile": True}),
        ),
        (
            "not in a function",
            lambda f, y: db.odeint_adjoint(f, y, T, options={"compile": True}, adjoint_options={"norm": max}),
        ),
        (
            "parameters of func, an nn.Module, alone",
            lambda f, y: db.odeint_adjoint(
                f, y, T, options={"compile": True}, adjoint_params=(y.clone().requires_grad_(),)
            ),
        ),
        (
            "times get no gradient",
            lambda f, y: db.odeint_adjoint(f, y, T.clone().requires_grad_(), options={"compile": True}),
        ),
        ("do not go together", lambda f, y: db.solve(f, y, T, compile=True, dense=True)),
        ("do not go together", lambda f, y: db.odeint(f, y, T[:2], event_fn=f, options={"compile": True})),
        ("explicit adaptive method", lambda f, y: db.odeint(f, y, T, method="kvaerno3", options={"compile": True})),
    ],
)
def test_what_does_not_go_with_it(message, call, float64):
    with pytest.raises(db.ConfigurationError, match=message):
        call(Field(), torch.ones(2, 3))
