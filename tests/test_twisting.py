"""Twists in networks of any kind: which convolutions change, what stays, and what is computed."""

import copy
import importlib
import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.compiled_block import StepPrograms
from dynamicblocks.form import form, in_form
from dynamicblocks.layers import ResidualUnit, TwistConv2d
from dynamicblocks.twisting import stages_of, twist_choices, with_twists
from tests.layer_tools import randomised


def tied(first, second):
    """Whether two parameters are one."""
    return first is second


def kernels_of(net):
    """Names of all twisted convolutions, found without the package's own listing."""
    return {name for name, _ in net.named_modules() if f"{name}.twist" in dict(net.named_parameters())}


def with_random_twists(net, spread=0.3):
    for name, weight in net.named_parameters():
        if name.endswith("twist"):
            nn.init.normal_(weight, std=spread)
    return net


def snapshot(net):
    """Modules and weights by identity, and the values of all tensors."""
    modules = [(name, id(module), type(module)) for name, module in net.named_modules(remove_duplicate=False)]
    return modules, {name: (id(tensor), tensor.clone()) for name, tensor in net.state_dict(keep_vars=True).items()}


def assert_unchanged(net, before):
    modules, tensors = snapshot(net)
    assert modules == before[0]
    assert tensors.keys() == before[1].keys()
    for name, (identity, values) in tensors.items():
        assert identity == before[1][name][0], name
        assert torch.equal(values, before[1][name][1]), name


# Networks of other libraries.


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def library(name):
    """A library, or a skipped test: one built for another PyTorch fails with a RuntimeError."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


class Logits(nn.Module):
    """A network of transformers as a function from images to logits."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images).logits


def hugging_face(layer_type="basic", depths=(1, 1, 1, 1)):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 12, 16], depths=list(depths), layer_type=layer_type, num_labels=5
    )
    return Logits(ResNetForImageClassification(config))


def torchvision_net():
    resnet = library("torchvision").models.resnet
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def timm_net():
    return library("timm").create_model("resnet18", pretrained=False, num_classes=5)


LIBRARIES = {
    "transformers": hugging_face,
    "transformers_bottleneck": lambda: hugging_face("bottleneck", (1, 2, 1, 1)),
    "torchvision": torchvision_net,
    "timm": timm_net,
}
each_library = pytest.mark.parametrize("make", LIBRARIES.values(), ids=LIBRARIES)


def images_and_labels(count=8, side=64, dtype=torch.float32):
    return torch.randn(count, 3, side, side, dtype=dtype), torch.arange(count) % 5


def small_kernels(net):
    return {name for name, module in net.named_modules() if getattr(module, "kernel_size", None) == (3, 3)} - {
        name for name, module in net.named_modules() if isinstance(module, nn.MaxPool2d)
    }


