"""Blocks with gradients of the adjoint equation: how exact they are, what they keep, what is refused."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import dynamicblocks as db
from dynamicblocks.layers import ProjectedLayer
from dynamicblocks.solving import NotFiniteStateError, StepLimitError
from tests.optional import optional

solve_ivp = optional("scipy.integrate").solve_ivp

EXACT = "dopri5(rtol=1e-11, atol=1e-11, max_steps=10000)"


class Smooth(nn.Module):
    """A smooth layer that takes the time."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t, y):
        return torch.tanh(self.linear(y) + t - 2) - 0.5 * y


class Normed(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, y):
        return torch.tanh(self.norm(self.convolution(y)))


class Bent(nn.Module):
    """A smooth layer of one weight, without time."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.rand(3))

    def forward(self, y):
        return torch.sin(self.rate * y)


def make(controls="linear(3)", integrator="rk4", layer=Smooth, times=None, **choices):
    return db.DynamicBlock(layer, controls, times or db.uniform(0, 4, steps=8), integrator, **choices)


def pulled(block, y, *, trajectory=False, call=None):
    """The gradients of the input and of each weight, by name, on a copy of the block; and the copy."""
    block, x = copy.deepcopy(block), y.clone().requires_grad_()
    states = (call or (block.trajectory if trajectory else block))(x)
    (states * torch.linspace(0.5, 1.5, states.numel(), dtype=states.dtype).view_as(states)).sum().backward()
    return {"input": x.grad, **{name: weight.grad for name, weight in block.named_parameters()}}, block


def apart(block, y, gradient="adjoint", **keywords):
    """The largest difference of a gradient mode to backpropagation; the same weights have gradients."""
    found, expected = (pulled(db.with_gradient(block, mode), y, **keywords)[0] for mode in (gradient, "backprop"))
    assert {name for name in found if found[name] is None} == {name for name in expected if expected[name] is None}
    return largest(found, expected)


def largest(found, expected):
    """In units of the largest entry of all gradients."""
    present = [name for name in found if found[name] is not None]
    scale = max(expected[name].abs().max().item() for name in present)
    return max((found[name] - expected[name]).abs().max().item() for name in present) / scale


# Accuracy


def errors_by_tolerance(controls, times, powers, method="dopri5", y=None):
    """For rtol = atol = 10^-k, the largest error of a gradient against backpropagation at 1e-11."""
    block, y = make(controls, EXACT, times=times), torch.randn(4, 3) if y is None else y
    expected = pulled(block, y)[0]
    return [
        largest(pulled(db.with_integrator(db.with_gradient(block, "adjoint"), integrator), y)[0], expected)
        for integrator in (f"{method}(rtol=1e-{k}, atol=1e-{k}, max_steps=10000)" for k in powers)
    ]


@pytest.mark.parametrize(
    ("controls", "times"),
    [
        ("bspline(6)", db.uniform(0, 4, steps=4)),
        ("constant(4)", [0.0, 1.3, 4.0]),
        ("constant(4)", db.uniform(0, 4, steps=4)),
    ],
    ids=["spline", "other points than knots", "knots"],
)
def test_the_error_falls_with_the_tolerance(controls, times, float64):
    first, last = errors_by_tolerance(controls, times, (5, 8))
    assert last < first / 5**3
    assert last < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("controls", ["bspline(6)", "constant(4)", "linear(5)"])
def test_the_error_falls_fivefold_for_each_factor_ten(controls, float64):
    """The mean over a few blocks, of which one alone may be exact by chance at one tolerance."""
    rows = []
    for seed in range(4):
        torch.manual_seed(seed)
        rows.append(np.log(errors_by_tolerance(controls, [0.0, 1.3, 4.0], range(4, 10))))
    means = np.exp(np.mean(rows, axis=0))
    assert all(before / after >= 5 for before, after in pairwise(means)), means


@pytest.mark.parametrize("controls", ["constant(2)", "bspline(5)"])
@pytest.mark.parametrize(
    ("integrator", "order"),
    [("euler", 1), ("midpoint", 2), ("alf", 2), ("rk4", 4), ("explicit_adams", 4)],
)
def test_on_a_grid_the_difference_falls_with_the_step(integrator, order, controls, float64):
    y = torch.randn(4, 3)
    block = make(controls, integrator)
    coarse, fine = (apart(db.with_integrator(block, times=db.uniform(0, 4, steps=n)), y) for n in (24, 48))
    assert 0 < fine < coarse / 2 ** (order - 0.3)


@pytest.mark.parametrize("integrator", [pytest.param("gl4", marks=pytest.mark.slow), "implicit_midpoint"])
def test_of_symmetric_gauss_methods_it_is_that_of_the_steps(integrator, float64):
    """Whose steps taken back are the inverse, and whose adjoint is the adjoint of the steps."""
    assert apart(make("bspline(5)", integrator), torch.randn(4, 3)) < 1e-10


@pytest.mark.parametrize("controls", ["constant(3)", "linear(3)"])
@pytest.mark.parametrize(
    ("integrator", "gradient", "tolerance"),
    [
        ("dopri5(rtol=1e-8, atol=1e-8)", "adjoint", 1e-6),
        pytest.param("kvaerno3(rtol=1e-3, atol=1e-3)", "adjoint", 2e-2, marks=pytest.mark.slow),
        pytest.param("kencarp4(rtol=1e-4, atol=1e-4)", "adjoint", 2e-2, marks=pytest.mark.slow),
        ("dopri5(rtol=1e-8, atol=1e-8)", db.Adjoint(interpolant=True), 1e-5),
        ("dopri5(rtol=1e-8, atol=1e-8)", db.Adjoint(options={"norm": "seminorm"}), 1e-6),
        ("dopri5(rtol=1e-8, atol=1e-8)", db.Adjoint(method="bosh3", rtol=1e-5, atol=1e-5), 1e-3),
        ("dopri5(rtol=1e-8, atol=1e-8)", db.Adjoint(method=db.Adaptive("tsit5", 1e-7, 1e-7)), 1e-5),
        ("rk4", "adjoint", 1e-3),
        pytest.param("rk4", db.Adjoint(method="gl4"), 1e-3, marks=pytest.mark.slow),
    ],
    ids=lambda each: str(each),
)
def test_it_agrees_with_backpropagation(integrator, gradient, tolerance, controls, float64):
    """Of the last state, and of those at the points of the grid, which are no knots."""
    block, y = make(controls, integrator, times=[0.0, 0.7, 1.3, 2.0]), torch.randn(4, 3)
    if integrator == "rk4":
        block = db.with_integrator(block, times=db.uniform(0, 2, steps=12))
    for trajectory in (False, True):
        assert apart(block, y, gradient, trajectory=trajectory) < tolerance


@pytest.mark.parametrize("integrator", ["dopri5(rtol=1e-9, atol=1e-9)", "rk4"])
def test_it_is_what_scipy_finds(integrator, float64):
    """Finite differences of another program's solution, from knot to knot."""
    block = make("constant(2)", integrator, Bent, db.uniform(0, 2, steps=40), gradient="adjoint")
    y = torch.randn(1, 3)
    found, _ = pulled(block, y)
    values = [y[0].numpy(), *(layer.rate.detach().numpy() for layer in block.controls.layers)]

    def loss(state, *rates):
        for rate in rates:
            state = solve_ivp(lambda _, z, rate=rate: np.sin(rate * z), (0, 1), state, rtol=1e-12, atol=1e-12).y[:, -1]
        return state @ np.linspace(0.5, 1.5, 3)

    for place, gradient in enumerate(found.values()):
        for entry in range(3):
            step = np.zeros(3)
            step[entry] = 1e-5
            ends = [loss(*values[:place], values[place] + sign * step, *values[place + 1 :]) for sign in (1, -1)]
            assert gradient.flatten()[entry].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=2e-6)


