"""Models of what happens in time: neural ODEs on trajectories, latent ODEs on series, point processes."""

from dynamicblocks.sequences.equation import Equation, constants_of, equations
from dynamicblocks.sequences.fields import MLPField, Sum
from dynamicblocks.sequences.forecast import Forecast, SeriesModel
from dynamicblocks.sequences.neural_ode import NeuralODE
from dynamicblocks.sequences.solver import Solver

__all__ = [
    "Equation",
    "Forecast",
    "MLPField",
    "NeuralODE",
    "SeriesModel",
    "Solver",
    "Sum",
    "constants_of",
    "equations",
]
