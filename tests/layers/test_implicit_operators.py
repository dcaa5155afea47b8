"""Operators of semi-implicit steps beside dense matrices, and convolutions beside SciPy's."""

import numpy as np
import pytest
import torch
from scipy import fft, ndimage

import dynamicblocks as db
from dynamicblocks.layers import transforms
from dynamicblocks.layers.implicit_operators import Depthwise, Diagonal, Laplacian, Pointwise, make_operator, operators
from dynamicblocks.layers.transforms import cosine_transform
from tests.layer_tools import double, random_state

SIZES = {1: (7,), 2: (4, 5), 3: (2, 3, 4)}
SMALLER = {1: (2,), 2: (1, 2), 3: (1, 2, 1)}
STEPS = (1e-3, 0.7, 30.0, 1e6)
BOUNDARIES = {"circular": "wrap", "reflecting": "reflect"}
NAMES = [
    "depthwise",
    "depthwise(kernel_size=5)",
    "depthwise(boundary='reflecting')",
    "depthwise(kernel_size=5, boundary='reflecting')",
    "laplacian",
    "laplacian(boundary='reflecting')",
    "diagonal",
    "pointwise",
    "pointwise(hidden=1)",
]
every = pytest.mark.parametrize("name", NAMES)
each_dims = pytest.mark.parametrize("dims", [1, 2, 3])
each_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)


def made(name, dims=2, width=2, dtype=double):
    torch.manual_seed(0)
    return make_operator(name, width, dims=dims).to(dtype)


def dense(function, width, sizes):
    """The matrix of a linear map of states, column by column."""
    shape = (width, *sizes)
    count = int(np.prod(shape))
    columns = function(torch.eye(count, dtype=double).view(count, *shape))
    return columns.detach().flatten(1).T


def convolved(operator, y):
    """L y by SciPy, a channel at a time."""
    kernel = operator.kernel(y.dtype).detach().numpy()
    mode = BOUNDARIES[operator.boundary]
    images = [
        [ndimage.correlate(plane, kernel[channel], mode=mode) for channel, plane in enumerate(image)]
        for image in y.numpy()
    ]
    return torch.from_numpy(np.array(images))


@every
@each_dims
@pytest.mark.parametrize("sizes", [SIZES, SMALLER], ids=["images", "smaller_than_the_kernel"])
def test_the_transform_equals_a_dense_solve(name, dims, sizes):
    operator = made(name, dims)
    matrix = dense(operator, 2, sizes[dims])
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12
    y = random_state(3, 2, *sizes[dims])
    for h in STEPS:
        system = torch.eye(len(matrix), dtype=double) + h * matrix
        expected = torch.linalg.solve(system, y.flatten(1).T).T.view_as(y)
        torch.testing.assert_close(operator.solve(y, h), expected, rtol=0, atol=1e-9)


@each_boundary
@each_dims
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_depthwise_operator_is_a_convolution_and_its_adjoint(boundary, dims, kernel_size):
    """Between mirrors too L is an ordinary convolution, and A = L^T L: the quadratic form is |L y|^2."""
    operator = made(f"depthwise(kernel_size={kernel_size}, boundary='{boundary}')", dims)
    y, z = random_state(2, 2, *(6, 5, 7)[:dims]), random_state(2, 2, *(6, 5, 7)[:dims])
    torch.testing.assert_close(
        (operator(y) * z).sum(), (convolved(operator, y) * convolved(operator, z)).sum(), rtol=1e-9, atol=1e-9
    )


@each_dims
def test_reflecting_kernels_are_even_and_all_have_mean_zero(dims):
    for boundary in BOUNDARIES:
        kernel = Depthwise(3, boundary=boundary, kernel_size=5, dims=dims).double().kernel(double)
        assert kernel.sum(tuple(range(1, dims + 1))).abs().max() < 1e-12
        if boundary == "reflecting":
            for axis in range(1, dims + 1):
                torch.testing.assert_close(kernel.flip(axis), kernel)


