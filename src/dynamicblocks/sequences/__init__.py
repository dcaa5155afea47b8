"""Models of what happens in time: neural ODEs on trajectories, latent ODEs on series, point processes."""

from dynamicblocks.sequences.elbo import negative_elbo, squared_error
from dynamicblocks.sequences.equation import Equation, constants_of, equations
from dynamicblocks.sequences.fields import MLPField, Sum
from dynamicblocks.sequences.forecast import Forecast, SeriesModel
from dynamicblocks.sequences.latent_ode import LatentODE
from dynamicblocks.sequences.neural_ode import NeuralODE
from dynamicblocks.sequences.shooting import filled, first_states, shoot
from dynamicblocks.sequences.solver import Solver

__all__ = [
    "Equation",
    "Forecast",
    "LatentODE",
    "MLPField",
    "NeuralODE",
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
]
