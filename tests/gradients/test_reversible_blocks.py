"""Blocks by reversible steps: what backpropagation gives, in memory that does not depend on the steps."""

import copy

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import drift, drifts
from dynamicblocks.gradients import evaluations
from dynamicblocks.gradients.evaluations import Shared
from dynamicblocks.gradients.reversible import DriftError
from dynamicblocks.integrators import Integrator
from tests.gradients.test_checkpoint_gradient import Drifting, Noisy, assert_same, benchmark_module, run


class Leapfrog(Integrator):
    """y1 = y(-1) + 2 h f(y0), which begins with a step of Euler's method."""

    name, order, reads = "leapfrog", 2, ((0.0, "field"),)

    def begin(self, stage, h, y):
        return y, y - h * stage(0.0, y)

    def advance(self, stage, h, carry):
        y, before = carry
        return before + 2 * h * stage(0.0, y), y

    def unstep(self, stage, h, carry):
        after, y = carry
        return y, after - 2 * h * stage(0.0, y)


class Forgetful(Leapfrog):
    """Begins anew where theta jumps."""

    def restart(self, stage, h, carry):
        return self.begin(stage, h, carry[0])


class Pair(Integrator):
    """Of two states that lead each other, each evaluation at the begin of the step."""

    name, order, reads = "pair", 1, ((0.0, "field"), (0.0, "field"))

    def begin(self, stage, h, y):
        return y, y

    def advance(self, stage, h, carry):
        y, z = carry
        y = y + h * stage(0.0, z)
        return y, z + h * stage(0.0, y)

    def unstep(self, stage, h, carry):
        y, z = carry
        z = z - h * stage(0.0, y)
        return y - h * stage(0.0, z), z


class Reusing(Leapfrog):
    """Evaluates in a memory that it writes to again."""

    def unstep(self, stage, h, carry):
        after, y = carry
        scratch = y.clone()
        slope = stage(0.0, scratch)
        scratch.zero_().copy_(y)
        return scratch, after - 2 * h * slope


class Layouts(nn.Conv2d):
    """Takes down whether gradients of what it returns have their channels last."""

    def __init__(self):
        super().__init__(4, 4, 3, padding=1)
        self.seen = []

    def forward(self, y):
        value = torch.tanh(super().forward(y))
        if value.requires_grad:
            value.register_hook(lambda by: self.seen.append(by.is_contiguous(memory_format=torch.channels_last)))
        return value


