"""Convolutions under boundary conditions, and their adjoints."""

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.layers import Conv2d, Symmetric, conv2d_adjoint
from dynamicblocks.layers.boundary import conv2d
from tests.layer_tools import double, padded_convolution, random_state

# Reflection needs more pixels than it pads, periodicity as many.
SIZES = {
    1: [(1, 1), (4, 7)],
    3: [(2, 2), (2, 5), (6, 3)],
    5: [(3, 3), (3, 8), (7, 4)],
}
TINY = [("zeros", 3, (1, 1)), ("zeros", 5, (1, 2)), ("replicate", 5, (1, 1)), ("circular", 3, (1, 4))]
TINY += [("circular", 5, (2, 2)), ("replicate", 5, (1, 6))]
CASES = [(boundary, k, size) for boundary in db.layers.BOUNDARIES for k in SIZES for size in SIZES[k]] + TINY
adjoint_cases = pytest.mark.parametrize(("boundary", "k", "size"), CASES)


@adjoint_cases
def test_adjoint_moves_across_the_inner_product(boundary, k, size):
    kernel, y, z = random_state(3, 2, k, k), random_state(2, 2, *size), random_state(2, 3, *size)
    forward = torch.sum(conv2d(y, kernel, None, boundary) * z)
    backward = torch.sum(y * conv2d_adjoint(z, kernel, None, boundary))
    assert abs(forward - backward) < 1e-12


@adjoint_cases
def test_adjoint_is_the_vjp_of_padding_and_convolution(boundary, k, size):
    kernel, y, z = random_state(3, 2, k, k), random_state(1, 2, *size), random_state(1, 3, *size)
    _, expected = torch.autograd.functional.vjp(lambda x: padded_convolution(x, kernel, boundary), y, z)
    torch.testing.assert_close(conv2d_adjoint(z, kernel, None, boundary), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
def test_adjoint_is_the_transposed_matrix(boundary):
    kernel = random_state(2, 1, 3, 3)
    unit_images = torch.eye(12, dtype=double).reshape(12, 1, 3, 4)
    matrix = padded_convolution(unit_images, kernel, boundary).reshape(12, 24).T
    unit_outputs = torch.eye(24, dtype=double).reshape(24, 2, 3, 4)
    adjoint = conv2d_adjoint(unit_outputs, kernel, None, boundary).reshape(24, 12).T
    torch.testing.assert_close(adjoint, matrix.T, rtol=0, atol=1e-14)


def test_padding_means_what_the_boundary_says():
    shift = torch.tensor([[[[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]]], dtype=double)  # reads the left neighbour
    row = torch.tensor([[[[1.0, 2, 3]]]], dtype=double).expand(1, 1, 3, 3)
    left = {name: conv2d(row, shift, None, name)[0, 0, 1].tolist() for name in db.layers.BOUNDARIES}
    assert left == {"zeros": [0, 1, 2], "replicate": [1, 1, 2], "reflect": [2, 1, 2], "circular": [3, 1, 2]}


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
def test_biases_are_added_to_every_pixel(boundary):
    kernel, y, z = random_state(3, 2, 3, 3), random_state(2, 2, 4, 5), random_state(2, 3, 4, 5)
    inside, outside = random_state(3), random_state(2)
    forward = conv2d(y, kernel, inside, boundary) - conv2d(y, kernel, None, boundary)
    torch.testing.assert_close(forward, inside.view(1, 3, 1, 1).expand(2, 3, 4, 5), rtol=0, atol=1e-12)
    adjoint = conv2d_adjoint(z, kernel, outside, boundary) - conv2d_adjoint(z, kernel, None, boundary)
    torch.testing.assert_close(adjoint, outside.view(1, 2, 1, 1).expand(2, 2, 4, 5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_convolution_module_keeps_the_image_size(boundary, k):
    layer = Conv2d(2, 3, k, boundary=boundary).double()
    y = random_state(1, 2, 5, 7)
    torch.testing.assert_close(layer(y), padded_convolution(y, layer.weight, boundary), rtol=0, atol=1e-13)


def test_stride_takes_every_other_pixel():
    y = random_state(1, 2, 5, 8)
    strided, full = Conv2d(2, 3, stride=2).double(), Conv2d(2, 3).double()
    full.load_state_dict(strided.state_dict())
    assert strided(y).shape == (1, 3, 3, 4)
    torch.testing.assert_close(strided(y), full(y)[:, :, ::2, ::2], rtol=0, atol=1e-13)


@pytest.mark.parametrize("make", [lambda k: Conv2d(2, 2, k), lambda k: Symmetric(2, kernel_size=k)])
@pytest.mark.parametrize("k", [0, 2, -1])
def test_even_kernels_are_refused(make, k):
    with pytest.raises(db.ConfigurationError, match=f"kernel_size must be odd and positive.* got {k}"):
        make(k)
