"""Every gradient mode of solve, with every family of methods and every kind of state, against backpropagation.

Backpropagation itself is compared with finite differences. All in double precision.
"""

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import dynamicblocks as db
from dynamicblocks.gradients import gradients as registered
from dynamicblocks.gradients.reversible import reversible_methods
from dynamicblocks.integrators import METHODS, AdaptiveMethod
from tests.gradient_worker import Model, data, gradients, work

GRADIENTS = list(registered)
# Modes as keywords of solve.
MODES = {name: {"gradient": name} for name in GRADIENTS if name != "backprop"}
MODES["adjoint-interpolant"] = {"gradient": "adjoint", "gradient_options": {"interpolant": True}}

# Families of methods as keywords of solve, with the points of their grid; tolerances of a grid method are those of the
# equations that it solves.
ADAPTIVE = {
    "dopri5": {"rtol": 1e-10, "atol": 1e-10},
    "tsit5": {"rtol": 1e-10, "atol": 1e-10},
    "kvaerno5": {"rtol": 1e-8, "atol": 1e-8},
}
EXACTLY = {"options": {"max_iters": 50}, "rtol": 0.0, "atol": 1e-14}
GRID = {
    "euler": {},
    "rk4": {},
    "explicit_adams": {},
    "implicit_adams": EXACTLY,
    "fixed_adams": EXACTLY,
    "implicit_midpoint": {},
    "gl4": {},
    "alf": {},
    "reversible_heun": {},
}
FAMILIES = {**ADAPTIVE, **GRID}
POINTS = 17


