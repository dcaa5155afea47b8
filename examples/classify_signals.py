"""A network of continuous depth tells noisy waves apart: everything in one dimension.

Example: python examples/classify_signals.py
"""

import torch
from torch import Tensor
from torch.nn import functional as F

import dynamicblocks as db

LENGTH = 64
SHAPES = ("sine", "square", "sawtooth")


def signals(count: int) -> tuple[Tensor, Tensor]:
    """Periodic signals (count, 1, LENGTH) of any phase and some frequencies, with noise; their labels."""
    labels = torch.randint(len(SHAPES), (count,))
    periods = 2 + 3 * torch.rand(count, 1)
    phase = (periods * torch.linspace(0, 1, LENGTH) + torch.rand(count, 1)) % 1
    sine = torch.sin(2 * torch.pi * phase)
    waves = torch.stack([sine, sine.sign(), 2 * phase - 1])[labels, torch.arange(count)]
    return (waves + 0.3 * torch.randn(count, LENGTH)).unsqueeze(1), labels


def accuracy(net: torch.nn.Module, inputs: Tensor, labels: Tensor) -> float:
    net.eval()
    with torch.no_grad():
        return (net(inputs).argmax(1) == labels).float().mean().item()


def main() -> None:
    torch.manual_seed(0)
    options = {
        "widths": (8, 16),
        "layer": "preact_single",
        "norm": "tv",
        "controls": "linear",
        "integrator": "midpoint",
    }
    net = db.create_model("dynamicnet", in_channels=1, num_classes=len(SHAPES), dims=1, **options)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        inputs, labels = signals(48)
        loss = F.cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = signals(1000)
    print(f"{net.num_weights:,} weights; test accuracy {accuracy(net, *test):.1%}")
    other = db.with_integrator(net, "rk4", steps=8)
    print(f"the same weights with rk4 and 8 steps a block: {accuracy(other, *test):.1%}")


if __name__ == "__main__":
    main()
