"""Blocks whose integrator chooses its own steps, and blocks with implicit and reversible methods on the grid."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.integrators import ADAPTIVE, IMPLICIT, as_integrator
from dynamicblocks.solving import NotFiniteStateError, StepLimitError
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop
from dynamicblocks.structure import discretisation, with_discretisation
from tests.layer_tools import Bend
from tests.optional import optional

(solve_ivp,) = optional("scipy.integrate", "solve_ivp")

BASES = ["constant(4)", "linear(5)", "discontinuous_linear(8)", "bspline(5)", "legendre(3)"]
EXPLICIT = [name for name in ADAPTIVE if not db.Adaptive(name).solves_equations]


class Smooth(nn.Module):
    """A smooth layer that takes the time."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t, y):
        return torch.tanh(self.linear(y) + t - 2) - 0.5 * y


class Normed(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, width)

    def forward(self, y):
        return torch.tanh(3 * self.linear(self.norm(y)))


def make_block(controls="constant(4)", integrator="rk4_classic", layer=Smooth, **choices):
    return db.DynamicBlock(layer, controls, db.uniform(0, 4, steps=4), integrator, **choices)


def steps_taken(block, y, monkeypatch):
    """The accepted steps of a forward pass."""
    found = []
    inner = AdaptiveLoop.steps

    def watched(loop, *arguments):
        for step in inner(loop, *arguments):
            found.append((step.t0, step.t1))
            yield step

    monkeypatch.setattr(AdaptiveLoop, "steps", watched)
    block(y)
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("controls", BASES)
def test_every_method_agrees_with_many_small_steps(controls, float64):
    block, y = make_block(controls), torch.randn(2, 3)
    fine = db.with_integrator(block, "rk4_classic", steps_per_control=100)(y)
    for method in ADAPTIVE:
        rtol = 1e-5 if as_integrator(method).order > 2 else 1e-4
        with torch.no_grad():
            found = db.with_integrator(block, f"{method}(rtol={rtol}, atol={rtol}, max_steps=5000)")(y)
        torch.testing.assert_close(found, fine, rtol=0, atol=300 * rtol, msg=lambda text, m=method: f"{m}: {text}")


@pytest.mark.parametrize("controls", ["constant(4)", "linear(5)"])
def test_the_error_falls_with_the_tolerance(controls, float64):
    block, y = make_block(controls), torch.randn(2, 3)
    fine = db.with_integrator(block, "rk4_classic", steps_per_control=200)(y)
    errors = []
    for rtol in (1e-3, 1e-5, 1e-7, 1e-9):
        other = db.with_integrator(block, db.Adaptive("dopri5", rtol, rtol))
        errors.append((other(y) - fine).abs().max().item())
    assert all(after < before / 5 for before, after in itertools.pairwise(errors))
    assert errors[-1] < 1e-7


