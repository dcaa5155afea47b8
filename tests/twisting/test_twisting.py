"""Twists in networks of any kind: which convolutions change, what stays, and what is computed."""

import importlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.layers import TwistConv2d
from dynamicblocks.twisting import stages_of, twist_choices, with_twists
from tests.layer_tools import randomised
from tests.twist_tools import (
    BasicBlock,
    HandWritten,
    assert_unchanged,
    kernels,
    kernels_of,
    snapshot,
    tied,
    with_random_twists,
)

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
