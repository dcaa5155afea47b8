"""Limits of steps against dense eigenvalues, against steps just below and above them, and against closed forms."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.integrators import TABLEAUS, Integrator, RungeKutta, Tableau, as_integrator, longest_step
from dynamicblocks.integrators.stability import bashforth_limit, contractive_step, multistep_limit
from dynamicblocks.layers import Antisymmetric, Double, HamiltonianPair, PreactSymmetric, Spectrum, Symmetric
from tests.layer_tools import double, randomised

# At the square root of two.
GELU = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)
LINEAR = {"norm": "none", "activation": "none", "bias": False}
SPACES = {1: (9,), 2: (4, 5), 3: (3, 3, 2)}


def jacobian(layer, width, space):
    count = width * math.prod(space)
    identity = torch.eye(count, dtype=double).reshape(count, width, *space)
    with torch.no_grad():
        zero = layer(torch.zeros_like(identity[:1]))
        return (layer(identity) - zero).reshape(count, count).T


def growth(layer, integrator, h, space, steps):
    """By what factor a random state has grown after so many steps."""
    y = torch.randn(1, layer.width, *space, dtype=double, generator=torch.Generator().manual_seed(3))
    block = db.DynamicBlock(lambda: layer, 1, db.uniform(0, h * steps, steps=steps), integrator)
    with torch.no_grad():
        return (block(y).norm() / y.norm()).item()


def tensors_of(carry):
    """What a method carries: its tensors, and how it is made of others."""
    if isinstance(carry, torch.Tensor):
        return [carry], lambda others: others[0]
    if dataclasses.is_dataclass(carry):
        names = [each.name for each in dataclasses.fields(carry)]
        found, make = tensors_of(tuple(getattr(carry, name) for name in names))
        return found, lambda others: dataclasses.replace(carry, **dict(zip(names, make(others), strict=True)))
    if isinstance(carry, tuple):
        parts = [tensors_of(each) for each in carry]

        def make(others):
            made, at = [], 0
            for found, one in parts:
                made.append(one(others[at : at + len(found)]))
                at += len(found)
            return tuple(made)

        return [tensor for found, _ in parts for tensor in found], make
    return [], lambda others: carry


class PartStage:
    """A layer as the stage of any step."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, c, y):
        return self.layer(y)

    def part(self, name, c, y):
        return getattr(self.layer, name)(y)


@torch.no_grad()
def radius(layer, integrator, h, space):
    """The largest modulus of the eigenvalues of a step of size h, a matrix on what is carried."""
    method, stage = as_integrator(integrator), PartStage(layer)
    if isinstance(method, nn.Module):
        method = method.for_block(8, layer.width).double()
    count = layer.width * math.prod(space)
    carry = method.begin(stage, h, torch.zeros(1, layer.width, *space, dtype=double))
    for _ in range(6):  # until what starts the method is behind it
        carry = method.advance(stage, h, carry)
    held, make = tensors_of(carry)
    sizes = [tensor.numel() for tensor in held]
    rows = torch.eye(sum(sizes), dtype=double).split(sizes, dim=1)
    start = make([row.reshape(-1, *tensor.shape[1:]) for row, tensor in zip(rows, held, strict=True)])
    after, _ = tensors_of(method.advance(stage, h, start))
    assert sum(sizes) >= count
    return torch.linalg.eigvals(torch.cat([tensor.flatten(1) for tensor in after], dim=1)).abs().max().item()


every_boundary = pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)


# Against eigenvalues of the dense matrix.


