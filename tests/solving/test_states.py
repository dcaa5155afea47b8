"""States of any nesting and type, tolerances in any form, and what is said of those that cannot be solved for."""

import math
import warnings
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import dynamicblocks as db

DOUBLE = torch.float64
T = torch.tensor([0.0, 0.5, 1.5], dtype=DOUBLE)
HALVES = (torch.bfloat16, torch.float16)


class Pendulum(NamedTuple):
    angle: torch.Tensor
    speed: torch.Tensor


class Other(NamedTuple):
    angle: torch.Tensor
    speed: torch.Tensor


WAYS = {
    "shared": {},
    "batched": {"batched": True},
    "checkpoint": {"gradient": "checkpoint"},
    "adjoint": {"gradient": "adjoint"},
}


@pytest.mark.parametrize("way", WAYS)
def test_keys_decide_which_slope_is_whose(way):
    """A rotation, whose two equations differ in sign, and a decay deeper inside, in the reverse order of the state."""

    def field(t, s):
        inner = OrderedDict(w=-0.5 * s["in"][0]["w"], v=0 * s["in"][0]["v"])
        return {"in": [inner], "y": -s["x"], "x": s["y"]}

    def one(value):
        return torch.full((2, 1), value, dtype=DOUBLE, requires_grad=True)

    y0 = {"x": one(0.0), "y": one(1.0), "in": [{"v": one(3.0), "w": one(1.0)}]}
    found = db.solve(field, y0, T, rtol=1e-8, atol=1e-10, **WAYS[way]).y
    last = [found["x"], found["y"], found["in"][0]["v"], found["in"][0]["w"]]
    exact = [math.sin(1.5), math.cos(1.5), 3.0, math.exp(-0.75)]
    assert [each[-1, 0].item() for each in last] == pytest.approx(exact, abs=1e-6)
    by_y, by_w = torch.autograd.grad(last[0][-1, 1].sum() + last[3][-1, 1].sum(), (y0["y"], y0["in"][0]["w"]))
    assert by_y[1].item() == pytest.approx(math.sin(1.5), abs=1e-5)
    assert by_w[1].item() == pytest.approx(math.exp(-0.75), abs=1e-5)


