"""The symmetric layer, normalisations and branches against their formulas."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import Branch, Symmetric, TVNorm
from tests.layer_tools import batch_norm, padded_convolution, random_state, randomised


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
def test_symmetric_is_minus_adjoint_activation_convolution(boundary):
    layer = randomised(Symmetric(2, hidden=3, boundary=boundary, activation="tanh", norm="tv"))
    y = random_state(2, 2, 4, 5)
    inside = padded_convolution(y, layer.weight, boundary) + layer.bias_inside.view(-1, 1, 1)
    norm = inside / (inside.square().sum(1, keepdim=True) + 1e-4).sqrt()
    z = torch.tanh(norm * layer.norm.weight.view(-1, 1, 1) + layer.norm.bias.view(-1, 1, 1))
    _, adjoint = torch.autograd.functional.vjp(lambda x: padded_convolution(x, layer.weight, boundary), y, z)
    torch.testing.assert_close(layer(y), layer.bias_outside.view(-1, 1, 1) - adjoint, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
def test_symmetric_diffuses(boundary, activation):
    layer = randomised(Symmetric(2, hidden=3, norm="none", activation=activation, boundary=boundary))
    jacobian = torch.autograd.functional.jacobian(layer, random_state(1, 2, 3, 4)).reshape(24, 24)
    assert jacobian.abs().max() > 0.1
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(jacobian).max() < 1e-12


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"norm": "none", "bias": False}, 4 * 6 * 9),
        ({"norm": "none"}, 4 * 6 * 9 + 6 + 4),
        ({}, 4 * 6 * 9 + 6 + 4 + 2 * 6),
        ({"norm": "tv(weight=False)"}, 4 * 6 * 9 + 6 + 4 + 6),
        ({"norm": "tv(weight=False, bias=False)"}, 4 * 6 * 9 + 6 + 4),
        ({"norm": "batch", "bias": False}, 4 * 6 * 9 + 2 * 6),
        ({"norm": "group(3)", "kernel_size": 5}, 4 * 6 * 25 + 6 + 4 + 2 * 6),
    ],
)
def test_symmetric_counts_one_kernel(options, count):
    layer = Symmetric(4, hidden=6, **options)
    assert sum(parameter.numel() for parameter in layer.parameters()) == count


def test_symmetric_starts_like_a_convolution():
    weight = Symmetric(16, hidden=32).weight.detach()
    bound = 1 / math.sqrt(16 * 9)
    assert weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 5), (3, 2, 4, 5)])
def test_tv_norm_divides_each_pixel_by_its_length(shape):
    norm = randomised(TVNorm(2, eps=0.3))
    y = random_state(*shape)
    first, second = y[:, 0], y[:, 1]
    length = torch.sqrt(first**2 + second**2 + 0.3)
    expected = torch.stack(
        [norm.weight[0] * first / length + norm.bias[0], norm.weight[1] * second / length + norm.bias[1]], dim=1
    )
    torch.testing.assert_close(norm(y), expected, rtol=1e-14, atol=1e-14)


def test_tv_norm_starts_without_scale_and_shift():
    norm = TVNorm(3)
    assert norm.weight.tolist() == [1, 1, 1]
    assert norm.bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("magnitude", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tv_norm_keeps_half_precision_and_stays_finite(dtype, magnitude):
    y = torch.full((1, 64, 2, 2), magnitude, dtype=dtype)
    normalised = TVNorm(64).to(dtype)(y)
    assert normalised.dtype is dtype
    expected = magnitude / math.sqrt(64 * magnitude**2 + 1e-4)
    torch.testing.assert_close(normalised.float(), torch.full((1, 64, 2, 2), expected), rtol=2**-8, atol=0)


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (12, 4), (6, 2), (7, 1), (64, 8)])
def test_group_norm_takes_the_most_groups_that_divide(width, groups):
    assert db.layers.norms.create("group", width).num_groups == groups


@pytest.mark.parametrize("groups", [5, 0, -2, 32])
def test_groups_that_do_not_divide_are_refused(groups):
    with pytest.raises(db.ConfigurationError, match=f"{groups} groups do not divide 16 channels"):
        Symmetric(16, norm=f"group({groups})")


def test_norms_and_activations_may_be_factories():
    layer = Symmetric(4, norm=lambda width: nn.InstanceNorm2d(width), activation=lambda: nn.LeakyReLU(0.3))
    assert isinstance(layer.norm, nn.InstanceNorm2d)
    assert layer.activation.negative_slope == 0.3


@pytest.mark.parametrize(
    ("order", "norm", "children"),
    [
        ("conv norm act conv norm", "batch", ["conv1", "norm1", "act1", "conv2", "norm2"]),
        ("norm act conv norm act conv", "tv", ["norm1", "act1", "conv1", "norm2", "act2", "conv2"]),
        ("norm act conv norm act conv", "none", ["act1", "conv1", "act2", "conv2"]),
        ("", "batch", []),
    ],
)
def test_branch_children_stand_in_the_order(order, norm, children):
    assert [name for name, _ in Branch(order, 2, 4, norm=norm).named_children()] == children


def test_branch_widens_and_strides_at_its_first_convolution():
    branch = Branch("norm conv norm conv", 2, 4, stride=2, bias=True)
    assert [branch.norm1.num_features, branch.norm2.num_features] == [2, 4]
    convolutions = [branch.conv1, branch.conv2]
    assert [(c.in_channels, c.out_channels, c.stride) for c in convolutions] == [(2, 4, (2, 2)), (4, 4, (1, 1))]
    assert all(convolution.bias is not None for convolution in convolutions)
    assert branch(torch.zeros(3, 2, 7, 4)).shape == (3, 4, 4, 2)


def test_an_empty_branch_is_the_identity():
    y = random_state(1, 2, 3, 3)
    assert Branch("", 2, 2)(y) is y


def test_unknown_words_in_an_order_are_named():
    with pytest.raises(db.ConfigurationError, match="got 'relu' in 'conv relu'"):
        Branch("conv relu", 2, 2)


def convolve(convolution, y):
    return padded_convolution(y, convolution.weight, "replicate")


FORMULAS = {
    "preact_single": lambda f, y: convolve(f.conv1, torch.relu(batch_norm(f.norm1, y))),
    "postact_single": lambda f, y: batch_norm(f.norm1, torch.relu(convolve(f.conv1, y))),
    "preact_double": lambda f, y: convolve(
        f.conv2, torch.relu(batch_norm(f.norm2, convolve(f.conv1, torch.relu(batch_norm(f.norm1, y)))))
    ),
    "postact_double": lambda f, y: batch_norm(
        f.norm2, torch.relu(convolve(f.conv2, batch_norm(f.norm1, torch.relu(convolve(f.conv1, y)))))
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_named_layers_are_their_formulas(name):
    layer = randomised(db.layers.layers.create(name, 3, boundary="replicate"))
    y = random_state(2, 3, 4, 5)
    torch.testing.assert_close(layer(y), FORMULAS[name](layer, y), rtol=0, atol=1e-10)
