"""Tensors, modules and references that several tests of layers share."""

import torch
import torch.nn.functional as F
from torch import nn

double = torch.float64


class Bend(nn.Module):
    """f(y; theta) = -theta y^3: with I the integral of theta, y = (1 + 2 I)^(-1/2) from y = 1."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, y):
        return -self.theta * y**3


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


def batch_norm(norm, y):
    """Batch normalisation in training, written out."""
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
    return (y - mean) / torch.sqrt(variance + 1e-5) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
