"""solve: solutions, statistics, nested states, arguments, failures, gradients; steps of its own for each sample."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.solving import NotFiniteStateError, SolveError, Status, StepLimitError
from tests.problems import PROBLEMS

T = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)


class State(NamedTuple):
    position: torch.Tensor
    speed: torch.Tensor


def oscillator(t, state):
    return State(state.speed, -state.position)


def test_solution_and_its_statistics(float64):
    calls = []

    def field(t, y):
        calls.append(1)
        return -y

    found = db.solve(field, torch.ones(2), T, rtol=1e-8, atol=1e-8, dense=True)
    assert found.success
    assert found.status is Status.DONE
    assert torch.equal(found.t, T)
    torch.testing.assert_close(found.y[:, 0], torch.exp(-T), rtol=1e-7, atol=1e-7)
    statistics = found.statistics
    assert statistics.evaluations == len(calls) == 2 + 6 * (statistics.accepted + statistics.rejected)
    assert 0 < statistics.seconds_in_field < 1
    times = torch.linspace(0, 2, 9)
    torch.testing.assert_close(found.interpolant(times)[:, 1], torch.exp(-times), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_nested_states_keep_their_nesting(batched, float64):
    def field(t, state):
        return {"a": [-state["a"][0]], "b": oscillator(t, state["b"])}

    y0 = {"a": [torch.ones(3, 2)], "b": State(torch.zeros(3), torch.ones(3))}
    found = db.solve(field, y0, T, rtol=1e-8, atol=1e-8, batched=batched, dense=True).y
    assert found["a"][0].shape == (3, 3, 2)
    assert isinstance(found["b"], State)
    torch.testing.assert_close(found["b"].position, torch.sin(T)[:, None].expand(3, 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "kvaerno5", "implicit_midpoint"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_arguments_get_gradients(method, gradient, float64):
    rate = torch.tensor(0.5, requires_grad=True)
    shift = {"of": [torch.tensor(0.1, requires_grad=True)]}

    def field(t, y, rate, shift, sign):
        return sign * rate * y + shift["of"][0]

    options = {} if method in ("dopri5", "kvaerno5") else {"step_size": 0.02}
    found = db.solve(
        field,
        torch.ones(1),
        T,
        args=(rate, shift, -1),
        method=method,
        options=options,
        gradient=gradient,
        rtol=1e-7,
        atol=1e-7,
    )
    by_rate, by_shift = torch.autograd.grad(found.y[-1].sum(), (rate, shift["of"][0]))
    # y = (1 - s / r) exp(-r t) + s / r
    r, s, t = (torch.tensor(value, requires_grad=value != 2.0) for value in (0.5, 0.1, 2.0))
    exact = torch.autograd.grad((1 - s / r) * torch.exp(-r * t) + s / r, (r, s))
    torch.testing.assert_close((by_rate, by_shift), exact, rtol=1e-4, atol=1e-4)


def test_an_adjoint_that_would_lose_a_gradient_is_refused(float64):
    outside = torch.ones(1, requires_grad=True)
    y0 = torch.ones(1, requires_grad=True)
    found = db.solve(lambda t, y: -outside * y, y0, T, gradient="adjoint")
    with pytest.raises(db.ConfigurationError, match=r"1 tensors .*shapes \(1,\).* args"):
        found.y[-1].sum().backward()
    found = db.solve(
        lambda t, y: -outside * y,
        torch.ones(1),
        T,
        gradient="adjoint",
        gradient_options={"params": (outside,), "rtol": 1e-8},
    )
    found.y[-1].sum().backward()
    assert outside.grad.item() == pytest.approx(-2 * math.exp(-2), rel=1e-4)


def test_events_end_a_solve_and_leave_the_rest_unknown(float64):
    rate = torch.tensor(1.0, requires_grad=True)
    found = db.solve(
        lambda t, y, rate: rate * torch.ones_like(y),
        torch.zeros(1),
        torch.tensor([0.0, 1.0, 2.0, 3.0]),
        args=(rate,),
        event_fn=lambda t, y, rate: y - 1.5,
    )
    assert found.status is Status.EVENT
    assert found.success
    assert found.event_t.item() == pytest.approx(1.5, abs=1e-6)
    assert found.y[:2].flatten().tolist() == pytest.approx([0, 1])
    assert found.y[2:].isnan().all()
    (slope,) = torch.autograd.grad(found.event_t, rate)
    assert slope.item() == pytest.approx(-1.5, rel=1e-5)
    never = db.solve(lambda t, y: torch.ones_like(y), torch.zeros(1), T, event_fn=lambda t, y: y - 9)
    assert never.status is Status.DONE
    assert never.event_t.isnan()
    assert never.y.isfinite().all()


@pytest.mark.parametrize("batched", [False, True])
def test_failures_are_returned_on_request(batched):
    """y' = y^2 has no solution beyond t = 1."""
    t = torch.tensor([0.0, 0.5, 2.0])
    keywords = {"max_steps": 300, "batched": batched}
    with pytest.raises(SolveError) as caught:
        db.solve(lambda t, y: y * y, torch.ones(1, 1), t, **keywords)
    assert isinstance(caught.value, AssertionError)
    found = db.solve(lambda t, y: y * y, torch.ones(1, 1), t, on_failure="return", **keywords)
    assert not found.success
    assert found.message
    status = found.status[0] if batched else found.status
    assert status in (Status.STEP_LIMIT, Status.UNDERFLOW)
    assert found.y[1].item() == pytest.approx(2, rel=1e-3)
    assert found.y[2].isnan().all()


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("does not take the options step_size; it takes", {"options": {"step_size": 0.1}}),
        ("gradient must be one of 'backprop', 'checkpoint'", {"gradient": "backdrop"}),
        ("on_failure must be one of 'raise', 'return'", {"on_failure": "ignore"}),
        ("'backprop' takes no options, got rtol", {"gradient_options": {"rtol": 1e-3}}),
        ("max_steps must be at least 1", {"max_steps": 0}),
        ("solve has no method scipy_solver", {"method": "scipy_solver"}),
        ("not dense ones", {"gradient": "adjoint", "dense": True}),
        ("takes the options rtol, atol", {"gradient": "adjoint", "gradient_options": {"tolerance": 1}}),
        ("needs an explicit adaptive method such as dopri5, got rk4", {"method": "rk4", "batched": True}),
        ("needs an explicit adaptive method such as dopri5, got kvaerno3", {"method": "kvaerno3", "batched": True}),
        ("made by 'backprop', got 'adjoint'", {"gradient": "adjoint", "batched": True}),
        ("times for 2 samples, and y0 has 3", {"t": torch.tensor([[0.0, 1.0], [0.0, 2.0]])}),
        (r"shape \(T,\) or \(B, T\)", {"t": torch.tensor([0.0]), "batched": True}),
        ("times get no gradient", {"t": torch.tensor([0.0, 1.0], requires_grad=True), "batched": True}),
        ("strictly increasing", {"t": torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])}),
        (r"y0\['b'\] must be a tensor", {"y0": {"a": torch.ones(3), "b": 1.0}}),
        ("holds no tensor", {"y0": ()}),
        ("needs a dimension for the samples", {"y0": torch.tensor(1.0), "batched": True}),
        ("same samples first", {"y0": (torch.ones(3), torch.ones(2)), "batched": True}),
        ("broadcast", {"atol": torch.ones(5), "batched": True}),
        ("atol must be at least 0", {"atol": -1.0, "batched": True}),
        ("Use y0.float", {"y0": torch.ones(3, dtype=torch.int64), "batched": True}),
    ],
)
def test_bad_arguments(message, arguments):
    with pytest.raises(db.ConfigurationError, match=message):
        db.solve(lambda t, y: y, **{"y0": torch.ones(3), "t": torch.tensor([0.0, 1.0]), **arguments})