class Field(nn.Module):
    """dy/dt of a tensor, a tuple or a dict, nonlinear, dependent on time, on parameters and on an argument."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2) / 2)
        self.bias = nn.Parameter(torch.randn(2) / 2)

    def vector(self, t, y, rate):
        return torch.tanh(y @ self.weight + self.bias * torch.cos(t)) - rate * y

    def forward(self, t, state, rate):
        if isinstance(state, torch.Tensor):
            return self.vector(t, state, rate)
        if isinstance(state, tuple):
            y, z = state
            return self.vector(t, y, rate) * z[:, None], torch.sin(y).sum(-1) - rate * z
        return {
            "y": self.vector(t, state["y"], rate) + state["deep"][0],
            "deep": [torch.sin(state["y"]).sum(-1, keepdim=True) - t * state["deep"][0]],
        }


def make_state(kind):
    y, z = torch.randn(3, 2), torch.rand(3)
    return {"tensor": y, "tuple": (y, z), "dict": {"y": y, "deep": [z[:, None]]}}[kind]


def tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    return [each for part in (state.values() if isinstance(state, dict) else state) for each in tensors(part)]


def cloned(state):
    if isinstance(state, torch.Tensor):
        return state.detach().clone().requires_grad_()
    if isinstance(state, dict):
        return {name: cloned(part) for name, part in state.items()}
    return type(state)(cloned(part) for part in state)


def all_gradients(field, state, times, *, moving=True, **keywords):
    """Of a loss in which no two entries are alike: with respect to y0, parameters, the argument, and the times."""
    y0 = cloned(state)
    rate = torch.tensor(0.7, requires_grad=True)
    t = times.clone().requires_grad_(moving)
    states = tensors(db.solve(field, y0, t, args=(rate,), **keywords).y)
    loss = sum((torch.linspace(1, 2, y.numel()).view_as(y) * y).mean() + y[-1].square().sum() for y in states)
    inputs = [*tensors(y0), *field.parameters(), rate, *([t] if moving else [])]
    return torch.autograd.grad(loss, inputs)


def times_of(method, points=POINTS):
    """Those of an adaptive method, few and uneven; or the points of a grid, which all get gradients."""
    return torch.tensor([0.1, 0.5, 0.6, 1.1]) if method in ADAPTIVE else torch.linspace(0.1, 1.1, points)


def impossible(mode, method):
    return (mode == "reversible" and method not in reversible_methods()) or (
        mode == "adjoint-interpolant" and not isinstance(METHODS[method], AdaptiveMethod)
    )


def matching(method):
    """Text that an error about the method holds; fixed_adams is another name of implicit_adams."""
    return f"{method}|implicit_adams" if method == "fixed_adams" else method


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
@pytest.mark.parametrize("method", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_gradients_of_backpropagation(mode, method, kind, float64):
    """Parameters, y0, args and t; a combination that cannot be is an error.

    Modes that take the same steps (checkpoint, reversible): to 1e-10, or 1e-8 where Newton's method solves equations,
    which stops where rounding decides. The adjoint of an adaptive method: to 1e4 tolerances of its step control.

    The adjoint on a grid is another discretisation of the same equation. Its gradients differ from those of the steps
    by C h^p: C is 3.3 at most for methods of order p. Adams methods start anew between two times, by rk4, so that p = 4
    and C is 70 at most. Here C is below 5 and 100, and half the size divides the difference by 2^(p - 1/2) or more.
    """
    field, state, keywords = Field(), make_state(kind), {"method": method, **FAMILIES[method]}
    if impossible(mode, method):
        with pytest.raises(db.ConfigurationError, match=matching(method)):
            all_gradients(field, state, times_of(method), **keywords, **MODES[mode])
        return

    def both(points):
        times = times_of(method, points)
        expected = all_gradients(field, state, times, **keywords)
        assert max(gradient.abs().max() for gradient in expected) > 1
        return list(zip(all_gradients(field, state, times, **keywords, **MODES[mode]), expected, strict=True))

    if mode in ("checkpoint", "reversible") or method in ADAPTIVE:
        equations = METHODS[method].own == ("max_iters",)
        same = 1e-8 if equations else 1e-10
        within = same if mode in ("checkpoint", "reversible") else 1e4 * FAMILIES[method]["rtol"]
        for got, wanted in both(POINTS):
            torch.testing.assert_close(got, wanted, rtol=within, atol=within)
        return
    adams = "max_order" in METHODS[method].own
    order = 4 if adams else METHODS[method].make().order
    steps = (8, 16) if METHODS[method].own == ("max_iters",) else (16, 32)
    coarse, fine = (max((a - b).abs().max().item() for a, b in both(n + 1)) for n in steps)
    assert fine < (100 if adams else 5) * steps[1] ** -order
    assert fine < coarse / 2 ** (order - 0.5)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
@pytest.mark.parametrize("mode", GRADIENTS)
def test_samples_with_steps_of_their_own_have_the_gradients_of_single_solves(mode, kind, float64):
    """To 1e-12, for the mode that has them; times get no gradient there. The other modes say that they have none.

    Single solves pass the last time and look back where no step must end there; here one must.
    """
    field, state, times = Field(), make_state(kind), times_of("dopri5")
    keywords = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-8, "gradient": mode, "options": {"step_t": times[-1:]}}
    if mode != "backprop":
        with pytest.raises(db.ConfigurationError, match=mode):
            all_gradients(field, state, times, moving=False, batched=True, **keywords)
        return
    with pytest.raises(db.ConfigurationError, match="times get no gradient"):
        all_gradients(field, state, times, batched=True, **keywords)
    y0, rate = cloned(state), torch.tensor(0.7, requires_grad=True)
    inputs = [*tensors(y0), *field.parameters(), rate]

    def solved(state, **batched):
        found = db.solve(field, state, times, args=(rate,), **keywords, **batched)
        return found.statistics.accepted, sum(y.square().sum() for y in tensors(found.y))

    taken, loss = solved(y0, batched=True)
    alone = [solved(sample(y0, n)) for n in range(3)]
    assert taken.tolist() == [steps for steps, _ in alone]
    assert len(set(taken.tolist())) > 1
    expected = torch.autograd.grad(sum(each for _, each in alone), inputs)
    for got, wanted in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def sample(state, n):
    """One of the samples of a state, alone."""
    if isinstance(state, torch.Tensor):
        return state[n : n + 1]
    if isinstance(state, dict):
        return {name: sample(part, n) for name, part in state.items()}
    return type(state)(sample(part, n) for part in state)


def steps_of(method, kind, field):
    """A solve by few steps of fixed sizes, as a function of y0, the argument, times and parameters."""
    keywords = dict(FAMILIES[method])
    if method in ADAPTIVE:
        keywords = {"rtol": 1e-12, "atol": 1e-12, "options": {"first_step": 0.25, "min_step": 0.25, "max_step": 0.25}}

    class Solve(nn.Module):
        def __init__(self):
            super().__init__()
            self.field = field

        def forward(self, flat, rate, t):
            y, z = flat[:, :2], flat[:, 2]
            state = {"tensor": y, "tuple": (y, z), "dict": {"y": y, "deep": [z[:, None]]}}[kind]
            found = db.solve(self.field, state, t, args=(rate,), method=method, **keywords).y
            return torch.cat([part.flatten() for part in tensors(found)])

    solve = Solve()
    return lambda flat, rate, t, weight, bias: torch.func.functional_call(
        solve, {"field.weight": weight, "field.bias": bias}, (flat, rate, t)
    )


def arguments(field, samples=1):
    flat = torch.rand(samples, 3, requires_grad=True)
    times = torch.tensor([0.1, 0.35, 0.4, 0.9], requires_grad=True)
    return flat, torch.tensor(0.7, requires_grad=True), times, field.weight, field.bias


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict"])
@pytest.mark.parametrize("method", FAMILIES)
def test_backpropagation_against_finite_differences(method, kind, float64):
    """gradcheck's own tolerances: 1e-3 relative, 1e-5 absolute, differences of 1e-6; nested states in one direction."""
    field = Field()
    assert gradcheck(steps_of(method, kind, field), arguments(field), fast_mode=kind != "tensor")


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "rk4", "explicit_adams", "alf", "reversible_heun"])
def test_second_derivatives_against_finite_differences(method, float64):
    """Of explicit steps: gradgradcheck's own tolerances, times fixed."""
    field = Field()
    flat, rate, times, *params = arguments(field)
    assert gradgradcheck(steps_of(method, "tuple", field), (flat, rate, times.detach(), *params))


