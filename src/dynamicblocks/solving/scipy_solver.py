"""SciPy's solvers, for comparison; without gradients."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.extras import needed_for
from dynamicblocks.integrators.unsolved import where_not_finite
from dynamicblocks.solving.failures import (
    Circumstances,
    NotFiniteStateError,
    SolveError,
    StepLimitError,
    StepUnderflowError,
)
from dynamicblocks.solving.options import make_tolerance, step_limit
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.refusal import without_gradient
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.transforms import refuse_forward_mode

SOLVERS = ("BDF", "DOP853", "LSODA", "RK23", "RK45", "Radau")
NO_GRADIENT = (
    "scipy_solver solves with SciPy, through which no gradient flows; use odeint_adjoint, or another method, as dopri5"
)


@dataclass(frozen=True)
class ScipyCourse:
    """A problem that SciPy solves, as a whole."""

    problem: Problem
    scheme: Scheme

    @property
    def name(self) -> str:
        """Of the method."""
        return "scipy_solver"

    @property
    def inputs(self) -> tuple[Tensor | None, Tensor | None]:
        """The times of output, and no grid."""
        return self.problem.t, None

    def moving(self, y0: Tensor, t: Tensor | None, grid: Tensor | None) -> "ScipyCourse":
        """The same from another state, with times of these values."""
        assert t is not None
        return replace(self, problem=self.problem.moved(y0, t))

    def follow(self, y: Tensor) -> Outputs:
        """The states at all times of the problem."""
        if len(self.problem.times) == 1:
            return Outputs([y])
        solution, lost = _solved(self.problem, y, self.scheme)
        if lost:
            (solution,) = without_gradient([solution], solution, NO_GRADIENT)  # type: ignore[assignment]
        return Outputs(solution)


def _solved(problem: Problem, y0: Tensor, scheme: Scheme) -> tuple[Tensor, bool]:
    """The states at all times, shape (T, *state), and whether a gradient of them could be asked for."""
    right_hand_side = _Slope(problem, y0, step_limit(scheme.options))
    name, times, tally = scheme.options.get("solver", "LSODA"), problem.times, problem.field.tally
    blocks, count = [_numbers(y0)[None]], 1
    try:
        lost = where_not_finite(y0)
        if lost:
            raise NotFiniteStateError(
                f"non-finite values in the state at t = {times[0]:.9g}: {lost}", _circumstances(problem, times[0])
            )
        solver = _solver(name, right_hand_side, blocks[0][0], scheme)
        while solver.status == "running":
            why = _stepped(name, solver, right_hand_side)
            # LSODA goes on with a state that is not finite.
            if solver.status == "failed" or not np.isfinite(solver.y).all():
                raise _failure(name, solver, problem, why)
            tally.accepted += 1
            begin = count
            while count < len(times) and (times[count] - solver.t) * problem.direction <= 0:
                count += 1
            if count > begin:
                blocks.append(solver.dense_output()(np.array(times[begin:count])).T)
                right_hand_side.since_output = 0
    except SolveError as error:
        error.circumstances.times, error.circumstances.states = times[:count], list(_states(blocks, y0))
        raise
    return _states(blocks, y0), right_hand_side.lost


def _states(blocks: list[np.ndarray], like: Tensor) -> Tensor:
    return torch.as_tensor(np.concatenate(blocks)).to(like.device, like.dtype).reshape(-1, *like.shape)


class _Slope:
    """The field as SciPy calls it; its solvers bound no steps, so evaluations are counted here.

    Args:
        problem: has the field.
        y0: a state of the form that the field is given.
        most: evaluations between two times of output.
    """

    def __init__(self, problem: Problem, y0: Tensor, most: int) -> None:
        self.problem, self._like, self._most = problem, y0, most
        self.since_output = 0
        self.error: Exception | None = None
        refuse_forward_mode("scipy_solver")
        # Whether a gradient could be asked for, of the initial state, the times or what the field reads.
        self.lost = torch.is_grad_enabled() and (y0.requires_grad or problem.t.requires_grad)

    def __call__(self, t: float, y: np.ndarray) -> np.ndarray:
        problem, like = self.problem, self._like
        try:
            if self.since_output == self._most:
                raise StepLimitError(
                    f"max_num_steps exceeded: SciPy evaluated the field {self._most} times before the next time of "
                    f"output and stands near t = {t:.9g}. Allow more evaluations (it bounds neither them nor steps), "
                    "loosen the tolerances, or take another solver: BDF, Radau or LSODA where the problem is stiff",
                    _circumstances(problem, t),
                )
            self.since_output += 1
            (time,) = problem.clock.tensors([float(t)], shifted=False)
            slope = problem.field(time, torch.as_tensor(y).to(like.device, like.dtype).reshape(like.shape))
            self.lost = self.lost or slope.requires_grad
            return _numbers(slope)
        except Exception as error:
            self.error = error
            raise


def _solver(name: str, slope: _Slope, y0: np.ndarray, scheme: Scheme) -> Any:
    """SciPy's solver at the first time, or an error that says what it cannot use."""
    if name not in SOLVERS:
        raise unknown_name("solver of SciPy (option solver)", str(name), SOLVERS)
    with needed_for("the method 'scipy_solver'"):
        from scipy import integrate  # when it is needed: it takes a quarter as long to import as torch
    options, problem = scheme.options, slope.problem
    tolerance = make_tolerance(problem, scheme.rtol, scheme.atol, None)
    limits = {"min_step": options.get("min_step", 0), "max_step": options.get("max_step", np.inf)}
    if name != "LSODA":  # the only one that knows a least step
        del limits["min_step"]
    try:
        return getattr(integrate, name)(
            slope,
            problem.times[0],
            y0,
            problem.times[-1],
            rtol=_flat(tolerance.rtol, problem.y0),
            atol=_flat(tolerance.atol, problem.y0),
            **limits,
        )
    except (ValueError, TypeError) as error:
        if error is slope.error:
            raise
        raise ConfigurationError(f"SciPy's {name} cannot solve this problem: {error}") from error


