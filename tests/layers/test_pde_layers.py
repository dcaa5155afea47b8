"""The layers of partial differential equations against their formulas, with their adjoints and structure."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import (
    Antisymmetric,
    Double,
    HamiltonianPair,
    PreactSymmetric,
    Symmetric,
    conv_adjoint,
    layers,
)
from dynamicblocks.layers.activations import slopes_of
from dynamicblocks.layers.boundary import CONVOLUTIONS, conv
from dynamicblocks.layers.operator_norm import operator_norm
from tests.layer_tools import batch_norm, double, padded_convolution, random_state, randomised

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZES = {1: (7,), 2: (5, 6), 3: (3, 4, 5)}
NEW = ("symmetric", "antisymmetric", "double", "preact_symmetric", "hamiltonian")

every_dims = pytest.mark.parametrize("dims", [1, 2, 3])
every_boundary = pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)


def padded(y, padding, boundary):
    return F.pad(y, (padding,) * (2 * (y.ndim - 2)), mode="constant" if boundary == "zeros" else boundary)


def matrix_of(apply, width, size):
    """The dense matrix of a linear map of states."""
    count = width * math.prod(size)
    return apply(torch.eye(count, dtype=double).reshape(count, width, *size)).reshape(count, -1).T


# Groups.


@every_dims
@every_boundary
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_adjoint_of_groups_moves_across_the_inner_product(dims, boundary, groups, k):
    kernel = random_state(8, 4 // groups, *(k,) * dims)
    y, z = random_state(2, 4, *SIZES[dims]), random_state(2, 8, *SIZES[dims])
    forward = conv(y, kernel, None, boundary, groups)
    expected = CONVOLVE[dims](padded(y, k // 2, boundary), kernel, groups=groups)
    torch.testing.assert_close(forward, expected, rtol=0, atol=1e-12)
    adjoint = conv_adjoint(z, kernel, None, boundary, groups)
    assert abs(torch.sum(forward * z) - torch.sum(y * adjoint)) < 1e-11


@pytest.mark.parametrize("name", NEW)
def test_groups_do_not_read_each_other(name):
    layer = randomised(layers.create(name, 8, groups=2, norm="none", activation="tanh", boundary="reflect"))
    y = random_state(1, 8, 5, 5)
    other = y.clone()
    other[:, :2] += 1.0
    changed = (layer(other) - layer(y)).abs().amax((0, 2, 3)) > 1e-9
    # Halves of a pair have groups of their own, and each drives the other half.
    assert changed.tolist() == (
        [False] * 4 + [True] * 2 + [False] * 2 if name == "hamiltonian" else [True] * 4 + [False] * 4
    )


@pytest.mark.parametrize("name", NEW)
def test_groups_that_do_not_divide_are_refused(name):
    with pytest.raises(db.ConfigurationError, match="groups must divide the channels before and after, got 3 for"):
        layers.create(name, 8, groups=3)
    for groups in (0, -1, 1.5, True):
        with pytest.raises(db.ConfigurationError, match="groups must be a whole number"):
            layers.create(name, 8, groups=groups)


def test_the_convolution_takes_groups():
    layer = CONVOLUTIONS[2](4, 8, groups=2, boundary="circular").double()
    y = random_state(1, 4, 5, 5)
    torch.testing.assert_close(layer(y), conv(y, layer.weight, None, "circular", 2), rtol=0, atol=1e-13)
    with pytest.raises(db.ConfigurationError, match="got 2 for 3"):
        CONVOLUTIONS[2](4, 3, groups=2)


# Formulas.


@every_boundary
def test_symmetric_has_either_sign_and_may_project_its_kernel(boundary):
    layer = randomised(
        Symmetric(2, hidden=3, boundary=boundary, activation="tanh", norm="none", sign=1, zero_mean=True)
    )
    y = random_state(2, 2, 4, 5)
    kernel = layer.weight - layer.weight.mean((2, 3), keepdim=True)
    z = torch.tanh(padded_convolution(y, kernel, boundary) + layer.bias_inside.view(-1, 1, 1))
    _, adjoint = torch.autograd.functional.vjp(lambda x: padded_convolution(x, kernel, boundary), y, z)
    torch.testing.assert_close(layer(y), layer.bias_outside.view(-1, 1, 1) + adjoint, rtol=0, atol=1e-12)
    if boundary != "zeros":
        still = layer(torch.ones_like(y)) - layer(torch.zeros_like(y))
        assert still.abs().max() < 1e-12


def test_the_sign_changes_all_but_the_bias():
    minus = randomised(Symmetric(3, norm="none"))
    plus = Symmetric(3, norm="none", sign=1).double()
    plus.load_state_dict(minus.state_dict())
    y, bias = random_state(1, 3, 4, 4), minus.bias_outside.view(-1, 1, 1)
    torch.testing.assert_close(plus(y) - bias, bias - minus(y), rtol=0, atol=1e-13)


@pytest.mark.parametrize("make", [Symmetric, PreactSymmetric])
@pytest.mark.parametrize("sign", [0, 2, -1.5, True, "1", None])
def test_signs_that_are_none(make, sign):
    with pytest.raises(db.ConfigurationError, match="sign must be 1 or -1, got"):
        make(4, sign=sign)


@every_dims
@every_boundary
@pytest.mark.parametrize("groups", [1, 2])
def test_antisymmetric_is_its_formula(dims, boundary, groups):
    options = {"boundary": boundary, "groups": groups, "activation": "tanh", "norm": "none", "dims": dims}
    layer = randomised(Antisymmetric(4, damping=0.3, **options))
    y = random_state(2, 4, *SIZES[dims])
    apply = lambda x: CONVOLVE[dims](padded(x, 1, boundary), layer.weight, groups=groups)  # noqa: E731
    _, adjoint = torch.autograd.functional.vjp(apply, y, y)
    inside = apply(y) - adjoint + layer.bias_inside.view(-1, *(1,) * dims)
    torch.testing.assert_close(layer(y), torch.tanh(inside) - 0.3 * y, rtol=0, atol=1e-12)


@every_boundary
@pytest.mark.parametrize(("dims", "size", "k"), [(1, (6,), 5), (2, (3, 4), 3), (2, (2, 3), 1), (3, (2, 3, 2), 3)])
def test_antisymmetric_has_an_antisymmetric_matrix(boundary, dims, size, k):
    layer = randomised(
        Antisymmetric(2, norm="none", activation="none", bias=False, boundary=boundary, kernel_size=k, dims=dims)
    )
    matrix = matrix_of(layer, 2, size)
    assert matrix.abs().max() > 0.1
    torch.testing.assert_close(matrix, -matrix.T, rtol=0, atol=1e-13)


@every_boundary
def test_the_jacobian_of_antisymmetric_has_imaginary_eigenvalues(boundary):
    layer = randomised(Antisymmetric(2, norm="none", activation="tanh", boundary=boundary))
    jacobian = torch.autograd.functional.jacobian(layer, 0.1 * random_state(1, 2, 3, 4)).reshape(24, 24)
    eigenvalues = torch.linalg.eigvals(jacobian)
    assert eigenvalues.imag.abs().max() > 0.05
    assert eigenvalues.real.abs().max() < 1e-7 * eigenvalues.abs().max()


@pytest.mark.parametrize("damping", [-0.1, math.inf, math.nan, "1", True])
def test_dampings_that_are_none(damping):
    with pytest.raises(db.ConfigurationError, match="damping must be zero or more and finite, got"):
        Antisymmetric(4, damping=damping)


@every_boundary
@pytest.mark.parametrize("groups", [1, 2])
def test_double_is_its_formula(boundary, groups):
    layer = randomised(Double(4, hidden=6, boundary=boundary, groups=groups, norm="none", activation="tanh"))
    y = random_state(2, 4, 5, 6)
    inside = F.conv2d(padded(y, 1, boundary), layer.conv1.weight, layer.conv1.bias, groups=groups)
    expected = F.conv2d(padded(torch.tanh(inside), 1, boundary), layer.conv2.weight, layer.conv2.bias, groups=groups)
    torch.testing.assert_close(layer(y), expected, rtol=0, atol=1e-12)


@every_boundary
@pytest.mark.parametrize("lead", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_preact_symmetric_is_its_formula(boundary, lead, sign):
    layer = randomised(PreactSymmetric(2, hidden=3, boundary=boundary, lead=lead, sign=sign))
    y = random_state(2, 2, 4, 5)
    first = torch.relu(batch_norm(layer.norm1, y)) if lead else y
    z = torch.relu(batch_norm(layer.norm2, padded_convolution(first, layer.weight, boundary)))
    _, adjoint = torch.autograd.functional.vjp(lambda x: padded_convolution(x, layer.weight, boundary), y, z)
    torch.testing.assert_close(layer(y), sign * adjoint, rtol=0, atol=1e-10)


def test_preact_symmetric_may_have_biases():
    layer = randomised(PreactSymmetric(2, bias=True, norm="none", activation="none", kernel_size=1))
    y = random_state(1, 2, 3, 3)
    kernel = layer.weight[:, :, 0, 0]
    inside = torch.einsum("oi,bihw->bohw", kernel, y) + layer.bias_inside.view(-1, 1, 1)
    expected = torch.einsum("oi,bohw->bihw", kernel, inside) + layer.bias_outside.view(-1, 1, 1)
    torch.testing.assert_close(layer(y), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: Antisymmetric(4, norm="none"), 4 * 4 * 9 + 4),
        (lambda: Antisymmetric(4, norm="tv(weight=False)", bias=False), 4 * 4 * 9 + 4),
        (lambda: Antisymmetric(4, norm="none", bias=False, groups=4, kernel_size=5, dims=3), 4 * 125),
        (lambda: Double(4, hidden=6), 2 * 4 * 6 * 9 + 6 + 4 + 2 * 6),
        (lambda: PreactSymmetric(4, hidden=6), 4 * 6 * 9 + 2 * 4 + 2 * 6),
        (lambda: PreactSymmetric(4, lead=False), 4 * 4 * 9 + 2 * 4),
        (lambda: HamiltonianPair(8), 2 * (4 * 4 * 9 + 4 + 4 + 2 * 4)),
        (lambda: HamiltonianPair(8, unit="preact_symmetric", lead=False), 2 * 4 * 4 * 9 + 3 * 2 * 4),
        (lambda: HamiltonianPair(8, norm="tv", bias=False), 2 * (4 * 4 * 9 + 2 * 4)),
    ],
)
def test_weights_are_counted(make, count):
    assert sum(weight.numel() for weight in make().parameters()) == count


# The pair.


@every_dims
@pytest.mark.parametrize("unit", ["symmetric", "preact_symmetric", "antisymmetric", "double(hidden=3)"])
def test_the_pair_is_two_units_that_drive_each_other(dims, unit):
    pair = randomised(HamiltonianPair(4, unit=unit, norm="tv", dims=dims))
    y, z = random_state(2, 2, *SIZES[dims]), random_state(2, 2, *SIZES[dims])
    expected = torch.cat((pair.f1(z), -pair.f2(y)), dim=1)
    assert torch.equal(pair(torch.cat((y, z), dim=1)), expected)
    assert torch.equal(torch.cat((pair.first(z), pair.second(y)), dim=1), expected)


def test_the_first_unit_alone_loses_its_lead():
    pair = HamiltonianPair(8, unit="preact_symmetric", lead=False)
    assert isinstance(pair.f1.norm1, nn.Identity)
    assert isinstance(pair.f1.activation1, nn.Identity)
    assert isinstance(pair.f2.norm1, nn.BatchNorm2d)
    assert isinstance(pair.f2.activation1, nn.ReLU)


def test_a_function_makes_units():
    pair = HamiltonianPair(6, unit=lambda width: Symmetric(width, hidden=2 * width, norm="none"))
    assert [pair.f1.hidden, pair.f2.hidden] == [6, 6]
    assert pair(torch.zeros(1, 6, 4, 4)).shape == (1, 6, 4, 4)


class Timed(nn.Module):
    def forward(self, t, y):
        return y


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HamiltonianPair(5), "width must be even, for the channels are two halves, got 5"),
        (lambda: HamiltonianPair(0), "width must be a whole number of at least 1, got 0"),
        (lambda: HamiltonianPair(4, unit="symetric"), "unknown layer 'symetric'; did you mean 'symmetric'"),
        (lambda: HamiltonianPair(4, unit="symmetric", lead=False), "lead=False needs a unit with that option"),
        (lambda: HamiltonianPair(4, unit="residual_unit", groups=2), "unexpected keyword argument 'groups'"),
        (lambda: HamiltonianPair(4, unit=Symmetric(2)), "unit must be the name of a layer or a function of a width"),
        (lambda: HamiltonianPair(4, unit=lambda width: None), "that makes a module, got"),
        (lambda: HamiltonianPair(4, unit=Symmetric, norm="tv"), "chooses all options of its layers, so norm cannot"),
        (lambda: HamiltonianPair(4, unit=PreactSymmetric, lead=False), "so lead cannot be given beside it"),
        (lambda: HamiltonianPair(4, unit=lambda width: Timed()), "but Timed takes the time"),
    ],
)
def test_pairs_that_cannot_be(make, words):
    with pytest.raises(db.ConfigurationError, match=words):
        make()


# In blocks.


BLOCKS = [
    *(f"{name}(4, norm='none')" for name in NEW),
    "symmetric(4, norm='batch', groups=2, zero_mean=True, sign=1)",
    "antisymmetric(4, norm='batch', damping=0.1, boundary='reflect')",
    "hamiltonian(4, unit='preact_symmetric', lead=False)",
    "preact_symmetric(4)",
    "double(4, norm='batch', groups=2)",
]


@pytest.mark.parametrize("layer", BLOCKS)
def test_a_blend_is_the_layer_with_blended_weights(layer):
    """In the middle between two controls, against a layer that has the mean of their weights and statistics."""
    block = randomised(db.DynamicBlock(layer, "linear(2)", db.uniform(0, 1, steps=1), "midpoint")).eval()
    mean = layers.create(layer).double().eval()
    first, second = (each.state_dict() for each in block.controls.layers)
    mean.load_state_dict({name: (first[name] + second[name]) / 2 for name in first})
    y = random_state(2, 4, 5, 5)
    expected = y + mean(y + 0.5 * block.controls.layers[0](y))
    torch.testing.assert_close(block(y), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["symplectic_euler", "verlet"])
def test_parts_of_a_pair_share_their_blend(name):
    """A step between two controls, by parts of pairs with the blended weights."""
    block = randomised(db.DynamicBlock("hamiltonian(4, norm='none')", "linear(2)", db.uniform(0, 1, steps=1), name))
    y, z = random_state(2, 2, 2, 4, 4)
    begin, end = block.controls.layers
    middle = layers.create("hamiltonian(4, norm='none')").double()
    there = end.state_dict()
    middle.load_state_dict({name: (weight + there[name]) / 2 for name, weight in begin.state_dict().items()})
    if name == "verlet":
        half = z + begin.second(y) / 2
        after = y + middle.first(half)
        expected = torch.cat((after, half + end.second(after) / 2), dim=1)
    else:
        after = y + begin.first(z)
        expected = torch.cat((after, z + begin.second(after)), dim=1)
    torch.testing.assert_close(block(torch.cat((y, z), dim=1)), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("layer", BLOCKS)
def test_half_precision_and_formats(layer):
    torch.manual_seed(0)
    block = db.DynamicBlock(layer, "linear(2)", db.uniform(0, 1, steps=2), "euler")
    y = torch.randn(2, 4, 6, 6)
    expected = block.eval()(y)
    last = block.to(memory_format=torch.channels_last)(y.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(y)
    assert half.dtype is torch.float32
    torch.testing.assert_close(half, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("layer", BLOCKS[len(NEW) :])
def test_they_compile_as_one_graph(layer):
    module = layers.create(layer).eval()
    y = torch.randn(2, 4, 6, 6)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(y), module(y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", BLOCKS[len(NEW) :])
def test_statistics_are_recalibrated(layer):
    """Recalibrated, evaluation does what training does with the batch."""
    torch.manual_seed(0)
    block = db.DynamicBlock(layer, "linear(2)", db.uniform(0, 1, steps=1), "euler").double()
    y = random_state(8, 4, 5, 5)
    with torch.no_grad():
        expected = block.train()(y)
        fresh = db.recalibrate(block, [y])
        # Variances of training are those of the batch, of evaluation those of what it was drawn from.
        torch.testing.assert_close((fresh or block).eval()(y), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["symmetric", "antisymmetric", "preact_symmetric"])
def test_a_small_image_under_a_mirror_is_named(name):
    block = db.DynamicBlock(f"{name}(2, boundary='reflect', kernel_size=5)", 1)
    with pytest.raises(db.ConfigurationError, match=r"boundary='reflect' of \w+ needs images of at least 3 x 3 pixels"):
        block(torch.zeros(2, 2, 2, 5))


# What limits of steps are made of.


@every_boundary
@pytest.mark.parametrize(("dims", "size"), [(1, (9,)), (2, (4, 5)), (3, (3, 3, 4))])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_norm_of_the_operator_is_that_of_its_matrix(boundary, dims, size, seed):
    torch.manual_seed(seed)
    kernel = random_state(4, 1, *(3,) * dims)
    found = operator_norm(
        lambda y: conv(y, kernel, None, boundary, 2),
        lambda z: conv_adjoint(z, kernel, None, boundary, 2),
        (1, 2, *size),
        kernel.device,
    )
    expected = torch.linalg.matrix_norm(matrix_of(lambda y: conv(y, kernel, None, boundary, 2), 2, size), 2)
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_the_norm_is_found_where_eigenvalues_are_close():
    """Of a long signal, whose largest eigenvalues differ in the fifth digit, by its symbol."""
    kernel = torch.tensor([[[0.3, 0.5, 0.2]]], dtype=double)
    found = operator_norm(
        lambda y: conv(y, kernel, None, "circular"), lambda z: conv_adjoint(z, kernel, None, "circular"), (1, 1, 800),
        kernel.device,
    )  # fmt: skip
    assert found == pytest.approx(1.0, rel=1e-7)


def test_what_has_no_norm_or_a_simple_one():
    here = torch.device("cpu")
    assert operator_norm(torch.zeros_like, torch.zeros_like, (3,), here) == 0
    assert operator_norm(lambda y: 2 * y, lambda z: 2 * z, (3,), here) == pytest.approx(2)
    with pytest.raises(db.ConfigurationError, match="not finite"):
        operator_norm(lambda y: y * math.nan, lambda z: z, (3,), here)


@pytest.mark.parametrize(
    ("activation", "least", "greatest"),
    [
        (nn.ReLU(), 0, 1),
        (nn.Tanh(), 0, 1),
        (nn.Identity(), 1, 1),
        (nn.LeakyReLU(0.2), 0.2, 1),
        (nn.ELU(), 0, 1),
        (nn.ELU(alpha=2.0), 0, 2),
        (nn.Softplus(), 0, 1),
        (nn.Sigmoid(), 0, 0.25),
        (nn.SiLU(), -0.0998393194, 1.0998393194),
        (nn.GELU(), -0.1289041, 1.1289041),
        (nn.Hardswish(), -0.5, 1.5),
        (nn.PReLU(3, init=1.5), 1, 1.5),
    ],
)
def test_slopes_of_activations(activation, least, greatest):
    with torch.no_grad():
        assert slopes_of(activation, 3) == pytest.approx((least, greatest), abs=2e-5)
    with torch.inference_mode():
        assert slopes_of(activation, 3) == pytest.approx((least, greatest), abs=2e-5)
    assert all(weight.grad is None for weight in activation.parameters())


@pytest.mark.parametrize("activation", [nn.Softmax(dim=1), nn.GLU(dim=1), nn.Softmin(dim=0)])
def test_activations_of_several_numbers_have_no_slope(activation):
    with pytest.raises(db.ConfigurationError, match="acts on several numbers together"):
        slopes_of(activation, 4)