def test_tolerances_do_not_depend_on_the_scale_of_the_loss(float64):
    block, y = make("linear(3)", "dopri5(rtol=1e-6, atol=1e-6)", gradient="adjoint"), torch.randn(4, 3)
    one, _ = pulled(block, y)
    for scale in (2.0**-40, 2.0**40):
        other, _ = pulled(block, y, call=lambda x, scale=scale: scale * block(x))
        torch.testing.assert_close(other["input"], scale * one["input"], rtol=1e-12, atol=0)


def test_where_y_does_not_reverse_stored_steps_serve(float64):
    """One entry decays by exp(-15), of which too little is left to be solved back from, and the others read it."""

    class Decay(Bent):
        def forward(self, y):
            fast, slow, other = y.unbind(-1)
            a, b, c = self.rate.unbind()
            return torch.stack([torch.sin(a * slow) - 15 * fast, torch.cos(b * fast), torch.sin(c * other + fast)], -1)

    block, y = make("constant(1)", "dopri5(rtol=1e-6, atol=1e-6)", Decay, db.uniform(0, 1, steps=1)), torch.randn(4, 3)
    stored = apart(block, y, db.Adjoint(interpolant=True))
    assert stored < 1e-4
    assert apart(block, y, "adjoint") > 100 * stored


