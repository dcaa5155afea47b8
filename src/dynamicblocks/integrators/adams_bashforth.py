"""Adams-Bashforth methods of one order, on grids of any steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.adams import adams_weights, add_slopes, moderate_weights
from dynamicblocks.integrators.integrator import FieldStage, Integrator, Reads, Size, Stage
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.tableaus import TABLEAUS

_TABLEAUS = {tableau.name: tableau for tableau in TABLEAUS}
# Of one order less: a few steps have an error of order h^p altogether.
_STARTS = {order: RungeKutta(_TABLEAUS[name]) for order, name in ((2, "euler"), (3, "midpoint"), (4, "kutta3"))}


@dataclass(frozen=True)
class PastSlopes:
    """What an Adams-Bashforth method carries.

    Args:
        y: the state.
        slopes: at the beginnings of the last steps, the newest first; zeros where there are none yet.
        behind: how far each lies behind the state.
        known: how many there are.
    """

    y: Tensor
    slopes: tuple[Tensor, ...]
    behind: tuple[Size, ...]
    known: int = 0


@dataclass(frozen=True)
class AdamsBashforth(Integrator):
    """The Adams-Bashforth method of an order p from 2 to 4: one evaluation a step, steps of any size.

        y(t + h) = y + h sum_i w_i f_{n - i},    i = 0, ..., p - 1

    The weights integrate the polynomial through the last p slopes, at their real distances. The first p - 1 steps are
    those of an explicit Runge-Kutta method of order p - 1 (Euler's, the midpoint method, Kutta's), and so are as many
    after each knot at which theta jumps, or bends so sharply that the order would fall: a polynomial through slopes
    from both sides is none of the field. Where every step begins at such a knot, there are no others.

    ``explicit_adams`` is another method of the family: it starts with rk4, has order four or five, and serves solves as
    torchdiffeq's of that name does. This one has the order that it is given from a start that costs little, which is
    what a network of a few steps wants.

    Args:
        order: 2, 3 or 4. On equal steps they are stable for h lambda > -1, -0.54 and -0.3.

    Raises:
        ConfigurationError: another order.

    Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, III.1 and III.5.

    >>> AdamsBashforth(3).shorthand
    'adams_bashforth(3)'
    """

    order: int = 2

    irreversible: ClassVar[str] = "for each step lets go of the oldest slope that the one before was made of"

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or isinstance(self.order, bool) or self.order not in _STARTS:
            raise ConfigurationError(f"the order of adams_bashforth must be 2, 3 or 4, got {self.order!r}")

    @property
    def name(self) -> str:
        return "adams_bashforth"

    @property
    def shorthand(self) -> str:
        return self.name if self.order == 2 else f"{self.name}({self.order})"

    @property
    def reads(self) -> Reads:
        return _STARTS[self.order].reads

    @property
    def evaluations(self) -> int:
        return 1

    @property
    def restart_derivatives(self) -> int:  # type: ignore[override]
        """A step across a jump of the d-th derivative has an error of order h^(d + 1); there are few of them."""
        return self.order - 2

    @property
    def fixed_cost(self) -> bool:
        """Whether the steps of the start take one evaluation, too."""
        return self.order == 2

    def begin(self, stage: Stage, h: Size, y: Tensor) -> PastSlopes:
        return PastSlopes(y, (torch.zeros_like(y),) * (self.order - 1), (0.0 * h,) * (self.order - 1))

    def restart(self, stage: Stage, h: Size, carry: PastSlopes) -> PastSlopes:
        """Slopes from before a jump say nothing of what follows it."""
        return replace(carry, known=0)

    def finish(self, carry: PastSlopes) -> Tensor:
        return carry.y

    def amend(self, carry: PastSlopes, change: Callable[[Tensor], Tensor]) -> PastSlopes:
        return replace(carry, y=change(carry.y))

    def advance(self, stage: Stage, h: Size, carry: PastSlopes) -> PastSlopes:
        y, slope, kept = carry.y, stage(0.0, carry.y), self.order - 1
        slopes = (slope, *carry.slopes)
        if carry.known < kept:
            after = _STARTS[self.order].advance(FieldStage(lambda c, at: slope if c == 0 else stage(c, at)), h, y)
        else:
            nodes = [0.0, *(-(far / h) for far in carry.behind)]
            # Two weights are moderate whatever the steps are.
            weights = adams_weights(nodes) if kept == 1 else moderate_weights(nodes)
            after = add_slopes(y, slopes[: len(weights)], weights, h)
        behind = (h, *(far + h for far in carry.behind))
        return PastSlopes(after, slopes[:kept], behind[:kept], min(carry.known + 1, kept))