def test_a_field_of_samples_that_returns_another_shape():
    with pytest.raises(db.ConfigurationError, match=r"shape \(3, 2\), got \(3,\); t has shape \(3, 1\)"):
        db.solve(lambda t, y: y[:, 0], torch.ones(3, 2), torch.tensor([0.0, 1.0]), batched=True)


# ---- samples


def rates(*values):
    return torch.tensor(values)[:, None]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "tsit5", "bosh3"])
@pytest.mark.parametrize("back", [False, True])
def test_samples_reach_the_exact_solution_at_times_of_their_own(problem, method, back, float64):
    chosen = PROBLEMS[problem]
    t = torch.tensor([[0.0, 0.7, 1.5], [0.3, 0.4, 2.0], [1.0, 1.6, 1.7]])
    t = t.flip(1) if back else t
    exact = torch.stack([chosen.exact(row) for row in t], 1)

    def field(t, y):
        return torch.func.vmap(chosen.field)(t.reshape(-1), y)

    found = db.solve(field, exact[0], t, method=method, rtol=1e-8, atol=1e-8)
    assert found.y.shape == exact.shape
    torch.testing.assert_close(found.y, exact, rtol=1e-5, atol=1e-5)


def test_some_samples_may_run_back(float64):
    t = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = db.solve(lambda t, y: -y, torch.ones(2, 1), t, rtol=1e-8, atol=1e-8)
    assert found.y[-1].flatten().tolist() == pytest.approx([math.exp(-1), math.e], rel=1e-6)


