"""Recomputation: the gradients, statistics and draws of backpropagation, for a fraction of its memory."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamicblocks as db

MODES = ["checkpoint", "checkpoint(segments=1)", "checkpoint(segments=3)", "checkpoint(segments=100)"]


class Noisy(nn.Module):
    """Batch normalisation and dropout around a convolution."""

    def __init__(self, width=4):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.3)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, y):
        return self.conv(self.drop(torch.tanh(self.norm(y))))


class Drifting(nn.Module):
    """A layer whose output depends on a buffer that every evaluation changes: replay must start from the old value."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("drift", torch.tensor(1.0))

    def reset_parameters(self):
        nn.init.constant_(self.weight, 0.3)

    def forward(self, y):
        with torch.no_grad():
            self.drift = self.drift * 1.1
        return torch.tanh(self.weight * self.drift * y)


def run(block, x, autocast=False, seed=5):
    """Output, gradients of input and weights, and buffers, of one forward and backward pass."""
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = block(x)
    y.float().square().sum().backward() if autocast else y.square().sum().backward()
    gradients = {name: weight.grad for name, weight in block.named_parameters() if weight.grad is not None}
    return y.detach(), x.grad, gradients, {name: buffer.clone() for name, buffer in block.named_buffers()}


def assert_same(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        a, b = (a, b) if isinstance(a, dict) else ({"": a}, {"": b})
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=f"{name} differs")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("controls", ["constant(4)", "linear(3)"])
@pytest.mark.parametrize("integrator", ["euler", "rk4_classic"])
@pytest.mark.parametrize("layer", [Noisy, Drifting])
def test_gradients_and_statistics_equal_those_of_backprop(mode, controls, integrator, layer, float64):
    block = db.DynamicBlock(layer, controls, db.uniform(0, 2, steps=7), integrator)
    weights = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    x = torch.randn(3, 4, 5, 5)
    expected = run(block, x)
    other = db.with_gradient(block, mode)
    other.load_state_dict(weights)
    other.zero_grad()
    assert_same(run(other, x), expected, 1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("controls", ["constant(4)", "linear(3)"])
def test_bit_equal_under_bfloat16_autocast(mode, controls):
    block = db.DynamicBlock(Noisy, controls, db.uniform(0, 2, steps=8), "rk4_classic")
    other = db.with_gradient(block, mode)
    x = torch.randn(3, 4, 6, 6)
    assert_same(run(other, x, autocast=True), run(block, x, autocast=True), 0.0)


def test_statistics_move_once_for_each_evaluation():
    block = db.DynamicBlock(Noisy, "constant(2)", db.uniform(0, 2, steps=6), "midpoint", "checkpoint")
    block(torch.randn(3, 4, 5, 5)).sum().backward()
    assert [layer.norm.num_batches_tracked.item() for layer in block.controls.layers] == [6, 6]


def test_two_backward_passes_and_double_backward():
    block = db.DynamicBlock(Noisy, 3, gradient="checkpoint").eval()
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    loss = block(x).square().sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    plain = db.with_gradient(block, "backprop")
    (first_plain,) = torch.autograd.grad(plain(x).square().sum(), x, create_graph=True)
    (second_plain,) = torch.autograd.grad(first_plain.square().sum(), x)
    torch.testing.assert_close(first, first_plain)
    torch.testing.assert_close(second, second_plain)


def test_trajectory_and_no_grad():
    block = db.DynamicBlock(Noisy, 5, gradient="checkpoint").eval()
    x = torch.randn(2, 4, 5, 5)
    states = block.trajectory(x)
    assert states.shape == (6, 2, 4, 5, 5)
    assert torch.equal(states[0], x)
    assert torch.equal(states[-1], block(x))
    with torch.no_grad():
        assert torch.equal(block(x), states[-1])


def test_own_generators_cannot_be_replayed():
    class Private(nn.Module):
        def __init__(self):
            super().__init__()
            self.source = torch.Generator()

        def forward(self, y):
            return torch.rand(y.shape, generator=self.source)

    block = db.DynamicBlock(Private, 2)
    with pytest.raises(db.ConfigurationError, match=r"cannot replay Private .* torch\.Generator"):
        db.with_gradient(block, "checkpoint")


@pytest.mark.parametrize("bad", ["checkpoint(segments=0)", "chekpoint", 3])
def test_bad_modes(bad):
    with pytest.raises(db.ConfigurationError):
        db.DynamicBlock(Noisy, 2, gradient=bad)


def test_peak_live_bytes_are_at_most_a_quarter():
    live_bytes = benchmark_module("live_bytes")
    block = db.DynamicBlock("preact_double(8)", 64)
    x = torch.randn(8, 8, 16, 16)
    peaks = {}
    for mode in ("backprop", "checkpoint"):
        variant = db.with_gradient(block, mode)
        peaks[mode] = live_bytes.peak_bytes(lambda variant=variant: variant(x).sum().backward())
    assert peaks["checkpoint"] <= 0.25 * peaks["backprop"]


def benchmark_module(name):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
