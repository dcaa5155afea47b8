"""The linear multistep method with trained coefficients, and blocks that are given the state before the first."""

import copy
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.compiled_block import StepPrograms
from dynamicblocks.integrators import Integrator, LinearMultistep, as_integrator
from dynamicblocks.structure import discretisation, with_discretisation
from dynamicblocks.training.network_changes import carry_momentum


class Field(nn.Module):
    """A field of points that knows the time."""

    def __init__(self, width=3):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width, width)

    def forward(self, t, y):
        return torch.tanh(self.linear(y)) / (1 + t)


def block(steps=4, integrator="lm", layer=Field, **choices):
    """A block whose coefficients are all different."""
    made = db.DynamicBlock(layer, steps, integrator=integrator, **choices)
    with torch.no_grad():
        for k in made.integrator_weights().values():
            k.uniform_(-0.5, 0.5)
    return made


def by_hand(net, y, before=None):
    """The steps of a block, from its formula."""
    k, method = net.integrator.k, net.integrator
    u, past, place = y, before, 0 if before is not None else -1
    for n, (start, end) in enumerate(pairwise(net.times.points)):
        slope = net.controls.layers[n](start, u)
        kn = torch.zeros(()) if place < 0 else k[place]
        factor = 1 + kn if method.scaled else 1
        u, past = (1 - kn) * u + (0 if place < 0 else kn * past) + (end - start) * factor * slope, u
        place += 1
    return u


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_steps_are_those_of_the_formula(float64, past, per_channel, scaled):
    net = block(4, LinearMultistep(per_channel=per_channel, scaled=scaled, past=past))
    y, before = torch.randn(5, 3), torch.randn(5, 3) if past else None
    assert net.integrator.k.shape == ((4 if past else 3), *((3,) if per_channel else ()))
    torch.testing.assert_close(net(y, before), by_hand(net, y, before))
    torch.testing.assert_close(net.trajectory(y, before)[-1], net(y, before))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_coefficient_of_each_channel_is_that_of_images(per_channel):
    net = block(3, LinearMultistep(per_channel=per_channel), "preact_single(4, norm='none')")
    y = torch.randn(2, 4, 5, 5)
    states = net.trajectory(y)
    k = net.integrator.k[0].view(-1, 1, 1) if per_channel else net.integrator.k[0]
    wanted = (1 - k) * states[1] + k * states[0] + net.controls.layers[1](states[1])
    torch.testing.assert_close(states[2], wanted)


@pytest.mark.parametrize("options", ["", "(per_channel=True)", "(scaled=True)", "(past=True)"])
def test_without_coefficients_it_is_the_residual_network_to_the_last_bit(options):
    net = db.DynamicBlock("preact_double(4)", 5, integrator=f"lm{options}")
    y = torch.randn(3, 4, 6, 6)
    given = (torch.randn_like(y),) if net.integrator.takes_past else ()
    found = net(y, *given)
    assert torch.equal(found, net.replaced(integrator="euler")(y))
    for layer in net.controls.layers:
        y = y + layer(y)
    assert torch.equal(found, y)


def test_no_coefficient_is_there_that_no_step_reads():
    assert block(1).integrator.k is None
    for steps, past in ((1, True), (2, False), (6, False), (6, True)):
        net = block(steps, LinearMultistep(past=past))
        y = torch.randn(5, 3)
        net(y, *((torch.randn(5, 3),) if past else ())).sum().backward()
        assert len(net.integrator.k) == steps - (not past)
        assert net.integrator.k.grad.all()
        assert net.freeze_unused_integrator_weights() == []


def test_coefficients_are_zero_or_drawn():
    assert not db.DynamicBlock(Field, 9, integrator="lm").integrator.k.any()
    drawn = db.DynamicBlock(Field, 90, integrator="lm(initial=(-0.1, 0.0))").integrator.k
    assert -0.1 <= drawn.min() < -0.09
    assert -0.01 < drawn.max() <= 0
    assert (db.DynamicBlock(Field, 3, integrator="lm(initial=0.25)").integrator.k == 0.25).all()


