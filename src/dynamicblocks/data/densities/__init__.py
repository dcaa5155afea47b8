"""Points of which densities are learnt: drawn on the fly, of tables and arrays, and images."""

from dynamicblocks.data.densities.catalogue import density_sets, load_density, split_density
from dynamicblocks.data.densities.points import DensityDataset, PointSet
from dynamicblocks.data.densities.toys import toy_sets

__all__ = ["DensityDataset", "PointSet", "density_sets", "load_density", "split_density", "toy_sets"]
