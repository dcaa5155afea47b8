"""Twisted convolutions of signals and volumes, against their definition, turned volumes and vector fields."""

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import PARAMETRISATIONS, TwistConv1d, TwistConv2d, TwistConv3d
from dynamicblocks.layers.twist import TWISTED

KINDS = list(product(PARAMETRISATIONS, (1, 2)))
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIZES = {1: (11,), 2: (5, 6), 3: (4, 5, 6)}
# Stride, padding, dilation, groups, padding mode.
SHAPES = [(1, 1, 1, 1, "zeros"), (2, 1, 1, 2, "circular"), (1, 2, 2, 1, "zeros")]


def random_twist(dims, parametrisation="vector", degree=1, shape=SHAPES[0], kernel_size=3, bias=True):
    stride, padding, dilation, groups, mode = shape
    layer = TWISTED[dims](
        4,
        6,
        kernel_size,
        stride,
        padding,
        dilation,
        groups,
        bias,
        mode,
        parametrisation=parametrisation,
        degree=degree,
        dtype=torch.float64,
    )
    nn.init.normal_(layer.twist)
    return layer


def turned(kernel):
    """Entry (z, y, x) goes to where x is the old z, y the old x, z the old y: each axis to the next."""
    new = torch.empty_like(kernel)
    n = range(kernel.shape[-1])
    for z, y, x in product(n, n, n):
        new[..., y, x, z] = kernel[..., z, y, x]
    return new


