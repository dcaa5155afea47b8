"""Convolutions with variable coefficients, against separate convolutions, finite differences and turned images."""

import copy
import io
import pickle
from itertools import product

import pytest
import torch
from torch import nn

import dynamicblocks as db
import dynamicblocks.layers.twist as twist_module
from dynamicblocks.layers import PARAMETRISATIONS, TwistConv2d
from dynamicblocks.layers.coordinates import monomials, pixel_centres
from dynamicblocks.layers.parametrisations import antisymmetric, quarter_turn
from dynamicblocks.layers.weighted_sum import weighted_sum

KINDS = list(product(PARAMETRISATIONS, (1, 2)))
# Kernel size, stride, padding, dilation, groups, padding mode, height, width.
SHAPES = [
    (3, 1, 1, 1, 1, "zeros", 8, 8),
    (3, 2, 1, 1, 1, "zeros", 9, 7),
    (3, 1, 2, 2, 2, "zeros", 6, 11),
    (5, 3, 0, 1, 4, "zeros", 13, 12),
    (3, 1, 1, 1, 2, "circular", 5, 8),
    (3, 2, 1, 1, 1, "reflect", 8, 5),
    (2, 1, 0, 1, 1, "zeros", 7, 7),
    (3, 1, "same", 2, 1, "replicate", 7, 6),
]


def make(shape, parametrisation="vector", degree=1, *, dtype=torch.float64, twisted=True, bias=True):
    size, stride, padding, dilation, groups, mode, height, width = shape
    layer = TwistConv2d(
        4,
        8,
        size,
        stride,
        padding,
        dilation,
        groups,
        bias,
        mode,
        dtype=dtype,
        parametrisation=parametrisation,
        degree=degree,
    )
    if twisted:
        nn.init.normal_(layer.twist)
    return layer, torch.randn(3, 4, height, width, dtype=dtype)


@pytest.fixture
def together(monkeypatch):
    """All kernels as one convolution, also where images are so small that they would be run apart."""
    monkeypatch.setattr(TwistConv2d, "_runs_faster_apart", lambda self, x: False)


