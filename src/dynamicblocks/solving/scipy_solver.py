"""SciPy's solvers, for comparison; without gradients."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from dynamicblocks.errors import SolverError
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.problem import Problem

if TYPE_CHECKING:
    from dynamicblocks.solving.scheme import Scheme


@dataclass(frozen=True)
class ScipyCourse:
    """A problem that SciPy solves, as a whole."""

    problem: Problem
    rtol: Any
    atol: Any
    options: Mapping[str, Any]
    scheme: "Scheme | None" = None

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
        return Outputs(list(_solved(self.problem, y, self.rtol, self.atol, self.options).unbind()))


def _solved(problem: Problem, y0: Tensor, rtol: Any, atol: Any, options: Mapping[str, Any]) -> Tensor:
    shape = y0.shape

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            (time,) = problem.clock.tensors([t], shifted=False)
            found = problem.field(time, torch.as_tensor(y).to(y0.device, y0.dtype).reshape(shape))
        return found.reshape(-1).cpu().numpy()

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
        rtol=_number(rtol),
        atol=_number(atol),
        **limits,
    )
    if not solution.success:
        raise SolverError(f"SciPy's {name} stopped: {solution.message}")
    return torch.as_tensor(solution.y.T).to(y0.device, y0.dtype).reshape(-1, *shape)


def _number(tolerance: Any) -> Any:
    return tolerance.detach().cpu().numpy() if isinstance(tolerance, Tensor) else tolerance
