"""How far a solve came."""

from enum import IntEnum


class Status(IntEnum):
    """How far a solve, or a sample, has come; all but ``DONE`` and ``EVENT`` are failures."""

    RUNNING = 0
    DONE = 1
    STEP_LIMIT = 2
    UNDERFLOW = 3
    NOT_FINITE = 4
    EVENT = 5
    NOT_CONVERGED = 6
    """An equation of an implicit method was not solved."""