@every_boundary
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_limits_are_those_of_the_dense_matrix(boundary, dims, groups):
    torch.manual_seed(dims)
    space, options = SPACES[dims], {**LINEAR, "boundary": boundary, "groups": groups, "dims": dims}
    symmetric = randomised(Symmetric(2, hidden=4, **options))
    slowest = -torch.linalg.eigvalsh(jacobian(symmetric, 2, space)).min().item()
    for name, expected in (
        ("euler", 2 / slowest),
        ("rk4", 2.785293563405282 / slowest),
        ("leapfrog", 2 / slowest**0.5),
    ):
        assert db.step_limit(symmetric, name, (2, *space)) == pytest.approx(expected, rel=1e-7)
    antisymmetric = randomised(Antisymmetric(4, **options))
    fastest = torch.linalg.eigvals(jacobian(antisymmetric, 4, space)).imag.max().item()
    for name, bound in (("euler", 0), ("rk4", 2 * math.sqrt(2)), ("two_step_midpoint", 1), ("kutta3", math.sqrt(3))):
        assert db.step_limit(antisymmetric, name, (4, *space)) == pytest.approx(bound / fastest, rel=1e-7)
    pair = randomised(HamiltonianPair(4, **options))
    first, second = (torch.linalg.matrix_norm(jacobian(each, 2, space), 2).item() ** 0.5 for each in (pair.f1, pair.f2))
    fastest = torch.linalg.eigvals(jacobian(pair, 4, space)).abs().max().item()
    bent = HamiltonianPair(4, **{**options, "activation": "tanh"}).to(torch.float64)
    bent.load_state_dict(pair.state_dict())
    for name, bound in (("verlet", 2), ("symplectic_euler", 2), ("rk4", 2 * math.sqrt(2)), ("two_step_midpoint", 1)):
        assert db.step_limit(pair, name, (4, *space)) == pytest.approx(bound / fastest, rel=1e-7)
        assert db.step_limit(bent, name, (4, *space)) == pytest.approx(bound / (first * second), rel=1e-7)


ONE_STEP = ("euler", "midpoint", "ssprk3", "rk4", "rk4_classic", "leapfrog", "reversible('rk4', coupling=0.9)")
SEVERAL = ("adams_bashforth(2)", "adams_bashforth(3)", "adams_bashforth(4)", "lm(initial=-0.05)", "explicit_adams")
TWO_STEP = ("two_step_midpoint", "alf", "reversible_heun")
CASES = [
    *(("symmetric", name) for name in (*ONE_STEP, *SEVERAL)),
    *(("antisymmetric", name) for name in ("rk4", "heun3", *TWO_STEP, "adams_bashforth(3)", "adams_bashforth(4)")),
    *(("damped", name) for name in ("euler", "midpoint", "rk4", "adams_bashforth(2)")),
    *(("hamiltonian", name) for name in ("verlet", "symplectic_euler", "rk4", "two_step_midpoint", "alf")),
]


def linear(kind, boundary="zeros"):
    torch.manual_seed(7)
    options = {**LINEAR, "boundary": boundary}
    if kind == "hamiltonian":
        return randomised(HamiltonianPair(4, **options))
    if kind == "symmetric":
        return randomised(Symmetric(2, **options))
    return randomised(Antisymmetric(2, damping=0.5 if kind == "damped" else 0.0, **options))


@pytest.mark.parametrize(("kind", "integrator"), CASES)
def test_the_limit_is_where_a_step_begins_to_grow(kind, integrator):
    space, layer = (3, 4), linear(kind)
    limit = db.step_limit(layer, integrator, (layer.width, *space))
    assert 0 < limit < math.inf
    for share in (0.1, 0.5, 0.9, 0.999):
        assert radius(layer, integrator, share * limit, space) < 1 + 1e-7
    assert radius(layer, integrator, 1.001 * limit, space) > 1 + 1e-6