@each_library
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_twisted_copy_has_the_logits_of_the_original(make, dtype, bound):
    net = make().to(dtype).eval()
    before = snapshot(net)
    twisted = db.twist(net)
    assert kernels_of(twisted) == small_kernels(net)
    assert_unchanged(net, before)
    images, _ = images_and_labels(2, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(twisted(images), net(images), rtol=bound, atol=bound)


@each_library
def test_a_twisted_copy_trains_and_its_twists_move(make):
    twisted = db.twist(make())
    before = {name: weight.detach().clone() for name, weight in twisted.named_parameters()}
    optimizer = torch.optim.SGD(twisted.parameters(), lr=0.05, momentum=0.9)
    images, labels = images_and_labels()
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(twisted(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(weight, before[name]) for name, weight in twisted.named_parameters())
    listed = db.twists(twisted)
    assert all(each.strength > 0 for each in listed.twisted)
    untwisted = db.untwist(twisted).eval()
    with torch.no_grad():
        assert (untwisted(images) - twisted.eval()(images)).abs().max() > 1e-3


@each_library
def test_weights_are_stored_and_read_into_another_twisted_copy(make, tmp_path):
    net = with_random_twists(db.twist(make())).eval()
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    other = db.twist(make()).eval()
    images, _ = images_and_labels(2)
    with torch.no_grad():
        assert not torch.allclose(other(images), net(images))
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert torch.equal(other(images), net(images))


@pytest.mark.parametrize("make", [hugging_face, torchvision_net, timm_net])
def test_a_twisted_copy_compiles_as_one_graph(make):
    net = with_random_twists(db.twist(make())).eval()
    images, _ = images_and_labels(2)
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True)
        torch.testing.assert_close(compiled(images), net(images), rtol=1e-5, atol=1e-5)


@each_library
def test_a_twisted_copy_exports(make):
    net = with_random_twists(db.twist(make())).eval()
    images, _ = images_and_labels(2)
    with torch.no_grad():
        exported = torch.export.export(net, (images,))
        torch.testing.assert_close(exported.module()(images), net(images), rtol=1e-5, atol=1e-5)


@each_library
def test_stages_of_other_libraries_are_told_by_their_names(make):
    net = make()
    stages = stages_of(net)
    assert [len(stage) for stage in stages] == [1, 1, 1, 1]
    (last,) = stages[-1]
    assert last in ("layer4", "net.resnet.encoder.stages.3")
    twisted = kernels_of(db.twist(net, stages="TTTF"))
    inside = {name for name in small_kernels(net) if name.startswith(tuple(f"{stage[0]}." for stage in stages[:3]))}
    assert twisted == inside
    assert len(twisted) >= 3
    assert not any(name.startswith(f"{last}.") for name in twisted)


# A network written by hand.


class BasicBlock(nn.Module):
    def __init__(self, before, width, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()
        if stride > 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(branch + self.downsample(x))


class HandWritten(nn.Module):
    def __init__(self, units=(1, 1, 1, 1), widths=(4, 4, 8, 8), classes=5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, (count, width) in enumerate(zip(units, widths, strict=True), start=1):
            stride = 1 if stage == 1 else 2
            blocks = [BasicBlock(width if unit else before, width, 1 if unit else stride) for unit in range(count)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            before = width
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((-2, -1)))


def kernels(*stages):
    return {f"layer{stage}.0.conv{number}" for stage in stages for number in (1, 2)}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, kernels(1, 2, 3, 4) | {"conv1"}),
        ({"where": "layer[12].*"}, kernels(1, 2)),
        ({"where": "*.conv2"}, {f"layer{stage}.0.conv2" for stage in (1, 2, 3, 4)}),
        ({"where": ["conv1", "layer4.*"]}, kernels(4) | {"conv1"}),
        ({"where": ("layer3.0.conv1",)}, {"layer3.0.conv1"}),
        ({"where": BasicBlock}, kernels(1, 2, 3, 4)),
        ({"where": nn.Conv2d}, kernels(1, 2, 3, 4) | {"conv1"}),
        ({"where": HandWritten}, kernels(1, 2, 3, 4) | {"conv1"}),
        ({"where": lambda name, module: module.stride == (2, 2)}, {f"layer{stage}.0.conv1" for stage in (2, 3, 4)}),
        ({"where": lambda name, module: name == "conv1"}, {"conv1"}),
        ({"stages": "TTTF"}, kernels(1, 2, 3)),
        ({"stages": "FFFT"}, kernels(4)),
        ({"stages": "TFTF", "where": "*.conv1"}, {"layer1.0.conv1", "layer3.0.conv1"}),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_patterns_classes_functions_and_stages_choose_convolutions(choice, expected, inplace):
    net = HandWritten()
    assert kernels_of(db.twist(net, **choice, inplace=inplace)) == expected


@pytest.mark.parametrize(
    ("parametrisation", "degree", "free"), [("vector", 2, 2), ("independent", 1, 2), ("full", 2, 5)]
)
def test_every_parametrisation_adds_as_many_kernels_as_it_says(parametrisation, degree, free):
    net = HandWritten().eval()
    twisted = db.twist(net, stages="TFFF", parametrisation=parametrisation, degree=degree)
    added = sum(w.numel() for w in twisted.parameters()) - sum(w.numel() for w in net.parameters())
    assert added == free * 2 * 4 * 4 * 9 == db.twists(twisted).weights
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(twisted(images), net(images), rtol=1e-5, atol=1e-5)


def test_a_copy_has_weights_of_its_own_and_in_place_they_stay():
    net = HandWritten()
    weights = dict(net.named_parameters())
    copied = dict(db.twist(net).named_parameters())
    assert weights.keys() < copied.keys()
    for name, weight in weights.items():
        assert torch.equal(copied[name], weight)
        assert copied[name].data_ptr() != weight.data_ptr()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert db.twist(net, inplace=True) is net
    now = dict(net.named_parameters())
    assert all(tied(now[name], weight) for name, weight in weights.items())
    known = {id(weight) for weight in optimizer.param_groups[0]["params"]}
    assert {name for name, weight in now.items() if id(weight) not in known} == {
        f"{name}.twist" for name in kernels(1, 2, 3, 4) | {"conv1"}
    }
    assert db.untwist(net, inplace=True) is net
    assert all(tied(weight, weights[name]) for name, weight in net.named_parameters())


def test_untwisting_gives_back_the_original():
    net = randomised(HandWritten()).eval()
    back = db.untwist(db.twist(net, parametrisation="full"))
    assert all(type(module) is not TwistConv2d for module in back.modules())
    assert list(back.state_dict()) == list(net.state_dict())
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(back(images), net(images))
    # What the twists had learnt is lost; what is still plain, or not meant, stays as it is.
    partly = db.untwist(with_random_twists(db.twist(net)), stages="TFFF")
    assert kernels_of(partly) == kernels(2, 3, 4) | {"conv1"}


class Sharing(nn.Module):
    """A convolution, and a module around one, that are used at several places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.again = nn.Sequential(nn.ReLU(), self.first)
        self.part = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.part_again = self.part
        self.inner = nn.Sequential(self.part[0])
        self.weight_alone = nn.Conv2d(4, 4, 3, padding=1)
        self.weight_alone.weight = self.first.weight

    def forward(self, x):
        x = self.again(self.first(x))
        return self.weight_alone(self.inner(self.part_again(self.part(x))))


@pytest.mark.parametrize("where", [None, nn.Conv2d, "first", "again.*", "*part*"])
def test_shared_convolutions_stay_shared(where):
    net = Sharing()
    twisted = db.twist(net, where)
    for other in (twisted, db.untwist(twisted), with_twists(net, twist_choices(twisted))):
        assert other.first is other.again[1]
        assert other.part is other.part_again
        assert other.part[0] is other.inner[0]
        assert tied(other.weight_alone.weight, other.first.weight)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(twisted(x), net(x), rtol=1e-5, atol=1e-5)
    assert kernels_of(twisted)
    assert not kernels_of(db.untwist(twisted))
    # Counted once, as the optimiser does.
    added = sum(w.numel() for w in twisted.parameters()) - sum(w.numel() for w in net.parameters())
    assert db.twists(twisted).weights == added


def test_blocks_that_share_their_controls_still_do():
    block = db.DynamicBlock("preact_single(4)", 2)
    net = nn.Sequential(block, block.replaced(integrator="midpoint"))
    twisted = db.twist(net)
    assert twisted[0].controls is twisted[1].controls
    assert len(kernels_of(twisted)) == 2
    plain = db.untwist(twisted)
    assert plain[0].controls is plain[1].controls
    assert not kernels_of(plain)


def test_hooks_survive_and_can_be_removed():
    net = HandWritten()
    seen = []
    net.layer1[0].conv1.register_forward_pre_hook(lambda module, arguments: seen.append("before"))
    handle = net.layer1[0].conv1.register_forward_hook(lambda module, arguments, output: seen.append(type(module)))
    images = torch.randn(2, 3, 8, 8)
    db.twist(net)(images)
    assert seen == ["before", TwistConv2d]
    db.twist(net, inplace=True)(images)
    assert seen[2:] == ["before", TwistConv2d]
    handle.remove()
    db.untwist(net, inplace=True)(images)
    assert seen[4:] == ["before"]


def test_frozen_weights_get_a_frozen_twist():
    net = HandWritten()
    net.layer1.requires_grad_(False)
    twisted = db.twist(net)
    frozen = {
        name for name, weight in twisted.named_parameters() if name.endswith("twist") and not weight.requires_grad
    }
    assert frozen == {f"{name}.twist" for name in kernels(1)}


def test_modes_types_and_memory_formats_are_kept():
    net = HandWritten().double().to(memory_format=torch.channels_last)
    net.layer2.eval()
    twisted = db.twist(net)
    modes = {name: module.training for name, module in net.named_modules()}
    assert {name: module.training for name, module in twisted.named_modules()} == modes
    assert not twisted.layer2[0].conv1.training
    assert twisted.layer1[0].conv1.training
    assert all(weight.dtype == torch.float64 for weight in twisted.parameters())
    assert twisted.layer3[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert twisted.layer1(twisted.conv1(images)).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(twisted(images), net(images), rtol=1e-12, atol=1e-12)


class Standardised(nn.Conv2d):
    """A convolution whose kernels are standardised when it is called."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias)


def test_convolutions_with_a_forward_of_their_own_are_left_alone_and_noted():
    net = nn.Sequential(Standardised(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 5))
    twisted = db.twist(net)
    assert [type(module) for module in twisted] == [Standardised, TwistConv2d, nn.Conv2d, nn.Conv2d]
    listed = db.twists(twisted)
    assert [bool(each.note) for each in listed.convolutions] == [True, False, False, False]
    assert "Standardised has a forward of its own" in str(listed)
    assert [each.name for each in listed.twisted] == ["1"]
    with pytest.raises(db.ConfigurationError, match="it has none that this package knows how to convert"):
        db.twist(net[:1])


def test_the_listing_measures_the_strength_of_a_twist():
    twisted = db.twist(nn.Sequential(nn.Conv2d(2, 2, 3, bias=False)), parametrisation="full")
    with torch.no_grad():
        twisted[0].weight.fill_(1.0)
        twisted[0].twist.fill_(0.0)
        twisted[0].twist[0, 0, 0, 0] = 3.0
        twisted[0].twist[3, 1, 2, 2] = 4.0
    (found,) = db.twists(twisted).twisted
    assert found.strength == pytest.approx(5 / 6)
    assert (found.weights, found.twist_weights) == (36, 72)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "layer9.*"}, "nothing to twist in HandWritten: .*where='layer9.*'.*it has conv1"),
        ({"where": "*.downsample.0"}, "nothing to twist"),
        ({"where": []}, "nothing to twist"),
        ({"where": lambda name, module: False}, "nothing to twist"),
        ({"where": nn.LayerNorm}, "nothing to twist"),
        ({"stages": "FFFF"}, "nothing to twist"),
        ({"stages": "TTT"}, r"each of the 4 stages of HandWritten \(layer1, layer2, layer3, layer4\), got 'TTT'"),
        ({"stages": "TTTX"}, "letter T or F"),
        ({"stages": "tttf"}, "letter T or F"),
        ({"where": 3}, "where must be a pattern"),
        ({"where": [1, 2]}, "where must be a pattern"),
        ({"where": int}, "where must be a pattern"),
        ({"parametrisation": "vectors"}, "did you mean 'vector'"),
        ({"degree": 3}, "degree of a twist is 1 or 2, got 3"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_wrong_choices_leave_the_network_as_it_was(options, message, inplace):
    net = HandWritten()
    before = snapshot(net)
    with pytest.raises(db.ConfigurationError, match=message):
        db.twist(net, **options, inplace=inplace)
    assert_unchanged(net, before)


def test_what_is_twisted_or_plain_already_is_an_error():
    plain = HandWritten()
    twisted = db.twist(plain)
    for change, net in ((db.twist, twisted), (db.untwist, plain)):
        before = snapshot(net)
        with pytest.raises(db.ConfigurationError, match="nothing to"):
            change(net)
        assert_unchanged(net, before)
    # Half of it first, then the rest: the twists that were there keep what they have learnt.
    half = with_random_twists(db.twist(plain, stages="TTFF"))
    whole = db.twist(half)
    assert kernels_of(whole) == kernels_of(twisted)
    assert torch.equal(whole.layer1[0].conv1.twist, half.layer1[0].conv1.twist)


def test_a_bare_convolution_is_twisted_as_a_copy_only():
    plain = nn.Conv2d(3, 4, 3)
    before = snapshot(plain)
    with pytest.raises(db.ConfigurationError, match="cannot become another module in place"):
        db.twist(plain, inplace=True)
    assert_unchanged(plain, before)
    twisted = db.twist(plain)
    assert isinstance(twisted, TwistConv2d)
    with pytest.raises(db.ConfigurationError, match="in place"):
        db.untwist(twisted, inplace=True)
    assert isinstance(twisted, TwistConv2d)


def test_the_tenth_stage_is_not_taken_for_the_first():
    net = nn.Module()
    net.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(2, 2, 3)) for _ in range(11)])
    assert kernels_of(db.twist(net, stages="FT" + 9 * "F")) == {"stages.1.0"}
    net = db.DynamicNet(nn.Identity(), [db.DynamicBlock("preact_single(2)", 1) for _ in range(11)], nn.Identity())
    assert {name.split(".")[1] for name in kernels_of(db.twist(net, stages="FT" + 9 * "F"))} == {"1"}


