"""Layer functions: adjoints, formulas, orders, and the copies that a block makes of a layer."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dynamicblocks as db
from dynamicblocks.layers import Branch, Conv2d, ResidualUnit, Symmetric, TVNorm, conv2d_adjoint, takes_time
from dynamicblocks.layers.boundary import conv2d
from dynamicblocks.layers.factory import independent_layers

double = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_state(*shape):
    return torch.randn(*shape, dtype=double)


def randomised(module):
    """The module in double precision with every parameter and statistic drawn anew."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(
                    torch.rand_like(buffer) + 0.5 if name.endswith("running_var") else torch.randn_like(buffer)
                )
    return module


def zeroed(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()


def pad(y, padding, boundary):
    return F.pad(y, (padding,) * 4, mode="constant" if boundary == "zeros" else boundary)


def padded_convolution(y, kernel, boundary):
    return F.conv2d(pad(y, kernel.shape[-1] // 2, boundary), kernel)


# Convolutions and their adjoints

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


# The symmetric layer


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


# Normalisations


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


# Branches


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


def batch_norm(norm, y):
    """Batch normalisation in training, written out."""
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
    return (y - mean) / torch.sqrt(variance + 1e-5) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


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


# Residual units


def euler_step(unit):
    block = db.DynamicBlock(lambda: randomised(ResidualUnit(3, unit)), controls=1)
    return block, block.controls.layers[0]


@pytest.mark.parametrize("unit", ["c", "d", "e", "post"])
def test_units_with_a_free_sum_are_the_identity_where_the_branch_is_zero(unit):
    block, layer = euler_step(unit)
    zeroed(layer.branch)
    y = random_state(2, 3, 4, 4)
    assert torch.equal(block(y), y)


def test_unit_a_rectifies_the_sum():
    block, layer = euler_step("a")
    zeroed(layer.branch)
    y = random_state(2, 3, 4, 4)
    assert torch.equal(block(y), torch.relu(y))


@pytest.mark.parametrize("training", [True, False])
def test_unit_b_normalises_and_rectifies_the_sum(training):
    block, layer = euler_step("b")
    block.train(training)
    zeroed(layer.branch)
    y = random_state(2, 3, 4, 4)
    norm = layer.projection.norm1
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    expected = F.batch_norm(y, mean, variance, norm.weight, norm.bias, training=training)
    torch.testing.assert_close(block(y), torch.relu(expected), rtol=1e-13, atol=1e-13)


def test_unit_c_never_decreases_the_state():
    block, _ = euler_step("c")
    y = random_state(2, 3, 4, 4)
    change = block(y) - y
    assert change.min() >= 0
    assert change.max() > 0.1


@pytest.mark.parametrize("unit", ["a", "b"])
def test_the_sum_is_projected_once_a_step_and_not_in_stages(unit):
    block, layer = euler_step(unit)
    calls = []
    layer.projection.register_forward_hook(lambda *_: calls.append(1))
    block.replaced(integrator="rk4_classic", times=db.uniform(0, 1, steps=3))(random_state(2, 3, 4, 4))
    assert len(calls) == 3


def test_unit_a_is_projection_of_sum_with_its_own_branch():
    block, layer = euler_step("a")
    y = random_state(2, 3, 4, 4)
    branch = layer.branch
    inner = batch_norm(branch.norm1, padded_convolution(y, branch.conv1.weight, "zeros"))
    outer = batch_norm(branch.norm2, padded_convolution(torch.relu(inner), branch.conv2.weight, "zeros"))
    torch.testing.assert_close(block(y), torch.relu(y + outer), rtol=0, atol=1e-10)


# Signatures


def layer_with(forward):
    return type("Layer", (nn.Module,), {"forward": forward})()


@pytest.mark.parametrize(
    ("forward", "timed"),
    [
        (lambda self, y: y, False),
        (lambda self, y, scale=1.0: y, False),
        (lambda self, y, *, scale=1.0: y, False),
        (lambda self, *arguments: arguments[0], False),
        (lambda self, y=None: y, False),
        (lambda self, t, y: y, True),
        (lambda self, t, y, scale=1.0: y, True),
        (lambda self, t, y, *rest: y, True),
    ],
)
def test_takes_time_reads_the_signature(forward, timed):
    assert takes_time(layer_with(forward)) is timed


@pytest.mark.parametrize("module", [nn.Sequential(nn.ReLU()), nn.Conv2d(2, 2, 3), Symmetric(2), ResidualUnit(2)])
def test_ordinary_modules_take_the_state_alone(module):
    assert takes_time(module) is False


@pytest.mark.parametrize(
    ("forward", "signature"),
    [(lambda self: 0, "()"), (lambda self, t, y, z: y, "(t, y, z)"), (lambda self, **state: 0, "(**state)")],
)
def test_other_signatures_are_refused(forward, signature):
    with pytest.raises(db.ConfigurationError, match=re.escape(f"Layer.forward{signature} must take (y) or (t, y)")):
        takes_time(layer_with(forward))


def test_layers_that_take_time_get_the_time_of_each_stage():
    times = []

    class Timed(nn.Module):
        def forward(self, t, y):
            times.append(t)
            return 0 * y

    db.DynamicBlock(Timed, controls=2, times=[1.0, 2.0, 5.0], integrator="rk4_classic")(torch.zeros(1))
    assert times == [1.0, 1.5, 1.5, 2.0, 2.0, 3.5, 3.5, 5.0]


# Independent copies


@pytest.mark.parametrize(("controls", "count"), [("constant(3)", 3), ("linear(4)", 4), (1, 1)])
def test_a_factory_is_called_once_a_control(controls, count):
    made = []

    def factory():
        made.append(Symmetric(2))
        return made[-1]

    block = db.DynamicBlock(factory, controls)
    assert len(made) == count
    assert all(layer is own for layer, own in zip(block.controls.layers, made, strict=True))


def test_a_string_names_a_layer():
    first, second = independent_layers("symmetric(4, bias=False)", 2)
    assert isinstance(first, Symmetric)
    assert not torch.equal(first.weight, second.weight)


def test_copies_of_a_module_are_initialised_independently():
    original = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
    with torch.no_grad():
        original[1].running_var.fill_(7.0)
        original[1].weight.fill_(5.0)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    copies = independent_layers(original, 3)
    kernels = [original[0].weight, *(copy[0].weight for copy in copies)]
    assert all(not torch.equal(a, b) for i, a in enumerate(kernels) for b in kernels[:i])
    assert all(copy[1].running_var.tolist() == [1, 1] and copy[1].weight.tolist() == [1, 1] for copy in copies)
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())


def test_copies_of_a_module_keep_its_dtype_and_mode():
    layer = independent_layers(nn.Conv2d(2, 2, 3).double().eval(), 1)[0]
    assert layer.weight.dtype is double
    assert not layer.training


class Shapeshifter:
    """A factory whose layers grow."""

    def __init__(self):
        self.width = 1

    def __call__(self):
        self.width += 1
        return nn.Linear(self.width, 1)


class Bare(nn.Module):
    """Weights and no way to draw them anew."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, y):
        return self.scale * y


class Tied(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, y):
        return self.scale * y


class Unsized(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.parameter.UninitializedParameter()

    def forward(self, y):
        return self.scale * y


single, shared = nn.Linear(2, 2), nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: single, "returned the same module or parameter twice"),
        (lambda: Tied(shared), "returned the same module or parameter twice"),
        (
            Shapeshifter(),
            "layers 0 and 1 differ in weight (1, 2) torch.float32, weight (1, 3) torch.float32",
        ),
        (lambda: torch.relu, "must return an nn.Module, got builtin_function_or_method"),
        (lambda: None, "must return an nn.Module, got NoneType"),
        (5, "a factory, a module or a string, got 5"),
        (Unsized, "Unsized has lazy parameters"),
        (Bare(), "cannot initialise a copy of Bare: its part 'itself' (Bare) holds parameters"),
        (nn.Sequential(nn.ReLU(), Bare()), "cannot initialise a copy of Sequential: its part '1' (Bare)"),
    ],
)
def test_sources_that_give_no_independent_layers_are_refused(source, message):
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        independent_layers(source, 2)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules_are_refused():
    with pytest.raises(db.ConfigurationError, match="LazyConv2d has lazy parameters"):
        independent_layers(lambda: nn.LazyConv2d(2, 3), 1)