@pytest.mark.parametrize("boundary", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(("kind", "integrator"), [("symmetric", "euler"), ("antisymmetric", "two_step_midpoint")])
def test_it_is_under_other_boundaries_too(boundary, kind, integrator):
    layer = linear(kind, boundary)
    limit = db.step_limit(layer, integrator, (2, 3, 4))
    assert radius(layer, integrator, 0.999 * limit, (3, 4)) < 1 + 1e-9
    assert radius(layer, integrator, 1.001 * limit, (3, 4)) > 1 + 1e-4


@pytest.mark.parametrize(
    ("kind", "integrator", "steps"),
    [
        ("symmetric", "euler", 6000),
        ("symmetric", "leapfrog", 500),
        ("antisymmetric", "rk4", 1200),
        ("antisymmetric", "two_step_midpoint", 500),
        ("hamiltonian", "verlet", 500),
    ],
)
def test_blocks_grow_just_above_and_not_just_below(kind, integrator, steps):
    space, layer = (3, 4), linear(kind)
    limit = db.step_limit(layer, integrator, (layer.width, *space))
    assert growth(layer, integrator, 0.999 * limit, space, steps) < 30
    assert growth(layer, integrator, 1.001 * limit, space, steps) > 100


GROWING = [
    ("antisymmetric", name) for name in ("euler", "midpoint", "heun2", "leapfrog", "adams_bashforth(2)", "dopri8")
] + [("symmetric", name) for name in ("two_step_midpoint", "alf", "reversible_heun", "reversible('rk4', coupling=1)")]


@pytest.mark.parametrize(("kind", "integrator"), GROWING)
def test_where_no_step_is_short_enough_the_reason_says_so(kind, integrator):
    limit = db.step_limit(linear(kind), integrator, (2, 4, 5))
    assert limit == 0
    assert "no step is short enough" in limit.reason


@pytest.mark.parametrize(
    "integrator",
    ["implicit_euler", "implicit_midpoint", "trapezoid", "gl4", "gl6", "radauIIA3", "radauIIA5", "sdirk2", "trbdf2",
     "kencarp4", "kvaerno3"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["symmetric", "antisymmetric", "damped", "hamiltonian"])
def test_a_stable_methods_have_no_limit(kind, integrator):
    layer = linear(kind)
    limit = db.step_limit(layer, integrator, (layer.width, 4, 5))
    assert limit == math.inf
    assert "there is no limit" in limit.reason


# Against closed forms and figures from the literature.


def stretch(method, z):
    """|R(z)| of a step of an explicit method, from the step itself."""
    y = torch.ones((), dtype=torch.complex128)
    return abs(complex(as_integrator(method).step(lambda t, y: z * y, 0.0, 1.0, y)))


@pytest.mark.parametrize("name", [tableau.name for tableau in TABLEAUS])
@pytest.mark.parametrize("direction", [-1.0, 1j, -1 + 1j, -0.1 + 1j])
def test_the_edge_of_explicit_methods_is_where_a_step_begins_to_stretch(name, direction):
    edge = longest_step(as_integrator(name), direction)
    if edge:
        sizes = [stretch(name, share * edge * direction) for share in np.linspace(0.01, 1, 100)]
        assert max(sizes) <= 1 + 1e-9
    for more in (1e-2, 0.05):
        assert stretch(name, (edge + more) * direction) > 1


@pytest.mark.parametrize(
    ("order", "real", "imaginary"), [(1, 2, 0), (2, 1, 0), (3, 6 / 11, 0.7236), (4, 0.3, 0.43), (5, 90 / 551, 0)]
)
def test_adams_bashforth(order, real, imaginary):
    assert bashforth_limit(order, -1.0) == pytest.approx(real, rel=1e-9)
    assert bashforth_limit(order, 1j) == pytest.approx(imaginary, abs=1e-4)


def test_two_step_methods():
    assert multistep_limit((-1.0, 0.0, 1.0), (0.0, 2.0), 1j) == pytest.approx(1)
    assert multistep_limit((-1.0, 0.0, 1.0), (0.0, 2.0), -1.0) == 0
    assert multistep_limit((0.0, -1.0, 1.0), (-0.5, 1.5), 0j) == math.inf
    for k in (-0.5, 0.0, 0.3):
        method = as_integrator(f"lm(initial={k})")
        assert longest_step(method, -2.0) == pytest.approx(1 - k)
        assert longest_step(as_integrator(f"lm(initial={k}, scaled=True)"), -2.0) == pytest.approx((1 - k) / (1 + k))
    assert longest_step(as_integrator("lm(initial=1.5)"), -1.0) == 0


def test_pairs_have_the_intervals_of_their_tableaus():
    assert longest_step(as_integrator("dopri5"), -1.0) == pytest.approx(3.306, abs=1e-3)
    assert longest_step(as_integrator("bosh3"), 1j) == pytest.approx(math.sqrt(3), rel=1e-9)
    limit = db.step_limit(linear("symmetric"), "dopri5", (2, 4, 5))
    assert "as long as its tolerance allows" in limit.reason


def test_a_tableau_of_ones_own():
    """R = 1 + z + z^2 / 8, the Chebyshev polynomial of degree two: the longest real interval of two stages."""
    own = RungeKutta(Tableau("own", 1, ((), (1 / 8,)), (0.0, 1.0)))
    assert longest_step(own, -1.0) == pytest.approx(8, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "bound"), [("euler", 2), ("heun2", 2), ("ssprk3", 2), ("rk4_classic", 2), ("kutta3", 1), ("midpoint", 0)]
)
def test_what_parts_no_two_states(name, bound):
    """Radii of circle contractivity."""
    assert contractive_step(as_integrator(name)) == pytest.approx(bound, abs=1e-12)


# What the layer is.


def nonlinear(**options):
    torch.manual_seed(1)
    return randomised(Symmetric(2, activation="tanh", norm="none", **options))


@pytest.mark.parametrize(("activation", "slope"), [("gelu", GELU), ("silu", 1.0998393194), ("tanh", 1), ("elu", 1)])
def test_slopes_above_one_shorten_the_step(activation, slope):
    torch.manual_seed(0)
    layer, plain = Symmetric(2, activation=activation, norm="none"), Symmetric(2, activation="relu", norm="none")
    plain.load_state_dict(layer.state_dict())
    limit = db.step_limit(layer, "euler", (2, 5, 5))
    assert limit == pytest.approx(db.step_limit(plain, "euler", (2, 5, 5)) / slope, rel=1e-7)
    assert ("the activation falls in places" in limit.reason) == (slope > 1)
    assert f"slopes D up to {slope:.4g}" in limit.reason


def test_normalisations_are_left_out_and_named():
    plain = nonlinear()
    for norm, name in (("tv", "TVNorm"), ("batch", "BatchNorm2d")):
        normed = Symmetric(2, activation="tanh", norm=norm).double()
        normed.load_state_dict(plain.state_dict(), strict=False)
        limit = db.step_limit(normed, "euler", (2, 4, 4))
        assert limit == db.step_limit(plain, "euler", (2, 4, 4))
        assert f"the normalisation ({name}) is left out" in limit.reason
    assert "normalisation" not in db.step_limit(plain, "euler", (2, 4, 4)).reason


def test_a_layer_that_grows_has_no_step():
    for layer in (nonlinear(sign=1), PreactSymmetric(2)):
        for name in ("euler", "rk4", "leapfrog", "implicit_euler"):
            limit = db.step_limit(layer, name, (2, 4, 4))
            assert limit == 0
            assert "the equation itself grows" in limit.reason


def test_projected_kernels_are_measured_as_they_are_applied():
    layer = randomised(Symmetric(2, zero_mean=True, **LINEAR))
    slowest = -torch.linalg.eigvalsh(jacobian(layer, 2, (4, 4))).min().item()
    assert db.step_limit(layer, "euler", (2, 4, 4)) == pytest.approx(2 / slowest, rel=1e-7)


def test_preact_symmetric_of_sign_minus_one():
    layer = randomised(PreactSymmetric(2, sign=-1, norm="none", activation="none"))
    slowest = -torch.linalg.eigvalsh(jacobian(layer, 2, (4, 4))).min().item()
    assert db.step_limit(layer, "euler", (2, 4, 4)) == pytest.approx(2 / slowest, rel=1e-7)
    squared = PreactSymmetric(2, sign=-1, norm="none", activation="gelu").double()
    squared.load_state_dict(layer.state_dict())
    assert db.step_limit(squared, "euler", (2, 4, 4)) == pytest.approx(2 / slowest / GELU**2, rel=1e-7)


def test_pairs_of_opposite_signs_grow_and_others_do_not():
    signs = iter((1, -1))
    opposed = HamiltonianPair(4, unit=lambda width: Symmetric(width, sign=next(signs), norm="none"))
    assert db.step_limit(opposed, "verlet", (4, 5, 5)) == 0
    both = HamiltonianPair(4, unit="preact_symmetric", norm="none", activation="none")
    assert db.step_limit(both, "verlet", (4, 5, 5)) > 0
    assert "may grow in places" not in db.step_limit(both, "verlet", (4, 5, 5)).reason
    published = HamiltonianPair(4, unit="preact_symmetric")
    assert "may grow in places" in db.step_limit(published, "verlet", (4, 5, 5)).reason


def test_no_weights_no_limit():
    layer = Symmetric(2, norm="none")
    nn.init.zeros_(layer.weight)
    assert db.step_limit(layer, "euler", (2, 4, 4)) == math.inf
    nn.init.constant_(layer.weight, math.nan)
    with pytest.raises(db.ConfigurationError, match="not finite"):
        db.step_limit(layer, "euler", (2, 4, 4))


# Blocks.


def test_of_a_block_it_is_the_least_over_the_controls():
    torch.manual_seed(0)
    block = db.DynamicBlock("symmetric(2, norm='none')", "constant(3)")
    with torch.no_grad():
        block.controls.layers[1].weight.mul_(3)
    limit = db.step_limit(block, "euler", (2, 5, 5))
    each = [db.step_limit(layer, "euler", (2, 5, 5)) for layer in block.controls.layers]
    assert limit == min(each) == each[1]
    assert "of 3 controls that of number 1 has the least limit" in limit.reason
    assert "blends" not in limit.reason
    linear_in_time = db.project(block, "linear(3)")
    assert "blends of controls have no larger norms" in db.step_limit(linear_in_time, "euler", (2, 5, 5)).reason
    polynomial = db.project(block, "legendre(3)")
    assert "negative weights" in db.step_limit(polynomial, "euler", (2, 5, 5)).reason


def test_of_a_blended_pair_it_holds_between_controls():
    """Two controls of which each has one unit alone: between them both act."""
    block = db.DynamicBlock("hamiltonian(2, norm='none', kernel_size=1, bias=False)", "linear(2)")
    first, second = block.controls.layers
    with torch.no_grad():
        for unit, value in ((first.f1, 2.0), (first.f2, 0.0), (second.f1, 0.0), (second.f2, 2.0)):
            unit.weight.fill_(value)
    assert db.step_limit(first, "verlet", (2, 3, 3)) == math.inf
    assert db.step_limit(block, "verlet", (2, 3, 3)) == pytest.approx(0.5)


# Layers of one's own.


class Diagonal(nn.Module):
    """F(y) = -rates y."""

    def __init__(self, *rates):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor(rates))

    def forward(self, y):
        return -self.rates * y

    def spectrum(self, size):
        assert size == (7, len(self.rates))
        return Spectrum((-self.rates.max().item(), 0.0), gradient=True, about="-diag(rates)")