@pytest.mark.parametrize("initial", [(0.0, -0.1), (1.0,), "0", float("nan"), True, (0, 1, 2)])
def test_what_no_coefficients_can_be_drawn_from_is_refused(initial):
    with pytest.raises(db.ConfigurationError, match="initial must be a number, or"):
        LinearMultistep(initial)


def test_numbers_need_no_random_ones():
    block = db.DynamicBlock("symmetric(4)", 2)
    state = torch.get_rng_state()
    as_integrator("lm(initial=0.2)").for_block(4, 8)
    with pytest.raises(db.ConfigurationError, match="integrators with an unstep are"):  # asks all that there are
        db.with_gradient(block, "reversible")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("k", [-0.9, -0.3, 0.0, 0.4, 1.0])
def test_errors_are_multiplied_by_the_roots(float64, k):
    """Without a field, differences of states are multiplied by -k, and a constant stays."""
    companion = np.array([[1 - k, k], [1.0, 0.0]])
    roots = LinearMultistep(k).roots()
    np.testing.assert_allclose(sorted(np.linalg.eigvals(companion)), sorted(roots.tolist()), atol=1e-12)
    net = db.DynamicBlock(Still, 5, integrator=LinearMultistep(k, past=True))
    y, before = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    differences = net.trajectory(y, before).diff(dim=0).flatten()
    torch.testing.assert_close(differences, (1.0 - 3.0) * roots[1] ** torch.arange(1.0, 6.0))


class Still(nn.Module):
    def forward(self, y):
        return 0 * y


class Untrue(Still):
    width = 3


@pytest.mark.parametrize("k", [-0.4, 0.3])
def test_with_the_field_scaled_the_order_is_one(float64, k):
    def f(t, y):
        return torch.cos(t) - y

    y = torch.tensor([1.0])
    exact = db.odeint(f, y, torch.tensor([0.0, 2.0]), method="dopri8", rtol=1e-12, atol=1e-12)[-1]
    method = LinearMultistep(k, scaled=True).double()
    errors = [
        (db.odeint(f, y, torch.linspace(0, 2, n + 1), method=method)[-1] - exact).abs().item() for n in (100, 200, 400)
    ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1, atol=0.05)


def test_without_it_the_equation_of_the_limit_is_another(float64):
    """(1 + k) u' = f."""
    k, y = 0.25, torch.ones(1)
    method = LinearMultistep(k).double()
    errors = [
        (db.odeint(lambda t, y: -y, y, torch.linspace(0, 1, n + 1), method=method)[-1] - np.exp(-1 / (1 + k))).item()
        for n in (100, 200, 400)
    ]
    np.testing.assert_allclose(np.log2(np.abs(errors[:-1]) / np.abs(errors[1:])), 1, atol=0.05)


def test_a_solve_by_its_name_is_eulers():
    y, t = torch.ones(2), torch.linspace(0, 1, 6)
    found = db.odeint(lambda t, y: -y, y, t, method="lm")
    assert torch.equal(found, db.odeint(lambda t, y: -y, y, t, method="euler"))
    assert not found.requires_grad
    with pytest.raises(db.ConfigurationError, match="made for 3 steps, and there are more"):
        db.odeint(lambda t, y: -y, y, t, method=LinearMultistep(0.1).for_block(3, None))
    with pytest.raises(db.ConfigurationError, match="begins from two states, and only a block can be given both"):
        db.odeint(lambda t, y: -y, y, t, method="lm(past=True)")
    with pytest.raises(db.ConfigurationError, match="needs steps of one size"):
        db.odeint(lambda t, y: -y, y, torch.tensor([0.0, 1.0, 3.0]), method="lm")


def test_steps_must_be_equal():
    with pytest.raises(db.ConfigurationError, match="lm needs steps of one size"):
        db.DynamicBlock(Field, 3, db.graded(0, 3, steps=3, ratio=2), "lm")


def test_channels_are_known_or_it_is_refused():
    with pytest.raises(db.ConfigurationError, match="give it an attribute width, or leave per_channel out"):
        db.DynamicBlock(Still, 3, integrator="lm(per_channel=True)")
    other = block(3, "lm(per_channel=True)", Untrue)
    with pytest.raises(db.ConfigurationError, match="coefficients for 3 channels, and the state is of shape"):
        other(torch.randn(2, 4))


