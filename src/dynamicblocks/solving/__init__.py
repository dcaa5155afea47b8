"""Everything that makes steps and reads a solution: problems, loops over grids and with chosen steps, their outputs."""

from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Hooks, Step, Stops
from dynamicblocks.solving.batched_loop import Status
from dynamicblocks.solving.batched_solve import SampleProblem, solve_batched
from dynamicblocks.solving.compiled_solve import solve_compiled
from dynamicblocks.solving.control import StepControl
from dynamicblocks.solving.dense import Dense
from dynamicblocks.solving.events import check_event_times, combined, event_found, rerouted
from dynamicblocks.solving.failures import (
    Circumstances,
    NotFiniteStateError,
    SolveError,
    StepLimitError,
    StepUnderflowError,
    explained,
)
from dynamicblocks.solving.field import Clock, Field, HostClock, Tally
from dynamicblocks.solving.grid_loop import GridCourse, ProblemOnGrid, SteppedField
from dynamicblocks.solving.nesting import ONE_TENSOR, Nesting, leaves, mixed_norm, rebuilt, tensors_in
from dynamicblocks.solving.outputs import Event, Outputs, StepLike, collect
from dynamicblocks.solving.problem import Problem, make_problem
from dynamicblocks.solving.recording import Action, Recording
from dynamicblocks.solving.scheme import MAX_STEPS, Scheme
from dynamicblocks.solving.scipy_solver import ScipyCourse
from dynamicblocks.solving.solution import Solution, Statistics, status_of

__all__ = [
    "MAX_STEPS",
    "ONE_TENSOR",
    "Action",
    "AdaptiveCourse",
    "AdaptiveLoop",
    "Circumstances",
    "Clock",
    "Dense",
    "Event",
    "Field",
    "GridCourse",
    "Hooks",
    "HostClock",
    "Nesting",
    "NotFiniteStateError",
    "Outputs",
    "Problem",
    "ProblemOnGrid",
    "Recording",
    "SampleProblem",
    "Scheme",
    "ScipyCourse",
    "Solution",
    "SolveError",
    "Statistics",
    "Status",
    "Step",
    "StepControl",
    "StepLike",
    "StepLimitError",
    "StepUnderflowError",
    "SteppedField",
    "Stops",
    "Tally",
    "check_event_times",
    "collect",
    "combined",
    "event_found",
    "explained",
    "leaves",
    "make_problem",
    "mixed_norm",
    "rebuilt",
    "rerouted",
    "solve_batched",
    "solve_compiled",
    "status_of",
    "tensors_in",
]