def test_a_piecewise_constant_block_equals_scipy_from_knot_to_knot(float64):
    """Another implementation of another program: SciPy restarted at each knot."""
    block = make_block("constant(4)", "dopri5(rtol=1e-9, atol=1e-9)")
    y = torch.randn(1, 3)
    state = y[0].numpy()
    for k, layer in enumerate(block.controls.layers):

        def slope(t, z, layer=layer):
            with torch.no_grad():
                return layer(t, torch.from_numpy(z)).numpy()

        state = solve_ivp(slope, (k, k + 1), state, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    torch.testing.assert_close(block(y)[0].detach(), torch.from_numpy(state), rtol=0, atol=1e-7)


@pytest.mark.parametrize("controls", ["constant(5)", "linear(6)"])
def test_no_step_crosses_a_knot(controls, monkeypatch, float64):
    """Knots at fifths, which no binary number is, and a grid that knows nothing of them."""
    block = db.DynamicBlock(Smooth, controls, db.uniform(0, 1, steps=3), "dopri5(rtol=1e-2)")
    steps = steps_taken(block, torch.randn(2, 3), monkeypatch)
    inside = block.controls.basis.points[1:-1]
    assert not any(t0 < knot < t1 for t0, t1 in steps for knot in inside)
    assert {t1 for _, t1 in steps} >= set(inside)
    assert steps[-1][1] == 1.0


def test_steps_that_end_at_the_jumps_are_hardly_ever_rejected(float64):
    """The same field without the knowledge of its knots finds each of them by rejected steps."""
    block = make_block("constant(4)", "dopri5(rtol=1e-6, atol=1e-6)")
    y, calls = torch.randn(2, 3), 0

    def field(t, z):
        nonlocal calls
        calls += 1
        return block.controls.layers[min(int(t), 3)](float(t), z)

    blind = db.solve(field, y, torch.tensor([0.0, 4.0]), rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        found = block(y)
    torch.testing.assert_close(found, blind.y[-1].detach(), rtol=0, atol=1e-3)
    assert blind.statistics.rejected >= 10
    assert block.evaluations < calls / 2


@pytest.mark.parametrize("times", [[0, 1.3, 2.9, 4], [0.5, 2.0, 3.1]])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "kencarp4"])
def test_a_trajectory_has_the_states_at_the_points_of_the_grid(method, times, float64):
    block, y = make_block("linear(5)", f"{method}(rtol=1e-6, atol=1e-6)"), torch.randn(2, 3)
    block = db.with_integrator(block, times=times)
    found = block.trajectory(y)
    fine = db.with_integrator(block, "rk4_classic", steps_factor=100).trajectory(y)[::100]
    torch.testing.assert_close(found, fine, rtol=0, atol=1e-4)
    assert torch.equal(found[0], y)
    if method != "kencarp4":  # whose steps end at the times of output
        assert torch.equal(found[-1], block(y))