@each_boundary
def test_laplacian_stencils(boundary):
    """As published in two dimensions; the sum over an axis is the stencil of one dimension less."""
    stencils = {}
    for dims in (1, 2, 3):
        point = torch.zeros(1, 1, *(5,) * dims, dtype=double)
        point[(0, 0, *(2,) * dims)] = 1
        near = Laplacian(1, scale=1.0, boundary=boundary, dims=dims)(point)[0, 0]
        stencils[dims] = near[(slice(1, 4),) * dims]
        assert near.abs().sum() == pytest.approx(stencils[dims].abs().sum().item())
    expected = torch.tensor([[-1, -4, -1], [-4, 20, -4], [-1, -4, -1]], dtype=double) / 6
    torch.testing.assert_close(stencils[2], expected, rtol=0, atol=1e-12)
    for dims in (2, 3):
        torch.testing.assert_close(stencils[dims].sum(0), stencils[dims - 1], rtol=0, atol=1e-12)
    assert Laplacian(1).scale == 0.01


@each_dims
def test_the_cosine_transform_is_scipys(dims):
    y = random_state(*(4, 5, 6)[:dims])
    found = y
    for axis in range(dims):
        found = torch.tensordot(cosine_transform(y.shape[axis], y), found, ([1], [axis])).movedim(0, axis)
    torch.testing.assert_close(found, torch.from_numpy(fft.dctn(y.numpy(), type=2, norm="ortho")))


