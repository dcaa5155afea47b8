"""Why a solve ended early. The errors are also AssertionErrors, which callers of torchdiffeq may expect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynamicblocks.errors import SolverError
from dynamicblocks.integrators.unsolved import StageError, where_not_finite
from dynamicblocks.solving.field import Tally
from dynamicblocks.solving.status import Status
from dynamicblocks.solving.summary import described


@dataclass(repr=False)
class Circumstances:
    """Where a solve stood when it failed.

    Args:
        t: the time reached.
        h: the step that was to follow.
        tally: what it had cost.
        times, states: the part of the output that was solved.
    """

    t: float
    h: float
    tally: Tally
    times: Sequence[float] = field(default_factory=list)
    states: Sequence[Tensor] = field(default_factory=list)

    def __repr__(self) -> str:
        """One line, whatever the size of the states."""
        solved = f"{len(self.states)} states of {described(self.states[0])}" if len(self.states) else "no states"
        return f"{type(self).__name__}(t={self.t:.9g}, h={self.h:.3g}, {self.tally}, {solved} solved)"


class SolveError(SolverError, AssertionError):
    """A solve that ended before its last time; ``circumstances`` holds where, and what was solved till then."""

    status: ClassVar[Status] = Status.RUNNING

    def __init__(self, message: str, circumstances: Circumstances) -> None:
        super().__init__(message)
        self.circumstances = circumstances


class StepLimitError(SolveError):
    """More steps than allowed."""

    status = Status.STEP_LIMIT


class StepUnderflowError(SolveError):
    """A step too short to change the time."""

    status = Status.UNDERFLOW


class NotFiniteStateError(SolveError):
    """A state or slope that is NaN or infinite."""

    status = Status.NOT_FINITE


class NotConvergedError(SolveError):
    """A step of an implicit method whose equations were not solved."""

    status = Status.NOT_CONVERGED


def unsolved_step(error: StageError, circumstances: Circumstances) -> SolveError:
    """The failure of a solve whose next step could not be made."""
    kind = NotConvergedError if error.left.finite else NotFiniteStateError
    return kind(f"in the step from t = {circumstances.t:.9g} of size {circumstances.h:.3g}: {error}", circumstances)


def worst_entry(ratio: Tensor) -> str:
    """The entry with the largest error, in words."""
    place = int(ratio.abs().nan_to_num(nan=torch.inf).argmax())
    index = torch.unravel_index(torch.tensor(place), ratio.shape)
    return f"entry {[int(each) for each in index]}, {ratio.flatten()[place].abs().item():.3g} times the tolerance"


def explained(error: SolveError, y0: Tensor, func: object) -> SolveError:
    """The error, with whether the initial state or the weights of ``func`` were not finite from the start."""
    causes = [] if _finite(y0) else ["y0 is not finite itself"]
    if isinstance(func, nn.Module):
        named = [*func.named_parameters(), *func.named_buffers()]
        wrong = [name for name, tensor in named if not _finite(tensor)]
        if wrong:
            causes.append(
                f"{len(wrong)} of {len(named)} parameters and buffers of func are not finite, first {wrong[0]!r}"
            )
        elif not causes:
            causes.append("y0 and the parameters of func are finite")
    elif not causes:
        causes.append("y0 is finite")
    return type(error)(f"{error} ({'; '.join(causes)}).", error.circumstances)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def check_states(times: Sequence[float], states: Sequence[Tensor], tally: Tally) -> None:
    """Raise a NotFiniteStateError for states that are not finite, as steps without an error pass them on.

    One value is read from the device for each time, all at once.
    """
    if torch.compiler.is_compiling():
        return
    with torch.no_grad():
        finite = torch.isfinite(torch.stack([state.detach() for state in states]))
        told: list[bool] = finite.reshape(len(states), states[0].numel()).all(1).tolist()
    if all(told):
        return
    n = told.index(False)
    since = f", and were finite at t = {times[n - 1]:.9g}" if n else ""
    raise NotFiniteStateError(
        f"non-finite values in the state at t = {times[n]:.9g}{since}: {where_not_finite(states[n])}",
        Circumstances(times[n], math.nan, replace(tally), times[:n], states[:n]),
    )