def stiffness(t, y):
    """The second sample is a thousand times as fast."""
    rate = torch.ones(len(y), 1, 1, 1)
    rate[1] = 1000
    return -rate * (y - torch.cos(t))


def test_steps_do_not_depend_on_the_other_samples(float64):
    """States of images: alone, in a batch, and beside a stiff sample."""
    y0 = torch.randn(3, 2, 4, 4)
    together = db.solve(stiffness, y0, T, batched=True, rtol=1e-6, atol=1e-6)
    steps = together.statistics.accepted.tolist()
    assert steps[1] > 10 * steps[0]
    for place in (0, 2):
        alone = db.solve(lambda t, y: -(y - torch.cos(t)), y0[place : place + 1], T, batched=True, rtol=1e-6, atol=1e-6)
        assert alone.statistics.accepted.item() == steps[place]
        assert alone.statistics.rejected.item() == together.statistics.rejected[place]
        torch.testing.assert_close(alone.y[:, 0], together.y[:, place], rtol=1e-12, atol=1e-12)
    calm = db.solve(lambda t, y: -(y - torch.cos(t)), y0, T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.y[:, ::2], calm.y[:, ::2], rtol=1e-5, atol=1e-5)


def test_a_sample_that_fails_leaves_the_others_alone(float64):
    y0 = torch.tensor([[1.0], [0.2], [math.nan]])
    keywords = {"batched": True, "max_steps": 2000}
    found = db.solve(lambda t, y: y * y, y0, torch.tensor([0.0, 2.0]), on_failure="return", **keywords)
    assert found.status[0] in (Status.UNDERFLOW, Status.STEP_LIMIT)
    assert found.status[1:] == [Status.DONE, Status.NOT_FINITE]
    assert found.y[-1, 1].item() == pytest.approx(0.2 / 0.6, rel=1e-4)
    assert found.y[-1, 0].isnan()
    with pytest.raises(SolveError, match=r"2 of 3 samples .* sample 0: .*t = .*sample 2: not finite at t = 0"):
        db.solve(lambda t, y: y * y, y0, torch.tensor([0.0, 2.0]), **keywords)
    with pytest.raises(NotFiniteStateError):
        db.solve(lambda t, y: y * y, y0[2:], torch.tensor([0.0, 2.0]), **keywords)
    with pytest.raises(StepLimitError):
        db.solve(stiffness, torch.ones(2, 1, 1, 1), T, batched=True, max_steps=20)