def by_hand(layer, x):
    """The definition, written with plain convolutions and coordinates of its own."""
    dims = layer.dims
    make = PLAIN[dims]

    def convolved(kernel, bias=None):
        plain = make(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias is not None,
            layer.padding_mode,
            dtype=x.dtype,
        )
        with torch.no_grad():
            plain.weight.copy_(kernel)
            if bias is not None:
                plain.bias.copy_(bias)
        return plain(x)

    total = convolved(layer.weight, layer.bias)
    lines = [torch.tensor([(2 * i + 1) / n - 1 for i in range(n)], dtype=x.dtype) for n in total.shape[2:]]
    grid = list(reversed(torch.meshgrid(*lines, indexing="ij")))  # x first
    free = list(layer.twist.split(layer.out_channels))
    if layer.parametrisation != "full":
        free = [(kernel - kernel.flip(tuple(range(2, 2 + dims)))) / 2 for kernel in free]
    if layer.parametrisation == "vector" and dims == 3:
        x_, y_, z_ = grid
        once, twice = turned(free[0]), turned(turned(free[0]))
        pairs = [(x_, free[0]), (y_, once), (z_, twice)]
        if layer.degree == 2:
            once, twice = turned(free[1]), turned(turned(free[1]))
            # (X + cY + c^2 Z)^2 with c^3 = 1, term by term.
            pairs += [(x_**2, free[1]), (2 * y_ * z_, free[1]), (z_**2, once), (2 * x_ * y_, once)]
            pairs += [(y_**2, twice), (2 * x_ * z_, twice)]
    else:
        factors = list(grid)
        if layer.degree == 2:
            factors += [grid[i] * grid[j] for i in range(dims) for j in range(i, dims)]
        pairs = list(zip(factors, free, strict=True))
    for factor, kernel in pairs:
        total = total + factor * convolved(kernel)
    return total


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("parametrisation", "degree"), KINDS)
def test_both_paths_equal_the_definition(dims, shape, parametrisation, degree, monkeypatch):
    monkeypatch.setattr(TWISTED[dims], "_runs_faster_apart", lambda self, x: False)
    layer = random_twist(dims, parametrisation, degree, shape)
    x = torch.randn(3, 4, *SIZES[dims], dtype=torch.float64)
    expected = by_hand(layer, x)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=0, atol=1e-11)
    # Rows of channels in memory: of volumes PyTorch has a format for it, of signals a view alone.
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    torch.testing.assert_close(layer(last), expected, rtol=0, atol=1e-11)
    layer.fused = False
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(layer(last), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("dims", "parametrisation", "degree"), [(1, "vector", 2), (3, "vector", 1)])
@pytest.mark.parametrize("last", [False, True])
def test_gradients_are_those_of_finite_differences(dims, parametrisation, degree, last, monkeypatch):
    monkeypatch.setattr(TWISTED[dims], "_runs_faster_apart", lambda self, x: False)
    layer = TWISTED[dims](1, 2, 3, padding=1, parametrisation=parametrisation, degree=degree, dtype=torch.float64)
    nn.init.normal_(layer.twist)
    x = torch.randn(1, 1, *((5,) if dims == 1 else (2, 2, 3)), dtype=torch.float64)
    x = (x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    weights = [weight.detach().requires_grad_() for weight in layer.parameters()]
    assert torch.autograd.gradcheck(call, (x, *weights), check_forward_ad=True, fast_mode=True)


def test_a_vector_twist_commutes_with_the_turn_of_a_cube():
    layer = random_twist(3, bias=False)
    nn.init.zeros_(layer.weight)
    x = torch.randn(2, 4, 5, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(turned(x)), turned(layer(x)), rtol=1e-12, atol=1e-12)
    other = random_twist(3, "independent", bias=False)
    nn.init.zeros_(other.weight)
    assert (other(turned(x)) - turned(other(x))).abs().max() > 0.1


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("degree", [1, 2])
def test_vector_fields_do_not_respond_to_constants(dims, degree):
    for parametrisation in ("vector", "independent"):
        layer = random_twist(dims, parametrisation, degree, (1, 0, 1, 1, "zeros"), bias=False)
        nn.init.zeros_(layer.weight)
        assert layer(torch.ones(1, 4, *(6,) * dims, dtype=torch.float64)).abs().max() < 1e-13


def test_a_twist_stretches_a_signal_and_turns_a_volume():
    """X d/dX of a polynomial, and the rotation X d/dY - Y d/dX of a function of the radius: nothing."""
    derivative = torch.tensor([-0.5, 0, 0.5], dtype=torch.float64)
    stretch = TwistConv1d(1, 1, 3, bias=False, dtype=torch.float64)
    n = 12
    x = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    with torch.no_grad():
        stretch.weight.zero_()
        stretch.twist[0, 0] = derivative
    inner = x[1:-1]
    torch.testing.assert_close(stretch(x.square()[None, None])[0, 0], inner / (n / 2 - 1) * 2 * inner)
    turn = TwistConv3d(1, 1, 3, bias=False, parametrisation="independent", dtype=torch.float64)
    with torch.no_grad():
        turn.weight.zero_()
        turn.twist[0, 0, 1, :, 1] = derivative  # X d/dY
        turn.twist[1, 0, 1, 1, :] = -derivative  # - Y d/dX
    z, y, x = torch.meshgrid(x, x, x, indexing="ij")
    assert turn((x**2 + y**2 + 3 * z)[None, None]).abs().max() < 1e-12
    assert turn((x**2 + 2 * y**2)[None, None]).abs().max() > 1


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(("parametrisation", "degree"), KINDS)
def test_a_network_is_twisted_and_untwisted(dims, parametrisation, degree):
    net = nn.Sequential(PLAIN[dims](2, 4, 3, padding=1), nn.ReLU(), PLAIN[dims](4, 4, 1), PLAIN[dims](4, 2, 3))
    y = torch.randn(2, 2, *(6,) * dims)
    other = db.twist(net, parametrisation=parametrisation, degree=degree)
    assert [type(module) for module in other if module is not other[1]] == [TWISTED[dims], PLAIN[dims], TWISTED[dims]]
    torch.testing.assert_close(other(y), net(y), rtol=1e-5, atol=1e-5)
    listed = db.twists(other)
    assert [each.name for each in listed.twisted] == ["0", "3"]
    assert listed.weights == sum(module.twist.numel() for module in (other[0], other[3]))
    for again in (pickle.loads(pickle.dumps(other)), copy.deepcopy(other)):
        assert torch.equal(again(y), other(y))
    plain = db.untwist(other)
    assert type(plain[0]) is PLAIN[dims]
    assert torch.equal(plain(y), net(y))


@pytest.mark.parametrize("dims", [1, 3])
def test_a_twisted_block(dims):
    block = db.DynamicBlock(f"preact_double(4, twist='vector', dims={dims})", "linear(3)", integrator="midpoint")
    plain = db.DynamicBlock(f"preact_double(4, dims={dims})", "linear(3)", integrator="midpoint")
    again = db.twist(plain)
    assert list(block.state_dict()) == list(again.state_dict())
    assert {type(module) for module in block.modules() if hasattr(module, "twist")} == {TWISTED[dims]}
    y = torch.randn(2, 4, *(5,) * dims)
    torch.testing.assert_close(again(y), plain(y), rtol=1e-4, atol=1e-5)
    db.refine(again)(y).square().mean().backward()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: TwistConv3d(2, 2, (3, 3, 5)),
            "turns its kernel by 120 degrees, so the kernel must be cubic, got 3 x 3 x 5",
        ),
        (lambda: TwistConv1d(2, 2, 1), "no antisymmetric part; use parametrisation='full'"),
        (lambda: TwistConv3d(2, 2, 1, parametrisation="independent"), "no antisymmetric part"),
        (lambda: TwistConv1d(2, 2, 3, degree=3), "degree of a twist is 1 or 2"),
        (lambda: TwistConv2d.of(nn.Conv1d(2, 2, 3)), "TwistConv2d is of 2 dimensions, got a Conv1d"),
        (lambda: db.twist(nn.ConvTranspose1d(2, 2, 3)), "nothing to twist in ConvTranspose1d"),
        (lambda: db.twist(nn.Conv1d(2, 2, 5)), "nothing to twist in Conv1d: no plain 3x3 convolution"),
    ],
)
def test_what_cannot_be(make, words):
    with pytest.raises(db.ConfigurationError, match=words):
        make()


def test_memory_formats_of_volumes():
    layer = random_twist(3).float()
    x = torch.randn(2, 4, 5, 6, 7)
    expected = layer(x)
    found = layer.to(memory_format=torch.channels_last_3d)(x.contiguous(memory_format=torch.channels_last_3d))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