@pytest.mark.parametrize(
    ("slopes", "message"),
    [
        (
            lambda s: {"q": s["p"], "r": [s["r"][0]]},
            r"a dict with the keys 'p', 'r', got a dict with the keys 'q', 'r'",
        ),
        (lambda s: {"p": s["p"]}, "with the keys 'p', 'r', got a dict with the keys 'p'"),
        (lambda s: {**s, "q": s["p"]}, "keys 'p', 'r', 'q'"),
        (lambda s: (s["p"], s["r"]), "a dict .*, got tuple of 2"),
        (lambda s: {"p": s["p"], "r": s["r"][0]}, r"list of 1 entries at \['r'\], got Pendulum of 2"),
        (lambda s: {"p": s["p"], "r": [s["r"][0], s["r"][0]]}, r"at \['r'\], got list of 2"),
        (lambda s: {"p": s["p"], "r": [Other(*s["r"][0])]}, r"Pendulum of 2 tensors at \['r'\]\[0\], got Other of 2"),
        (lambda s: {"p": (s["p"],), "r": s["r"]}, "a tensor for every entry of the state, got tuple at place 'p'"),
        (lambda s: {"p": 0.0, "r": s["r"]}, "got float at place 'p'"),
        (lambda s: {"p": s["p"].T, "r": s["r"]}, r"shape \(3, 2\) at place 'p', got \(2, 3\)"),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_slopes_of_another_nesting_are_refused(slopes, message, batched):
    y0 = {"p": torch.ones(3, 2), "r": [Pendulum(torch.ones(3, 1), torch.ones(3, 1))]}
    with pytest.raises(db.ConfigurationError, match=message):
        db.solve(lambda t, s: slopes(s), y0, T, batched=batched)


def test_slopes_that_differ_in_dimensions_of_one_are_taken():
    """A density beside its state: d log p / dt = -div f."""
    y0 = (torch.ones(4, 2, dtype=DOUBLE), torch.zeros(4, 1, dtype=DOUBLE))

    def field(t, y):
        return [-y[0], 2 * torch.ones(4, dtype=DOUBLE)]

    for found in (
        db.odeint(field, y0, T),
        db.odeint_adjoint(field, y0, T, adjoint_params=()),
        db.solve(field, y0, T, batched=True).y,
    ):
        assert found[1].shape == (3, 4, 1)
        assert found[1][-1].flatten().tolist() == pytest.approx([3.0] * 4)
        assert found[0][-1, 0, 0].item() == pytest.approx(math.exp(-1.5), rel=1e-5)
    for method in ("dopri5", "rk4", "implicit_midpoint", "alf"):
        found = db.odeint(lambda t, y: torch.ones(1, 3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE), T, method=method)
        assert found[-1].tolist() == pytest.approx([1.5] * 3)


@pytest.mark.parametrize("way", WAYS)
def test_entries_keep_their_types(way):
    seen = set()

    def field(t, s):
        seen.add((t.dtype, s["low"].dtype, s["high"].dtype, s["wave"].dtype))
        return {"high": -s["high"], "low": -s["low"], "wave": 1j * s["wave"]}

    y0 = {
        "low": torch.ones(2, 1, dtype=torch.float32, requires_grad=True),
        "high": torch.ones(2, 1, dtype=DOUBLE, requires_grad=True),
        "wave": torch.ones(2, 1, dtype=torch.complex64, requires_grad=True),
    }
    found = db.solve(field, y0, T, rtol=1e-9, atol=1e-9, **WAYS[way]).y
    assert seen == {(DOUBLE, torch.float32, DOUBLE, torch.complex64)}
    for name, exact, rel in (("low", math.exp(-1.5), 1e-6), ("high", math.exp(-1.5), 1e-8)):
        assert found[name].dtype == y0[name].dtype
        assert found[name][-1, 0].item() == pytest.approx(exact, rel=rel)
    assert found["wave"][-1, 0].item() == pytest.approx(complex(math.cos(1.5), math.sin(1.5)), rel=1e-6)
    gradients = torch.autograd.grad(found["low"][-1].sum() + found["high"][-1].sum(), (y0["low"], y0["high"]))
    for by, name in zip(gradients, ("low", "high"), strict=True):
        assert by.dtype == y0[name].dtype
        assert by[0].item() == pytest.approx(math.exp(-1.5), rel=1e-6)


class Decay(nn.Module):
    """Refuses states and times of another type than its own."""

    def __init__(self, dtype):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([1.5], dtype=dtype))

    def forward(self, t, y):
        assert t.dtype == y.dtype == self.rate.dtype
        return -self.rate * y


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("method", "options"),
    [("dopri5", {}), ("euler", {"step_size": 4e-3}), ("rk4", {"step_size": 0.01}),
     ("implicit_midpoint", {"step_size": 0.1}), ("alf", {"step_size": 0.01})],
)  # fmt: skip
def test_half_precision_moves_and_keeps_its_type(method, options, dtype):
    y0 = torch.full((4,), 2.0, dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 0.5, 1.0])
    for interface in (db.odeint, db.odeint_adjoint):
        found = interface(Decay(dtype), y0, t, method=method, options=options, rtol=1e-2, atol=1e-3)
        assert found.dtype == dtype
        assert found[-1].tolist() == pytest.approx([2 * math.exp(-1.5)] * 4, rel=2e-2)
        (by,) = torch.autograd.grad(found[-1].sum(), y0)
        assert by.dtype == dtype
        assert by.tolist() == pytest.approx([math.exp(-1.5)] * 4, rel=3e-2)


@pytest.mark.parametrize("dtype", HALVES)
def test_tolerances_that_half_precision_cannot_show_are_said_once(dtype):
    y0, t = torch.ones(2, 1, dtype=dtype), torch.tensor([0.0, 1.0])
    runs = [
        lambda: db.odeint(lambda t, y: -y, y0, t),
        lambda: db.odeint_adjoint(lambda t, y: -y, y0.clone().requires_grad_(), t, adjoint_params=()),
        lambda: db.solve(lambda t, y: -y, y0, t).y,
        lambda: db.solve(lambda t, y: -y, y0, t, batched=True).y,
        lambda: db.odeint(lambda t, y: -y, y0, t, options={"max_num_steps": 40})[:, :, 0],
    ]
    for run in runs:
        with pytest.warns(UserWarning, match=rf"more than numbers of {dtype} can show.*y0\.float\(\)") as caught:
            found = run()
        if found.requires_grad:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found.sum().backward()
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert found[-1].flatten().tolist() == pytest.approx([math.exp(-1)] * 2, rel=2e-2)


