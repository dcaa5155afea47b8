"""Points in the plane whose densities are easy to see and not easy to learn, drawn on the fly."""

import math

import torch
from torch import Tensor

from dynamicblocks.registry import Registry

toy_sets: Registry[tuple[Tensor, Tensor]] = Registry("set of points in the plane")
"""Functions of (number, generator) that give points (number, 2), float64, and their classes (number,)."""


def _normal(number: int, draws: torch.Generator) -> Tensor:
    return torch.randn(number, 2, generator=draws, dtype=torch.float64)


def _uniform(number: int, draws: torch.Generator) -> Tensor:
    return torch.rand(number, generator=draws, dtype=torch.float64)


def _classes(number: int, classes: int, draws: torch.Generator) -> Tensor:
    return torch.randint(classes, (number,), generator=draws)


@toy_sets.register("moons")
def moons(number: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two half circles that reach into each other: radius 3, noise of deviation 0.6, about (1/2, -1/4).

    The sets of torchcfm: scikit-learn's moons with noise 0.2, times 3, minus 1.
    """
    which = _classes(number, 2, draws)
    angle = math.pi * _uniform(number, draws)
    upper = torch.stack((angle.cos(), angle.sin()), 1)
    lower = torch.stack((1 - angle.cos(), 0.5 - angle.sin()), 1)
    points = torch.where(which[:, None] == 0, upper, lower) + 0.2 * _normal(number, draws)
    return 3 * points - 1, which


@toy_sets.register("circles")
def circles(number: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two rings of radius 1 and 1/2 with noise of deviation 0.06, as in torchdiffeq's example of a flow."""
    which = _classes(number, 2, draws)
    angle = 2 * math.pi * _uniform(number, draws)
    radius = torch.where(which == 0, 1.0, 0.5).double()
    ring = radius[:, None] * torch.stack((angle.cos(), angle.sin()), 1)
    return ring + 0.06 * _normal(number, draws), which


@toy_sets.register("checkerboard")
def checkerboard(number: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The black fields of a board of 4 x 4 from -4 to 4; the class is the column."""
    column = _classes(number, 4, draws)
    row = 2 * _classes(number, 2, draws) + column % 2
    inside = torch.stack((_uniform(number, draws), _uniform(number, draws)), 1)
    return 2 * (torch.stack((column, row), 1) + inside) - 4, column


@toy_sets.register("swiss_roll")
def swiss_roll(number: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """A spiral of one and a half turns with noise of deviation 0.1; the class is the half of its length."""
    share = _uniform(number, draws)
    angle = 1.5 * math.pi * (1 + 2 * share)
    spiral = torch.stack((angle * angle.cos(), angle * angle.sin()), 1) / 5
    return spiral + 0.1 * _normal(number, draws), (share > 0.5).long()


@toy_sets.register("eight_gaussians")
def eight_gaussians(number: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Eight normal distributions of variance 0.1 on a circle of radius 5; the class is which."""
    which = _classes(number, 8, draws)
    angle = 2 * math.pi * which / 8
    centres = 5 * torch.stack((angle.cos(), angle.sin()), 1).double()
    return centres + math.sqrt(0.1) * _normal(number, draws), which


@toy_sets.register("pinwheel")
def pinwheel(number: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Five arms that are bent by a rotation that grows with the radius; the class is the arm."""
    which = _classes(number, 5, draws)
    along = _normal(number, draws) * torch.tensor([0.3, 0.1], dtype=torch.float64)
    along[:, 0] += 1
    angle = 2 * math.pi * which / 5 + 0.25 * along[:, 0].exp()
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack((cos * along[:, 0] - sin * along[:, 1], sin * along[:, 0] + cos * along[:, 1]), 1)
    return 2 * turned, which
