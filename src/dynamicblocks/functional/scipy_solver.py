"""SciPy's solvers, for comparison; without gradients."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from dynamicblocks.errors import SolverError
from dynamicblocks.functional.problem import Problem


def at_times(problem: Problem, rtol: Any, atol: Any, options: Mapping[str, Any]) -> Tensor:
    """The states at all times of the problem, time first."""
    y0, shape = problem.y0, problem.y0.shape
    if len(problem.times) == 1:
        return y0[None]

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
