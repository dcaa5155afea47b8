"""Events whose functions are flat, zero at the begin, undefined, or never zero: times without NaN, clear errors."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.solving.status import Status

FLAT = {
    "sign": lambda t, y: torch.sign(2.25 - y),
    "sign of time": lambda t, y: torch.sign(0.75 - t),
    "ceil": lambda t, y: 3.5 - torch.ceil(y / 0.75),
    "clamp": lambda t, y: torch.clamp(1e3 * (2.25 - y), -1, 1),
    "whole numbers": lambda t, y: torch.where(y > 2.25, -1, 1),
    "several": lambda t, y: torch.cat([torch.sign(2.25 - y), y + 1]),
}


def three(t, y):
    return torch.full_like(y, 3.0)


def as_adjoint(*arguments, **keywords):
    return db.odeint_adjoint(*arguments, adjoint_params=(), **keywords)


def event_of(function, interface, method, options=None, y0=None, **keywords):
    y0 = torch.zeros(1) if y0 is None else y0
    return db.odeint_event(
        three, y0, torch.tensor(0.0), event_fn=function, method=method, options=options, odeint_interface=interface,
        **keywords,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "options"),
    [("dopri5", None), ("kvaerno3", None), ("rk4", {"step_size": 0.1}), ("alf", {"step_size": 0.2})],
)
@pytest.mark.parametrize("name", FLAT)
def test_a_flat_event_has_the_time_of_its_root(name, method, options, float64):
    """y = 3 t passes 2.25 at t = 0.75."""
    for interface in (db.odeint, as_adjoint):
        time, states = event_of(FLAT[name], interface, method, options)
        assert time.item() == pytest.approx(0.75, abs=1e-7)
        assert states[-1].item() == pytest.approx(2.25, abs=1e-6)


@pytest.mark.parametrize("name", FLAT)
def test_a_flat_event_ends_a_solve(name, float64):
    t = torch.tensor([0.0, 0.5, 2.0])
    for keywords in ({}, {"gradient": "checkpoint"}, {"batched": True}):
        y0 = torch.zeros(1, 1) if "batched" in keywords else torch.zeros(1)
        found = db.solve(
            three, y0, t, event_fn=FLAT[name] if "batched" not in keywords else rows(FLAT[name]), **keywords
        )
        assert found.event_t.item() == pytest.approx(0.75, abs=1e-6)
        assert found.event_y.item() == pytest.approx(2.25, abs=1e-5)


def rows(function):
    """Events of a batch of one sample with one entry."""
    return lambda t, y: function(t.reshape(1), y.reshape(1)).reshape(1, -1)


@pytest.mark.parametrize("interface", [db.odeint, as_adjoint])
def test_the_gradient_of_a_flat_event_is_an_error_where_it_is_asked_for(interface, float64):
    y0 = torch.zeros(2, requires_grad=True)
    time, states = event_of(lambda t, y: torch.sign(2.25 - y[0]), interface, "dopri5", y0=y0)
    # What lies before the event does not move with it.
    (slope,) = torch.autograd.grad(states[0].sum() + 0 * time, y0, retain_graph=True)
    assert torch.equal(slope, torch.ones(2))
    for value in (time, states[-1, 0]):
        with pytest.raises(db.SolverError, match="event_fn does not change with time at the event"):
            torch.autograd.grad(value, y0, retain_graph=True)


def test_only_samples_that_ask_need_a_rate(float64):
    y0 = torch.tensor([[0.0], [0.5], [-9.0]], requires_grad=True)
    flat = torch.tensor([True, False, False])

    def event(t, y):
        return torch.where(flat, torch.sign(2.25 - y[:, 0]), 2.25 - y[:, 0])

    found = db.solve(three, y0, torch.tensor([0.0, 2.0]), event_fn=event, batched=True, rtol=1e-9, atol=1e-9)
    assert found.event_t[:2].tolist() == pytest.approx([0.75, 1.75 / 3], abs=1e-7)
    assert found.event_t[2].isnan()
    (slope,) = torch.autograd.grad(found.event_t[1], y0, retain_graph=True)
    assert slope.flatten().tolist() == pytest.approx([0, -1 / 3, 0], abs=1e-9)
    (slope,) = torch.autograd.grad(found.event_y[1].sum() + found.y[-1, 2].sum(), y0, retain_graph=True)
    assert slope.flatten().tolist() == pytest.approx([0, 0, 1], abs=1e-9)
    with pytest.raises(db.SolverError, match="event_fn does not change with time at the event"):
        found.event_t[:2].sum().backward()


def test_second_derivatives_of_events_are_refused(float64):
    y0 = torch.tensor([0.5], requires_grad=True)
    time, _ = db.odeint_event(lambda t, y: y, y0, torch.tensor(0.0), event_fn=lambda t, y: y - 2)
    (slope,) = torch.autograd.grad(time, y0, create_graph=True)
    assert slope.item() == pytest.approx(-2, rel=1e-6)
    with pytest.raises(db.ConfigurationError, match="events have no second derivatives"):
        slope.backward()


@pytest.mark.parametrize(
    ("method", "options"), [("dopri5", None), ("kencarp4", None), ("midpoint", {"step_size": 0.1})]
)
@pytest.mark.parametrize("back", [False, True])
def test_an_event_at_the_begin_is_the_begin(method, options, back, float64):
    for interface in (db.odeint, as_adjoint):
        y0 = torch.tensor([0.0, 4.0], requires_grad=True)
        t0 = torch.tensor(0.25, requires_grad=True)
        for event in (lambda t, y: y[0], lambda t, y: torch.stack([y[1], y[0]]), lambda t, y: t - 0.25):
            time, states = db.odeint_event(
                lambda t, y: torch.stack([y[1], -y[0]]), y0, t0, event_fn=event, reverse_time=back,
                method=method, options=options, odeint_interface=interface,
            )  # fmt: skip
            assert time.item() == 0.25
            assert torch.equal(states, torch.stack([y0, y0]))
            by_t0, by_y0 = torch.autograd.grad(time + states[-1].sum(), (t0, y0), retain_graph=True)
            assert by_t0.item() == 1
            assert torch.equal(by_y0, torch.ones(2))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_event_at_the_begin_ends_a_solve(compiled, float64):
    y0 = torch.tensor([1.5], requires_grad=True)
    found = db.solve(
        three, y0, torch.tensor([0.5, 1.0]), event_fn=lambda t, y: torch.cat([y - 1.5, y + 1]), compile=compiled
    )
    assert found.status is Status.EVENT
    assert (found.event_t.item(), found.event_y.item()) == (0.5, 1.5)
    assert found.y[1].isnan().all()
    (slope,) = torch.autograd.grad(found.event_y.sum(), y0)
    assert slope.item() == 1


def test_samples_whose_events_are_at_the_begin(float64):
    y0 = torch.tensor([[1.5], [0.0], [-9.0]], requires_grad=True)
    found = db.solve(three, y0, torch.tensor([1.0, 1.25, 3.0]), event_fn=lambda t, y: y - 1.5, batched=True, dense=True)
    assert [each.name for each in found.status] == ["EVENT", "EVENT", "DONE"]
    assert found.event_t[0].item() == 1
    assert found.event_t[1].item() == pytest.approx(1.5, abs=1e-6)
    assert found.event_y[0].item() == 1.5
    assert found.y[1:, 0].isnan().all()
    assert found.statistics.accepted[0].item() == 0
    (slope,) = torch.autograd.grad(found.event_y[:2].sum() + found.event_t[:2].sum(), y0)
    assert slope.flatten().tolist() == pytest.approx([1, -1 / 3, 0], abs=1e-9)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("interface", [db.odeint, as_adjoint])
@pytest.mark.parametrize("back", [False, True])
def test_the_search_for_an_event_that_never_comes_ends(interface, back, kind):
    y0 = torch.ones(1, dtype=kind)
    for method, options in (("dopri5", None), ("bosh3", {"max_num_steps": 40}), ("euler", {"step_size": 1e37})):
        with pytest.raises(db.SolverError, match=r"no event .*oes event_fn change its sign"):
            db.odeint_event(
                lambda t, y: 0 * y, y0, torch.tensor(0.0), event_fn=lambda t, y: y + 1, reverse_time=back,
                method=method, options=options, odeint_interface=interface, rtol=0.01,
            )  # fmt: skip
    found = db.solve(lambda t, y: 0 * y, y0, torch.tensor([0.0, 9.0]), rtol=0.01, event_fn=lambda t, y: y + 1)
    assert found.status is Status.DONE
    assert found.event_t.isnan()


def test_a_step_of_a_grid_must_change_the_time(float64):
    with pytest.raises(db.ConfigurationError, match="step_size = 1e-09 does not change the time: near t = 1e\\+09"):
        db.odeint_event(
            three, torch.zeros(1), torch.tensor(1e9), event_fn=lambda t, y: y - 1, method="euler",
            options={"step_size": 1e-9},
        )  # fmt: skip
    # Beyond all numbers that the type of the time has.
    with pytest.raises(AssertionError, match="leads from t = 0 to no other time"):
        db.odeint_event(
            three, torch.zeros(1), torch.tensor(0.0, dtype=torch.float32), event_fn=lambda t, y: y - 1, method="euler",
            options={"step_size": 1e39},
        )  # fmt: skip


@pytest.mark.parametrize("value", [1.0, 2, True, 1j, None, [1.0], torch.tensor(1j)])
def test_an_event_function_returns_a_real_tensor(value):
    t = torch.tensor([0.0, 1.0])
    for solver in (db.odeint, as_adjoint, db.solve):
        with pytest.raises(TypeError, match="event_fn must return a tensor of real numbers") as caught:
            solver(three, torch.zeros(1), t, event_fn=lambda t, y: value)
        assert isinstance(caught.value, db.ConfigurationError)
    with pytest.raises(db.ConfigurationError, match="event_fn must return a tensor of real numbers"):
        db.solve(three, torch.zeros(2, 1), t, event_fn=lambda t, y: value, batched=True)


def test_event_functions_of_wrong_shapes():
    t = torch.tensor([0.0, 1.0])
    with pytest.raises(db.ConfigurationError, match="at least one number, got shape \\(0,\\)"):
        db.odeint(three, torch.zeros(1), t, event_fn=lambda t, y: y[:0])
    with pytest.raises(db.ConfigurationError, match=r"one number for each sample, shape \(4,\).*got shape \(2,\)"):
        db.solve(three, torch.zeros(4, 1), t, event_fn=lambda t, y: y[:2, 0], batched=True)


def test_an_event_function_that_is_not_a_number(float64):
    """The root of log(1 - y) + 5 lies before it is undefined, that of sqrt(1 - y) + 5 does not."""
    t = torch.tensor([0.0, 0.1, 9.0])
    time, _ = event_of(lambda t, y: torch.log(1 - y) + 5, db.odeint, "dopri5")
    assert time.item() == pytest.approx((1 - math.exp(-5)) / 3, abs=1e-8)

    def undefined(t, y):
        return torch.sqrt(1 - y).sum(-1) + 5

    for method, options in (("dopri5", None), ("rk4", {"step_size": 0.25})):
        with pytest.raises(db.SolverError, match="event_fn is not a number"):
            event_of(undefined, db.odeint, method, options)
    with pytest.raises(db.SolverError, match=r"event_fn is not a number .* first time"):
        event_of(lambda t, y: y / 0, db.odeint, "dopri5")
    found = db.solve(three, torch.zeros(1), t, event_fn=undefined, on_failure="return")
    assert found.status is Status.NOT_FINITE
    y0 = torch.tensor([[0.0], [-60.0]])
    with pytest.raises(db.SolverError, match=r"event_fn was not a number \(NaN\) at the samples \[0\]"):
        db.solve(three, y0, t, event_fn=undefined, batched=True)
    found = db.solve(three, y0, t, event_fn=undefined, batched=True, on_failure="return")
    assert [each.name for each in found.status] == ["NOT_FINITE", "DONE"]
    assert found.y[:, 1].isfinite().all()


class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([0.4, 0.9]))

    def forward(self, t, y):
        return -self.rate * y * (1 + t)


@pytest.mark.parametrize(("method", "options"), [("dopri5", None), ("rk4", {"step_size": 0.05, "interp": "cubic"})])
@pytest.mark.parametrize("through_event", [False, True])
def test_the_adjoints_time_has_a_gradient_for_parameters_alone(through_event, method, options, float64):
    field, y0 = Decay(), torch.tensor([1.0, 1.3])
    keywords = {"method": method, "options": options, "rtol": 1e-10, "atol": 1e-12}

    def time_of(field):
        def event(t, y):
            return y.sum() - 0.8 - 0.1 * t

        if through_event:
            return db.odeint_event(
                field, y0, torch.tensor(0.0), event_fn=event, odeint_interface=db.odeint_adjoint, **keywords
            )[0]
        return db.odeint_adjoint(field, y0, torch.tensor([0.0, 1.0]), event_fn=event, **keywords)[0]

    time = time_of(field)
    (found,) = torch.autograd.grad(time, field.rate)
    expected = []
    for place in range(2):
        moved = []
        for change in (1e-4, -1e-4):
            other = Decay()
            with torch.no_grad():
                other.rate[place] += change
            moved.append(time_of(other).item())
        expected.append((moved[0] - moved[1]) / 2e-4)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_time_that_nothing_moves_can_be_differentiated(float64):
    """As in torchdiffeq, where it has a gradient of zeros."""
    y0 = torch.ones(2, requires_grad=True)
    time, states = event_of(lambda t, y: 0.75 - t, as_adjoint, "dopri5", y0=y0)
    time.backward(retain_graph=True)
    assert torch.equal(y0.grad, torch.zeros(2))
    (slope,) = torch.autograd.grad(states[-1].sum(), y0)
    assert torch.equal(slope, torch.ones(2))
