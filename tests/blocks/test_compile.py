"""Compiled networks: one graph, the same numbers, statistics moved once."""

import copy
from itertools import product
from typing import ClassVar

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.gradients import checkpoint
from dynamicblocks.integrators import Integrator
from dynamicblocks.layers import stand_in


def make_net(controls, gradient, norm, widths=(4,), steps=2):
    return db.create_model(
        "dynamicnet",
        widths=widths,
        units=2,
        steps=steps,
        controls=controls,
        integrator="midpoint",
        gradient=gradient,
        norm=norm,
        layer="preact_single",
    )


# Every two of the choices meet in these; all of them take minutes.
PAIRED = [
    ("constant", "backprop", "batch", "train"),
    ("constant", "backprop", "tv", "eval"),
    ("constant", "checkpoint", "group(groups=2)", "eval"),
    ("constant", "checkpoint", "tv", "train"),
    ("linear", "backprop", "group(groups=2)", "train"),
    ("linear", "backprop", "tv", "train"),
    ("linear", "checkpoint", "batch", "train"),
    ("linear", "checkpoint", "batch", "eval"),
]
CHOICES = product(
    ["constant", "linear"], ["backprop", "checkpoint"], ["batch", "group(groups=2)", "tv"], ["train", "eval"]
)
CASES = [pytest.param(*case, marks=[] if case in PAIRED else pytest.mark.slow) for case in CHOICES]


@pytest.mark.parametrize(("controls", "gradient", "norm", "mode"), CASES)
def test_compiled_equals_eager(controls, gradient, norm, mode):
    training = mode == "train"
    # Before PyTorch 2.11 checkpoints that move statistics stand outside the graph.
    whole = checkpoint._RECOMPUTES_APART or not (training and (gradient, norm) == ("checkpoint", "batch"))
    check_compiled(make_net(controls, gradient, norm).train(training), training, whole)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it where a graph breaks
def test_checkpoints_that_move_statistics_outside_the_graph(monkeypatch):
    monkeypatch.setattr(checkpoint, "_RECOMPUTES_APART", False)
    check_compiled(make_net("linear", "checkpoint", "batch").train(), training=True, whole=False)


@pytest.mark.parametrize("controls", ["legendre(3)", "bspline(4)"])
def test_compiled_equals_eager_where_many_controls_are_blended(controls):
    check_compiled(make_net(controls, "backprop", "batch").train(), training=True)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("controls", ["constant", "linear"])
def test_compiled_equals_eager_with_two_blocks_and_more_steps(controls, gradient):
    """Steps that end inside control intervals, so that blended stages occur in every block."""
    whole = checkpoint._RECOMPUTES_APART or gradient == "backprop"
    check_compiled(make_net(controls, gradient, "batch", widths=(4, 8), steps=3).train(), training=True, whole=whole)


def check_compiled(net, training, whole=True):
    torch._dynamo.reset()
    twin = copy.deepcopy(net)
    images = torch.randn(4, 3, 8, 8)

    eager = net(images)
    eager.square().sum().backward()
    compiled = torch.compile(twin, fullgraph=whole)(images)
    compiled.square().sum().backward()

    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    for (name, weight), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        if weight.grad is not None:
            scale = weight.grad.abs().max().clamp(min=1)
            torch.testing.assert_close(other.grad / scale, weight.grad / scale, rtol=1e-5, atol=1e-5, msg=name)
    for (name, buffer), other in zip(net.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, rtol=1e-5, atol=1e-5, msg=name)
    counted = [b.item() for name, b in twin.named_buffers() if name.endswith("num_batches_tracked")]
    assert not training or all(count > 0 for count in counted)


class Keeping(nn.Module):
    """A tied weight, statistics moved in place or by replacement, a counter, an attribute set, and a second part."""

    parts: ClassVar = {"field": "forward", "other": "other"}

    def __init__(self, replaces):
        super().__init__()
        self.replaces = replaces
        self.inner, self.norm, self.calls = nn.Linear(3, 3), nn.BatchNorm1d(3), 0
        self.tied = nn.Sequential(self.inner, nn.Tanh())
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, y):
        self.calls += 1
        self.count.add_(1)
        if self.replaces:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        else:
            self.mean.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return self.tied(self.norm(self.inner(y))) - self.mean

    def other(self, y):
        return torch.sin(self.inner(y))


class Both(Integrator):
    """Reads the second part in the middle of the step."""

    name, order, reads = "both", 1, ((0.25, "field"), (0.5, "other"))

    def __repr__(self):
        return self.name

    def advance(self, stage, h, y):
        return y + h * stage(0.25, y) + h * stage.part("other", 0.5, y)


@pytest.mark.parametrize(
    "half", [pytest.param(False, id="float32"), pytest.param(True, id="bfloat16", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("way", ["stand-ins", "exchange"])
def test_layers_that_keep_things_are_blended_in_a_trace_as_outside(way, half, monkeypatch):
    """Both ways of blending in a trace: compilers before PyTorch 2.12 know the second alone."""
    if way == "exchange":
        monkeypatch.setattr(stand_in, "_TRACES_STAND_INS", False)
    elif not stand_in._TRACES_STAND_INS:
        pytest.skip("before PyTorch 2.12 the compiler cannot copy modules")
    torch._dynamo.reset()
    # Of a copy of a module the compiler traces no replacement of a buffer.
    block = db.DynamicBlock(lambda: Keeping(way == "exchange"), "legendre(2)", db.uniform(0, 1, steps=2), Both())
    twin = copy.deepcopy(block)
    own = [(each, each._parameters, each._buffers) for each in twin.modules()]
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager", dynamic=False)
    y = torch.randn(5, 3)
    for _ in range(2):
        found = []
        for each in (block, compiled):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found.append(each(y))
            found[-1].float().square().sum().backward()
        torch.testing.assert_close(*found)
    bound = {"rtol": 0.05, "atol": 0.05} if half else {"rtol": 1e-5, "atol": 1e-5}
    for one, two in zip(block.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, **bound)
    for (name, one), two in zip(block.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    assert [layer.calls for layer in block.controls.layers] == [layer.calls for layer in twin.controls.layers]
    assert all(each._parameters is weights and each._buffers is buffers for each, weights, buffers in own)
