"""States at many times of output: the same as those at few, made by few operations."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dynamicblocks as db
from dynamicblocks.solving import outputs
from tests.optional import optional
from tests.problems import PROBLEMS

integrate = optional("scipy.integrate")

TIGHT = {"rtol": 1e-9, "atol": 1e-10}
FINE = {"step_size": 0.01}
WAYS = {
    "dopri5": (TIGHT, 1e-7),
    "tsit5": ({**TIGHT, "method": "tsit5"}, 1e-7),
    "dopri8": ({**TIGHT, "method": "dopri8"}, 1e-7),
    "bosh3": ({"method": "bosh3", "rtol": 1e-6, "atol": 1e-7}, 1e-4),
    "kencarp4": ({"method": "kencarp4", "rtol": 1e-4, "atol": 1e-5}, 1e-3),
    "rk4": ({"method": "rk4", "options": FINE}, 1e-4),
    "rk4-cubic": ({"method": "rk4", "options": {**FINE, "interp": "cubic"}}, 1e-7),
    "checkpoint": ({**TIGHT, "gradient": "checkpoint"}, 1e-7),
    "alf": ({"method": "alf", "gradient": "reversible", "options": FINE}, 1e-4),
}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Many chunks of states, without many times."""
    monkeypatch.setattr(outputs, "ENTRIES", 64)
    monkeypatch.setattr(outputs, "STEPS", 7)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("problem", ["turn", "complex"])
@pytest.mark.parametrize("ends", [(0.2, 1.7), (1.7, 0.2)])
def test_states_are_those_of_the_exact_solution(way, problem, ends, float64):
    asked, close = WAYS[way]
    found = PROBLEMS[problem]
    t = torch.linspace(*ends, 6 if way == "kencarp4" else 173)
    y = db.odeint(found.field, found.y0(t[0]), t, **asked)
    torch.testing.assert_close(y, found.exact(t), rtol=close, atol=close)


@pytest.mark.parametrize("way", ["dopri5", "tsit5", "rk4", "rk4-cubic", "checkpoint"])
def test_gradients_of_times_state_and_weights_are_those_of_single_outputs(way, float64):
    rate, y0 = torch.tensor([0.7, -0.4], requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True)
    t = torch.linspace(0, 0.4, 61).requires_grad_()
    asked = {**WAYS[way][0], **({} if way.startswith("rk4") else {"rtol": 1e-6, "atol": 1e-7})}
    seed = torch.randn(61, 2, generator=torch.Generator().manual_seed(0))

    def gradients(most):
        # States of more entries than that are made one by one.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outputs, "SMALL", most)
            y = db.odeint(lambda t, y: rate * torch.cos(3 * t) * y, y0, t, **asked)
        return [y, *torch.autograd.grad(y, [y0, rate, t], seed)]

    for many, single in zip(gradients(2**12), gradients(0), strict=True):
        torch.testing.assert_close(many, single, rtol=1e-11, atol=1e-11)


def test_the_gradient_of_every_time_is_the_slope_there(float64):
    t = torch.linspace(0, 2, 40).requires_grad_()
    y = db.odeint(lambda t, y: -2 * t * y * y, torch.ones(1), t, **TIGHT)
    (by_t,) = torch.autograd.grad(y.sum(), t)
    # y = 1 / (1 + t^2), and all later states move with the first time, where the slope is zero.
    torch.testing.assert_close(by_t, (-2 * t / (1 + t * t) ** 2).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_outputs_at_the_ends_of_steps_are_the_states_there_to_the_last_bit(method, float64):
    t = torch.linspace(0, 1, 51)
    options = {"step_t": t[10::10]} if method == "dopri5" else {"grid_constructor": lambda f, y, t: t[::10]}
    steps = {}

    def field(t, y):
        return torch.cos(t) - y

    def noted(t, y, h):
        steps[t.item()] = y.clone()

    field.callback_step = noted
    y = db.odeint(field, torch.ones(3), t, method=method, options=options)
    met = [place for place in range(51) if t[place].item() in steps]
    assert met == [0, 10, 20, 30, 40]
    assert all(torch.equal(y[place], steps[t[place].item()]) for place in met)
    # The states between them are in their places.
    exact = (torch.sin(t) + torch.cos(t) + torch.exp(-t))[:, None].expand(-1, 3) / 2
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-2)


