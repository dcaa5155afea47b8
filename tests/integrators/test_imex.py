"""Semi-implicit steps: what they keep at any size, their order, and the layer in blocks of all kinds."""

import copy
import math
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import dynamicblocks as db
from dynamicblocks.integrators import as_integrator
from dynamicblocks.layers import SemiImplicit
from dynamicblocks.structure import discretisation, with_discretisation
from tests.layer_tools import random_state, zeroed

FORMS = ["imex", "imex(norm=True)", "imex(balanced=True)"]
OPERATORS = ["depthwise", "depthwise(boundary='reflecting')", "laplacian", "diagonal", "pointwise"]
each_form = pytest.mark.parametrize("form", FORMS)
each_operator = pytest.mark.parametrize("operator", OPERATORS)
SIZES = [1e-3, 1.0, 1e3, 1e6]


def block(form, *, controls=3, times=None, operator="depthwise", **choices):
    torch.manual_seed(0)
    return db.DynamicBlock(lambda: SemiImplicit(4, operator=operator), controls, times, form, **choices)


def without_field(made):
    for layer in made.controls.layers:
        zeroed(layer.explicit)
    return made


@each_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_field_diffusion_never_grows_and_keeps_the_mean(operator, dtype):
    y = (torch.randn(2, 4, 6, 5) + 1).to(dtype)
    rounding = 8 * torch.finfo(dtype).eps
    for size in SIZES:
        made = without_field(block("imex", times=[0.0, size, 3 * size, 4 * size], operator=operator).to(dtype))
        after = made(y)
        assert after.norm() <= (1 + rounding) * y.norm()
        if operator.startswith(("depthwise", "laplacian")):
            torch.testing.assert_close(after.mean((2, 3)), y.mean((2, 3)), rtol=0, atol=rounding)


@each_operator
@pytest.mark.parametrize("size", SIZES)
def test_without_a_field_the_balanced_form_changes_nothing(operator, size):
    made = without_field(block("imex(balanced=True)", times=[0.0, size, 3 * size, 4 * size], operator=operator))
    y = torch.randn(2, 4, 6, 5)
    assert torch.equal(made(y), y)


@each_operator
def test_the_balanced_form_is_that_of_its_formula(operator):
    """y1 = (I + h A)^-1 (y0 + h (f(y0) + A y0)), where numbers have digits enough for it."""
    made = block("imex(balanced=True)", controls=1, times=[0.0, 0.7], operator=operator).double()
    layer, y = made.controls.layers[0], random_state(2, 4, 6, 5)
    torch.testing.assert_close(made(y), layer.solve(y + 0.7 * (layer(y) + layer.operator(y)), 0.7), rtol=0, atol=1e-12)


def test_the_published_step():
    """Normalised by the norm of the field, then divided by 1 + h |L^|^2 in waves; L and K without their means."""
    made = block("imex(norm=True)", controls=1, times=[0.0, 0.5]).double()
    layer, y = made.controls.layers[0], random_state(2, 4, 6, 6)
    norm, kernel = copy.deepcopy(layer.explicit.norm), layer.explicit.weight.detach()
    kernel = kernel - kernel.mean((2, 3), keepdim=True)
    inside = torch.relu(norm(nn.functional.conv2d(y, kernel, padding=1)))
    moved = norm(y + 0.5 * nn.functional.conv_transpose2d(inside, kernel, padding=1))
    weight = layer.operator.weight.detach()
    waves = torch.fft.fft2(nn.functional.pad(weight - weight.mean((1, 2), keepdim=True), (0, 3, 0, 3)))
    expected = torch.fft.ifft2(torch.fft.fft2(moved) / (1 + 0.5 * waves.abs() ** 2)).real
    torch.testing.assert_close(made(y), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.explicit.norm.running_mean, norm.running_mean)


@pytest.mark.parametrize("form", ["imex", "imex(balanced=True)"])
@each_operator
def test_without_an_operator_steps_are_eulers(form, operator):
    made = block(form, controls="linear(3)", times=[0.0, 0.5, 2.0], operator=operator)
    for layer in made.controls.layers:
        if operator == "laplacian":
            layer.operator.stencil.zero_()
        else:
            zeroed(layer.operator)
    y = torch.randn(2, 4, 6, 5)
    expected = db.with_integrator(made, "euler")(y)
    assert torch.equal(made(y), expected)


class Function(nn.Module):
    """f(t, y) with an operator of rates a(t), which solves for itself."""

    parts: ClassVar = {"field": "forward", "solve": "solve"}

    def forward(self, t, y):
        return (1.5 - 0.5 * t) * torch.cos(y)

    def solve(self, t, y, h):
        return y / (1 + h * (0.5 + 0.75 * t) ** 2)