class Spectral(nn.Module):
    """Spectral normalisation, which iterates in its buffers, behind batch normalisation."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, y):
        return self.conv(torch.tanh(self.norm(y)))


INTEGRATORS = ["alf", "reversible_heun", Leapfrog(), Forgetful(), Pair()]


def pair_of(*choices, **keywords):
    """A block with backpropagation and a copy with reversible steps."""
    block = db.DynamicBlock(*choices, **keywords)
    return block, db.with_gradient(block, "reversible")


def relative(found, expected):
    return max(((one - two).norm() / two.norm()).item() for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda each: getattr(each, "name", each))
def test_gradients_over_128_steps_with_batch_normalisation(integrator, float64):
    """To 1e-12; each evaluation is made once more, where it is not known, and statistics move in the first pass."""
    block, other = pair_of("preact_double(3)", "linear(3)", db.uniform(0, 2, steps=128), integrator)
    results, calls = [], []
    for each in (block, other):
        count = [0]
        for layer in each.controls.layers:
            layer.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        y = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
        found = each(y)
        first = count[0]
        found.square().sum().backward()
        results.append([found.detach(), y.grad, *(weight.grad for weight in each.parameters())])
        calls.append((first, count[0] - first))
    assert torch.equal(results[0][0], results[1][0])
    assert relative(results[1], results[0]) < 1e-12
    assert all(torch.equal(one, two) for one, two in zip(block.buffers(), other.buffers(), strict=True))
    assert calls[0][1] == 0
    assert calls[1] == (calls[0][0], calls[0][0])


@pytest.mark.parametrize("integrator", INTEGRATORS[:4], ids=lambda each: getattr(each, "name", each))
@pytest.mark.parametrize("controls", ["constant(4)", "linear(3)"])
@pytest.mark.parametrize("layer", [Noisy, Drifting, Spectral])
def test_draws_and_buffers_that_are_read(layer, controls, integrator, float64):
    block, other = pair_of(layer, controls, db.uniform(0, 2, steps=7), integrator)
    y = torch.randn(3, 4, 5, 5)
    assert_same(run(other, y), run(block, y), 1e-11)


def test_evaluations_that_cannot_be_told_apart():
    block = db.DynamicBlock(nn.Dropout, 2, integrator=Pair(), gradient="reversible")
    found = block(torch.randn(3, 4, requires_grad=True))
    with pytest.raises(db.ConfigurationError, match=r"at the fraction 0 of a step 2 times.*Use gradient='checkpoint'"):
        found.sum().backward()


def test_states_are_compared_late_on_a_device(float64, monkeypatch):
    """Of states on a device few are read: an evaluation that was taken for another one is made anew at the end."""
    made = Shared.__init__
    monkeypatch.setattr(Shared, "__init__", lambda *args, **keywords: made(*args, **{**keywords, "reads": False}))
    for integrator in ("alf", Pair()):
        block, other = pair_of("preact_single(4)", "constant(4)", db.uniform(0, 4, steps=9), integrator)
        y = torch.randn(3, 4, 5, 5)
        assert_same(run(other, y), run(block, y), 1e-11)
    monkeypatch.setattr(Shared, "check", lambda self: _late(self))
    assert_same(run(other, y), run(block, y), 1e-11)


def _late(shared):
    from dynamicblocks.gradients.evaluations import DiffersError

    if shared.serves:
        raise DiffersError


@pytest.mark.parametrize("integrator", ["alf", "reversible_heun"])
def test_a_trajectory_frozen_layers_and_a_block_called_twice(integrator, float64):
    block, other = pair_of("preact_single(4)", "linear(4)", db.uniform(0, 3, steps=5), integrator)
    results = []
    for each in (block, other):
        for weight in each.controls.layers[1].parameters():
            weight.requires_grad_(False)
        y = torch.linspace(-1, 1, 4 * 4 * 9).view(4, 4, 3, 3)
        states = each.trajectory(each(y))
        (torch.linspace(1, 2, states.numel()).view_as(states) * states).sum().backward()
        results.append([weight.grad for weight in each.parameters() if weight.requires_grad])
        assert all(weight.grad is None for weight in each.controls.layers[1].parameters())
    assert relative(results[1], results[0]) < 1e-12


@pytest.mark.parametrize("trajectory", [False, True])
def test_gradients_keep_the_layout_of_states(trajectory):
    """Operations on two layouts take several times as long."""
    layer = Layouts()
    block = db.DynamicBlock(lambda: layer, "constant(1)", db.uniform(0, 3, steps=3), "two_step_midpoint", "reversible")
    y = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    states = block.trajectory(y) if trajectory else block(y)
    layer.seen.clear()
    states.backward(torch.randn(states.shape))
    assert layer.seen == [True] * 3
    assert y.grad.is_contiguous(memory_format=torch.channels_last)


def test_an_evaluation_whose_memory_was_written_to_is_made_again(float64):
    block, other = pair_of("preact_single(4)", "linear(3)", db.uniform(0, 2, steps=6), Reusing())
    y = torch.randn(3, 4, 6, 6)
    found, expected = run(other, y), run(block, y)
    assert relative([found[1], *found[2].values()], [expected[1], *expected[2].values()]) < 1e-10


def test_a_state_in_the_same_memory_is_not_compared(monkeypatch):
    """The way back of leapfrog and midpoint ends in the state that it evaluated."""
    compared = []
    monkeypatch.setattr(evaluations, "_distance", lambda *_: compared.append(1) or torch.zeros(()))
    for layer, integrator in (("symmetric(4)", "leapfrog"), ("antisymmetric(4)", "two_step_midpoint")):
        block = db.DynamicBlock(layer, "constant(4)", db.uniform(0, 2, steps=4), integrator, "reversible")
        block(torch.randn(2, 4, 6, 6, requires_grad=True)).sum().backward()
    assert not compared


def test_memory_does_not_depend_on_the_steps():
    live_bytes = benchmark_module("live_bytes")
    for integrator in ("alf", "reversible_heun"):
        for by_steps in (False, True):
            found = set()
            for steps in (8, 32, 128):
                controls = steps if by_steps else 8
                times = db.uniform(0, 8, steps=steps)
                block = db.DynamicBlock("preact_single(4)", f"constant({controls})", times, integrator, "reversible")
                saved = []
                y = torch.randn(2, 4, 5, 5, requires_grad=True)
                with (
                    torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t),
                    live_bytes.LiveBytes() as live,
                ):
                    after = block(y)
                own = {id(weight) for weight in block.parameters()}
                kept = sum(each.numel() * each.element_size() for each in saved if id(each) not in own)
                found.add((kept, live.current))
                del after
            assert len(found) == 1, found


def test_autocast():
    block, other = pair_of("preact_single(4)", "linear(3)", db.uniform(0, 2, steps=6), "alf")
    y = torch.randn(3, 4, 6, 6)
    # Rounding to half precision sees other last digits of a state as another number here and there.
    found, expected = (run(each, y, autocast=True) for each in (other, block))
    assert torch.equal(found[0], expected[0])
    assert relative([found[1], *found[2].values()], [expected[1], *expected[2].values()]) < 2e-2
    with torch.autocast("cpu", torch.bfloat16):
        assert other(y.bfloat16()).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler's own look at the state between two graphs
def test_compiled_around():
    torch._dynamo.reset()
    block = db.DynamicBlock("preact_single(4)", "linear(3)", db.uniform(0, 2, steps=4), "alf", "reversible")
    net = nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.ReLU(inplace=True))
    twin = copy.deepcopy(net)
    images = torch.randn(2, 3, 4, 4)
    net(images).square().sum().backward()
    torch.compile(twin, backend="eager")(images).square().sum().backward()
    for one, two in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad)


def test_changes_of_a_network():
    block = db.DynamicBlock("preact_single(4)", 2, db.uniform(0, 2, steps=4), "alf", "reversible")
    y = torch.randn(2, 4, 4, 4, requires_grad=True)
    for other in (db.refine(block), db.with_integrator(block, "reversible_heun")):
        assert other.gradient == db.Reversible()
        other(y).sum().backward()
    with torch.no_grad():
        assert block(y).grad_fn is None
    (first,) = torch.autograd.grad(block(y).sum(), y, create_graph=True)
    with pytest.raises(db.ConfigurationError, match="has no second derivatives"):
        first.sum().backward()


class Private(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.source = torch.Generator()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"integrator": "rk4"},
            r"rk4 has no unstep, .*alf, .*verlet, and integrator=\"reversible\('rk4'\)\".*checkpoint",
        ),
        ({"integrator": "dopri5"}, "dopri5 chooses its own steps"),
        ({"layer": "residual_unit(4, unit='a')", "integrator": "alf"}, "projection of the state, which has no inverse"),
        ({"layer": Private, "integrator": "alf"}, r"cannot replay Private .* torch\.Generator"),
        ({"integrator": "alf", "compile": True}, "compile=True and gradient='reversible' do not go together"),
        ({"integrator": "reversible_heun(reuse=True)"}, r"where theta\(t\) jumps"),
        ({"integrator": "alf", "gradient": "reversible(max_drift=0)"}, "max_drift must be a positive number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused_where_it_is_built(keywords, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.DynamicBlock(**{"layer": "preact_single(4)", "controls": 2, "gradient": "reversible", **keywords})


class Decay(nn.Module):
    """z' = -relu(50 z) (ANODE)."""

    def forward(self, z):
        return -torch.relu(50 * z)


