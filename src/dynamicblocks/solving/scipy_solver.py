"""SciPy's solvers, for comparison; without gradients."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from dynamicblocks.errors import SolverError
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.refusal import without_gradient
from dynamicblocks.solving.scheme import Scheme

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
        return Outputs(list(solution.unbind()))


def _solved(problem: Problem, y0: Tensor, scheme: Scheme) -> tuple[Tensor, bool]:
    """The states, and whether a gradient of them could be asked for."""
    shape, options = y0.shape, scheme.options
    lost = torch.is_grad_enabled() and (y0.requires_grad or problem.t.requires_grad)

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        nonlocal lost
        (time,) = problem.clock.tensors([t], shifted=False)
        found = problem.field(time, torch.as_tensor(y).to(y0.device, y0.dtype).reshape(shape))
        lost = lost or found.requires_grad
        return found.detach().reshape(-1).cpu().numpy()

    limits = {"min_step": options.get("min_step", 0), "max_step": options.get("max_step", np.inf)}
    name = options.get("solver", "LSODA")
    if name != "LSODA":  # the only one that knows a least step
        del limits["min_step"]
    solution = solve_ivp(
        slope,
        (problem.times[0], problem.times[-1]),
        y0.detach().reshape(-1).cpu().numpy(),
        t_eval=problem.times,
        method=name,
        rtol=_number(scheme.rtol),
        atol=_number(scheme.atol),
        **limits,
    )
    if not solution.success:
        raise SolverError(f"SciPy's {name} stopped: {solution.message}")
    return torch.as_tensor(solution.y.T).to(y0.device, y0.dtype).reshape(-1, *shape), lost


def _number(tolerance: Any) -> Any:
    return tolerance.detach().cpu().numpy() if isinstance(tolerance, Tensor) else tolerance