@each_dims
def test_long_axes_are_transformed_alike(dims, monkeypatch):
    operator, y = made("depthwise(boundary='reflecting')", dims), random_state(2, 2, *(4, 5, 6)[:dims]).requires_grad_()
    expected = operator.solve(y, 0.7)
    slopes = torch.autograd.grad(expected.square().sum(), (y, operator.weight))
    monkeypatch.setattr(transforms, "LONGEST", 0)
    found = operator.solve(y, 0.7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    again = torch.autograd.grad(found.square().sum(), (y, operator.weight))
    torch.testing.assert_close(again, slopes, rtol=0, atol=1e-11)


def test_a_long_signal():
    """A matrix of its cosines would not fit into memory."""
    y, operator = torch.randn(1, 2, 100_001) + 1, made("depthwise(boundary='reflecting')", 1, dtype=torch.float32)
    for h in (0.5, 1e4):
        after = operator.solve(y, h)
        torch.testing.assert_close(after + h * operator(after), y, rtol=0, atol=1e-5 * h)
        torch.testing.assert_close(after.mean(2), y.mean(2), rtol=0, atol=1e-5)
        assert after.norm() <= (1 + 1e-6) * y.norm()


def test_transforms_are_as_exact_as_single_precision_allows():
    matrix = cosine_transform(1000, torch.zeros(()))
    exact = cosine_transform(1000, torch.zeros((), dtype=double))
    assert (matrix - exact).abs().max() < 2 * torch.finfo(torch.float32).eps * exact.max()


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_an_implicit_step_never_grows_and_diffusion_keeps_the_mean(name, dtype):
    operator = made(name, dtype=torch.float32)
    if "wise" in name:
        with torch.no_grad():
            operator.weight.mul_(3)
    y = (torch.randn(3, 2, 6, 7) + 1).to(dtype)
    rounding = 4 * torch.finfo(dtype).eps
    for h in torch.logspace(-3, 6, 10).tolist():
        after = operator.solve(y, h)
        assert after.dtype == dtype
        assert after.double().norm() <= (1 + rounding) * y.double().norm()
        if name.startswith(("depthwise", "laplacian")):
            means = [each.double().mean((2, 3)) for each in (after, y)]
            torch.testing.assert_close(*means, rtol=0, atol=rounding)


@pytest.mark.parametrize("name", [name for name in NAMES if "=5" not in name])
def test_gradients_of_state_weights_and_step(name):
    operator = made(name)
    y = random_state(1, 2, 2, 3).requires_grad_()
    h = torch.tensor(0.6, dtype=double, requires_grad=True)
    weights = dict(operator.named_parameters())

    def solved(y, h, *tensors):
        called = {f"operator.{name}": tensor for name, tensor in zip(weights, tensors, strict=True)}
        return tuple(torch.func.functional_call(Both(operator, part), called, (y, h)) for part in ("solve", "forward"))

    inputs = (y, h, *weights.values())
    assert torch.autograd.gradcheck(solved, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *given: solved(*given)[0], inputs, fast_mode=True)


class Both(torch.nn.Module):
    """A part of an operator as the call of a module."""

    def __init__(self, operator, part):
        super().__init__()
        self.operator, self.part = operator, part

    def forward(self, y, h):
        return self.operator.solve(y, h) if self.part == "solve" else self.operator(y)


@every
def test_autocast_changes_nothing(name):
    operator = made(name, dtype=torch.float32)
    y = torch.randn(2, 2, 5, 6)
    expected = operator.solve(y, 2.0), operator(y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator.solve(y, 2.0), expected[0])
        assert torch.equal(operator(y), expected[1])


@every
def test_half_precision_weights_are_widened(name):
    operator = made(name, dtype=torch.float32)
    wide = operator.solve(torch.ones(1, 2, 3, 3), 2.0)
    torch.testing.assert_close(operator.half().solve(torch.ones(1, 2, 3, 3), 2.0), wide, rtol=0, atol=5e-3)


def test_what_cannot_be():
    for wrong, message in (
        (lambda: Depthwise(2, boundary="reflect"), "reflect.*reflecting"),
        (lambda: Depthwise(2, kernel_size=4), "odd"),
        (lambda: Depthwise(0), "width"),
        (lambda: Diagonal(2, dims=4), "dims"),
        (lambda: Pointwise(2, hidden=0), "hidden"),
        (lambda: Laplacian(2, scale=-1.0), "scale"),
        (lambda: make_operator("depthwize", 2), "depthwise"),
        (lambda: make_operator(lambda width: torch.nn.ReLU(), 2), "ImplicitOperator"),
        (lambda: Depthwise(2).solve(torch.ones(1, 2, 4, 4), -0.5), "back in time"),
        (lambda: Depthwise(2).solve(torch.ones(1, 3, 4, 4), 0.5), r"\(batch, 2, height, width\), got \(1, 3, 4, 4\)"),
        (lambda: Depthwise(2)(torch.ones(1, 2, 4)), r"got \(1, 2, 4\)"),
    ):
        with pytest.raises(db.ConfigurationError, match=message):
            wrong()


def test_operators_have_names():
    assert list(operators) == ["depthwise", "diagonal", "laplacian", "pointwise"]


@every
def test_states_of_all_kinds(name):
    operator = made(name, dtype=torch.float32)
    y = torch.randn(3, 2, 5, 6)
    expected = operator.solve(y, 0.5)
    torch.testing.assert_close(operator.solve(y.to(memory_format=torch.channels_last), 0.5), expected)
    torch.testing.assert_close(operator.solve(y, torch.tensor(0.5, dtype=double)), expected)
    torch.testing.assert_close(torch.func.vmap(lambda each: operator.solve(each[None], 0.5)[0])(y), expected)
    for empty in (y[:0], y[..., :0]):
        assert operator.solve(empty, 0.5).shape == operator(empty).shape == empty.shape
    assert operator.to("meta").solve(y.to("meta"), 0.5).shape == y.shape


def test_the_first_weights_of_a_depthwise_operator_have_a_scale():
    """The larger it is, the farther a solve spreads a spike: what stays where it was falls."""
    torch.manual_seed(0)
    stays = []
    for scale in (1.0, 8.0, 64.0):
        operator = make_operator(f"depthwise(scale={scale})", 64)
        assert 0.9 * scale < operator.weight.max() <= scale
        assert 0 <= operator.weight.min() < 0.1 * scale
        spike = torch.zeros(1, 64, 33, 33)
        spike[..., 16, 16] = 1
        with torch.no_grad():
            stays.append(operator.solve(spike, 1.0)[..., 16, 16].mean().item())
    assert stays[0] > 1.5 * stays[1] > 2 * stays[2]
    with pytest.raises(db.ConfigurationError, match="scale"):
        make_operator("depthwise(scale=-1)", 4)