def test_stages_without_names_ask_for_a_pattern():
    with pytest.raises(db.ConfigurationError, match="none that its names tell; use where="):
        db.twist(nn.Sequential(nn.Conv2d(3, 4, 3)), stages="T")


# Dynamic blocks.

CONTROLS = ["constant(3)", "linear(4)", "legendre(3)"]


def smooth_layer():
    return db.layers.PreactDouble(3, norm="none", activation="tanh")


def smooth_block(controls="linear(3)", integrator="midpoint", twisted=True, **choices):
    block = db.DynamicBlock(smooth_layer, controls, db.uniform(0, 3, steps=3), integrator, **choices).double()
    if not twisted:
        return block
    return with_random_twists(db.twist(block))


def state(side=5, channels=3, dtype=torch.float64):
    return torch.randn(2, channels, side, side + 1, dtype=dtype)


@pytest.mark.parametrize("controls", CONTROLS)
@pytest.mark.parametrize("integrator", ["euler", "rk4_classic"])
@pytest.mark.parametrize("training", [True, False])
def test_a_block_starts_as_the_plain_block(controls, integrator, training):
    block = db.DynamicBlock("preact_double(4)", controls, 3, integrator).double().train(training)
    twisted = db.twist(block)
    y = state(channels=4)
    torch.testing.assert_close(twisted(y), block(y), rtol=1e-12, atol=1e-12)
    assert len(kernels_of(twisted)) == 2 * len(block.controls)
    # Running statistics move as before.
    for (name, buffer), other in zip(block.named_buffers(), twisted.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "integrator",
    ["euler", "midpoint", "rk4_classic", "reversible_heun", "implicit_midpoint", "dopri5(rtol=1e-5, atol=1e-5)"],
)
@pytest.mark.parametrize("controls", CONTROLS)
def test_both_gradient_modes_agree_on_a_twisted_block(integrator, controls):
    block = smooth_block(controls, integrator)
    y = state()
    found = []
    for gradient in ("backprop", "checkpoint"):
        other = db.with_gradient(block, gradient)
        start = y.clone().requires_grad_()
        other(start).square().sum().backward()
        found.append({"": start.grad, **{name: weight.grad for name, weight in other.named_parameters()}})
    one, two = found
    seen = 0
    for name, grad in one.items():
        assert (grad is None) == (two[name] is None), name
        if grad is not None:
            assert bool(grad.isfinite().all()), name
            torch.testing.assert_close(two[name], grad, rtol=1e-10, atol=1e-10, msg=name)
            seen += name.endswith("twist") and bool(grad.abs().max() > 1e-3)
    unread = {f"controls.layers.{index}." for index in block.unused_controls()}
    assert seen == 2 * (len(block.controls) - len(unread))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_gradients_of_a_twisted_block_are_those_of_finite_differences(gradient):
    block = smooth_block("linear(2)", "midpoint", gradient=gradient)
    names = [name for name, _ in block.named_parameters() if name.endswith("conv2.twist")]

    def call(y, *weights):
        return torch.func.functional_call(block, dict(zip(names, weights, strict=True)), (y,))

    chosen = [block.get_parameter(name).detach().clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(call, (state(side=3)[:1].requires_grad_(), *chosen), fast_mode=True)


@pytest.mark.parametrize("controls", ["constant(2)", "linear(3)"])
def test_a_compiled_twisted_block_equals_the_eager_one(controls, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(StepPrograms, "backend", "aot_eager")
    plain = db.DynamicBlock("preact_single(4)", controls, 3, "midpoint", compile=True)
    compiled = with_random_twists(db.twist(plain))
    eager = copy.deepcopy(compiled).replaced(compile=False)
    assert compiled.compiles
    assert not eager.compiles
    y = state(channels=4, dtype=torch.float32)
    one, two = compiled(y), eager(y)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    one.square().sum().backward()
    two.square().sum().backward()
    for (name, weight), other in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), name
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-4, atol=1e-4, msg=name)
    assert not compiled._programs.failed