@pytest.mark.parametrize("form", ["imex", "imex(balanced=True)"])
@pytest.mark.parametrize("grid", ["uniform", "graded"])
def test_order_one_of_functions_with_parts(form, grid, float64):
    """In solve and odeint, with operators that depend on time, beside SciPy."""
    diffusive = form == "imex"

    def right_hand_side(t, y):
        return (1.5 - 0.5 * t) * torch.cos(torch.tensor(y)).numpy() - diffusive * (0.5 + 0.75 * t) ** 2 * y

    exact = solve_ivp(right_hand_side, (0, 2), [1.0], "DOP853", rtol=1e-12, atol=1e-12).y[0, -1]
    errors = []
    for n in (100, 200, 400):
        points = (db.uniform(0, 2, steps=n) if grid == "uniform" else db.graded(0, 2, steps=n, ratio=3)).points
        found = db.odeint(Function(), torch.ones(1), torch.tensor(points), method=form)[-1]
        errors.append(abs(found.item() - exact))
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(1, abs=0.05)
    solution = db.solve(
        Function(), torch.ones(1), torch.tensor(points), method=as_integrator(form), gradient="checkpoint"
    )
    assert torch.equal(solution.y[-1], found)


@pytest.mark.parametrize("form", ["imex", "imex(balanced=True)"])
def test_order_one_in_blocks(form):
    """Weights linear in time, unequal steps, beside Euler's method with tiny steps on the whole right-hand side."""
    torch.manual_seed(0)
    source = lambda: SemiImplicit(2, norm="none", activation="tanh", dims=1)  # noqa: E731
    made = db.DynamicBlock(source, "linear(3)", db.uniform(0, 2, steps=4), form).double()
    y = random_state(2, 2, 8)
    whole = db.DynamicBlock(lambda: Whole(source(), form == "imex"), "linear(3)", [0.0, 1.0, 2.0], "rk4").double()
    for mine, theirs in zip(whole.controls.layers, made.controls.layers, strict=True):
        mine.layer.load_state_dict(theirs.state_dict())
    exact = db.with_integrator(whole, "rk4", steps=100)(y)
    grids = [db.graded(0, 2, steps=n, ratio=3) for n in (64, 128, 256)]
    errors = [(db.with_integrator(made, times=grid)(y) - exact).norm().item() for grid in grids]
    assert [math.log2(a / b) for a, b in pairwise(errors)][-1] == pytest.approx(1, abs=0.1)


class Whole(nn.Module):
    """f(y) - A y, or f(y) alone, of a semi-implicit layer."""

    def __init__(self, layer, diffusive):
        super().__init__()
        self.layer, self.diffusive = layer, diffusive

    def forward(self, y):
        return self.layer(y) - self.layer.operator(y) if self.diffusive else self.layer(y)


@each_form
@pytest.mark.parametrize("controls", ["constant(3)", "linear(3)"])
def test_checkpoints_have_the_gradients_of_backpropagation(form, controls):
    made = block(form, controls=controls, times=[0.0, 0.5, 2.0, 2.5, 3.0])
    other = db.with_gradient(made, "checkpoint")
    found = []
    for each in (made, other):
        y = torch.linspace(-1, 1, 240).view(2, 4, 6, 5).requires_grad_()
        each(y).square().sum().backward()
        found.append([y.grad, *(weight.grad for weight in each.parameters()), *each.buffers()])
    for expected, got in zip(*found, strict=True):
        assert (expected is None and got is None) or torch.equal(expected, got)


@each_form
def test_gradients_in_double_precision(form):
    # Of a norm without statistics, for they move with every evaluation.
    source = lambda: SemiImplicit(4, norm="tv", activation="tanh", dims=1)  # noqa: E731
    made = db.DynamicBlock(source, "linear(2)", [0.0, 0.5, 2.0], form).double()
    names, weights = zip(*made.named_parameters(), strict=True)

    def run(y, *tensors):
        return torch.func.functional_call(made, dict(zip(names, tensors, strict=True)), (y,))

    assert torch.autograd.gradcheck(run, (random_state(2, 4, 5).requires_grad_(), *weights), fast_mode=True)


