"""Blocks called from several threads, from their own layers and from hooks: a call changes nothing that others see."""

import copy
import pickle
import threading
from contextlib import contextmanager
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune

import dynamicblocks as db
from dynamicblocks.compiled_block import StepPrograms
from dynamicblocks.integrators import Integrator

pytestmark = pytest.mark.usefixtures("float64")
SECONDS = 60  # after which a thread that waits is a failure


class Gate:
    """A place where calls of one thread wait until they are let through."""

    def __init__(self):
        self.thread, self.reached, self.open = None, threading.Event(), threading.Event()

    def pass_through(self, *_):
        if threading.current_thread() is self.thread:
            self.reached.set()
            assert self.open.wait(SECONDS)

    @contextmanager
    def held(self, function):
        """While this lasts, a thread that runs the function waits at the gate; its result comes afterwards."""
        found = []
        self.thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
        self.thread.start()
        try:
            assert self.reached.wait(SECONDS), "nothing waits at the gate"
            yield found
        finally:
            self.open.set()
            self.thread.join(SECONDS)
        assert found, "the other thread failed"


class Net(nn.Module):
    """Two linear maps and a normalisation, with parts besides."""

    parts: ClassVar = {"field": "forward", "other": "other"}

    def __init__(self, width=3):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width)
        with torch.no_grad():
            self.norm.running_mean.normal_()

    def forward(self, y):
        return torch.tanh(self.outer(self.norm(self.inner(y))))

    def other(self, y):
        return self.outer(torch.sin(self.inner(y)))


class Both(Integrator):
    """Reads a second part in the middle of the step."""

    name, order, reads = "both", 1, ((0.25, "field"), (0.5, "other"))

    def __repr__(self):
        return self.name

    def advance(self, stage, h, y):
        return y + h * stage(0.25, y) + h * stage.part("other", 0.5, y)


def gated(block, name="inner"):
    gate = Gate()
    for layer in block.controls.layers:
        layer.get_submodule(name).register_forward_pre_hook(gate.pass_through)
    return gate