@pytest.mark.parametrize("controls", CONTROLS)
def test_refined_controls_carry_their_twists(controls):
    block = smooth_block(controls)
    finer = db.refine(block, steps=False)
    y = state()
    torch.testing.assert_close(finer(y), block(y), rtol=1e-10, atol=1e-10)
    assert len(kernels_of(finer)) == 2 * len(finer.controls) > len(kernels_of(block))
    assert db.twists(finer).weights > db.twists(block).weights
    deeper = db.refine(block)
    assert deeper.steps == 2 * block.steps
    assert all(each.strength > 0 for each in db.twists(deeper).twisted)


def test_projected_twists_are_exact_where_the_new_basis_holds_the_old():
    block = smooth_block("linear(2)")
    wider = db.project(block, "linear(4)")
    y = state()
    torch.testing.assert_close(wider(y), block(y), rtol=1e-10, atol=1e-10)
    first, last = (block.controls.layers[index].conv1.twist for index in (0, 1))
    for index in range(4):
        expected = first + (last - first) * index / 3
        torch.testing.assert_close(wider.controls.layers[index].conv1.twist, expected)
    # A constant is the mean of a line.
    constant = db.project(block, "constant(1)")
    torch.testing.assert_close(constant.controls.layers[0].conv1.twist, (first + last) / 2)