@each_form
def test_autocast_keeps_solves_wide(form):
    made, y = block(form).eval(), torch.randn(2, 4, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = made(y)
        without_field(made)
        expected = made(y)
    assert found.dtype == torch.float32
    if form == "imex":
        assert torch.equal(expected, made(y)), "the solve alone is the same with and without autocast"


@pytest.mark.parametrize(
    "operator", ["depthwise", *(pytest.param(each, marks=pytest.mark.slow) for each in OPERATORS[1:])]
)
def test_networks_are_compiled_as_one_graph(operator):
    made, y = block("imex(norm=True)", controls=1, operator=operator).eval(), torch.randn(2, 4, 6, 5)
    around = torch.compile(made, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(around(y), made(y))


@each_form
def test_reversible_is_refused_with_the_reason(form):
    with pytest.raises(db.ConfigurationError, match=r"imex.*implicit half damps.*reversible\('rk4'\).*checkpoint"):
        block(form, gradient="reversible")


def test_a_layer_without_the_parts_is_refused():
    with pytest.raises(db.ConfigurationError, match="imex reads 'solve', and Symmetric has only 'field'"):
        db.DynamicBlock("symmetric(4)", 2, integrator="imex")
    with pytest.raises(db.ConfigurationError, match="reads 'norm', and SemiImplicit has only"):
        db.DynamicBlock(lambda: SemiImplicit(4, explicit="preact_double"), 2, integrator="imex(norm=True)")
    with pytest.raises(db.ConfigurationError, match="imex reads 'solve'"):
        db.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 3), method="imex")


def test_what_cannot_be():
    for wrong, message in (
        (lambda: as_integrator("imex(balanced=True, norm=True)"), "exclude each other"),
        (lambda: as_integrator("imex(balanced=1)"), "true or false"),
        (lambda: SemiImplicit(4, explicit=nn.ReLU()), "explicit must be"),
        (lambda: SemiImplicit(4, explicit=lambda width: nn.ReLU(), norm="tv"), "chooses all options"),
        (lambda: SemiImplicit(4, explicit="residual_unit", groups=2), "groups"),
        (lambda: SemiImplicit(4, explicit=lambda width: Function()), "takes the time"),
        (lambda: block("imex")(torch.ones(1, 3, 4, 4)), r"\(batch, 4, height, width\), got \(1, 3, 4, 4\)"),
    ):
        with pytest.raises(db.ConfigurationError, match=message):
            wrong()


@pytest.mark.parametrize(
    "explicit", ["preact_double", "residual_unit('a')", "antisymmetric", lambda w: nn.Conv2d(w, w, 1)]
)
def test_any_layer_may_be_the_explicit_half(explicit):
    made = db.DynamicBlock(lambda: SemiImplicit(4, explicit=explicit), 2, integrator="imex")
    y = torch.randn(2, 4, 6, 5)
    made(y).square().sum().backward()
    assert all(weight.grad is not None for weight in made.parameters())
    layer, alone = made.controls.layers[0], db.DynamicBlock(lambda: SemiImplicit(4, explicit=explicit), 1)
    assert ("projection" in layer.parts) == (explicit == "residual_unit('a')")
    assert torch.isfinite(alone(y)).all()


@each_form
def test_surgery_and_files(form):
    made, y = block(form, controls="linear(3)").eval(), torch.randn(2, 4, 6, 5)
    assert as_integrator(made.integrator.shorthand) == made.integrator
    assert db.refine(made).steps == 2 * made.steps
    for integrator in ("euler", "rk4_classic", *FORMS):
        assert torch.isfinite(db.with_integrator(made, integrator)(y)).all()
    torch.testing.assert_close(db.project(made, "linear(5)")(y), made(y))
    other = with_discretisation(db.with_integrator(made, "euler"), discretisation(made))
    assert torch.equal(other(y), made(y))


def test_refined_steps_come_nearer_to_the_equation():
    made, y = block("imex", controls=1, times=[0.0, 1.0]).eval(), torch.randn(2, 4, 6, 5)
    near = db.with_integrator(made, steps=64)(y)
    errors = [(db.with_integrator(made, steps=n)(y) - near).norm() for n in (1, 4, 16)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_weights_between_knots_are_blended():
    """One of the parts is a method, one a submodule: on linear controls all see theta at the time that they read."""
    made = block("imex", controls="linear(2)", times=[0.0, 0.5, 1.0]).double()
    y = random_state(2, 4, 6, 5)
    halfway = copy.deepcopy(made.controls.layers[0])
    with torch.no_grad():
        for weight, end in zip(halfway.parameters(), made.controls.layers[1].parameters(), strict=True):
            weight.add_(end).div_(2)
    first, last = made.controls.layers
    middle = halfway.solve(y + 0.5 * copy.deepcopy(first)(y), 0.5)
    expected = last.solve(middle + 0.5 * copy.deepcopy(halfway)(middle), 0.5)
    torch.testing.assert_close(made(y), expected, rtol=0, atol=1e-12)
