"""Models of what happens in time: neural ODEs on trajectories, latent ODEs on series, point processes."""

from dynamicblocks.sequences.elbo import negative_elbo, squared_error
from dynamicblocks.sequences.forecast import Forecast, SeriesModel
from dynamicblocks.sequences.latent_ode import LatentODE
from dynamicblocks.sequences.rnn import NextValueRNN
from dynamicblocks.sequences.solver import Solver

__all__ = ["Forecast", "LatentODE", "NextValueRNN", "SeriesModel", "Solver", "negative_elbo", "squared_error"]