def test_twisted_blocks_converge_under_finer_steps_of_another_integrator():
    block = smooth_block("legendre(3)", "euler")
    y = state()
    with torch.no_grad():
        outputs = [db.with_integrator(block, "rk4_classic", steps=steps)(y) for steps in (6, 12, 24, 48)]
    errors = [(output - outputs[-1]).norm().item() for output in outputs[:-1]]
    assert all(coarse / fine > 12 for coarse, fine in pairwise(errors))
    again = db.with_integrator(block, "midpoint")
    assert all(torch.equal(weight, other) for weight, other in zip(again.parameters(), block.parameters(), strict=True))
    assert kernels_of(again) == kernels_of(block)


def test_all_controls_of_a_block_are_twisted_alike():
    net = db.create_model("continuousnet", width=4, units=2, controls="linear")
    before = snapshot(net)
    with pytest.raises(db.ConfigurationError, match="all controls of a block are layers of one form"):
        db.twist(net, where="body.1.controls.layers.0.*", inplace=True)
    assert_unchanged(net, before)
    with pytest.raises(db.ConfigurationError, match=r"controls.layers.0 and controls.layers.1 would differ"):
        db.twist(db.DynamicBlock(lambda: nn.Conv2d(2, 2, 3, padding=1), 2), where="*.1")
    alike = db.twist(net, where="*.controls.layers.*.branch.conv1")
    assert {name.rpartition(".")[2] for name in kernels_of(alike)} == {"conv1"}
    with pytest.raises(db.ConfigurationError, match="all controls of a block"):
        db.untwist(alike, where="body.1.controls.layers.0.*")
    assert db.refine(alike)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def twisted_by_hand(y, weight, bias, twist):
    """W * y + b + X (Wx * y) + Y (Wy * y): X to the right, Y downwards, Wy = Wx turned."""
    height, width = y.shape[-2:]
    right = torch.tensor([(2 * column + 1 - width) / width for column in range(width)], dtype=y.dtype)
    down = torch.tensor([(2 * row + 1 - height) / height for row in range(height)], dtype=y.dtype)
    field = (twist - torch.flip(twist, (2, 3))) / 2
    turned = torch.zeros_like(field)
    for row in range(3):
        for column in range(3):
            turned[:, :, column, 2 - row] = field[:, :, row, column]
    plain = F.conv2d(y, weight, bias, padding=1)
    return plain + right * F.conv2d(y, field, padding=1) + down[:, None] * F.conv2d(y, turned, padding=1)


