"""Everything that makes steps and reads a solution: problems, loops over grids and with chosen steps, their outputs."""

from dynamicblocks.solving.batched_loop import Status
from dynamicblocks.solving.failures import NotFiniteStateError, SolveError, StepLimitError, StepUnderflowError
from dynamicblocks.solving.solution import Solution, Statistics

__all__ = [
    "NotFiniteStateError",
    "Solution",
    "SolveError",
    "Statistics",
    "Status",
    "StepLimitError",
    "StepUnderflowError",
]