def _stepped(name: str, solver: Any, slope: _Slope) -> str | None:
    """Take a step; what SciPy says where it found none."""
    try:
        why: str | None = solver.step()
    except (ValueError, FloatingPointError, ZeroDivisionError, np.linalg.LinAlgError) as error:
        if error is slope.error:
            raise
        solver.status, why = "failed", f"{error}."
    return why


def _failure(name: str, solver: Any, problem: Problem, why: str | None) -> SolveError:
    """The error for a step that SciPy did not find."""
    where = _circumstances(problem, solver.t)
    for what, values in (("the state", solver.y), ("the slope func(t, y)", solver.fun(solver.t, solver.y))):
        if not np.isfinite(values).all():
            return NotFiniteStateError(
                f"SciPy's {name} stopped: non-finite values in {what} at t = {solver.t:.9g}", where
            )
    return StepUnderflowError(
        f"SciPy's {name} stopped at t = {solver.t:.9g}: {why} The field may be singular or jump there, or the "
        "tolerances are below what double precision can show",
        where,
    )


def _circumstances(problem: Problem, t: float) -> Circumstances:
    return Circumstances(float(t), math.nan, replace(problem.field.tally))


def _numbers(y: Tensor) -> np.ndarray:
    """The entries of a state in double precision, in which SciPy counts."""
    wide = torch.complex128 if y.is_complex() else torch.float64
    return y.detach().reshape(-1).cpu().to(wide).numpy()


def _flat(tolerance: float | Tensor, like: Tensor) -> Any:
    """A tolerance for each entry of a flat state, or one for all."""
    return (
        torch.broadcast_to(tolerance, like.shape).reshape(-1).numpy(force=True)
        if isinstance(tolerance, Tensor)
        else tolerance
    )