# The state before


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_of_the_state_before(float64, scaled):
    net = block(3, LinearMultistep(per_channel=True, scaled=scaled, past=True))
    y, before = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    weights = tuple(net.parameters())

    def run(y, before, *weights):
        named = dict(zip(dict(net.named_parameters()), weights, strict=True))
        return torch.func.functional_call(net, named, (y, before))

    assert torch.autograd.gradcheck(run, (y, before, *weights))


@pytest.mark.parametrize("states", [None, 1, 3])
@pytest.mark.parametrize("whole", [False, True])
def test_checkpoints_have_the_gradients_of_backpropagation(states, whole):
    """Also where the state before was made of the state, or of what came before both."""
    net = block(5, LinearMultistep(past=True), "preact_single(4)")
    x = torch.randn(3, 4, 6, 6, requires_grad=True)
    found = []
    for mode in ("backprop", db.Checkpoint(states)):
        other = copy.deepcopy(net).replaced(gradient=mode)
        y, before = 2 * x, x.sin()
        end = other.trajectory(y, before).sum(0) if whole else other(y, before)
        end.square().sum().backward()
        found.append([x.grad.clone(), *(weight.grad for weight in other.parameters()), *other.buffers()])
        x.grad = None
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


class Midpoint(Integrator):
    """y+ = before + 2 h f(y), from two states."""

    name, order, reads = "midpoint_of_two", 2, ((0.0, "field"),)
    takes_past = True

    def begin_after(self, stage, h, y, before):
        return y, before

    def advance(self, stage, h, carry):
        y, before = carry
        return before + 2 * h * stage(0.0, y), y

    def unstep(self, stage, h, carry):
        y, before = carry
        return before, y - 2 * h * stage(0.0, before)


@pytest.mark.parametrize("mode", ["checkpoint", "reversible"])
def test_an_integrator_of_ones_own_takes_it_too(float64, mode):
    net = block(4, Midpoint())
    x = torch.randn(3, 3, requires_grad=True)
    gradients = []
    for other in (net, net.replaced(gradient=mode)):
        inputs = (x, *net.parameters())
        end = other(2 * x, x.sin())
        gradients.append(torch.autograd.grad(end.square().sum(), inputs))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)
    assert db.analysis.drift(net, torch.ones(2, 3), torch.zeros(2, 3)) < 1e-12
    with pytest.raises(db.ConfigurationError, match="begins from one state, and midpoint_of_two from two"):
        net.replaced(gradient="adjoint")


Y = torch.zeros(2, 3)


@pytest.mark.parametrize("integrator", ["euler", "rk4", "adams_bashforth", "alf", "lm", "dopri5", "implicit_midpoint"])
def test_others_do_not_take_it(integrator):
    with pytest.raises(db.ConfigurationError, match=rf"{integrator}.* begins from y alone"):
        db.DynamicBlock(lambda: nn.Linear(3, 3), 2, integrator=integrator)(Y, Y)


@pytest.mark.parametrize(
    ("before", "match"),
    [
        (None, "begins from two states: give the one a step before y too"),
        (torch.zeros(1, 3), r"whose shape is \(2, 3\), and its is \(1, 3\)"),
        (Y.double(), "whose dtype is torch.float32, and its is torch.float64"),
        (Y.to("meta"), "whose device is cpu, and its is meta"),
        ([0.0], "before must be a state like y, got list"),
    ],
)
def test_what_is_no_state_before_is_refused(before, match):
    with pytest.raises(db.ConfigurationError, match=match):
        block(2, "lm(past=True)")(Y, before)


