"""Models of what happens in time: neural ODEs on trajectories, latent ODEs on series, point processes."""

from dynamicblocks.functional.solver import Solver
from dynamicblocks.sequences.elbo import negative_elbo, squared_error
from dynamicblocks.sequences.equation import Equation, constants_of, equations
from dynamicblocks.sequences.fields import MLPField, Sum
from dynamicblocks.sequences.forecast import Forecast, SeriesModel
from dynamicblocks.sequences.latent_ode import LatentODE
from dynamicblocks.sequences.neural_ode import NeuralODE
from dynamicblocks.sequences.poisson import PoissonProcess
from dynamicblocks.sequences.rnn import NextValueRNN
from dynamicblocks.sequences.shooting import filled, first_states, shoot
from dynamicblocks.sequences.with_integral import with_integral

__all__ = [
    "Equation",
    "Forecast",
    "LatentODE",
    "MLPField",
    "NeuralODE",
    "NextValueRNN",
    "PoissonProcess",
    "SeriesModel",
    "Solver",
    "Sum",
    "constants_of",
    "equations",
    "filled",
    "first_states",
    "negative_elbo",
    "shoot",
    "squared_error",
    "with_integral",
]