def test_a_layer_of_ones_own_tells_of_itself():
    limit = db.step_limit(Diagonal(1.0, 4.0), "euler", (7, 2))
    assert limit == pytest.approx(0.5)
    assert limit.reason.startswith("Diagonal: -diag(rates); euler bears h |eigenvalue| up to 2")
    assert "within it no step parts two states" in limit.reason
    block = db.DynamicBlock(lambda: Diagonal(1.0, 4.0), 2)
    assert db.step_limit(block, "euler", (7, 2)) == pytest.approx(0.5)


class Rectangle(nn.Module):
    def __init__(self, *bounds):
        super().__init__()
        self.bounds = bounds

    def spectrum(self, size):
        (low, high), top = self.bounds
        return Spectrum((low, high), (top,))


def test_a_rectangle_of_eigenvalues():
    """Of Euler's method: |1 + h z| <= 1 up to -2 Re z / |z|^2, least in a corner."""
    limit = db.step_limit(Rectangle((-2.0, -1.0), 3.0), "euler", (1,))
    assert limit == pytest.approx(min(4 / 13, 2 / 10))
    assert db.step_limit(Rectangle((-2.0, 0.0), 3.0), "euler", (1,)) == 0
    assert db.step_limit(Rectangle((-2.0, 0.0), 3.0), "implicit_euler", (1,)) == math.inf


