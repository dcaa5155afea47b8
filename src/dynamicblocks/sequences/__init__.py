"""Models of what happens in time: neural ODEs on trajectories, latent ODEs on series, point processes."""

from dynamicblocks.sequences.forecast import Forecast, SeriesModel
from dynamicblocks.sequences.solver import Solver

__all__ = ["Forecast", "SeriesModel", "Solver"]
