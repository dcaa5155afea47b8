"""LM-ResNets, beside a plain writing of the published network, and as networks of dynamic blocks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.analysis.compression import compress
from dynamicblocks.cli.main import main
from dynamicblocks.network import named_blocks
from dynamicblocks.structure import structure, with_structure
from dynamicblocks.tasks import load_run
from dynamicblocks.training.evaluation import Score


@pytest.mark.parametrize(
    ("depth", "weights"), [(20, 272_384), (32, 466_822), (44, 661_260), (56, 855_698), (110, 1_730_669)]
)
def test_weight_counts_are_the_published_ones_but_for_those_that_nothing_uses(depth, weights):
    net = db.create_model("lm_resnet", depth=depth)
    assert net.num_weights == weights
    assert weights + 32 + 3 == {20: 272_419, 32: 466_857, 44: 661_295, 56: 855_733, 110: 1_730_704}[depth]


@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"integrator": "euler"}, {"depth": 8}])
def test_every_weight_gets_a_gradient(options):
    net = db.create_model("lm_resnet", widths=(4, 8, 12), **options)
    net(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []
    assert db.freeze_unused_controls(net) == []


def norm_act_conv(x, norm, kernel, stride=1):
    x = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
    return F.conv2d(F.relu(x), kernel, stride=stride, padding=kernel.shape[-1] // 2)


def unit(branch, x, stride=1):
    return norm_act_conv(norm_act_conv(x, branch.norm1, branch.conv1.weight, stride), branch.norm2, branch.conv2.weight)


def published(net, x, n):
    """The network as it was published, with the weights of ``net``: units in a row, the state of before kept by hand.

    ks is their coefficient: u+ = ks u + (1 - ks) before + F(u).
    """
    first, *stages = net.body
    branches = [layer.branch for layer in first.controls.layers]
    ks = [None, *(1 - first.integrator.k)]
    for stage in stages:
        branches += [stage.branch, *(layer.branch for layer in stage.block.controls.layers)]
        ks += [None, *(1 - stage.block.integrator.k)]
    x = F.conv2d(x, net.opening.conv1.weight, padding=1)
    before = None
    for index, (branch, k) in enumerate(zip(branches, ks, strict=True)):
        if index and index % n == 0:
            shortcut = stages[index // n - 1].shortcut
            residual = norm_act_conv(x, shortcut.norm1, shortcut.conv1.weight, stride=2)
            x = residual + unit(branch, x, stride=2)
        else:
            residual = x
            k = k if k is None or not k.ndim else k.view(-1, 1, 1)
            x = unit(branch, x) + (x if k is None else k * x + (1 - k) * before)
        before = residual
    norm = net.head.branch.norm1
    x = F.relu(F.batch_norm(x, None, None, norm.weight, norm.bias, training=True))
    return net.head.linear(x.mean((2, 3)))


@pytest.mark.parametrize(("depth", "per_channel"), [(20, False), (26, True)])
def test_it_is_the_published_network(float64, depth, per_channel):
    net = db.create_model("lm_resnet", depth=depth, widths=(4, 8, 12), per_channel=per_channel)
    drawn = [block.integrator.k for block in net.blocks]
    assert all(k.min() >= -0.1 and k.max() < 0 for k in drawn)
    with torch.no_grad():
        for k in drawn:
            k.mul_(5)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    images = torch.randn(4, 3, 12, 12)
    torch.testing.assert_close(net(images), published(net, images, (depth - 2) // 6), rtol=1e-10, atol=1e-10)


def test_kernels_are_drawn_as_published():
    for name, kernel in db.create_model("lm_resnet", depth=32).named_parameters():
        if kernel.ndim == 4 and kernel.numel() > 2000:
            fan_out = kernel.shape[0] * kernel.shape[2] * kernel.shape[3]
            assert kernel.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06), name


@pytest.mark.parametrize("options", [{}, {"per_channel": True}])
def test_without_coefficients_it_is_its_plain_partner_to_the_last_bit(options):
    net = db.create_model("lm_resnet", widths=(4, 8, 12), integrator="lm", **options)
    plain = db.create_model("lm_resnet", widths=(4, 8, 12), integrator="euler")
    plain.load_state_dict({name: tensor for name, tensor in net.state_dict().items() if "integrator" not in name})
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(net(images), plain(images))


def small(**options):
    net = db.create_model("lm_resnet", widths=(4, 8, 8), **options)
    with torch.no_grad():
        for block in net.blocks:
            for k in block.integrator_weights().values():
                k.uniform_(-0.6, -0.2)
    return net.eval()


IMAGES = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)


def test_its_blocks_are_found_and_changed():
    net = small()
    assert list(named_blocks(net)) == ["body.0", "body.1.block", "body.2.block"]
    finer = db.refine(net)
    assert [block.steps for block in finer.blocks] == [6, 4, 4]
    assert [len(block.integrator.k) for block in finer.blocks] == [5, 4, 4]
    assert finer(IMAGES).shape == (2, 10)
    same = db.refine(net, steps=False)
    torch.testing.assert_close(same(IMAGES), net(IMAGES))
    with pytest.warns(UserWarning, match="weights of the integrators of before are dropped"):
        plain = db.with_integrator(net, "rk4")
    assert plain(IMAGES).shape == (2, 10)
    checkpointed = db.with_gradient(net, "checkpoint")
    for one, two in zip(gradients(net), gradients(checkpointed), strict=True):
        assert torch.equal(one, two)


def gradients(net):
    return torch.autograd.grad(net(IMAGES).square().sum(), [*net.parameters()])


def test_a_stage_of_finer_steps_is_given_the_state_at_their_distance():
    stage = db.refine(small()).body[1]
    x = torch.randn(2, 4, 8, 8)
    shortcut = stage.shortcut(x)
    y = shortcut + stage.branch(x)
    torch.testing.assert_close(stage(x), stage.block(y, (y + shortcut) / 2))


def test_a_file_leads_back_to_it():
    net = db.refine(small(per_channel=True))
    other = with_structure(small(per_channel=True), structure(net))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(IMAGES), net(IMAGES))


def test_signals_and_volumes():
    for dims in (1, 3):
        net = db.create_model("lm_resnet", in_channels=1, widths=(4, 8, 8), per_channel=True, dims=dims)
        assert net(torch.randn(2, 1, *(8,) * dims)).shape == (2, 10)


@pytest.mark.filterwarnings("ignore:weights of the integrators")
def test_a_training_in_which_depth_grows(tmp_path):
    model = ["--model.name", "lm_resnet", "--model.widths", "[4,4,4]", "--model.per_channel", "true"]
    times = ["--epochs", "2", "--data.batch_size", "700", "--refine.epochs", "[1]", "--keep", "last"]
    assert main(["train", *model, *times, "--optimizer.warmup", "0", "--output", str(tmp_path), "--run", "run"]) == 0
    net = load_run(tmp_path / "run").net
    assert [tuple(block.integrator.k.shape) for block in net.blocks] == [(5, 4), (4, 4), (4, 4)]
    assert all(block.integrator.k.any() for block in net.blocks)


def test_it_is_compressed():
    """Blocks are given what they were given in the network; most integrators need less than that."""
    net = db.create_model("lm_resnet", in_channels=1, depth=26, widths=(4, 4, 4)).eval()
    images, score = torch.randn(8, 1, 8, 8), Score({"loss": 0.0, "accuracy": 1.0}, 8, 0.0)
    found = compress(net, [lambda net: score], [images], tolerance=0.5, integrators=("euler", "midpoint"))
    assert set(found.chosen) == {"body.0", "body.1.block", "body.2.block"}
    assert {block.steps for block in found.net.blocks} == {1}
    assert found.net(images).shape == (8, 10)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"depth": 21}, r"6 n \+ 2"), ({"depth": 2}, r"6 n \+ 2"), ({"dims": 4}, "dims must be 1")],
)
def test_what_cannot_be_is_refused(options, match):
    with pytest.raises(db.ConfigurationError, match=match):
        db.create_model("lm_resnet", **options)
    with pytest.raises(db.ConfigurationError, match=r"expected a state of shape \(batch, 4, height, width\)"):
        small().body[1](torch.randn(2, 3, 8, 8))
