"""Layers, norms and connectors of one and three dimensions, against PyTorch's own and against those of two."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import UNITS, Branch, ResidualUnit, conv_adjoint, layers, norms, takes_time
from dynamicblocks.layers.boundary import CONVOLUTIONS, conv
from dynamicblocks.layers.norms import make_norm
from tests.layer_tools import double, random_state, randomised

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZES = {1: (7,), 2: (5, 6), 3: (3, 4, 5)}
# Those of the package: tests register others.
NAMES = [name for name in layers if layers[name].__module__.startswith("dynamicblocks.")]

every_dims = pytest.mark.parametrize("dims", [1, 2, 3])
other_dims = pytest.mark.parametrize("dims", [1, 3])
every_boundary = pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)


def padded(y, padding, boundary):
    return F.pad(y, (padding,) * (2 * (y.ndim - 2)), mode="constant" if boundary == "zeros" else boundary)


@every_dims
@every_boundary
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_adjoint_moves_across_the_inner_product(dims, boundary, k):
    kernel, y, z = random_state(3, 2, *(k,) * dims), random_state(2, 2, *SIZES[dims]), random_state(2, 3, *SIZES[dims])
    forward = conv(y, kernel, None, boundary)
    torch.testing.assert_close(forward, CONVOLVE[dims](padded(y, k // 2, boundary), kernel), rtol=0, atol=1e-12)
    assert abs(torch.sum(forward * z) - torch.sum(y * conv_adjoint(z, kernel, None, boundary))) < 1e-11


@other_dims
@every_boundary
def test_the_adjoint_is_the_transposed_matrix(dims, boundary):
    size = (4,) if dims == 1 else (2, 3, 2)
    count = torch.Size(size).numel()
    kernel = random_state(2, 1, *(3,) * dims)
    pixels = torch.eye(count, dtype=double).reshape(count, 1, *size)
    matrix = CONVOLVE[dims](padded(pixels, 1, boundary), kernel).reshape(count, 2 * count).T
    outputs = torch.eye(2 * count, dtype=double).reshape(2 * count, 2, *size)
    adjoint = conv_adjoint(outputs, kernel, None, boundary).reshape(2 * count, count).T
    torch.testing.assert_close(adjoint, matrix.T, rtol=0, atol=1e-14)


@other_dims
@every_boundary
def test_biases_and_strides(dims, boundary):
    layer = CONVOLUTIONS[dims](2, 3, stride=2, boundary=boundary, bias=True).double()
    y, z, bias = random_state(2, 2, *SIZES[dims]), random_state(2, 3, *SIZES[dims]), random_state(2)
    full = conv(y, layer.weight, layer.bias, boundary)
    every_other = (..., *(slice(None, None, 2),) * dims)
    torch.testing.assert_close(layer(y), full[every_other], rtol=0, atol=1e-13)
    added = conv_adjoint(z, layer.weight, bias, boundary) - conv_adjoint(z, layer.weight, None, boundary)
    torch.testing.assert_close(added, bias.view(1, 2, *(1,) * dims).expand_as(added), rtol=0, atol=1e-12)


@other_dims
@every_boundary
def test_symmetric_diffuses(dims, boundary):
    layer = randomised(db.layers.Symmetric(2, hidden=3, norm="none", activation="tanh", boundary=boundary, dims=dims))
    size = (4,) if dims == 1 else (2, 3, 2)
    count = 2 * torch.Size(size).numel()
    jacobian = torch.autograd.functional.jacobian(layer, random_state(1, 2, *size)).reshape(count, count)
    assert jacobian.abs().max() > 0.1
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(jacobian).max() < 1e-11


@pytest.mark.parametrize(("dims", "own"), [(1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d)])
def test_batch_norm_is_that_of_pytorch(dims, own):
    made = norms.create("batch(momentum=None, eps=1e-3)", 4, dims=dims)
    assert type(made) is own
    expected, y = own(4, eps=1e-3, momentum=None), torch.randn(3, 4, *SIZES[dims])
    assert torch.equal(made(y), expected(y))
    assert torch.equal(made.running_var, expected.running_var)
    assert type(make_norm(f"batch(dims={dims})", 4)) is own
    with pytest.raises(db.ConfigurationError, match=r"unexpected keyword argument 'momentun'.*dims: int = 2"):
        norms.create("batch(momentun=1)", 4)


@pytest.mark.parametrize("name", list(norms))
@every_dims
def test_every_norm_takes_dims(name, dims):
    y = random_state(3, 4, *SIZES[dims])
    assert norms.create(name, 4, dims=dims).double()(y).shape == y.shape
    with pytest.raises(db.ConfigurationError, match=r"dims must be 1 .*, got 4"):
        norms.create(name, 4, dims=4)


def test_a_norm_of_the_callers_own_need_not_know_dims(monkeypatch):
    monkeypatch.setattr(norms, "_factories", {**norms._factories, "mine": lambda width: nn.GroupNorm(1, width)})
    assert isinstance(db.layers.PreactSingle(4, norm="mine", dims=1).norm1, nn.GroupNorm)
    assert isinstance(db.layers.PreactSingle(4, norm=nn.BatchNorm1d, dims=1).norm1, nn.BatchNorm1d)


def embedded(module, other, dims):
    """``other``, of one dimension more, with the kernels of ``module`` in its middle slices."""
    with torch.no_grad():
        for weight, into in zip(module.parameters(), other.parameters(), strict=True):
            if into.ndim > weight.ndim:
                into.zero_()
                axis = weight.ndim - dims
                into.select(axis, into.shape[axis] // 2).copy_(weight)
            else:
                into.copy_(weight)
    return other


def cases():
    for boundary in db.layers.BOUNDARIES:
        # A kernel without its mean sees the border of the new dimension.
        for name in ["semi_implicit(explicit='symmetric')" if name == "semi_implicit" else name for name in NAMES]:
            yield pytest.param(
                lambda d, n=name, b=boundary: layers.create(n, 8, boundary=b, dims=d), id=name + boundary
            )
    for unit in UNITS:
        yield pytest.param(lambda d, u=unit: ResidualUnit(8, u, norm="group", skipinit=True, dims=d), id=f"unit {unit}")
    yield pytest.param(lambda d: db.Opening(8, 4, stride=2, kernel_size=5, dims=d), id="opening")
    yield pytest.param(lambda d: db.Head(8, 3, order="norm act", norm="tv", dims=d), id="head")
    for pool in ("average", "max", "none"):
        yield pytest.param(lambda d, p=pool: db.PooledConnector(8, 6, pool=p, dims=d), id=f"pooled {pool}")
    for shortcut in ("convolution", "convolution_norm", "padding"):
        yield pytest.param(lambda d, s=shortcut: db.ResidualConnector(8, 12, shortcut=s, dims=d), id=shortcut)


@pytest.mark.parametrize("make", list(cases()))
@pytest.mark.parametrize("dims", [1, 2])
def test_one_dimension_more_changes_nothing_where_nothing_varies(make, dims):
    """Copies of a signal, one below the other, under kernels that look along the signal alone; images alike."""
    small = randomised(make(dims))
    large = embedded(small, make(dims + 1).double(), dims)
    y = random_state(2, 8, *SIZES[dims])
    copies = y.unsqueeze(2).repeat_interleave(4, dim=2)
    time = (0.3,) if takes_time(small) else ()
    found, expected = large(*time, copies), small(*time, y)
    if expected.ndim == y.ndim:
        expected = expected.unsqueeze(2).expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@every_dims
def test_the_head_averages_over_all_axes(dims):
    head = db.Head(4, 3, dims=dims).double()
    y = random_state(2, 4, *SIZES[dims])
    expected = y.flatten(2).mean(2) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(y), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dims", [0, 4, True, 2.0, "1", None, (1,)])
def test_dims_that_are_none(dims):
    makers = [lambda n=name: layers.create(n, 8, dims=dims) for name in NAMES]
    makers += [
        lambda: Branch("conv", 2, 2, dims=dims),
        lambda: db.Opening(2, 2, dims=dims),
        lambda: db.PooledConnector(2, 2, dims=dims),
        lambda: db.ResidualConnector(2, 2, dims=dims),
        lambda: db.Head(2, 2, dims=dims),
        lambda: db.create_model("dynamicnet", dims=dims),
    ]
    for make in makers:
        with pytest.raises(
            db.ConfigurationError, match=r"dims must be 1 \(signals\), 2 \(images\) or 3 \(volumes\), got"
        ):
            make()


def test_dims_is_a_keyword():
    with pytest.raises(TypeError):
        db.layers.PreactDouble(8, 1)
    with pytest.raises(db.ConfigurationError, match="too many positional arguments"):
        layers.create("symmetric(8, 1)")


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dims", "size", "words"),
    [
        (1, (2, 8, 5, 5), r"\(batch, 8, length\), got \(2, 8, 5, 5\); images are taken by one .* dims=2$"),
        (1, (2, 3, 5), r"\(batch, 8, length\), got \(2, 3, 5\)$"),
        (2, (2, 8, 5), r"\(batch, 8, height, width\), got \(2, 8, 5\); signals are taken by one .* dims=1$"),
        (3, (2, 8, 5, 5), r"\(batch, 8, depth, height, width\), got \(2, 8, 5, 5\); images are taken .* dims=2$"),
        (3, (8, 3, 5, 5), r"\(batch, 8, depth, height, width\), got \(8, 3, 5, 5\)$"),
        (3, (8, 2), r"\(batch, 8, depth, height, width\), got \(8, 2\)$"),
    ],
)
def test_a_state_of_other_dimensions_is_named(name, dims, size, words, gradient):
    block = db.DynamicBlock(lambda: layers.create(name, 8, dims=dims), 2, gradient=gradient)
    with pytest.raises(db.ConfigurationError, match=words):
        block(torch.zeros(size))


@pytest.mark.parametrize(
    ("part", "size", "words"),
    [
        (db.Opening(8, 4, dims=1), (2, 8, 5, 5), r"signals of shape \(batch, 8, length\), got .*; images are taken"),
        (db.Opening(8, 4, dims=3), (2, 8, 5, 5), r"volumes of shape \(batch, 8, depth, height, width\), got"),
        (db.Opening(8, 4), (2, 8, 5), r"images of shape \(batch, 8, height, width\), got .*; signals are taken"),
        (db.PooledConnector(8, 4, dims=1), (2, 8, 5, 5), r"a state of shape \(batch, 8, length\)"),
        (db.PooledConnector(8, 4, dims=1), (2, 8, 1), r"pooling over 2 pixels leaves nothing .* larger signals"),
        (db.PooledConnector(8, 4, dims=3), (2, 8, 4, 1, 4), r"pooling over 2 x 2 x 2 pixels leaves nothing"),
        (db.ResidualConnector(8, 4, dims=3), (2, 8, 5), r"\(batch, 8, depth, height, width\)"),
        (db.Head(8, 4, dims=1), (2, 8, 5, 5), r"\(batch, 8, length\)"),
        (
            db.Opening(8, 4, boundary="reflect", dims=1),
            (2, 8, 1),
            r"'reflect' of Conv1d needs signals of at least 2 pix",
        ),
        (
            db.Opening(8, 4, boundary="circular", kernel_size=5, dims=3),
            (2, 8, 1, 3, 3),
            r"volumes of at least 2 x 2 x 2",
        ),
        (
            db.Opening(8, 4, norm=nn.BatchNorm2d, dims=1),
            (2, 8, 4),
            r"BatchNorm2d takes \(batch, channels, height, width\)",
        ),
        (db.Opening(8, 4, dims=3), (1, 8, 1, 1, 1), r"BatchNorm3d takes mean and variance of several values"),
    ],
)
def test_inputs_that_parts_of_other_dimensions_cannot_take(part, size, words):
    with pytest.raises(db.ConfigurationError, match=words):
        part(torch.zeros(size))


def test_several_tensors_are_no_input():
    for part in (db.Opening(2, 2), db.PooledConnector(2, 2), db.ResidualConnector(2, 2), db.Head(2, 2)):
        with pytest.raises(db.ConfigurationError, match="a tensor, got tuple"):
            part((torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)))