def test_nested_and_single_precision_states(float64):
    t = torch.linspace(0, 3, 301)
    y0 = {"x": torch.tensor([1.0, 0.0], dtype=torch.float32), "n": [torch.ones(2, 2, dtype=torch.float32)]}

    def field(t, y):
        x = y["x"]
        return {"x": torch.stack([x[1], -x[0]]), "n": [-y["n"][0]]}

    found = db.solve(field, y0, t, rtol=1e-5, atol=1e-6).y
    exact = integrate.solve_ivp(lambda t, y: [y[1], -y[0]], (0, 3), [1, 0], t_eval=t, rtol=1e-9, atol=1e-10).y.T
    np.testing.assert_allclose(found["x"], exact, atol=1e-4)
    torch.testing.assert_close(found["n"][0], torch.exp(-t).float()[:, None, None].expand(-1, 2, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_a_failure_tells_all_states_before_it(gradient, float64):
    rate = torch.tensor(1.0, requires_grad=True)
    t = torch.linspace(0, 2, 401)
    with pytest.raises(db.SolveError) as caught:
        db.odeint(lambda t, y, rate=rate: rate * y * y, torch.ones(2), t, gradient=gradient, rtol=1e-5, atol=1e-6)
    met = caught.value.circumstances
    times = torch.tensor(met.times)
    assert 199 <= len(met.states) == len(times) <= 202
    torch.testing.assert_close(
        torch.stack(met.states[:180]), (1 / (1 - times[:180]))[:, None].expand(-1, 2), rtol=1e-4, atol=0
    )
    (by_rate,) = torch.autograd.grad(met.states[100].sum(), rate)
    torch.testing.assert_close(by_rate, 2 * times[100] / (1 - times[100]) ** 2, rtol=1e-3, atol=0)


def test_outputs_end_at_an_event(float64):
    t = torch.linspace(0, 2, 201)
    found = db.solve(lambda t, y: torch.ones_like(y), torch.zeros(1), t, event_fn=lambda t, y: y[0] - 1.003)
    assert found.status.name == "EVENT"
    torch.testing.assert_close(found.y[:101, 0], t[:101])
    assert bool(found.y[101:].isnan().all())


class Counted(TorchDispatchMode):
    """Counts the operations of tensors."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("way", ["dopri5", "rk4", "rk4-cubic", "checkpoint"])
def test_operations_do_not_grow_with_the_outputs(way, backward, monkeypatch, float64):
    monkeypatch.setattr(outputs, "ENTRIES", 2**18)
    monkeypatch.setattr(outputs, "STEPS", 2**10)
    rate = torch.tensor(0.5, requires_grad=True)
    grid = {"options": {"step_size": 0.05}} if way.startswith("rk4") else {"rtol": 1e-6, "atol": 1e-7}

    def operations(times):
        with Counted() as counted:
            y = db.odeint(
                lambda t, y: rate * torch.cos(t) * y,
                torch.ones(2),
                torch.linspace(0, 2, times),
                **{**WAYS[way][0], **grid},
            )
            if backward:
                y.square().mean().backward()
        return counted.calls

    assert operations(4001) < 1.1 * operations(401) + 50


def test_steps_that_meet_many_times_look_at_the_next_alone():
    looked = []

    class Times(list):
        def __getitem__(self, place):
            looked.append(place)
            return super().__getitem__(place)

    stops = dataclasses.replace(db.solving.adaptive_loop.Stops(), kinks=Times(range(10_000)), jumps=[0.5, 7.25])
    assert stops.first_in(6.5, 9.0) == (7, False)
    assert stops.first_in(7.0, 7.5) == (7.25, True)
    assert stops.first_in(7.5, 6.5) == (7.25, True)
    assert stops.first_in(7.0, 6.5) is None
    assert stops.first_in(6.0, 5.0) == (5, False)
    assert len(looked) < 200