def test_gradients_of_samples_are_those_of_each_alone(float64):
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    speed = rates(1.0, 5.0, 0.2)
    y0 = torch.randn(3, 2, requires_grad=True)

    def field(t, y, speed):
        return speed * net(y) + torch.sin(t)

    inputs = [y0, *net.parameters()]
    together = db.solve(field, y0, T, args=(speed,), batched=True, rtol=1e-9, atol=1e-9).y
    found = torch.autograd.grad((together**2).sum(), inputs)
    alone = [
        db.solve(lambda t, y, s=s: field(t, y, s), y0[place], T, rtol=1e-9, atol=1e-9).y
        for place, s in enumerate(speed)
    ]
    expected = torch.autograd.grad(sum((y**2).sum() for y in alone), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_into_nan_leaves_no_trace_in_the_gradients(float64):
    """y' = 3 sqrt(1 - y): the stages of a step that is too long look beyond y = 1."""
    y0 = torch.tensor([[0.5], [0.0]], requires_grad=True)
    t = torch.tensor([0.0, 0.4])
    found = db.solve(lambda t, y: 3 * torch.sqrt(1 - y), y0, t, batched=True, options={"first_step": 0.4}, rtol=1e-8)
    assert (found.statistics.rejected > 0).all()
    (slope,) = torch.autograd.grad(found.y[-1].sum(), y0)
    root = torch.sqrt(1 - y0)
    torch.testing.assert_close(found.y[-1], 1 - (root - 0.6) ** 2, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope, (root - 0.6) / root, rtol=1e-6, atol=1e-6)


def test_each_sample_ends_at_its_event(float64):
    """Stones thrown up at several speeds; the last is still in the air."""
    speed = torch.tensor([1.0, 2.0, 30.0], requires_grad=True)
    gravity = torch.tensor(9.81, requires_grad=True)

    def field(t, state, gravity):
        return State(state.speed, -gravity * torch.ones_like(state.speed))

    found = db.solve(
        field,
        State(torch.full((3,), 0.5), speed),
        torch.tensor([0.0, 0.1, 1.0, 2.0]),
        args=(gravity,),
        event_fn=lambda t, state, gravity: state.position,
        batched=True,
        rtol=1e-9,
        atol=1e-9,
    )
    assert [status.name for status in found.status] == ["EVENT", "EVENT", "DONE"]
    exact = (speed + torch.sqrt(speed**2 + 2 * gravity * 0.5)) / gravity
    torch.testing.assert_close(found.event_t[:2], exact[:2], rtol=1e-7, atol=1e-7)
    assert found.event_t[2].isnan()
    expected = torch.autograd.grad(exact[:2].sum(), (speed, gravity), retain_graph=True)
    result = torch.autograd.grad(found.event_t[:2].sum(), (speed, gravity), retain_graph=True)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    landing = torch.autograd.grad(found.event_y.speed[:2].sum(), gravity)[0]
    assert landing.item() == pytest.approx(-sum(0.5 / math.sqrt(v * v + 9.81) for v in (1, 2)), rel=1e-5)
    assert found.y.position[1].isfinite().all()
    assert found.y.position[2, :2].isnan().all()
    assert found.y.position[:, 2].isfinite().all()


@pytest.mark.parametrize("back", [False, True])
def test_samples_meet_jumps(back, float64):
    def field(t, y):
        return torch.where(t < 1, 1.0, 3.0) * torch.ones_like(y)

    t = torch.tensor([[-0.5, 2.5], [0.9, 1.2]])
    t = t.flip(1) if back else t
    found = db.solve(field, torch.zeros(2, 1), t, options={"jump_t": torch.tensor([1.0])}, rtol=1e-9, atol=1e-9)
    expected = torch.tensor([6.0, 0.7]) * (-1 if back else 1)
    torch.testing.assert_close(found.y[-1, :, 0], expected, rtol=1e-12, atol=1e-12)
    assert (found.statistics.accepted < 12).all()


def test_samples_as_functions_of_time(float64):
    rate = rates(1.0, 3.0)
    found = db.solve(lambda t, y: -rate * y, torch.ones(2, 1), T, batched=True, dense=True, rtol=1e-8, atol=1e-8)
    times = torch.linspace(0, 2, 7)
    exact = torch.exp(-rate * times).T[..., None]
    torch.testing.assert_close(found.interpolant(times), exact, rtol=1e-6, atol=1e-6)
    own = torch.stack([times, times / 2])
    torch.testing.assert_close(found.interpolant(own), torch.exp(-rate * own).T[..., None], rtol=1e-6, atol=1e-6)
    with pytest.raises(db.ConfigurationError, match="sample 0 reaches from 0 to 2, got the time 3"):
        found.interpolant(3.0)


def test_norms_and_control_of_samples(float64):
    keywords = {"batched": True, "rtol": 1e-6, "atol": 1e-6}
    fast = lambda t, y: torch.stack([-y[:, 0], 30 * torch.cos(30 * t[:, 0])], 1)  # noqa: E731
    y0 = torch.tensor([[1.0, 0.0]] * 2)
    both = db.solve(fast, y0, T, **keywords).statistics.accepted
    one = db.solve(fast, y0, T, options={"norm": lambda y: y[0].abs()}, **keywords).statistics.accepted
    assert (one < both / 3).all()
    pid = db.solve(fast, y0, T, options={"pcoeff": 0.3, "icoeff": 0.4}, **keywords)
    torch.testing.assert_close(pid.y[-1, :, 0], torch.exp(torch.tensor([-2.0] * 2)), rtol=1e-4, atol=1e-4)


def test_complex_samples(float64):
    y0 = torch.tensor([[1.0 + 0j], [0.5j]], dtype=torch.complex128, requires_grad=True)
    found = db.solve(lambda t, y: 1j * t * y, y0, T, batched=True, rtol=1e-8, atol=1e-8)
    exact = y0 * torch.exp(0.5j * T**2)[:, None, None]
    torch.testing.assert_close(found.y, exact, rtol=1e-6, atol=1e-6)