def test_usual_tolerances_and_states_at_rest_are_silent():
    one, t = torch.ones(3), torch.tensor([0.0, 1.0])
    grid = {"method": "rk4", "options": {"step_size": 0.01}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        db.odeint(lambda t, y: -y, one, t)
        db.odeint(lambda t, y: -y, 1e6 * one, t, rtol=1e-6, atol=0.0)
        db.odeint(lambda t, y: -y, one.double(), t, rtol=0.0, atol=1e-12)
        db.odeint(lambda t, y: -y, one.bfloat16(), t, rtol=1e-7, atol=1e-2)
        db.odeint(lambda t, y: 0 * y, one, t, **grid)
        db.odeint(lambda t, y: -1e-9 * y, one, t, **grid)  # moves by nothing in all
        db.odeint(lambda t, y: torch.stack([-y[0], 1e-10 * y[1], 0 * y[2]]), one, t, **grid)


def test_steps_and_tolerances_below_float32_are_said():
    one = torch.ones(3)
    with pytest.warns(UserWarning, match=r"steps of 1e-08 .* torch.float32, so they are lost; .*y0\.double\(\)"):
        db.odeint(lambda t, y: -y, one, torch.tensor([0.0, 1e-5]), method="euler", options={"step_size": 1e-8})
    with pytest.warns(UserWarning, match=r"rtol = 1e-09 .* torch.float32"):
        db.odeint(lambda t, y: -y, one, torch.tensor([0.0, 1e-3]), rtol=1e-9, atol=1e-12, options={"min_step": 1e-3})
    block = db.DynamicBlock(lambda: nn.Linear(3, 3), "constant(1)", db.uniform(0, 1, steps=1000)).bfloat16()
    with pytest.warns(UserWarning, match=r"steps of 0.001 .*torch.bfloat16"):
        block(one[None].bfloat16())


def test_an_adaptive_block_in_half_precision_keeps_its_type():
    block = db.DynamicBlock(lambda: nn.Linear(3, 3), "linear(3)", db.uniform(0, 1, steps=2), "dopri5(rtol=1e-6)")
    x = torch.randn(4, 3)
    exact = block(x).detach()
    found = block.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=3e-2, atol=3e-2)
    assert block.evaluations < 100


LEAST = 1e-6
FORMS = [
    [LEAST], (LEAST,), np.float32(LEAST), np.float64(LEAST), np.array(LEAST), np.array([LEAST]), torch.tensor(LEAST),
    torch.tensor([LEAST]), [LEAST, 1e-5, 1e-6], np.array([LEAST, 1e-5, 1e-6]), [[LEAST] * 3] * 2,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_tolerances_in_any_form(form):
    y0 = torch.ones(2, 3, dtype=DOUBLE, requires_grad=True)

    def field(t, y):
        return -t * y

    exact = math.exp(-1.125)
    for found in (
        db.odeint(field, y0, T, rtol=form, atol=form),
        db.odeint_dense(field, y0, 0.0, 1.5, rtol=form, atol=form)(T),
        db.solve(field, y0, T, rtol=form, atol=form, batched=True).y,
        db.solve(field, y0, T, rtol=form, atol=form, gradient="checkpoint").y,
        db.odeint(field, y0, T, method="implicit_adams", options={"step_size": 0.02}, rtol=form, atol=form),
        db.odeint_adjoint(field, y0, T, rtol=form, atol=form, adjoint_params=()),
        db.odeint_adjoint(field, y0, T, rtol=1e-7, adjoint_rtol=form, adjoint_atol=form, adjoint_params=()),
    ):
        assert found[-1].flatten().tolist() == pytest.approx([exact] * 6, rel=1e-4)
        (by,) = torch.autograd.grad(found[-1].sum(), y0)
        assert by.flatten().tolist() == pytest.approx([exact] * 6, rel=1e-4)


def test_tolerances_of_each_tensor():
    y0 = {"a": torch.ones(2, 3, dtype=DOUBLE), "b": torch.ones(2, 1, dtype=DOUBLE)}

    def field(t, s):
        return {"b": -t * s["b"], "a": -t * s["a"]}

    for rtol in ({"b": 1e-6, "a": [1e-5, 1e-6, 1e-7]}, (1e-6, np.float32(1e-6)), [[1e-6], [1e-7]]):
        for way in WAYS.values():
            found = db.solve(field, y0, T, rtol=rtol, atol={"a": 1e-8, "b": 1e-8}, **way).y
            assert found["a"][-1, 0, 0].item() == pytest.approx(math.exp(-1.125), rel=1e-5)
    loose = db.solve(field, y0, T, rtol={"b": 1e-2, "a": 1e-2}, atol=0.1).statistics
    tight = db.solve(field, y0, T, rtol={"b": 1e-2, "a": 1e-9}, atol={"b": 0.1, "a": 1e-10}).statistics
    assert tight.accepted > 2 * loose.accepted
    for wrong, message in (
        ({"a": 1e-3}, "keys 'a', 'b', got a dict with the keys 'a'"),
        ((1e-3, 1e-3, 1e-3), "one for each of the 2 tensors"),
        (([1e-3, 1e-4], 1e-3), r"broadcast to the shape \(2, 3\) of y0\['a'\], got \(2,\)"),
        ("tight", "must be a number"),
    ):
        with pytest.raises(db.ConfigurationError, match=message):
            db.solve(field, y0, T, rtol=wrong)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "kvaerno3", "implicit_midpoint"])