def test_half_precision_keeps_the_state_wide():
    net = block(4, LinearMultistep(per_channel=True, scaled=True, past=True), "preact_single(4)")
    y, before = torch.randn(2, 2, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        for cast in (torch.float32, torch.bfloat16):
            found = net(y.to(cast), before.to(cast))
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, net(y, before), rtol=0.05, atol=0.05)
    assert net.bfloat16()(y.bfloat16(), before.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("past", [False, True])
def test_a_compiled_step_is_the_eager_one(past, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(StepPrograms, "backend", "eager")
    net = block(6, LinearMultistep(past=past), "preact_single(4, norm='none')")
    compiled = copy.deepcopy(net).replaced(compile=True)
    gradients = []
    for each in (net, compiled):
        y, before = (torch.linspace(-1, 1, 64).view(1, 4, 4, 4) * c for c in (1, 2))
        y.requires_grad_()
        before.requires_grad_(past)
        inputs = (y, *((before,) if past else ()))
        end = each(*inputs)
        gradients.append((end, *torch.autograd.grad(end.square().sum(), (*inputs, *each.parameters()))))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)
    assert not compiled._programs.failed


# Changes, files, training


def test_finer_steps_take_the_coefficients_of_those_they_were_cut_from():
    net = block(3)
    first, second = net.integrator.k.tolist()
    assert db.refine(net).integrator.k.tolist() == [0, first, first, second, second]
    assert db.refine(net, 3).integrator.k.tolist() == [0, 0, *[first] * 3, *[second] * 3]
    both = block(2, "lm(past=True)")
    first, second = both.integrator.k.tolist()
    assert db.with_integrator(both, steps_factor=2).integrator.k.tolist() == [first, first, second, second]
    wide = block(2, "lm(per_channel=True)")
    assert torch.equal(db.refine(wide).integrator.k[1:], wide.integrator.k.expand(2, 3))
    assert db.refine(block(1, "lm(per_channel=True)").double()).integrator.k.dtype == torch.float64
    assert not db.refine(block(1, "lm(per_channel=True)")).integrator.k.any()
    assert torch.equal(db.refine(net, steps=False).integrator.k, net.integrator.k)


def test_refined_steps_tend_to_one_function(float64):
    """Of the same coefficients; with an Euler step, or the state before at half the distance, at the start."""
    net = block(4, "lm(scaled=True)", layer="symmetric(2, norm='none')")
    y = torch.randn(1, 2, 4, 4)
    ends = [net(y)]
    for _ in range(6):
        net = db.with_integrator(net, steps_factor=2)
        ends.append(net(y))
    changes = [(b - a).norm().item() for a, b in pairwise(ends)]
    np.testing.assert_allclose(changes[-1] / changes[-2], 0.5, atol=0.05)


def test_momentum_is_refined_with_them():
    net = nn.Sequential(block(3))
    momenta = {weight: {"momentum_buffer": torch.rand_like(weight)} for weight in net.parameters()}
    finer, carried = db.refine(net), {}
    carry_momentum(net, momenta, finer, carried, 2)
    first, second = momenta[net[0].integrator.k]["momentum_buffer"].tolist()
    assert carried[finer[0].integrator.k]["momentum_buffer"].tolist() == [0, first, first, second, second]


@pytest.mark.parametrize(
    "text",
    [
        "lm",
        "lm(per_channel=True)",
        "lm(initial=(-0.1, 0.0), past=True)",
        "lm(initial=0.5, per_channel=True, scaled=True, past=True)",
    ],
)
def test_a_file_names_its_choices(text):
    net = block(3, text)
    assert net.integrator.shorthand == as_integrator(text).shorthand == text
    other = with_discretisation(db.DynamicBlock(Field, 3), discretisation(net))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True)
    inputs = (torch.randn(2, 3),) * (2 if net.integrator.takes_past else 1)
    assert torch.equal(other(*inputs), net(*inputs))


def test_it_comes_and_goes():
    plain = db.DynamicBlock(Field, 4)
    y = torch.randn(2, 3)
    net = db.with_integrator(plain, "lm")
    assert torch.equal(net(y), plain(y))
    with pytest.warns(UserWarning, match="weights of the integrators of before are dropped: integrator.k"):
        assert torch.equal(db.with_integrator(net, "euler")(y), plain(y))


@pytest.mark.parametrize("mode", ["reversible", "adjoint"])
def test_modes_that_cannot_run_it_say_why(mode):
    with pytest.raises(db.ConfigurationError, match="checkpoint") as error:
        db.DynamicBlock(Field, 3, integrator="lm", gradient=mode)
    if mode == "reversible":
        assert "divide by k" in str(error.value)
        assert "reversible('rk4')" in str(error.value)
