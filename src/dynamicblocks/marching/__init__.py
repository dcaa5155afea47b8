"""The loops: over a fixed grid, and with steps as long as the error allows."""

from dynamicblocks.marching.adaptive import AdaptiveMarch, Hooks, Step, Stops
from dynamicblocks.marching.batched import (
    Attempts,
    BatchedMarch,
    Carry,
    News,
    Outputs,
    Record,
    Status,
    march,
    rows_norm,
    start,
)
from dynamicblocks.marching.batched_events import EventWatch
from dynamicblocks.marching.compiled import CompiledLoop
from dynamicblocks.marching.control import StepControl
from dynamicblocks.marching.failures import (
    Circumstances,
    NotFiniteStateError,
    SolveError,
    StepLimitError,
    StepUnderflowError,
)
from dynamicblocks.marching.field import Clock, Field, HostClock, Tally
from dynamicblocks.marching.fixed import CountedField, FixedMarch, SteppedField

__all__ = [
    "AdaptiveMarch",
    "Attempts",
    "BatchedMarch",
    "Carry",
    "Circumstances",
    "Clock",
    "CompiledLoop",
    "CountedField",
    "EventWatch",
    "Field",
    "FixedMarch",
    "Hooks",
    "HostClock",
    "News",
    "NotFiniteStateError",
    "Outputs",
    "Record",
    "SolveError",
    "Status",
    "Step",
    "StepControl",
    "StepLimitError",
    "StepUnderflowError",
    "SteppedField",
    "Stops",
    "Tally",
    "march",
    "rows_norm",
    "start",
]
