"""Euler, unit steps and constant controls are the plain residual network, to the last bit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db


class PlainUnit(nn.Module):
    """The residual units of He et al. (2016, figure 4), written out, with an optional strided shortcut."""

    def __init__(self, kind, before, width, stride=1):
        super().__init__()
        self.kind, self.stride, self.extra = kind, stride, width - before
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(before if kind == "e" else width)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        shortcut = x
        if self.stride > 1 or self.extra:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra // 2))
        if self.kind == "a":
            return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if self.kind == "b":
            return F.relu(self.bn2(shortcut + self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if self.kind == "c":
            return shortcut + F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if self.kind == "d":
            return shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(F.relu(x))))))
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class PlainResNet(nn.Module):
    """A residual network of three stages for small images, in plain PyTorch."""

    def __init__(self, kind, units, widths):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn_first = nn.BatchNorm2d(widths[0])
        layers, before = [], widths[0]
        for stage, width in enumerate(widths):
            for unit in range(units):
                stride = 2 if stage and not unit else 1
                layers.append(PlainUnit(kind, before, width, stride))
                before = width
        self.units = nn.ModuleList(layers)
        self.bn_last = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x):
        y = self.conv(x)
        if self.kind in "abcd":
            y = self.bn_first(y)
        if self.kind in "abc":
            y = F.relu(y)
        for unit in self.units:
            y = unit(y)
        if self.kind == "e":
            y = self.bn_last(y)
        if self.kind in "de":
            y = F.relu(y)
        return self.linear(y.mean(dim=(-2, -1)))


def pairs(net, plain):
    """(dynamic module, plain module) for everything that holds weights."""
    kind = plain.kind
    yield net.opening.conv1, plain.conv
    if kind in "abcd":
        yield net.opening.norm1, plain.bn_first
    if kind == "e":
        yield net.head.branch.norm1, plain.bn_last
    yield net.head.linear, plain.linear
    layers = []
    for module in net.body:
        layers += list(module.controls.layers) if isinstance(module, db.DynamicBlock) else [module]
    for layer, unit in zip(layers, plain.units, strict=True):
        yield layer.branch.conv1, unit.conv1
        yield layer.branch.conv2, unit.conv2
        yield layer.branch.norm1, unit.bn1
        yield (layer.projection.norm1 if kind == "b" else layer.branch.norm2), unit.bn2


@pytest.mark.parametrize("kind", "abcde")
def test_output_gradients_and_statistics_are_equal_to_the_last_bit(kind, float64):
    net = db.create_model("resnet", depth=20, unit=kind, widths=(4, 8, 16))
    plain = PlainResNet(kind, units=3, widths=(4, 8, 16))
    for ours, theirs in pairs(net, plain):
        theirs.load_state_dict(ours.state_dict())
    unmatched = sum(w.numel() for w in plain.parameters()) - sum(w.numel() for w in net.parameters())
    # The plain network always has both outer normalisations, used or not.
    assert unmatched == (2 * 4 if kind == "e" else 2 * 16)

    images, labels = torch.randn(8, 3, 12, 12), torch.randint(10, (8,))
    ours, theirs = net(images), plain(images)
    assert torch.equal(ours, theirs)
    F.cross_entropy(ours, labels).backward()
    F.cross_entropy(theirs, labels).backward()
    for a, b in pairs(net, plain):
        for (name, weight), (_, other) in zip(a.named_parameters(), b.named_parameters(), strict=True):
            assert torch.equal(weight.grad, other.grad), name
        for (name, buffer), (_, other) in zip(a.named_buffers(), b.named_buffers(), strict=True):
            assert torch.equal(buffer, other), name
    net.eval()
    plain.eval()
    assert torch.equal(net(images), plain(images))


def test_published_weight_counts():
    assert count(db.create_model("dynamicblocks_rk4")) == 251_866
    assert count(db.create_model("resnet20", unit="post", shortcut="convolution_norm")) == 272_474
    assert count(db.create_model("resnet56", unit="post", shortcut="convolution_norm")) == 855_770


def test_dynamicblocks_rk4_has_the_published_parts():
    net = db.create_model("dynamicblocks_rk4")
    assert count(net.opening) == 480
    assert [count(module) for module in net.body] == [11_760, 608, 46_560, 2_240, 185_280, 4_288]
    assert count(net.head) == 650
    assert [block.times.points for block in net.blocks] == [(0.0, 1.0, 2.0, 3.0, 4.0)] * 3


def test_dynamicblocks_rk4_trains():
    net = db.create_model("dynamicblocks_rk4")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images = torch.randn(16, 3, 16, 16)
    labels = torch.arange(16) % 10
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.parameters())


def count(module):
    return sum(weight.numel() for weight in module.parameters())