def convolution_block(controls, integrator, times):
    block = db.DynamicBlock(lambda: nn.Conv2d(2, 2, 3, padding=1), controls, times, integrator).double()
    block = with_random_twists(db.twist(block))
    thetas = [(layer.weight, layer.bias, layer.twist) for layer in block.controls.layers]
    return block, thetas


def test_euler_steps_of_a_twisted_block_are_those_written_by_hand():
    block, thetas = convolution_block("constant(2)", "euler", db.uniform(0, 1, steps=2))
    y = expected = state(channels=2)
    for theta in thetas:
        expected = expected + 0.5 * twisted_by_hand(expected, *theta)
    torch.testing.assert_close(block(y), expected, rtol=1e-12, atol=1e-12)


def test_coefficients_vary_in_space_and_time():
    block, (first, last) = convolution_block("linear(2)", "midpoint", db.uniform(0, 0.5, steps=1))
    y = state(channels=2)
    middle = y + 0.25 * twisted_by_hand(y, *first)
    halfway = [(one + other) / 2 for one, other in zip(first, last, strict=True)]
    torch.testing.assert_close(block(y), y + 0.5 * twisted_by_hand(middle, *halfway), rtol=1e-12, atol=1e-12)


# ResNet with a twist.


@pytest.mark.parametrize(
    ("name", "unit", "weights"),
    [
        ("twist_resnet18", "a", 11_173_962),
        ("twist_resnet34", "a", 21_282_122),
        ("twist_resnet50", "bottleneck_a", 23_520_842),
    ],
)
def test_without_a_twist_they_have_the_weights_of_the_usual_networks(name, unit, weights):
    with torch.device("meta"):
        assert db.create_model(name, unit=unit, stages="FFFF").weights == weights