# Statistics, memory, surroundings


@pytest.mark.parametrize("trajectory", [False, True])
@pytest.mark.parametrize("controls", ["constant(2)", "linear(3)"])
@pytest.mark.parametrize("integrator", ["rk4", "dopri5(rtol=1e-6, atol=1e-6)"])
def test_statistics_move_in_the_forward_pass_alone(integrator, controls, trajectory, float64):
    block, y = make(controls, integrator, Normed, db.uniform(0, 2, steps=12)), torch.randn(3, 4, 5, 5)
    results = [pulled(db.with_gradient(block, mode), y, trajectory=trajectory) for mode in ("adjoint", "backprop")]
    assert largest(results[0][0], results[1][0]) < 2e-2
    for (name, one), two in zip(results[0][1].named_buffers(), results[1][1].buffers(), strict=True):
        assert torch.equal(one, two), name
    assert results[0][1].evaluations == results[1][1].evaluations


def test_modes_are_those_of_the_forward_pass(float64):
    block, y = (
        make("linear(3)", "dopri5(rtol=1e-6, atol=1e-6)", Normed, db.uniform(0, 2, steps=2)),
        torch.randn(3, 4, 5, 5),
    )
    block = db.with_gradient(block, "adjoint")

    def switched(x):
        states = block(x)
        states.register_hook(lambda _: block.eval() and None)
        return states

    kept = copy.deepcopy(block)
    one = pulled(block, y, call=switched)[0]["input"]
    torch.testing.assert_close(one, pulled(kept, y)[0]["input"], rtol=0, atol=0)