def test_the_drift_is_measured_and_bounded():
    y = torch.tensor([[1.0, 0.5]], requires_grad=True)
    block = db.DynamicBlock(Decay, times=db.uniform(0, 1, steps=400), integrator="alf")
    found = drift(block, y)
    assert found > 1e-4
    db.with_gradient(block, "reversible(max_drift=1)")(y).sum().backward()
    with pytest.raises(DriftError, match="Take fewer or shorter steps") as caught:
        db.with_gradient(block, "reversible(max_drift=1e-5)")(y).sum().backward()
    assert isinstance(caught.value, db.SolverError)
    assert caught.value.drift == pytest.approx(found, rel=0.5)


def test_measuring_leaves_no_trace():
    block = db.DynamicBlock(Noisy, 3, db.uniform(0, 3, steps=6), "reversible_heun")
    before, draws = copy.deepcopy(block.state_dict()), torch.get_rng_state()
    assert drift(block, torch.randn(2, 4, 3, 3, generator=torch.Generator())) < 1e-5
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert set(drifts(nn.Sequential(block, block.eval()), torch.randn(2, 4, 3, 3))) == {"0"}
    with pytest.raises(db.ConfigurationError, match="rk4 has no unstep"):
        drift(db.with_integrator(block, "rk4"), torch.randn(2, 4, 3, 3))