def test_a_twist_of_the_last_stage_adds_a_kernel_for_each_of_its_own():
    with torch.device("meta"):
        plain, twisted = (db.create_model("twist_resnet18", stages=stages) for stages in ("FFFF", "FFFT"))
    assert twisted.weights - plain.weights == (256 + 3 * 512) * 512 * 9


def plain_pairs(net, plain):
    """(dynamic module, module of the plain network) for everything that holds weights."""
    yield net.opening.conv1, plain.conv1
    yield net.opening.norm1, plain.bn1
    yield net.head.linear, plain.fc
    units = []
    for module in net.body:
        units += list(module.controls.layers) if isinstance(module, db.DynamicBlock) else [module]
    blocks = [block for stage in range(1, 5) for block in getattr(plain, f"layer{stage}")]
    for unit, block in zip(units, blocks, strict=True):
        yield unit.branch.conv1, block.conv1
        yield unit.branch.norm1, block.bn1
        yield unit.branch.conv2, block.conv2
        yield unit.branch.norm2, block.bn2
        if len(block.downsample):
            yield unit.shortcut, block.downsample


@pytest.mark.parametrize("units", [(2, 2, 2, 2), (1, 3, 1, 2)])
def test_with_the_same_weights_it_is_a_plain_resnet(units):
    net = db.create_model("twist_resnet18", num_classes=5, units=units, width=4, unit="a", stages="FFFF")
    net = randomised(net).eval()
    plain = HandWritten(units, (4, 8, 16, 32)).double().eval()
    assert net.weights == sum(weight.numel() for weight in plain.parameters())
    for ours, theirs in plain_pairs(net, plain):
        theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = plain(images)
    torch.testing.assert_close(net(images) / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-10)
    # Twisted alike, they are still the same network.
    twisted, plain = db.twist(net, where="body.*"), db.twist(plain, where=BasicBlock)
    for ours, theirs in plain_pairs(with_random_twists(twisted), plain):
        theirs.load_state_dict(ours.state_dict())
    moved = plain(images)
    assert (moved - expected).abs().max() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(twisted(images) / moved.abs().max(), moved / moved.abs().max(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["twist_resnet18", "twist_resnet34", "twist_resnet50"])
def test_letters_choose_the_stages_that_are_twisted(name):
    for stages in ("TTTT", "TTTF", "FTFF"):
        net = db.create_model(name, width=4, stages=stages, degree=2)
        widths = {net.get_submodule(each).out_channels for each in kernels_of(net)}
        assert widths == {4 * 2**index for index, letter in enumerate(stages) if letter == "T"}
        assert {each.twist for each in db.twists(net).twisted} == {"vector, degree 2"}
        assert len(stages_of(net)) == 4
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_stage_of_one_unit_is_twisted_as_well():
    net = db.create_model("twist_resnet18", units=(1, 1, 1, 1), width=4, stages="TFTF")
    assert {net.get_submodule(each).out_channels for each in kernels_of(net)} == {4, 16}


def test_a_bottleneck_convolves_a_quarter_of_the_channels():
    unit = ResidualUnit(16, "bottleneck_e")
    shapes = [tuple(module.weight.shape) for module in unit.modules() if isinstance(module, nn.Conv2d)]
    assert shapes == [(4, 16, 1, 1), (4, 4, 3, 3), (16, 4, 1, 1)]
    net = db.create_model("twist_resnet50", width=8)
    assert net.head.linear.in_features == 8 * 8 * 4
    assert len(kernels_of(net)) == 16
    # The stride lies at the 3x3 convolution.
    assert net.body[2].branch.reduce1.stride == (1, 1)
    assert net.body[2].branch.conv1.stride == (2, 2)
    for width in (6, 2):
        with pytest.raises(db.ConfigurationError, match=f"multiple of 4 channels, got {width}"):
            ResidualUnit(width, "bottleneck_a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "TTT"}, "each of 4 stages, got 'TTT'"),
        ({"stages": "TTTx"}, "each of 4 stages"),
        ({"units": (2, 2)}, "each of 2 stages, got 'TTTT'"),
        ({"units": (2, 0, 2, 2)}, "units must be a whole number of at least 1"),
        ({"unit": "f"}, "unknown residual unit"),
        ({"parametrisation": "odd"}, "unknown parametrisation"),
        ({"degree": 0}, "degree of a twist"),
    ],
)
def test_networks_that_cannot_be(options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.create_model("twist_resnet18", **{"width": 4, **options})


# The form of a network, as files hold it.


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"stages": "TFT", "parametrisation": "independent"},
        {"where": "*.conv1", "parametrisation": "full", "degree": 2},
    ],
)
@pytest.mark.parametrize("controls", ["constant", "linear"])
def test_the_form_is_plain_data_that_rebuilds_a_grown_network(choice, controls):
    def make():
        return db.create_model("continuousnet", width=4, units=2, controls=controls, num_classes=3)

    grown = with_random_twists(db.twist(db.refine(make()), **choice)).eval()
    described = json.loads(json.dumps(form(grown)))
    rebuilt = in_form(make(), described)
    rebuilt.load_state_dict(grown.state_dict(), strict=True)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(rebuilt.eval()(images), grown(images))
    assert form(rebuilt) == described
    # Twisted first, refined then; and from a network that was twisted in another way.
    other_order = db.refine(db.twist(make(), **choice))
    assert form(other_order) == described
    from_another = in_form(db.twist(make(), parametrisation="full"), described)
    from_another.load_state_dict(grown.state_dict(), strict=True)
    assert torch.equal(from_another.eval()(images), grown(images))
    # Files of before there were twists describe a plain network.
    plain = in_form(make(), {"discretisation": described["discretisation"]})
    assert not kernels_of(plain)