def held(block, y):
    """Bytes that the graph keeps, without weights."""
    seen = {}
    weights = {weight.untyped_storage().data_ptr() for weight in block.parameters()}

    def pack(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights:
            seen[memory.data_ptr()] = (memory.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = block(y.clone().requires_grad_())
    return sum(size for size, _ in seen.values())


@pytest.mark.parametrize("integrator", ["rk4", "alf", "implicit_adams"])
def test_what_is_kept_does_not_grow_with_the_steps(integrator):
    y = torch.randn(2, 3)
    sizes = [
        held(make("constant(4)", integrator, Bent, db.uniform(0, 4, steps=n), gradient="adjoint"), y)
        for n in (8, 32, 128)
    ]
    assert sizes == [y.nbytes] * 3


def test_what_is_kept_does_not_grow_with_the_tolerance():
    y = torch.randn(2, 3)
    for rtol in (1e-2, 1e-6):
        assert held(make("constant(4)", f"dopri5(rtol={rtol}, atol={rtol})", gradient="adjoint"), y) == y.nbytes


def test_sums_are_taken_of_the_layers_that_an_interval_reads(monkeypatch):
    """Twice as many controls make the vector that is solved for no longer."""
    from dynamicblocks.gradients.adjoint_system import System

    lengths, inner = {}, System.__call__
    for count in (2, 16):

        def watched(system, slope, flat, known=None, count=count):
            lengths.setdefault(count, set()).add(flat.numel())
            return inner(system, slope, flat, known)

        monkeypatch.setattr(System, "__call__", watched)
        for integrator in ("rk4", "dopri5"):
            make(f"constant({count})", integrator, gradient="adjoint", times=db.uniform(0, 4, steps=16))(
                torch.randn(2, 3)
            ).sum().backward()
    assert lengths[2] == lengths[16] == {2 * 6 + 12}


@pytest.mark.parametrize("integrator", ["euler", "rk4", "dopri5(rtol=1e-5, atol=1e-5)"])
def test_frozen_and_unread_controls_have_no_gradient(integrator, float64):
    block = make("linear(5)", integrator, times=db.uniform(0, 2, steps=20))
    block.controls.layers[1].requires_grad_(False)
    assert apart(block, torch.randn(4, 3)) < (1.0 if integrator == "euler" else 1e-3)
    block.requires_grad_(False)
    assert apart(block, torch.randn(4, 3)) < (1.0 if integrator == "euler" else 1e-3)
    assert not db.with_gradient(block, "adjoint")(torch.randn(4, 3)).requires_grad


def test_an_input_without_gradient_a_block_called_twice_and_weights_of_a_call(float64):
    block, y = make("linear(3)", "dopri5(rtol=1e-8, atol=1e-8)"), torch.randn(4, 3)
    other = db.with_gradient(block, "adjoint")
    results = []
    weights = {name: (weight.detach() * 1.1).requires_grad_() for name, weight in block.named_parameters()}
    doubled = {name: 0.9 * weight for name, weight in weights.items()}
    for each in (other, block):
        states = each(each(y)) + functional_call(each, doubled, (y,))
        inputs = [*each.parameters(), *weights.values()]
        results.append(torch.autograd.grad(states.square().sum(), inputs, retain_graph=True))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("integrator", ["rk4", "dopri5(rtol=1e-4, atol=1e-4)"])
def test_autocast_and_narrow_states(integrator):
    """The pass back runs under the autocast of the forward pass, with a wide state."""
    seen = []

    class Watched(Normed):
        def forward(self, y):
            found = self.convolution(y)
            seen.append((y.dtype, found.dtype))
            return torch.tanh(self.norm(found))

    block, y = make("linear(3)", integrator, Watched, db.uniform(0, 1, steps=8)).eval(), torch.randn(3, 4, 5, 5)
    block = db.with_gradient(block, "adjoint")
    exact, _ = pulled(block, y)
    seen.clear()

    def under_autocast(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return block(x)

    found, _ = pulled(block, y, call=under_autocast)
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    torch.testing.assert_close(found["input"], exact["input"], rtol=0.1, atol=0.05)
    for kind in (torch.bfloat16, torch.float16):
        found, _ = pulled(copy.deepcopy(block).to(kind), y.to(kind))
        assert {gradient.dtype for gradient in found.values()} == {kind}
        torch.testing.assert_close(found["input"].float(), exact["input"], rtol=0.1, atol=0.05)


def test_memory_formats_are_kept():
    seen = []

    class Watched(Normed):
        def forward(self, y):
            seen.append(y.is_contiguous(memory_format=torch.channels_last))
            return super().forward(y)

    for integrator in ("rk4", "dopri5"):
        block = make(2, integrator, Watched, gradient="adjoint", times=2)
        y = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
        block(y).sum().backward()
        assert y.grad.is_contiguous(memory_format=torch.channels_last)
    assert all(seen)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # PyTorch's, where a graph ends
@pytest.mark.parametrize("integrator", ["rk4", "dopri5(rtol=1e-5, atol=1e-5)"])
def test_inside_a_compiled_network(integrator, float64):
    y = torch.randn(4, 3)
    net = nn.Sequential(nn.Linear(3, 3), make(2, integrator, gradient="adjoint", times=8), nn.ReLU(inplace=True))
    expected = torch.autograd.grad(net(y).sum(), net.parameters())
    found = torch.autograd.grad(torch.compile(net, backend="eager")(y).sum(), net.parameters())
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("integrator", ["rk4", "dopri5(rtol=1e-7, atol=1e-7)"])
def test_surgery_keeps_the_mode(integrator, float64):
    y = torch.randn(4, 3)
    block = make("linear(3)", integrator, gradient="adjoint", times=db.uniform(0, 2, steps=16))
    for other in (
        db.refine(block),
        block.replaced(times=db.uniform(0, 2, steps=32)),
        db.with_integrator(block, "heun3"),
    ):
        assert other.gradient == block.gradient
        assert apart(other, y) < 1e-3


def test_a_projection_after_the_steps_of_the_grid_is_differentiated_beside_the_equation(float64):
    class Projected(ProjectedLayer):
        def __init__(self):
            super().__init__(nn.Tanh())
            self.linear = nn.Linear(3, 3)

        def forward(self, y):
            return torch.tanh(self.linear(y))

    block = make("linear(3)", "dopri5(rtol=1e-7, atol=1e-7)", Projected)
    assert apart(block, torch.randn(4, 3)) < 1e-5
    assert apart(block, torch.randn(4, 3), trajectory=True) < 1e-5
    with pytest.raises(db.ConfigurationError, match="has a projection"):
        make("linear(3)", "rk4", Projected, gradient="adjoint")


# Refusals and failures


class Random(Smooth):
    def forward(self, t, y):
        return nn.functional.dropout(super().forward(t, y), training=self.training)


class Dropping(Smooth):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, t, y):
        return self.dropout(super().forward(t, y))


class Verlet(db.Integrator):
    """Of y'' = f, from rest."""

    name, order, reads = "verlet", 2, ((0.0, "field"), (1.0, "field"))

    def begin(self, stage, h, y):
        return y, torch.zeros_like(y)

    def advance(self, stage, h, carry):
        y, v = carry
        slope = stage(0.0, y)
        after = y + h * v + h * h / 2 * slope
        return after, v + h / 2 * (slope + stage(1.0, after))


class Halves(Verlet):
    """Of two streams of channels."""

    name = "halves"

    def begin(self, stage, h, y):
        return y.chunk(2, dim=1)

    def advance(self, stage, h, carry):
        return carry

    def finish(self, carry):
        return torch.cat(carry, dim=1)


class Weighted(db.Integrator, nn.Module):
    name, order, reads = "weighted", 1, ((0.0, "field"),)

    def __init__(self):
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.ones(()))

    def advance(self, stage, h, carry):
        return carry + self.weight * h * stage(0.0, carry)


ADAPTIVE = "dopri5(rtol=1e-3)"


@pytest.mark.parametrize(
    ("layer", "integrator", "gradient", "message"),
    [
        (Dropping, "rk4", "adjoint", r"Dropout .*draws anew.*for Adjoint\(\) there is no equation"),
        (Dropping, ADAPTIVE, "adjoint", "draws anew in each evaluation"),
        (Smooth, Verlet(), "adjoint", "verlet solves another equation"),
        (Smooth, Halves(), "adjoint", "as one vector back in time, which halves cannot"),
        (Smooth, Weighted(), "adjoint", "weighted has weights of its own"),
        (Smooth, "rk4", db.Adjoint(method=Verlet()), "verlet solves another equation"),
        (Smooth, "rk4", db.Adjoint(rtol=1e-4), "so rtol of gradient='adjoint' would change nothing"),
        (Smooth, "rk4", db.Adjoint(options={"norm": "seminorm"}), "so norm of gradient='adjoint' would change nothing"),
        (Smooth, "rk4", "adjoint(interpolant=True)", "so interpolant of"),
        (Smooth, "rk4", db.Adjoint(method="dopri5"), "chooses its own steps; name one with steps on the grid"),
        (Smooth, ADAPTIVE, db.Adjoint(method="rk4"), "must be adaptive too"),
        (Smooth, ADAPTIVE, db.Adjoint(method="dopri6"), "did you mean 'dopri8'"),
        (Smooth, ADAPTIVE, db.Adjoint(method="kvaerno5"), "blocks have kencarp4, kvaerno3"),
        (
            Smooth,
            ADAPTIVE,
            db.Adjoint(method="bosh3(rtol=1e-3)", atol=1e-3),
            "brings tolerances and options of its own",
        ),
        (Smooth, ADAPTIVE, db.Adjoint(rtol=-1.0), "rtol must be a number of at least 0"),
        (Smooth, ADAPTIVE, db.Adjoint(options={"step_size": 0.1}), "does not take step_size; known: .*max_num_steps"),
        (Smooth, ADAPTIVE, db.Adjoint(options={"norm": "rms"}), "must be a function or 'seminorm', got 'rms'"),
    ],
)
def test_what_has_no_adjoint_equation_is_refused_at_construction(layer, integrator, gradient, message):
    with pytest.raises(db.ConfigurationError, match=message):
        make(2, integrator, layer, gradient=gradient)


def test_a_compiled_step_is_refused():
    with pytest.raises(db.ConfigurationError, match=r"compile=True and Adjoint\(\) do not go together"):
        make(gradient="adjoint", compile=True)


def test_random_layers_are_refused_in_training_alone():
    block = db.with_gradient(make(layer=Dropping).eval(), "adjoint")
    assert block(torch.randn(2, 3)).shape == (2, 3)
    with pytest.raises(db.ConfigurationError, match="draws anew"):
        block.train()(torch.randn(2, 3))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("integrator", ["rk4", ADAPTIVE])
def test_tensors_that_would_lose_their_gradient_are_an_error(integrator, frozen):
    outer = torch.ones(3, requires_grad=True)

    class Closing(Smooth):
        def forward(self, t, y):
            return super().forward(t, y) * outer

    block = make(2, integrator, Closing, gradient="adjoint").requires_grad_(not frozen)
    with pytest.raises(db.ConfigurationError, match=r"reads 1 tensors that require a gradient.*shapes \(3,\)"):
        block(torch.randn(2, 3)).sum().backward()
    with torch.no_grad():
        assert not block(torch.randn(2, 3)).requires_grad
    told = []
    block = db.with_gradient(block, db.Adjoint(unlisted=told.append))
    block(torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert [each is outer for each in told[0]] == [True]


@pytest.mark.parametrize("integrator", ["rk4", ADAPTIVE])
def test_a_second_derivative_is_one_clear_error(integrator):
    y = torch.randn(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(make(2, integrator, gradient="adjoint")(y).square().sum(), y, create_graph=True)
    with pytest.raises(db.ConfigurationError, match="gradient='adjoint' has no second derivatives"):
        slope.sum().backward()


def test_failures_say_that_they_are_of_the_adjoint_solve():
    class Decay(Bent):
        def forward(self, y):
            return -50 * y * (1 + self.rate)

    place = r"DynamicBlock constant\(1\) x Decay .*in the adjoint solve of the backward pass, from t = [14] back to 0: "
    y = torch.ones(1, 3)
    with pytest.raises(StepLimitError, match=f"{place}max_num_steps exceeded: 60 steps.*Adjoint.interpolant=True. or"):
        make(1, "dopri5(max_steps=60)", Decay, db.uniform(0, 1, steps=2), gradient="adjoint")(y).sum().backward()
    with pytest.raises(NotFiniteStateError, match=f"{place}non-finite values in the state at t = 0"):
        make(1, "rk4", Decay, db.uniform(0, 4, steps=100), gradient="adjoint")(y).sum().backward()


@pytest.mark.parametrize("integrator", ["rk4", ADAPTIVE])
def test_gradients_that_are_no_numbers_are_handed_on(integrator):
    """A scaled loss may overflow; who scaled it looks for that in the gradients."""
    block, y = make(2, integrator, gradient="adjoint"), torch.randn(2, 3, requires_grad=True)
    (block(y).sum() * math.inf).backward()
    assert not any(torch.isfinite(each.grad).any() for each in (y, *block.parameters()))