def directional(block, y, seed=3):
    """The derivative of a loss along a random direction of weights and input: by the gradient, by differences."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [y.clone().requires_grad_(), *(p for p in block.parameters() if p.requires_grad)]
    directions = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in inputs]
    loss = block(inputs[0]).square().sum()
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None).item()

    def moved(eps):
        with torch.no_grad():
            for x, d in zip(inputs, directions, strict=True):
                x.add_(d, alpha=eps)
            value = block(inputs[0]).square().sum().item()
            for x, d in zip(inputs, directions, strict=True):
                x.sub_(d, alpha=eps)
        return value

    return slope, (moved(1e-5) - moved(-1e-5)) / 2e-5


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "checkpoint(segments=1)"])
@pytest.mark.parametrize("controls", ["constant(4)", "linear(5)"])
@pytest.mark.parametrize("method", ["dopri5", "dopri8", "kencarp4"])
def test_gradients_equal_finite_differences(method, controls, gradient, float64):
    rtol = 1e-7 if method == "kencarp4" else 1e-10
    block = make_block(controls, f"{method}(rtol={rtol}, atol={rtol}, max_steps=5000)", gradient=gradient)
    block = db.with_integrator(block, times=[0, 1.2])
    slope, difference = directional(block, torch.randn(2, 3))
    assert slope == pytest.approx(difference, rel=1e-4 if method == "kencarp4" else 1e-6)


def test_checkpointing_gives_the_gradients_and_statistics_of_backprop(float64):
    """With batch statistics in training, where each evaluation moves running statistics."""
    block = make_block("linear(5)", "dopri5(rtol=1e-4)", Normed)
    y = torch.randn(8, 3)
    found = {}
    for mode in ("backprop", "checkpoint", "checkpoint(segments=2)"):
        other = db.with_gradient(block, mode)
        x = y.clone().requires_grad_()
        other(x).square().sum().backward()
        found[mode] = [x.grad, *(p.grad for p in other.parameters()), *other.buffers()]
    for mode in ("checkpoint", "checkpoint(segments=2)"):
        torch.testing.assert_close(found[mode], found["backprop"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("controls", ["constant(2)", "linear(3)"])
def test_rejected_steps_leave_running_statistics_as_they_were(controls, float64):
    """A first step far too long is rejected; the statistics are those of a pass that tries the right one at once."""
    block = db.DynamicBlock(Normed, controls, db.uniform(0, 2, steps=2)).train()
    y = torch.randn(8, 3)
    clumsy = db.with_integrator(block, "dopri5(rtol=1e-6, atol=1e-6, max_step=0.1, first_step=0.1, shrink=1.0)")
    clumsy(y)
    counted = [layer.norm.num_batches_tracked.item() for layer in clumsy.controls.layers]
    tries = db.with_integrator(block, "dopri5(rtol=1e-7, atol=1e-7)")
    tries(y)
    moved = sum(layer.norm.num_batches_tracked.item() for layer in tries.controls.layers)
    blends = 2 if controls == "linear(3)" else 1
    assert sum(counted) >= 20
    assert 0 < moved <= blends * tries.evaluations
    # Six evaluations for each accepted step, and one slope at the begin and behind each jump; none of a rejected one.
    if controls == "constant(2)":
        assert (tries.evaluations - 2) // 6 - (moved - 2) // 6 >= 1
        assert (moved - 2) % 6 == 0


def test_evaluations_are_those_of_the_last_pass():
    block = make_block("constant(4)", "bosh3")
    assert block.evaluations == 4 * 4, "one attempt for each step of the grid, as long as nothing was measured"
    calls = []
    for layer in block.controls.layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    block(torch.randn(2, 3))
    assert block.evaluations == len(calls)


@pytest.mark.parametrize(
    ("controls", "times", "unused"),
    [
        ("constant(4)", [0, 4], set()),
        (db.PiecewiseConstant(knots=(0, 1, 2, 3, 4)), [1, 2.5], {0, 3}),
        (db.PiecewiseLinear(knots=(0, 1, 2, 3, 4)), [1, 2.5], {0, 4}),
        (db.PiecewiseLinear(knots=(0, 1, 2, 3, 4)), [0, 4], set()),
        ("legendre(3)", [0, 4], set()),
    ],
)
def test_unused_controls_are_those_that_no_time_reads(controls, times, unused):
    block = db.DynamicBlock(Smooth, controls, times, "dopri5")
    assert block.unused_controls() == unused
    db.freeze_unused_controls(block)
    block(torch.randn(2, 3)).sum().backward()
    without = {k for k, layer in enumerate(block.controls.layers) if layer.linear.weight.grad is None}
    assert without == unused


def test_a_projection_follows_the_steps_of_the_grid_whatever_the_tolerance(float64):
    net = db.DynamicBlock(lambda: db.layers.ResidualUnit(3, "a", norm="none"), 4, integrator="rk4_classic")
    y = torch.rand(2, 3, 5, 5)
    states = [y]
    for k in range(4):  # one step of the grid after the other, projected by hand
        one = db.DynamicBlock(nn.Conv2d(3, 3, 1), 1, [k, k + 1], "rk4_classic")
        one.controls.layers[0] = copy.deepcopy(net.controls.layers[k])
        one.controls.layers[0].projection = None
        states.append(net.controls.layers[k].projection(db.with_integrator(one, steps=200)(states[-1])))
    for rtol in (1e-5, 1e-7):
        found = db.with_integrator(net, db.Adaptive("bosh3", rtol, rtol))
        torch.testing.assert_close(found(y), states[-1], rtol=0, atol=100 * rtol)
        torch.testing.assert_close(found.trajectory(y), torch.stack(states), rtol=0, atol=100 * rtol)
        checkpointed = db.with_gradient(found, "checkpoint")
        assert torch.equal(checkpointed(y), found(y))


def test_a_trained_network_keeps_its_function_under_an_adaptive_integrator():
    net = db.create_model("continuousnet", units=2, width=4, integrator="rk4_classic").eval()
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        # Finer than the tolerance, so that nothing but the tolerance is seen.
        before = db.with_integrator(net, "rk4_classic", steps_factor=16)(images)
        after = db.with_integrator(net, "dopri5(rtol=1e-4, atol=1e-5)")(images)
    assert (after - before).abs().max() < 1e-3 * before.abs().max()


def test_the_shorthand_and_the_discretisation_are_read_back():
    method = db.Adaptive("tsit5", rtol=3e-4, atol=1e-5, max_steps=50, max_step=0.5, proportional=0.2)
    assert as_integrator(method.shorthand) == method
    assert method.shorthand == "tsit5(rtol=0.0003, atol=1e-05, max_steps=50, max_step=0.5, proportional=0.2)"
    block = make_block("linear(5)", method)
    described = discretisation(block)
    again = with_discretisation(make_block(), described)
    again.load_state_dict(block.state_dict())
    y = torch.randn(2, 3)
    assert again.integrator == method
    assert torch.equal(again(y), block(y))
    assert "tsit5(rtol=0.0003" in repr(again)


def test_blocks_pickle_and_copy():
    block, y = make_block("linear(5)", "dopri5"), torch.randn(2, 3)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(y), block(y))


def test_all_names_are_listed():
    names = db.list_integrators()
    assert {*ADAPTIVE, *(tableau.name for tableau in IMPLICIT), "reversible_heun", "alf", "euler"} <= set(names)
    assert "kvaerno5" not in names


def test_knots_of_float32_and_a_state_of_half_precision_are_met(monkeypatch):
    grid = torch.linspace(0, 1, 8)
    block = db.DynamicBlock(Smooth, db.PiecewiseConstant(knots=tuple(n / 7 for n in range(8))), grid, "dopri5")
    y = torch.randn(2, 3)
    fine = db.with_integrator(block, "rk4_classic", steps_factor=20)(y)
    torch.testing.assert_close(block(y), fine, rtol=0, atol=5e-3)
    with torch.autocast("cpu", torch.bfloat16):
        cast = block(y.bfloat16())
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, fine, rtol=0, atol=0.1)


def test_a_compiled_caller_runs_the_block_as_it_is():
    block, y = make_block("linear(5)", "dopri5"), torch.randn(2, 3)
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch.compile(nn.Sequential(nn.Identity(), block))(y)
    torch.testing.assert_close(found, block(y))


def test_failures_name_the_block_and_the_step_of_its_grid():
    block = make_block("constant(4)", "dopri5(rtol=1e-7, atol=1e-7, max_steps=7)").double()
    with pytest.raises(
        StepLimitError, match=r"DynamicBlock constant\(4\) x Smooth on \[0, 4\] .* in step \d of its"
    ) as e:
        block(torch.randn(2, 3).double())
    assert 0 <= e.value.circumstances.t < 4
    with pytest.raises(NotFiniteStateError, match="y0 is not finite"):
        block(torch.full((2, 3), math.nan).double())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: db.Adaptive("dopri6"), "did you mean 'dopri8'"),
        (lambda: db.Adaptive("kvaerno5"), "reads the field beyond the end"),
        (lambda: db.Adaptive(rtol=-1.0), "rtol must be a number of at least 0, got -1.0"),
        (lambda: db.Adaptive(rtol=0, atol=0), "no step would be good enough"),
        (lambda: db.Adaptive(max_steps=0), "max_steps"),
        (lambda: db.Adaptive(first_step=0), "first_step must be positive"),
        (lambda: make_block(integrator=db.Adaptive(safety=0)), "safety must be"),
        (lambda: as_integrator("dopri5(tol=1)"), "unexpected keyword argument|missing a required|got an unexpected"),
    ],
)
def test_impossible_choices_are_errors(make, message):
    with pytest.raises(db.ConfigurationError, match=message):
        make()


def test_an_own_gradient_mode_runs_grids_only():
    class Own(db.Gradient):
        def advance(self, march, carry, first, last):
            return march.advance(carry, first, last)

    with pytest.raises(db.ConfigurationError, match="chooses its own"):
        make_block("constant(4)", "dopri5", gradient=Own())


@pytest.mark.parametrize("integrator", ["dopri5", "kvaerno3", "implicit_midpoint"])
@pytest.mark.parametrize("drawing", [nn.Dropout(0.5), nn.AlphaDropout(0.1), nn.RReLU(), nn.RNN(3, 3, 2, dropout=0.2)])
def test_what_draws_in_training_is_no_equation(drawing, integrator):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.drawing = nn.Linear(3, 3), copy.deepcopy(drawing)

        def forward(self, y):
            drawn = self.drawing(self.linear(y))
            return drawn[0] if isinstance(drawn, tuple) else drawn

    with pytest.raises(db.ConfigurationError, match=f"{type(drawing).__name__} .* draws anew in each evaluation"):
        db.DynamicBlock(Drawing, 2, integrator=integrator)
    block = db.with_integrator(db.DynamicBlock(Drawing, 2).eval(), integrator)
    assert block(torch.randn(2, 3)).shape == (2, 3)
    with pytest.raises(db.ConfigurationError, match="draws anew in each evaluation"):
        block.train()(torch.randn(2, 3))


def test_dropout_that_draws_nothing_is_a_layer_like_others():
    block = db.DynamicBlock(lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)), 2, integrator="dopri5")
    assert block(torch.randn(2, 3)).shape == (2, 3)


@pytest.mark.parametrize("integrator", ["kvaerno3", "implicit_midpoint"])
def test_implicit_methods_refuse_statistics_that_each_iteration_would_move(integrator):
    with pytest.raises(db.ConfigurationError, match="moves its running statistics"):
        db.DynamicBlock(Normed, 2, integrator=integrator)
    block = db.with_integrator(db.DynamicBlock(Normed, 2), integrator)
    with pytest.raises(db.ConfigurationError, match="moves its running statistics"):
        block(torch.randn(4, 3))
    assert block.eval()(torch.randn(4, 3)).shape == (4, 3)
    # A layer made for evaluation moves nothing.
    assert db.DynamicBlock(lambda: Normed().eval(), 2, integrator=integrator)(torch.randn(4, 3)).shape == (4, 3)


# Implicit and reversible methods on the grid


@pytest.mark.parametrize("integrator", [*(tableau.name for tableau in IMPLICIT), "reversible_heun", "alf"])
def test_methods_on_the_grid_converge_with_their_order_to_the_exact_solution(integrator, float64):
    """y' = -theta(t) y^3 with theta linear in time; see tests.layer_tools.Bend."""
    block = db.DynamicBlock(Bend, db.PiecewiseLinear(knots=(0, 2)), 1, integrator)
    with torch.no_grad():
        block.controls.layers[0].theta.fill_(0.5)
        block.controls.layers[1].theta.fill_(2.0)
    exact = (1 + 2 * (0.5 * 2 + 0.75 * 2**2 / 2)) ** -0.5
    order = as_integrator(integrator).order
    counts = (8, 16) if order > 4 else (64, 128)
    with torch.no_grad():
        one, two = (
            abs(db.with_integrator(block, times=db.uniform(0, 2, steps=n))(torch.ones(1, 1)).item() - exact)
            for n in counts
        )
    assert math.log2(one / two) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("integrator", ["implicit_euler", "trapezoid", "sdirk2", "gl4", "reversible_heun", "alf"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_their_gradients_equal_finite_differences(integrator, gradient, float64):
    block = make_block("linear(3)", integrator, gradient=gradient)
    slope, difference = directional(block, torch.randn(2, 3))
    assert slope == pytest.approx(difference, rel=1e-6)


def test_an_implicit_step_of_each_control_solves_its_equation(float64):
    block, y = make_block("constant(4)", "implicit_euler"), torch.randn(2, 3)
    states = block.trajectory(y)
    for k, layer in enumerate(block.controls.layers):
        torch.testing.assert_close(states[k + 1], states[k] + layer(k + 1.0, states[k + 1]), rtol=0, atol=1e-10)
    assert block.evaluations > 4


def test_reversible_heun_reads_both_sides_of_a_jump(float64):
    """The method written out, each slope from the weights of its own step."""
    block, y = make_block("constant(4)", "reversible_heun"), torch.randn(2, 3)
    state, other = y, y
    for k, layer in enumerate(block.controls.layers):
        before = layer(float(k), other)
        other = 2 * state - other + before
        state = state + (before + layer(k + 1.0, other)) / 2
    torch.testing.assert_close(block(y), state)