def test_twists_that_agree_with_a_description_are_kept():
    net = with_random_twists(db.twist(HandWritten(), stages="TTFF"))
    before = snapshot(net)
    choices = json.loads(json.dumps(twist_choices(net)))
    assert choices == {name: {"parametrisation": "vector", "degree": 1} for name in kernels(1, 2)}
    for name in kernels(2):
        del choices[name]
    choices["layer4.0.conv1"] = {"parametrisation": "full", "degree": 2}
    other = with_twists(net, choices)
    assert_unchanged(net, before)
    assert twist_choices(other) == choices
    assert torch.equal(other.layer1[0].conv2.twist, net.layer1[0].conv2.twist)
    assert not other.layer4[0].conv1.twist.any()
    with pytest.raises(RuntimeError, match="twist"):
        other.load_state_dict(net.state_dict(), strict=True)


@pytest.mark.parametrize("name", ["layer7.0.conv1", "layer1", "bn1", ""])
def test_a_description_of_another_network_is_refused(name):
    net = HandWritten()
    before = snapshot(net)
    with pytest.raises(db.ConfigurationError, match=r"no convolution .* that could be twisted"):
        with_twists(net, {name: {"parametrisation": "vector", "degree": 1}})
    assert_unchanged(net, before)


@pytest.mark.parametrize("layer", ["preact_double", "preact_single", "postact_double", "postact_single"])
def test_a_layer_by_name_can_be_twisted_in_its_string(layer):
    block = db.DynamicBlock(f"{layer}(4, twist='independent')", controls="linear(3)")
    found = db.twists(block)
    assert len(found.twisted) == len(found.convolutions) == 3 * (2 if "double" in layer else 1)
    assert all(each.twist == "independent" for each in found.twisted)
    with pytest.raises(db.ConfigurationError, match="did you mean 'vector'"):
        db.DynamicBlock(f"{layer}(4, twist='vectors')", controls=2)