def test_states_without_entries(shape, method):
    y0 = torch.zeros(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert db.odeint(lambda t, y: -y, y0, T, method=method).shape == (3, *shape)
        assert db.solve(lambda t, s: {"a": -s["a"]}, {"a": y0}, T, method=method).y["a"].shape == (3, *shape)
        if method == "dopri5":
            found = db.solve(lambda t, s: {"a": -s["a"]}, {"a": y0}, T, batched=True)
            assert found.success
            assert found.y["a"].shape == (3, *shape)


def test_samples_that_are_numbers():
    y0 = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE, requires_grad=True)
    found = db.solve(lambda t, y: -t * y, y0, T, batched=True, dense=True, event_fn=lambda t, y: y - 0.4)
    assert found.event_t[1].isnan()
    assert found.event_t[2].item() == pytest.approx(math.sqrt(2 * math.log(0.5 / 0.4)), rel=1e-4)
    assert found.y[-1, 1].item() == pytest.approx(2 * math.exp(-1.125), rel=1e-4)
    rows = db.solve(lambda t, y: -y, y0, torch.stack([T, T + 1, 2 * T]))
    assert rows.y[-1].tolist() == pytest.approx([math.exp(-1.5), 2 * math.exp(-1.5), 0.5 * math.exp(-3)], rel=1e-4)
    (by,) = torch.autograd.grad(rows.y[-1].sum(), y0)
    assert by[2].item() == pytest.approx(math.exp(-3), rel=1e-4)
    with pytest.raises(db.SolverError, match="sample 1"):
        db.solve(lambda t, y: y * y, y0, T / 2, batched=True, max_steps=200)


LINEAR = nn.Linear(3, 3)


class OnMeta(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3, device="meta")

    def forward(self, t, y):
        return self.linear(y)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, t, y):
        return self.linear(y)


@pytest.mark.parametrize(
    ("func", "y0", "message"),
    [
        (
            Network(),
            torch.ones(2, 3, dtype=DOUBLE),
            r"torch.float64; its parameters .* torch.float32\. .*func\.to\(torch",
        ),
        (lambda t, y: LINEAR(y), torch.ones(2, 3, dtype=DOUBLE), "a state of torch.float64"),
        (Network(), torch.ones(2, 3, dtype=torch.bfloat16), "a state of torch.bfloat16"),
        (OnMeta(), torch.ones(2, 3), "a state on cpu; its parameters and buffers are on meta"),
        (lambda y, t: -y, torch.ones(1), r"\(y, t\), but it is called as func\(t, y\)"),
        (lambda a, b: LINEAR(a), torch.ones(2, 3), r"works as func\(y, t\), but it is called as func\(t, y\)"),
        (lambda a, b: -a, torch.ones(2, 3), r"func\(t, y\), the time first"),
        (lambda t, y: None, torch.ones(2, 3), "got None; does it end without a return"),
        (lambda t, y: 1.5, torch.ones(2, 3), r"the number 1.5; use torch.full_like\(y, 1.5\)"),
        (lambda t, y: -y.detach().numpy(), torch.ones(2, 3), "a NumPy array; use torch.as_tensor"),
        (lambda t, y: y, torch.ones(2, 3, dtype=torch.int32), r"y0 must hold .*torch.int32. Use y0.float\(\)"),
        (lambda t, y: y, (torch.ones(2), torch.ones(2, dtype=torch.bool)), r"y0\[1\] must hold .*torch.bool"),
        (lambda t, y: y, torch.ones(2, 3, device="meta"), "y0 is on the meta device"),
    ],
)
def test_fields_and_states_that_do_not_fit_are_told_in_one_sentence(func, y0, message):
    runs = [
        lambda: db.odeint(func, y0, T, rtol=0.1, atol=0.1),
        lambda: db.odeint(func, y0, T, method="rk4"),
        lambda: db.odeint_adjoint(func, y0, T, rtol=0.1, atol=0.1, adjoint_params=()),
        lambda: db.solve(func, y0, T, rtol=0.1, atol=0.1, gradient="checkpoint"),
        lambda: db.solve(func, y0, T, rtol=0.1, atol=0.1, batched=True),
    ]
    for run in runs:
        with pytest.raises(db.ConfigurationError, match=message) as caught:
            run()
    assert "failed at" not in str(caught.value) or isinstance(caught.value.__cause__, RuntimeError)


def test_an_error_of_the_field_itself_is_its_own():
    with pytest.raises(ZeroDivisionError):
        db.odeint(lambda t, y: y / 0 if t.ndim else 1 / 0, torch.ones(2), T)
