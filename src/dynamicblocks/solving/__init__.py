"""Everything that makes steps and reads a solution: problems, loops over grids and with chosen steps, their outputs."""

from dynamicblocks.solving.failures import (
    NotConvergedError,
    NotFiniteStateError,
    SolveError,
    StepLimitError,
    StepUnderflowError,
)
from dynamicblocks.solving.solution import Solution, Statistics
from dynamicblocks.solving.status import Status

__all__ = [
    "NotConvergedError",
    "NotFiniteStateError",
    "Solution",
    "SolveError",
    "Statistics",
    "Status",
    "StepLimitError",
    "StepUnderflowError",
]