# Errors and manners.


class Strange(Integrator):
    name, order, reads = "strange", 1, ((0.0, "field"),)

    def advance(self, stage, h, carry):
        return carry + h * stage(0.0, carry)


class Silent(nn.Module):
    def forward(self, y):
        return y

    def spectrum(self, size):
        return (-1.0, 0.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: db.step_limit(nonlinear(), "eulr", (2, 4, 4)), "unknown integrator 'eulr'; did you mean 'euler'"),
        (lambda: db.step_limit(nonlinear(), Strange(), (2, 4, 4)), "no limit of the step is known for strange"),
        (lambda: db.step_limit(nonlinear(), "implicit_adams", (2, 4, 4)), "is known for implicit_adams: its equation"),
        (lambda: db.step_limit(nonlinear(), "lm(per_channel=True)", (2, 4, 4)), "coefficients differ between channels"),
        (lambda: db.step_limit(nonlinear(), "verlet", (2, 4, 4)), "verlet reads 'second' and 'first', and Symm"),
        (lambda: db.step_limit(Double(2), "euler", (2, 4, 4)), "known for Double, which tells nothing of the eigenval"),
        (lambda: db.step_limit(nn.Conv2d(2, 2, 3), "euler", (2, 4, 4)), "known for Conv2d, which tells nothing"),
        (lambda: db.step_limit(Silent(), "euler", (2, 4, 4)), "Silent.spectrum must return a Spectrum, got tuple"),
        (lambda: db.step_limit(HamiltonianPair(4, unit="antisymmetric"), "rk4", (4, 4, 4)), "a pair of Antisymmetric:"),
        (lambda: db.step_limit(db.create_model("dynamicnet"), "rk4", (4, 4, 4)), "DynamicNet is a network; take its"),
        (lambda: db.step_limit(nonlinear(), "euler", (3, 4, 4)), r"\(batch, 2, height, width\), or .* got \(3, 4, 4\)"),
        (lambda: db.step_limit(nonlinear(), "euler", (1, 1, 2, 4, 4)), r"got \(1, 1, 2, 4, 4\)"),
        (lambda: db.step_limit(nonlinear(), "euler", (4,)), r"got \(4,\)"),
        (lambda: db.step_limit(nonlinear(), "euler", (2, 0, 4)), "whole numbers such as .* got"),
        (lambda: db.step_limit(nonlinear(), "euler", torch.zeros(2, 4, 4)), "shape must be that of a state"),
        (lambda: db.step_limit(nonlinear(), "euler", "2x4"), "shape must be that of a state"),
        (lambda: db.step_limit(nonlinear(), "euler", 4), "shape must be that of a state"),
        (lambda: db.step_limit(nonlinear(boundary="reflect"), "euler", (2, 1, 4)), "at least 2 pixels, got 1 x 4"),
        (lambda: db.step_limit(Symmetric(2, activation=lambda: nn.Softmax(1)), "euler", (2, 4, 4)), "several numbers"),
    ],
)  # fmt: skip
def test_what_is_not_known_or_wrong(call, words):
    with pytest.raises(db.ConfigurationError, match=words):
        call()


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (8, 2, 4, 5), [2, 4, 5], torch.Size((1, 2, 4, 5))])
def test_shapes_with_and_without_batch_and_channels(shape):
    assert db.step_limit(nonlinear(), "euler", shape) == db.step_limit(nonlinear(), "euler", (2, 4, 5))


def test_it_leaves_everything_as_it_was():
    layer = Symmetric(2).train()
    before = {name: (weight.clone(), weight._version) for name, weight in layer.named_parameters()}
    state = torch.get_rng_state()
    first = db.step_limit(layer, "euler", (2, 6, 6))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    with torch.inference_mode(), torch.autocast("cpu"):
        assert db.step_limit(layer, "euler", (2, 6, 6)) == first
    half = copy.deepcopy(layer).half()
    assert db.step_limit(half, "euler", (2, 6, 6)) == pytest.approx(first, rel=1e-2)
    assert layer.training
    for name, weight in layer.named_parameters():
        assert weight.grad is None
        assert torch.equal(weight, before[name][0])
        assert weight._version == before[name][1]


def test_it_is_a_number_with_a_reason():
    limit = db.step_limit(nonlinear(), "euler", (2, 4, 4))
    assert isinstance(limit, float)
    assert isinstance(limit, db.analysis.StepLimit)
    assert f"{limit:.3f}" == f"{float(limit):.3f}"
    for other in (pickle.loads(pickle.dumps(limit)), copy.deepcopy(limit)):
        assert other == limit
        assert other.reason == limit.reason
