"""Networks to twist, and what tests of twists look at."""

import torch
from torch import nn
from torch.nn import functional as F


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
