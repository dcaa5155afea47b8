"""Adaptive Runge-Kutta methods, and single steps of Kutta's."""

from typing import Any

from torch import Tensor

from dynamicblocks.torchdiffeq._impl.fixed_grid import RK4
from dynamicblocks.torchdiffeq._impl.solvers import AdaptiveStepsizeEventODESolver, Func


class RKAdaptiveStepsizeODESolver(AdaptiveStepsizeEventODESolver):
    """A method with steps as long as its tolerance allows."""

    order: int


def rk4_alt_step_func(
    func: Func, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor, f0: Tensor | None = None, perturb: bool = False
) -> Tensor:
    """The change of the state in a step of the 3/8 rule; ``f0`` is the slope at its begin, if it is known."""

    def known(t: Tensor, y: Tensor, **side: Any) -> Tensor:
        return f0 if f0 is not None and y is y0 else func(t, y, **side)

    return RK4(known, y0, perturb=perturb)._step_func(known, t0, dt, t1, y0)[0]
