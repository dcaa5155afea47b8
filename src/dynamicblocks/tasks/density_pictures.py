"""Pictures of a density."""

from pathlib import Path

from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_net import DensityNet


def draw_density(net: DensityNet, known: DensityFacts, test: PointSet, folder: Path) -> list[Path]:
    """None yet."""
    return []


def draw_points(samples: Tensor, path: Path, known: DensityFacts) -> bool:
    """None yet."""
    return False