def tensors(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


CHOICES = [
    ("linear(3)", {"integrator": "midpoint"}),
    ("bspline(5)", {"integrator": "rk4_classic", "gradient": "checkpoint"}),
    ("legendre(3)", {"integrator": Both()}),
    ("linear(3)", {"integrator": "implicit_midpoint"}),
    ("chebyshev(3)", {"integrator": "dopri5(rtol=1e-4, atol=1e-4)"}),
]


@pytest.mark.parametrize(("controls", "choices"), CHOICES, ids=str)
def test_a_call_sees_nothing_of_one_that_is_under_way(controls, choices):
    # An implicit method takes running statistics in evaluation only.
    block = db.DynamicBlock(Net, controls, db.uniform(0, 2, steps=2), **{**choices, "integrator": "rk4"}).eval()
    block = db.with_integrator(block, choices["integrator"])
    x, other = torch.randn(2, 4, 3)
    with torch.no_grad():
        alone, others = block(x), block(other)
    before = tensors(block)
    values = {name: tensor.clone() for name, tensor in before.items()}

    def call():
        with torch.no_grad():
            return block.trajectory(other)[-1]

    gate = gated(block)
    with gate.held(call) as found:
        with torch.no_grad():
            assert torch.equal(block(x), alone)
        assert all(tensor is before[name] for name, tensor in tensors(block).items())
        assert all(torch.equal(tensor, values[name]) for name, tensor in block.state_dict().items())
    assert torch.equal(found[0], others)
    with torch.no_grad():
        assert torch.equal(block(x), alone)


@pytest.mark.parametrize("way", ["eager", "fullgraph", "steps"])
def test_four_threads_at_once(way, monkeypatch):
    monkeypatch.setattr(StepPrograms, "backend", "aot_eager")
    torch._dynamo.reset()
    steps, controls = (2, "linear(3)") if way == "eager" else (1, "linear(2)")  # compiling takes time
    block = db.DynamicBlock(Net, controls, db.uniform(0, 1, steps=steps), Both(), compile=way == "steps").eval()
    called = torch.compile(block, fullgraph=True, backend="aot_eager") if way == "fullgraph" else block
    inputs = torch.randn(4, 5, 3)
    alone = [copy.deepcopy(block).replaced(compile=False)(x).detach() for x in inputs]
    with torch.no_grad():
        called(inputs[0])  # programs are made by one thread
    barrier, worst, errors = threading.Barrier(4), [0.0] * 4, []

    def call(n):
        try:
            with torch.no_grad():
                barrier.wait(SECONDS)
                for _ in range(15):
                    worst[n] = max(worst[n], (called(inputs[n]) - alone[n]).abs().max().item())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert max(worst) < 1e-12


class Recursive(nn.Module):
    """A layer that calls its own block once, with a guard against doing so for ever."""

    def __init__(self):
        super().__init__()
        self.linear, self.inside, self.calls, self.block = nn.Linear(2, 2), False, 0, lambda: None

    def forward(self, y):
        self.calls += 1
        if self.inside:
            return torch.tanh(self.linear(y))
        self.inside = True
        within = self.block()(y)
        self.inside = False
        self.calls += 1
        return torch.tanh(self.linear(y)) + 0.1 * within


def test_a_layer_may_call_its_own_block():
    block = db.DynamicBlock(Recursive, "linear(2)", db.uniform(0, 1, steps=1), "midpoint")

    class Plain(Recursive):
        def forward(self, y):
            return torch.tanh(self.linear(y))

    class Outer(Recursive):
        def forward(self, y):
            return torch.tanh(self.linear(y)) + 0.1 * plain(y)

    plain, outer = (
        db.DynamicBlock(each, "linear(2)", db.uniform(0, 1, steps=1), "midpoint") for each in (Plain, Outer)
    )
    for each in (plain, outer):
        each.load_state_dict(block.state_dict())
    for layer in block.controls.layers:
        layer.block = lambda: block
    y = torch.randn(3, 2, requires_grad=True)
    block(y).square().sum().backward()
    found = [y.grad, *(weight.grad for weight in block.parameters())]
    z = y.detach().clone().requires_grad_()
    outer(z).square().sum().backward()
    expected = [
        one.grad + (0 if two.grad is None else two.grad)
        for one, two in zip(outer.parameters(), plain.parameters(), strict=True)
    ]
    torch.testing.assert_close(found[0], z.grad)
    for one, two in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(one, two)
    # Outer stages count twice, inner ones, of which each outer stage has two, once.
    assert sum(layer.calls for layer in block.controls.layers) == 2 * 2 + 2 * 2


def test_hooks_know_the_module_and_see_the_block_as_it_is():
    block = db.DynamicBlock(Net, "linear(2)", integrator="midpoint").eval()
    names = {module: name for name, module in block.named_modules()}
    values = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    seen = []

    def look(module, _inputs, output):
        weight = 0.5 * sum(layer.inner.weight for layer in block.controls.layers)
        blended = torch.equal(module.weight, weight)
        same = all(torch.equal(tensor, values[name]) for name, tensor in block.state_dict().items())
        seen.append((names[module], type(module).__name__, module.__class__ is nn.Linear, blended, same))
        return 2 * output

    for layer in block.controls.layers:
        layer.inner.register_forward_hook(look)
    y = torch.randn(4, 3)
    block(y)
    assert seen[1][0].endswith("inner")
    assert seen[0][3:] == (False, True)  # at the knot the layer itself
    assert seen[1][1:] == ("Linear", True, True, True)


class Noting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls, self.log = nn.Linear(2, 2), 0, []

    def forward(self, y):
        self.calls += 1
        self.last = y.detach()
        self.log.append(float(self.last.sum()))
        return self.linear(self.last)


def test_what_a_layer_sets_in_itself_arrives():
    block = db.DynamicBlock(Noting, "linear(2)", db.uniform(0, 1, steps=2), "rk4_classic")
    block.controls.layers[0].linear.register_forward_hook(
        lambda module, *_: setattr(module, "count", getattr(module, "count", 0) + 1)
    )
    y = torch.randn(3, 2)
    # One after the other: a counter of any module loses counts to threads that run at once.
    for _ in range(4):
        thread = threading.Thread(target=block, args=(y,))
        thread.start()
        thread.join()
    layers = block.controls.layers
    assert sum(layer.calls for layer in layers) == 4 * 8 == sum(len(layer.log) for layer in layers)
    assert layers[0].linear.count == layers[0].calls
    assert all(layer.last.shape == y.shape for layer in layers)
    assert not any("calls" in name for name in block.state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "parametrize", "prune", "own hook"])
