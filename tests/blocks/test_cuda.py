"""On a CUDA device the same comes out as on the CPU."""

import json
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.cli.main import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
INTEGRATORS = ["euler", "midpoint", "rk4", "dopri5(rtol=1e-6, atol=1e-8)", "implicit_midpoint", "reversible_heun"]


class Smooth(nn.Module):
    """A smooth layer that takes the time."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t, y):
        return torch.tanh(self.linear(y) + t - 2) - 0.5 * y


def images(dtype=torch.float64):
    return torch.randn(2, 4, 6, 6, dtype=dtype)


def outcome(module, y, device):
    """The result, and the gradients of the input and of the weights, on the CPU."""
    module = module.to(device)
    module.zero_grad()
    y = y.detach().to(device).requires_grad_()
    found = module(y)
    found.square().sum().backward()
    weights = {name: weight.grad.cpu() for name, weight in module.named_parameters() if weight.grad is not None}
    return {"result": found.detach().cpu(), "input": y.grad.cpu(), **weights}


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_blocks_are_as_on_the_cpu(integrator, gradient):
    layer = "preact_double(4, norm='none', activation='tanh')"
    block = db.DynamicBlock(layer, "linear(3)", "uniform(0, 2, steps=4)", integrator, gradient).double()
    y = images()
    torch.testing.assert_close(outcome(block, y, "cuda"), outcome(block, y, "cpu"), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_running_statistics_are_as_on_the_cpu(gradient):
    here, there = (db.DynamicBlock("preact_double(4)", 4, gradient=gradient).double() for _ in range(2))
    there.load_state_dict(here.state_dict())
    y = images()
    torch.testing.assert_close(outcome(there, y, "cuda"), outcome(here, y, "cpu"), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(there.cpu().state_dict(), here.state_dict())


WAYS_BACK = [
    ("alf", "reversible"),
    ("reversible_heun", "reversible(max_drift=1e-9)"),
    ("reversible('rk4')", "reversible"),
    ("reversible('dopri5(rtol=1e-6, atol=1e-8)')", "reversible"),
    ("rk4", "adjoint"),
    ("dopri5(rtol=1e-6, atol=1e-8)", "adjoint"),
    ("dopri5(rtol=1e-6, atol=1e-8)", db.Adjoint(interpolant=True)),
]


@pytest.mark.parametrize(("integrator", "gradient"), WAYS_BACK, ids=str)
def test_ways_back_are_as_on_the_cpu(integrator, gradient):
    layer = "preact_double(4, norm='batch', activation='tanh')"
    block = db.DynamicBlock(layer, "linear(3)", "uniform(0, 2, steps=4)", integrator, gradient).double()
    y = images()
    torch.testing.assert_close(outcome(block, y, "cuda"), outcome(block, y, "cpu"), rtol=1e-6, atol=1e-8)


class Dropping(nn.Module):
    """A layer that draws on the device."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, y):
        return torch.tanh(nn.functional.dropout(self.linear(y), 0.4, self.training))


@pytest.mark.parametrize("integrator", ["alf", "reversible_heun"])
def test_draws_of_the_device_come_again_on_the_way_back(integrator):
    block = db.DynamicBlock(Dropping, 3, "uniform(0, 3, steps=9)", integrator, "reversible").double()
    found = []
    for each in (block, db.with_gradient(block, "backprop")):
        torch.manual_seed(3)
        found.append(outcome(each, images(), "cuda"))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("integrator", ["euler", "rk4", "reversible_heun"])
def test_autocast_keeps_a_state_in_single_precision(integrator):
    block = db.DynamicBlock("preact_double(4)", 4, integrator=integrator).cuda()
    y = images(torch.float32).cuda()
    exact = block(y)
    with torch.autocast("cuda", torch.bfloat16):
        found = block(y)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.1)


@contextmanager
def never_waiting():
    """Whatever waits for the device is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("integrator", ["euler", "midpoint", "rk4_classic", "reversible_heun"])
def test_a_pass_on_a_grid_never_waits_for_the_device(integrator, gradient):
    block = db.DynamicBlock("preact_double(4)", "linear(3)", 4, integrator, gradient).cuda()
    y = images(torch.float32).cuda().requires_grad_()
    block(y).sum().backward()
    with never_waiting():
        block(y).sum().backward()


def test_a_compiled_block_is_as_an_ordinary_one():
    plain = db.DynamicBlock("preact_double(4)", 4, integrator="midpoint").cuda()
    compiled = db.DynamicBlock("preact_double(4)", 4, integrator="midpoint", compile=True).cuda()
    compiled.load_state_dict(plain.state_dict())
    y = images(torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not compiled.*")
        found = outcome(compiled, y, "cuda")
    torch.testing.assert_close(found, outcome(plain, y, "cuda"), rtol=1e-2, atol=1e-2)


def solved(solve, device, **keywords):
    """The states at three times, and the gradients of field and state."""
    torch.manual_seed(1)
    field, y = Smooth().double().to(device), torch.randn(5, 3, dtype=torch.float64).to(device).requires_grad_()
    t = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64, device=device)
    found = solve(field, y, t, rtol=1e-7, atol=1e-9, **keywords)
    states = getattr(found, "y", found)
    states.square().sum().backward()
    return [each.detach().cpu() for each in (states, y.grad, *(weight.grad for weight in field.parameters()))]


@pytest.mark.parametrize(
    ("solve", "keywords"),
    [
        (db.odeint, {}),
        (db.odeint, {"method": "rk4", "options": {"step_size": 0.1}}),
        pytest.param(db.odeint, {"options": {"compile": True}}),
        (db.odeint_adjoint, {}),
        pytest.param(db.odeint_adjoint, {"options": {"compile": True}}),
        (db.solve, {"method": "kvaerno5"}),
        (db.solve, {"gradient": "checkpoint"}),
        (db.solve, {"gradient": "adjoint", "gradient_options": {"interpolant": True}}),
        (db.solve, {"method": "reversible_heun", "gradient": "reversible", "options": {"step_size": 0.1}}),
        (db.solve, {"batched": True}),
        pytest.param(db.solve, {"batched": True, "compile": True}),
    ],
)
def test_solves_are_as_on_the_cpu(solve, keywords):
    plain = {name: value for name, value in keywords.items() if name != "compile" and value != {"compile": True}}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not compiled.*")
        found = solved(solve, "cuda", **keywords)
    torch.testing.assert_close(found, solved(solve, "cpu", **plain), rtol=1e-5, atol=1e-7)


def test_digits_are_learnt_on_the_device(tmp_path):
    flags = ["--hardware.accelerator", "cuda", "--epochs", "3", "--output", str(tmp_path), "--run", "digits"]
    assert main(["train", *flags]) == 0
    assert json.loads((tmp_path / "digits" / "run.json").read_text())["device"].startswith("cuda")
    assert json.loads((tmp_path / "digits" / "result.json").read_text())["test_accuracy"] > 0.5
