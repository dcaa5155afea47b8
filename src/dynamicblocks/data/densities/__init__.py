"""Points of which a density is learnt: drawn on the fly, from tables and arrays, or images."""

from dynamicblocks.data.densities.catalogue import density_sets, load_density
from dynamicblocks.data.densities.points import DensityDataset, PointSet

__all__ = ["DensityDataset", "PointSet", "density_sets", "load_density"]
