"""What a caller's function changes or keeps is never the solve's, and what the solve holds is never the caller's."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import dynamicblocks as db

DOUBLE = torch.float64
T = torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE)
# dy/dt = y (1 - y) from 0.2
EXACT = 1 / (1 + 4 * math.exp(-1))


def start():
    return torch.full((3,), 0.2, dtype=DOUBLE)


def logistic(y):
    return y * (1 - y)


class Writing:
    """Fields that write their slopes to memory of their own, or change what they are given."""

    def __init__(self):
        self.places = [torch.empty(3, dtype=DOUBLE) for _ in range(3)]
        self.array, self.calls = np.empty(3), 0

    def one_place(self, t, y):
        return torch.mul(y, 1 - y, out=self.places[0])

    def view_of_it(self, t, y):
        self.places[0][:] = logistic(y)
        return self.places[0].view(1, 3)[0]

    def in_turn(self, t, y):
        self.calls += 1
        return self.places[self.calls % 3].copy_(logistic(y))

    def in_turn_detached(self, t, y):
        return self.in_turn(t, y).detach()

    def array_of_numpy(self, t, y):
        self.array[:] = logistic(y).detach().numpy()
        return torch.from_numpy(self.array)

    def over_the_state(self, t, y):
        return y.mul_(1 - y)

    def over_the_time(self, t, y):
        slope = (1 + 0 * t) * logistic(y)
        t.fill_(7.0)
        return slope


FIELDS = [name for name in vars(Writing) if not name.startswith("_")]
SOLVES = {
    "dopri5": lambda f, y: db.odeint(f, y, T)[-1],
    "kvaerno5": lambda f, y: db.odeint(f, y, T, method="kvaerno5", rtol=1e-4, atol=1e-6)[-1],
    "rk4": lambda f, y: db.odeint(f, y, T, method="rk4", options={"step_size": 0.1})[-1],
    "explicit_adams": lambda f, y: db.odeint(f, y, T, method="explicit_adams", options={"step_size": 0.05})[-1],
    "reversible_heun": lambda f, y: db.odeint(f, y, T, method="reversible_heun", options={"step_size": 0.02})[-1],
    "odeint_adjoint": lambda f, y: db.odeint_adjoint(f, y, T, adjoint_params=())[-1],
    "odeint_dense": lambda f, y: db.odeint_dense(f, y, 0.0, 1.0)(1.0),
    "batched": lambda f, y: db.solve(f, y, T, batched=True).y[-1],
    "checkpoint": lambda f, y: db.solve(f, y, T, gradient="checkpoint").y[-1],
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("way", SOLVES)
def test_slopes_in_memory_of_the_field_and_arguments_that_it_changes(way, mode):
    for name in ("in_turn", "over_the_state") if way == "kvaerno5" else FIELDS:
        if name == "one_place" and way == "checkpoint" and mode is torch.enable_grad:
            continue  # it looks for gradients, which out= refuses itself
        y0 = start()
        with mode():
            found = SOLVES[way](getattr(Writing(), name), y0)
        assert found.tolist() == pytest.approx([EXACT] * 3, rel=2e-4), name
        assert torch.equal(y0, start()), name


def test_slopes_that_are_tensors_of_somebody_else():
    """The state itself, and one that never changes."""
    rate = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
    for method in ("dopri5", "rk4"):
        grown = db.odeint(lambda t, y: y, start(), T, method=method, options={} if method == "dopri5" else None)
        assert grown[-1].tolist() == pytest.approx([0.2 * math.e] * 3, rel=1e-3)
        line = db.odeint(lambda t, y: rate, start(), T, method=method)
        assert line[-1].tolist() == pytest.approx((0.2 + rate).tolist(), rel=1e-12)
    assert rate.tolist() == [1.0, -2.0, 0.5]


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_gradients_of_a_field_that_changes_its_state(gradient):
    """dy/dt = -r y: dy/dr = -y at t = 1."""
    rate, y0 = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True), start().requires_grad_()
    found = (
        db.solve(lambda t, y, r: y.mul_(-r), y0, T, args=(rate,), gradient=gradient, rtol=1e-9, atol=1e-9).y[-1].sum()
    )
    by_rate, by_y0 = torch.autograd.grad(found, (rate, y0))
    assert by_rate.item() == pytest.approx(-0.6 * math.exp(-0.7), rel=1e-6)
    assert by_y0.tolist() == pytest.approx([math.exp(-0.7)] * 3, rel=1e-6)


def test_within_torch_func():
    def last(y0):
        return db.odeint(lambda t, y: y.mul_(1 - y), y0, T, method="rk4", options={"step_size": 0.05})[-1]

    many = torch.func.vmap(last)(torch.full((2, 3), 0.2, dtype=DOUBLE))
    assert many.flatten().tolist() == pytest.approx([EXACT] * 6, rel=1e-5)
    by = torch.func.grad(lambda y0: last(y0).sum())(start())
    assert by.tolist() == pytest.approx([EXACT * (1 - EXACT) / 0.16] * 3, rel=1e-5)


def test_a_field_that_begins_to_change_its_state_later_is_told():
    calls = []

    def field(t, y):
        calls.append(t)
        return -y if len(calls) < 4 else y.neg_()

    with pytest.raises(db.ConfigurationError, match=r"func changed .* in place.*y\.clone\(\)"):
        db.odeint(field, start(), T)


@pytest.mark.parametrize("batched", [False, True])
def test_events_callbacks_norms_and_grids_get_copies(batched):
    y0 = start()[:, None] if batched else start()

    def event(t, y):
        t.add_(1)
        return y.sub_(0.3).sum(1) if batched else y.sub_(0.3).sum()

    found = db.solve(lambda t, y: logistic(y), y0, T, event_fn=event, batched=batched, rtol=1e-8, atol=1e-10)
    when = math.log(0.3 * 0.8 / (0.7 * 0.2))  # logit(0.3) - logit(0.2)
    assert found.event_t.flatten()[0].item() == pytest.approx(when, rel=1e-5)
    assert torch.equal(y0.flatten(), start())
    if batched:
        return

    class OnGrids:
        callback_step = staticmethod(lambda t, y, h: y.zero_())

        def __call__(self, t, y):
            return logistic(y)

    class Field(OnGrids):
        callback_accept_step = staticmethod(OnGrids.callback_step)

    def grid(func, y, t):
        y.zero_()
        points = torch.linspace(0, 1, 41, dtype=DOUBLE)
        t.zero_()
        return points

    def norm(y):
        return y.pow_(2).mean().sqrt()

    times = T.clone()
    on_grid = {"method": "rk4", "options": {"grid_constructor": grid}}
    for field, keywords in ((Field(), {"options": {"norm": norm}}), (OnGrids(), on_grid)):
        assert db.odeint(field, y0, times, **keywords)[-1, 0].item() == pytest.approx(EXACT, rel=1e-5)
    assert torch.equal(times, T)


@pytest.mark.parametrize("times", [T, T[:1]])
def test_results_share_no_memory_with_the_initial_state(times):
    y0 = start()
    found = [db.odeint(lambda t, y: -y, y0, times)]
    if len(times) > 1:
        event = db.solve(lambda t, y: -y, y0, times, event_fn=lambda t, y: y.sum() - 0.6, dense=True)
        found += [event.event_y, event.y, db.solve(lambda t, y: -y, y0[:, None], times, batched=True).y]
    for states in found:
        states.fill_(9.0)
    assert torch.equal(y0, start())


class First(nn.Module):
    """A layer whose first operation may be one in place."""

    def __init__(self, *, inplace):
        super().__init__()
        self.act, self.linear = nn.ReLU(inplace=inplace), nn.Linear(3, 3)
        self.projection = nn.ELU(inplace=inplace)

    parts = {"field": "forward", "projection": "projection"}  # noqa: RUF012

    def forward(self, y):
        return self.linear(self.act(y))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("integrator", ["euler", "rk4_classic", "reversible_heun", "dopri5", "implicit_midpoint"])
def test_layers_of_blocks_that_work_in_place(integrator, gradient):
    results = []
    for inplace in (False, True):
        torch.manual_seed(3)
        block = db.DynamicBlock(
            lambda inplace=inplace: First(inplace=inplace), "linear(3)", db.uniform(0, 2, steps=4), integrator, gradient
        )
        x = torch.randn(5, 3, requires_grad=True)
        y = x * 1.0
        before = y.detach().clone()
        found = block(y)
        assert torch.equal(y.detach(), before)
        found.square().sum().backward()
        with torch.inference_mode():
            results.append((found.detach(), x.grad, block(before)))
        assert torch.equal(y.detach(), before)
    for plain, in_place in zip(*results, strict=True):
        torch.testing.assert_close(in_place, plain)


def test_parameters_that_are_named_twice_count_once():
    shared = torch.tensor([0.3], dtype=DOUBLE, requires_grad=True)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.tensor([0.3], dtype=DOUBLE))
            self.two = self.one

        def forward(self, t, y):
            return -(self.one + self.two) * y

    y0 = torch.ones(1, dtype=DOUBLE)
    exact = -2 * math.exp(-0.6)
    for run in (
        lambda: db.odeint_adjoint(lambda t, y: -2 * shared * y, y0, T, adjoint_params=[shared, shared, shared]),
        lambda: (
            db.solve(
                lambda t, y, a, b: -(a + b["of"]) * y,
                y0,
                T,
                args=(shared, {"of": shared}),
                gradient="adjoint",
                gradient_options={"params": (shared,)},
                rtol=1e-9,
                atol=1e-9,
            ).y
        ),
    ):
        (by,) = torch.autograd.grad(run()[-1].sum(), shared)
        assert by.item() == pytest.approx(exact, rel=1e-6)
    for interface in (db.odeint, db.odeint_adjoint):
        tied = Tied()
        interface(tied, y0, T)[-1].sum().backward()
        assert tied.one.grad.item() == pytest.approx(exact, rel=1e-6)
        assert len(list(tied.parameters())) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_loops_see_what_is_changed_where():
    """Keys in another order, a state changed in place, a slope of another shape: one program."""

    def field(t, s):
        rest = s["rest"].mul_(-1)
        return {"rest": rest.reshape(1, -1), "grow": logistic(s["grow"])}

    y0 = {"grow": start(), "rest": start()}
    found = db.solve(field, y0, T, compile=True, rtol=[1e-7], atol=np.float64(1e-9)).y
    assert found["grow"][-1].tolist() == pytest.approx([EXACT] * 3, rel=1e-5)
    assert found["rest"][-1].tolist() == pytest.approx([0.2 * math.exp(-1)] * 3, rel=1e-5)
    assert torch.equal(y0["rest"], start())