def test_weights_that_hooks_compute_are_those_of_the_blend(kind):
    def layer():
        linear = nn.Linear(3, 3)
        if kind == "weight_norm":
            return nn.utils.weight_norm(linear)
        if kind == "spectral_norm":
            return nn.utils.spectral_norm(linear)
        if kind == "prune":
            return prune.l1_unstructured(linear, "weight", amount=4)
        if kind == "parametrize":
            parametrize.register_parametrization(linear, "weight", nn.Softplus())
            return linear
        linear.raw = linear.weight
        del linear.weight
        linear.register_forward_pre_hook(lambda module, _: setattr(module, "weight", module.raw / module.raw.norm()))
        return linear

    block = db.DynamicBlock(layer, "linear(2)", db.uniform(0, 1, steps=1), "midpoint").eval()
    one, two = block.controls.layers
    x = torch.randn(4, 3)
    state = {name: 0.5 * tensor + 0.5 * tensors(two)[name] for name, tensor in tensors(one).items()}
    with torch.no_grad():
        middle = x + 0.5 * one(x)
        expected = x + functional_call(copy.deepcopy(one), state, (middle,))
        own = one(x)
        assert torch.equal(block(x), expected)

    def call():
        with torch.no_grad():
            return block(x)

    # One thread waits behind the hooks that compute, in the blended call, while this one calls the layers themselves.
    gate, calls = Gate(), []
    for each in (one, two):
        each.register_forward_pre_hook(lambda *_: calls.append(1) or (len(calls) == 2 and gate.pass_through()) or None)
    with gate.held(call) as found, torch.no_grad():
        assert torch.equal(one(x), own)
        assert torch.equal(block(x), expected)
    assert torch.equal(found[0], expected)