# Steps that do not depend on the batch, so that halves of it take the steps of the whole.
FIXED = {"first_step": 0.125, "min_step": 0.125, "max_step": 0.125}
CASES = {
    **{f"dopri5-{mode}": {"method": "dopri5", "options": FIXED, **MODES[mode]} for mode in MODES if "rev" not in mode},
    **{
        f"rk4-{mode}": {"method": "rk4", "options": {"step_size": 0.125}, "gradient": mode}
        for mode in GRADIENTS
        if mode != "reversible"
    },
    **{f"alf-{mode}": {"method": "alf", "options": {"step_size": 0.125}, "gradient": mode} for mode in GRADIENTS},
    "gl4-backprop": {"method": "gl4", "options": {"step_size": 0.25}},
    "dopri5-batched": {"method": "dopri5", "batched": True},
}


def test_two_processes_give_the_gradients_of_one(tmp_path):
    """DistributedDataParallel over gloo, every second sample each, at the second of two steps of SGD; to 1e-12.

    Steps have one size, or are each sample's own: step control over a half would not be that over the whole.
    """
    assert {case.get("gradient", "backprop") for case in CASES.values()} == set(GRADIENTS)
    mp.spawn(work, args=(str(tmp_path), CASES), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, keywords in CASES.items():
        expected = gradients(Model(keywords), data())
        assert all(gradient.abs().max() > 1e-4 for gradient in expected.values())
        for each in found:
            assert each[name].keys() == expected.keys()
            for weight, gradient in expected.items():
                torch.testing.assert_close(
                    each[name][weight], gradient, rtol=1e-12, atol=1e-12, msg=f"{name}: {weight}"
                )
