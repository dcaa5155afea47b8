"""A parabolic network, kept within the limit of its steps, finds a ball in a noisy volume.

Example: python examples/segment_a_volume.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dynamicblocks as db

SIDE, WIDTH = 10, 6
AXES = torch.arange(SIDE, dtype=torch.float32)


def volumes(count: int) -> tuple[Tensor, Tensor]:
    """Volumes (count, 1, SIDE, SIDE, SIDE) with a ball somewhere, under noise; 1 where the ball is."""
    radius = 2 + 2 * torch.rand(count, 1, 1, 1)
    x, y, z = (3 + (SIDE - 7) * torch.rand(3, count, 1)).unbind(0)
    distances = (
        (AXES - x)[:, :, None, None] ** 2 + (AXES - y)[:, None, :, None] ** 2 + (AXES - z)[:, None, None, :] ** 2
    )
    balls = (distances <= radius**2).long()
    return (balls + 1.2 * torch.randn(balls.shape)).unsqueeze(1), balls


def overlap(found: Tensor, balls: Tensor) -> float:
    """Of the balls that were found and those that are there, over their union."""
    return ((found & balls).sum() / (found | balls).sum()).item()


def keep_within_limits(block: db.DynamicBlock) -> None:
    """Scale kernels down where Euler steps are longer than their layers bear: the limit is 2 / |K|^2."""
    for layer in block.controls.layers:
        limit = db.step_limit(layer, "euler", (WIDTH, SIDE, SIDE, SIDE))
        with torch.no_grad():
            layer.weight.mul_(min(1.0, limit / max(block.times.sizes)) ** 0.5)


def main() -> None:
    torch.manual_seed(0)
    layer = f"symmetric({WIDTH}, norm='none', activation='tanh', dims=3)"
    block = db.DynamicBlock(layer, controls="constant(2)", times=db.uniform(0, 2, steps=4))
    net = nn.Sequential(nn.Conv3d(1, WIDTH, 3, padding=1), block, nn.Conv3d(WIDTH, 2, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    for step in range(60):
        inputs, balls = volumes(6)
        loss = F.cross_entropy(net(inputs), balls)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 4 == 3:
            keep_within_limits(block)
    inputs, balls = volumes(40)
    means = F.avg_pool3d(inputs, 3, stride=1, padding=1).squeeze(1)
    best = max(overlap((means > threshold / 20).long(), balls) for threshold in range(1, 20))
    print(f"overlap with the balls, means of 3 x 3 x 3 voxels above the best threshold: {best:.1%}")
    for title, other in (
        ("the network", net),
        ("in twice as many steps", db.with_integrator(net, steps=8)),
        ("by rk4", db.with_integrator(net, "rk4")),
    ):
        with torch.no_grad():
            print(f"{title}: {overlap(other(inputs).argmax(1), balls):.1%}")


if __name__ == "__main__":
    main()