class Led(nn.Module):
    """Weights that are reached by other ways than names of submodules."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.rand(2))
        self.list, self.table, self.bound, self.closed = (
            [self.linear],
            {"a": (self.linear,)},
            self.double,
            lambda y: self.linear(y),
        )
        self.holder = type("Holder", (), {})()
        self.holder.scale = self.scale
        self.tied = self.linear

    def double(self, y):
        return 2 * self.linear(y)

    def forward(self, y):
        y = self.list[0](y) + self.table["a"][0](y) + self.bound(y) + self.closed(y) + self.tied(y)
        return y * self.holder.scale


def test_every_way_to_a_weight_leads_to_the_blended_one():
    block = db.DynamicBlock(Led, "linear(2)", db.uniform(0, 1, steps=1), "midpoint")
    for layer in block.controls.layers:  # a forward of one instance's own
        layer.linear.forward = lambda y, forward=layer.linear.forward: forward(y) + 1
    one, two = block.controls.layers
    y = torch.randn(3, 2)
    weight, bias, scale = (
        0.5 * (a + b)
        for a, b in zip(
            (one.linear.weight, one.linear.bias, one.scale),
            (two.linear.weight, two.linear.bias, two.scale),
            strict=True,
        )
    )
    expected = y + 6 * (nn.functional.linear(y + 0.5 * one(y), weight, bias) + 1) * scale
    torch.testing.assert_close(block(y), expected)


MADE = []


def make_copies(module, *_):
    MADE.append((copy.deepcopy(module), pickle.loads(pickle.dumps(module))))


def test_copies_and_pickles_that_hooks_make_are_modules():
    block = db.DynamicBlock(lambda: nn.Linear(2, 2), "linear(2)", db.uniform(0, 1, steps=1), "midpoint")
    for layer in block.controls.layers:
        layer.register_forward_hook(make_copies)
    with torch.no_grad():
        block(torch.randn(3, 2))
    weight = 0.5 * sum(layer.weight for layer in block.controls.layers)
    for each in MADE[-1]:
        assert type(each) is nn.Linear
        torch.testing.assert_close(each.weight, weight)


def solved(net, x):
    return db.solve(net, x, torch.linspace(0, 1, 4), method="rk4", gradient="checkpoint").y[-1]


class Timed(Net):
    def forward(self, t, y):
        return super().forward(y)


WAYS = [
    ("constant(2)", {"integrator": "midpoint", "gradient": "checkpoint"}),
    ("linear(3)", {"integrator": "midpoint", "gradient": "checkpoint"}),
    ("linear(3)", {"integrator": "bosh3", "gradient": "checkpoint"}),
    (None, {}),
]


@pytest.mark.parametrize(("controls", "choices"), WAYS, ids=str)
def test_recomputation_leaves_buffers_and_random_numbers_of_others_alone(controls, choices):
    net = Timed() if controls is None else db.DynamicBlock(Net, controls, db.uniform(0, 2, steps=2), **choices)
    called = (lambda x: solved(net, x)) if controls is None else net
    twin = copy.deepcopy(net)
    x, other = torch.randn(2, 4, 3)
    gate = Gate()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(gate.pass_through)
    y = called(x)
    before = {name: (buffer, buffer.clone()) for name, buffer in net.named_buffers()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with gate.held(lambda: y.sum().backward() or 1):
        for name, buffer in net.named_buffers():
            assert buffer is before[name][0]
            assert torch.equal(buffer, before[name][1])
        drawn = [torch.rand(1)]
        called(other)
        drawn.append(torch.rand(1))
        moved = {name: buffer.clone() for name, buffer in net.named_buffers()}
    assert torch.equal(torch.cat([*drawn, torch.rand(1)]), expected)
    run = (lambda x: solved(twin, x)) if controls is None else twin
    run(x)
    run(other)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, moved[name])
        assert torch.equal(buffer, dict(twin.named_buffers())[name])
    assert any(not torch.equal(moved[name], old) for name, (_, old) in before.items())


class Slow(torch.autograd.Function):
    """The identity, whose backward pass waits at a gate."""

    @staticmethod
    def forward(ctx, y, gate):
        ctx.gate = gate
        return y.view_as(y)

    @staticmethod
    def backward(ctx, gradient):
        ctx.gate.pass_through()
        return gradient, None


def test_a_backward_pass_through_the_same_graph_goes_on():
    """A solve stops gradients at inputs that were made of other inputs; in its own pass alone."""
    weight = torch.tensor([0.3, 0.7], requires_grad=True)
    made = 2 * weight
    gate = Gate()

    def func(t, y, one, two):
        return Slow.apply(one * two * y, gate)

    y0 = torch.ones(2)
    found = db.solve(func, y0, torch.tensor([0.0, 1.0]), method="euler", gradient="checkpoint", args=(weight, made)).y[
        -1
    ]
    with gate.held(lambda: torch.autograd.grad(found.sum(), weight, retain_graph=True)[0]) as ours:
        (theirs,) = torch.autograd.grad((3 * made).sum(), weight, retain_graph=True)
    assert theirs.tolist() == [6.0, 6.0]
    torch.testing.assert_close(ours[0], 4 * weight.detach())
