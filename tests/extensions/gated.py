"""A layer with a gate that opens or closes with the time."""

import torch
from torch import nn

from dynamicblocks.layers import Conv2d, norms


class Gated(nn.Module):
    """f(t, y) = sigmoid(G y + c t) tanh(N(W y)), of convolutions G and W and a normalisation N."""

    def __init__(self, width, norm="batch", boundary="zeros", activation=None):
        super().__init__()
        self.gate, self.mix = (Conv2d(width, width, boundary=boundary) for _ in range(2))
        self.norm = norms.create(norm, width)
        self.clock = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, t, y):
        return torch.sigmoid(self.gate(y) + self.clock * t) * torch.tanh(self.norm(self.mix(y)))
