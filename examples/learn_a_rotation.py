"""One convolution with variable coefficients learns to turn images, and tells by how much.

Example: python examples/learn_a_rotation.py
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

import dynamicblocks as db

DEGREES = 2.0
SIDE = 32


def smooth_images(count: int) -> Tensor:
    """Random images without detail finer than a few pixels."""
    return F.interpolate(torch.randn(count, 1, 6, 6), size=SIDE, mode="bicubic", align_corners=True)


def turned(images: Tensor) -> Tensor:
    """The images turned anticlockwise about their centre."""
    angle = torch.tensor(math.radians(DEGREES))
    turn = torch.tensor([[torch.cos(angle), -torch.sin(angle), 0.0], [torch.sin(angle), torch.cos(angle), 0.0]])
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", align_corners=False)


def error(layer: torch.nn.Module, images: Tensor) -> Tensor:
    """Root mean square, away from the border, relative to leaving the images as they are."""
    inside = (..., slice(4, -4), slice(4, -4))
    wanted = turned(images)[inside]
    return ((layer(images)[inside] - wanted).square().mean() / (images[inside] - wanted).square().mean()).sqrt()


def main() -> None:
    torch.manual_seed(0)
    images = smooth_images(64)
    plain = torch.nn.Conv2d(1, 1, 5, padding=2, bias=False)  # 25 weights
    twist = db.layers.TwistConv2d(1, 1, 3, padding=1, bias=False)  # 9 + 9
    for layer in (plain, twist):
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure(layer=layer, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = error(layer, images)
            loss.backward()
            return loss

        optimizer.step(closure)
        print(f"{type(layer).__name__}: error {error(layer, smooth_images(64)).item():.3f} of doing nothing")
    field = db.analysis.operators(twist)
    found = math.degrees(field.curl.item() / SIDE)
    print(f"The twist is a rotation by {found:.2f} degrees (the images were turned by {DEGREES:g}).")


if __name__ == "__main__":
    main()