def by_hand(layer, x):
    """The definition, written with plain convolutions and coordinates of its own."""

    def convolved(kernel, bias=None):
        plain = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias is not None,
            layer.padding_mode,
        )
        plain.weight = nn.Parameter(kernel.detach().clone())
        if bias is not None:
            plain.bias = nn.Parameter(bias.detach().clone())
        return plain(x)

    total = convolved(layer.weight, layer.bias)
    height, width = total.shape[-2:]
    row = torch.tensor([(2 * i + 1) / height - 1 for i in range(height)], dtype=x.dtype)[:, None]
    column = torch.tensor([(2 * i + 1) / width - 1 for i in range(width)], dtype=x.dtype)[None, :]

    def odd(kernel):
        return (kernel - kernel.rot90(2, (-2, -1))) / 2

    def turned(kernel):
        """Entry (row, column) goes to (column, last - row): what lay to the right lies below."""
        n = kernel.shape[-1]
        new = torch.empty_like(kernel)
        for i, j in product(range(n), range(n)):
            new[..., j, n - 1 - i] = kernel[..., i, j]
        return new

    free = list(layer.twist.split(layer.out_channels))
    if layer.parametrisation != "full":
        free = [odd(kernel) for kernel in free]
    if layer.parametrisation == "vector":
        pairs = [(column, free[0]), (row, turned(free[0]))]
        if layer.degree == 2:
            pairs += [(column**2 - row**2, free[1]), (2 * row * column, turned(free[1]))]
    else:
        factors = [column, row, column**2, row * column, row**2]
        pairs = list(zip(factors, free, strict=False))
    for factor, kernel in pairs:
        total = total + factor * convolved(kernel)
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("parametrisation", "degree"), KINDS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_fused_and_the_separate_path_equal_the_definition(shape, parametrisation, degree, dtype, bound, float64):
    layer, x = make(shape, parametrisation, degree, dtype=torch.float64)
    x = x.repeat(8, 1, 1, 1)
    expected = by_hand(layer, x)
    layer, x = layer.to(dtype), x.to(dtype)
    scale = expected.abs().max()
    with torch.no_grad():
        assert not layer._runs_faster_apart(x)
        assert (layer(x) - expected).abs().max() <= bound * scale
        layer.fused = False
        assert (layer(x) - expected).abs().max() <= bound * scale


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("parametrisation", "degree"), KINDS)
def test_without_a_twist_it_is_the_plain_convolution(shape, parametrisation, degree):
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        layer, x = make(shape, parametrisation, degree, dtype=dtype, twisted=False)
        plain = layer.plain()
        assert type(plain) is nn.Conv2d
        assert set(plain.state_dict()) == {"weight", "bias"}
        torch.testing.assert_close(layer(x), plain(x), rtol=bound, atol=bound)
        layer.fused = False
        # To the last bit.
        assert torch.equal(layer(x), plain(x))


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize(("parametrisation", "degree"), KINDS)
@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, pytest.param(torch.channels_last, marks=pytest.mark.slow)])
def test_gradients_are_those_of_finite_differences(parametrisation, degree, fused, layout):
    layer, x = make((3, 2, 1, 1, 2, "zeros", 5, 4), parametrisation, degree)
    layer.fused = fused
    x = x[:2].contiguous(memory_format=layout).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["weight", "bias", "twist"]

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(
        call,
        (x, *(weight.detach().requires_grad_() for weight in layer.parameters())),
        check_forward_ad=True,
        check_batched_grad=True,
    )
    assert torch.autograd.gradgradcheck(call, (x, *(w.detach().requires_grad_() for w in layer.parameters())))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("terms", [2, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_weighted_sum_has_the_derivatives_of_its_definition(channels, terms, layout):
    z = torch.randn(2, 2 * terms * channels, 3, 4, dtype=torch.float64).contiguous(memory_format=layout)
    weights = torch.randn(terms - 1, 3, 4, dtype=torch.float64)

    def call(z):
        return weighted_sum(z.unflatten(1, (2, terms, channels)), weights)

    parts = z.view(2, 2, terms, channels, 3, 4)
    expected = parts[:, :, 0] + (parts[:, :, 1:] * weights[:, None]).sum(2)
    torch.testing.assert_close(call(z), expected)
    z.requires_grad_()
    assert torch.autograd.gradcheck(call, z, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, z)
    batched = torch.func.vmap(call)(z.detach()[None].expand(3, *z.shape))
    torch.testing.assert_close(batched, expected.expand(3, *expected.shape))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 31, 32, 224])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_coordinates_are_symmetric_pixel_centres(count, dtype):
    centres = pixel_centres(count, dtype=dtype)
    assert centres.dtype == dtype
    assert torch.equal(centres, -centres.flip(0))
    assert bool((centres.abs() < 1).all())
    assert torch.allclose(centres.double().diff(), torch.full((count - 1,), 2 / count).double(), atol=4e-3)
    x, y, xx, xy, yy = monomials((count, count + 1), 2, centres)
    assert torch.equal(x, -x.flip(1))
    assert torch.equal(x, x.flip(0))
    assert torch.equal(y, -y.flip(0))
    assert torch.equal(y, y.flip(1))
    assert torch.equal(xx, xx.flip(1))
    assert torch.equal(yy, yy.flip(0))
    assert torch.equal(xy, -xy.flip(0))
    assert torch.equal(xy, xy.flip((0, 1)))


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize(("parametrisation", "degree"), [kind for kind in KINDS if kind[0] != "full"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_vector_fields_do_not_respond_to_constants(parametrisation, degree, size):
    layer = TwistConv2d(2, 3, size, parametrisation=parametrisation, degree=degree, bias=False, dtype=torch.float64)
    nn.init.normal_(layer.twist)
    nn.init.zeros_(layer.weight)
    # Without padding every output is one of the interior.
    constant = torch.tensor([2.0, -3.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 9, 8)
    assert layer(constant).abs().max() < 1e-13
    full = TwistConv2d(2, 3, size, parametrisation="full", bias=False, dtype=torch.float64)
    nn.init.normal_(full.twist)
    nn.init.zeros_(full.weight)
    assert full(constant).abs().max() > 0.1


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_vector_twist_commutes_with_quarter_turns(size, kernel):
    layer = TwistConv2d(3, 4, kernel, padding=kernel // 2, bias=False, dtype=torch.float64)
    nn.init.normal_(layer.twist)
    nn.init.zeros_(layer.weight)
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(layer(x.rot90(1, (-2, -1))), layer(x).rot90(1, (-2, -1)), rtol=1e-12, atol=1e-12)
    independent = TwistConv2d(3, 4, kernel, padding=kernel // 2, bias=False, parametrisation="independent").double()
    nn.init.normal_(independent.twist)
    nn.init.zeros_(independent.weight)
    turned = independent(x.rot90(1, (-2, -1)))
    assert (turned - independent(x).rot90(1, (-2, -1))).abs().max() > 0.1


@pytest.mark.usefixtures("together")
def test_the_second_degree_of_a_vector_twist_turns_with_its_kernel():
    """Z^2 V, seen in a turned image, is i z^2 V: the twist of the turned kernel."""
    layer = TwistConv2d(3, 4, 3, padding=1, bias=False, degree=2, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.normal_(layer.twist[4:])
    turned = copy.deepcopy(layer)
    with torch.no_grad():
        turned.twist[4:] = quarter_turn(layer.twist[4:])
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(turned(x.rot90(1, (-2, -1))), layer(x).rot90(1, (-2, -1)), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_any_layout_and_image_size(shape):
    layer, x = make(shape, "independent", 2, dtype=torch.float32)
    expected = layer(x)
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    found = last(x.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    # One image without its batch, and other sizes, with one module.
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-5, atol=1e-4)
    for size in ((12, 9), (9, 12), (20, 20)):
        other = torch.randn(2, 4, *size)
        torch.testing.assert_close(layer(other), by_hand(layer, other), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("shape", SHAPES[:4])
def test_images_run_a_few_at_a_time_give_the_same(shape, monkeypatch):
    """Large results are made in parts, so that their terms stay in the cache."""
    layer, x = make(shape, "vector", 2)
    x = torch.cat([x, x.flip(-1), 2 * x]).requires_grad_()
    expected = layer(x)
    slopes = torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()])
    runs = []
    monkeypatch.setattr(twist_module, "CACHED", 3 * layer(x[:1]).numel() * 5 * 8)
    monkeypatch.setattr(layer, "_together", lambda *a: runs.append(len(a[0])) or TwistConv2d._together(layer, *a))
    found = layer(x)
    assert max(runs) < len(x)
    assert sum(runs) == len(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for slope, other in zip(torch.autograd.grad(found.square().sum(), [x, *layer.parameters()]), slopes, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-10, atol=1e-10)


def test_kernels_larger_than_their_results_run_apart():
    layer = TwistConv2d(16, 16, 3, padding=1, dtype=torch.float64)
    nn.init.normal_(layer.twist)
    few = torch.randn(2, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    assert layer._runs_faster_apart(few)
    assert not layer._runs_faster_apart(few.repeat(100, 1, 1, 1))
    torch.testing.assert_close(layer(few), layer(few.repeat(100, 1, 1, 1))[:2], rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(layer, few)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_and_weights_can_be_mapped_over(layout):
    layer, x = make(SHAPES[2], "independent")
    x = x.contiguous(memory_format=layout)
    weights = dict(layer.named_parameters())
    other = {name: torch.randn_like(weight) for name, weight in weights.items()}
    both = {name: torch.stack([weights[name], other[name]]) for name in weights}

    def call(weights, x):
        return torch.func.functional_call(layer, weights, (x,))

    with torch.no_grad():
        found = torch.func.vmap(call, in_dims=(0, None))(both, x)
        torch.testing.assert_close(found, torch.stack([call(weights, x), call(other, x)]))
        torch.testing.assert_close(torch.func.vmap(layer)(x[:, None])[:, 0], layer(x))


@pytest.mark.usefixtures("together")
def test_autocast_keeps_its_type_and_stays_near():
    layer, x = make(SHAPES[0], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
        found.float().square().mean().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), rtol=5e-2, atol=5e-2)
    assert layer.twist.grad.dtype == torch.float32
    assert bool(layer.twist.grad.isfinite().all())


def test_it_pickles_copies_compiles_and_exports():
    layer, x = make(SHAPES[1], "vector", 2, dtype=torch.float32)
    expected = layer(x)
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    for other in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(stored, weights_only=False),
    ):
        assert torch.equal(other(x), expected)
        assert other.degree == 2
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    exported = torch.export.export(
        layer.eval(),
        (x,),
        dynamic_shapes=({0: torch.export.Dim("batch", max=1024), 2: torch.export.Dim("height", min=4, max=1024)},),
    )
    other = torch.randn(5, 4, 12, 7)
    torch.testing.assert_close(exported.module()(other), layer(other), rtol=1e-5, atol=1e-5)


def test_compiled_gradients_equal_those_of_eager_mode():
    layer, x = make(SHAPES[0], dtype=torch.float32)
    other = copy.deepcopy(layer)
    layer(x).square().mean().backward()
    torch.compile(other, fullgraph=True)(x).square().mean().backward()
    for weight, again in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, again.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parametrisation": "vectors"}, "unknown parametrisation of a twist 'vectors'; did you mean 'vector'"),
        ({"degree": 3}, "degree of a twist is 1 or 2, got 3"),
        ({"kernel_size": (3, 5)}, "must be square, got 3 x 5"),
        ({"kernel_size": 1}, "no antisymmetric part"),
        ({"kernel_size": 1, "parametrisation": "independent"}, "no antisymmetric part"),
    ],
)
def test_twists_that_cannot_be(options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        TwistConv2d(3, 8, **{"kernel_size": 3, **options})


@pytest.mark.usefixtures("together")
def test_the_kernels_are_constrained_in_the_forward_pass():
    layer, x = make(SHAPES[0])
    field, turned = layer.twist_kernels()
    assert torch.equal(field, antisymmetric(layer.twist))
    assert torch.equal(turned, quarter_turn(field))
    before = layer.twist.detach().clone()
    layer(x).square().sum().backward()
    assert torch.equal(layer.twist, before)
    # What is symmetric in the free kernel has no effect, so it gets no gradient.
    grad = layer.twist.grad
    assert grad.abs().max() > 0
    assert torch.allclose(grad, -grad.flip(-2, -1))
