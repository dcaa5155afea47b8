"""Methods whose steps can be taken back, so that no state on the way needs to be kept."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.runge_kutta import add_scaled
from dynamicblocks.layers.parts import FIELD


@dataclass(frozen=True)
class Twins:
    """What the reversible Heun method carries.

    Args:
        y: the state.
        other: its second approximation, where the field is evaluated.
        slope: f at ``other``, if one slope serves two steps.
    """

    y: Tensor
    other: Tensor
    slope: Tensor | None = None


@dataclass(frozen=True)
class ReversibleHeun(Integrator):
    """The reversible Heun method, of two approximations that lead each other.

        z1 = 2 y0 - z0 + h f(t0, z0),    y1 = y0 + h (f(t0, z0) + f(t1, z1)) / 2

    Args:
        reuse: whether the slope at the end of a step serves as the one at the beginning of the next, so that a step
            costs one evaluation, not two. Take False where the field jumps between steps (piecewise constant controls):
            there the two differ, and ``unstep``, which knows the field of one step only, would not be the inverse.

    Source: Kidger et al. 2021, arXiv:2105.13493.

    >>> import torch
    >>> heun, stage = ReversibleHeun(), lambda c, y: -y
    >>> there = heun.advance(stage, 0.5, heun.begin(stage, 0.5, torch.tensor(1.0)))
    >>> there.y, heun.unstep(stage, 0.5, there).y
    (tensor(0.6250), tensor(1.))
    """

    reuse: bool = True

    @property
    def name(self) -> str:
        return "reversible_heun"

    @property
    def order(self) -> int:
        return 2

    @property
    def reads(self) -> Reads:
        return ((0.0, FIELD), (1.0, FIELD))

    @property
    def evaluations(self) -> int:
        return 1 if self.reuse else 2

    @property
    def evaluations_to_begin(self) -> int:
        return 1 if self.reuse else 0

    @property
    def shorthand(self) -> str:
        # Bare, the name of a block's method.
        return f"{self.name}(reuse=True)" if self.reuse else self.name

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Twins:
        return Twins(y, y, stage(0.0, y) if self.reuse else None)

    def amend(self, carry: Twins, change: Callable[[Tensor], Tensor]) -> Twins:
        return replace(carry, y=change(carry.y))

    def finish(self, carry: Twins) -> Tensor:
        return carry.y

    def advance(self, stage: Stage, h: Size, carry: Twins) -> Twins:
        before = stage(0.0, carry.other) if carry.slope is None else carry.slope
        other = add_scaled(2 * carry.y - carry.other, [before], [1.0], h)
        after = stage(1.0, other)
        return Twins(add_scaled(carry.y, [before, after], [0.5, 0.5], h), other, after if self.reuse else None)

    def unstep(self, stage: Stage, h: Size, carry: Twins) -> Twins:
        after = stage(1.0, carry.other) if carry.slope is None else carry.slope
        other = add_scaled(2 * carry.y - carry.other, [after], [-1.0], h)
        before = stage(0.0, other)
        return Twins(add_scaled(carry.y, [before, after], [-0.5, -0.5], h), other, before if self.reuse else None)


@dataclass(frozen=True)
class Moving:
    """What the asynchronous leapfrog carries.

    Args:
        y: the state.
        slope: an approximation of its slope.
    """

    y: Tensor
    slope: Tensor


@dataclass(frozen=True)
class AsynchronousLeapfrog(Integrator):
    """The asynchronous leapfrog (MALI) of a state y and its slope v.

        m = y0 + h v0 / 2,    u = f(t0 + h / 2, m),    v1 = 2 u - v0,    y1 = m + h v1 / 2

    It reads the field at the middle of a step only, but for the first slope.

    Source: Mutze 2013; Zhuang et al. 2021, arXiv:2102.04668.

    >>> import torch
    >>> leapfrog, stage = AsynchronousLeapfrog(), lambda c, y: -y
    >>> there = leapfrog.advance(stage, 0.5, leapfrog.begin(stage, 0.5, torch.tensor(1.0)))
    >>> there.y, leapfrog.unstep(stage, 0.5, there).y
    (tensor(0.6250), tensor(1.))
    """

    @property
    def name(self) -> str:
        return "alf"

    @property
    def order(self) -> int:
        return 2

    @property
    def reads(self) -> Reads:
        # The first only where a solve begins.
        return ((0.0, FIELD), (0.5, FIELD))

    @property
    def evaluations(self) -> int:
        return 1

    @property
    def evaluations_to_begin(self) -> int:
        return 1

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Moving:
        return Moving(y, stage(0.0, y))

    def amend(self, carry: Moving, change: Callable[[Tensor], Tensor]) -> Moving:
        return replace(carry, y=change(carry.y))

    def finish(self, carry: Moving) -> Tensor:
        return carry.y

    def advance(self, stage: Stage, h: Size, carry: Moving) -> Moving:
        middle = add_scaled(carry.y, [carry.slope], [0.5], h)
        after = 2 * stage(0.5, middle) - carry.slope
        return Moving(add_scaled(middle, [after], [0.5], h), after)

    def unstep(self, stage: Stage, h: Size, carry: Moving) -> Moving:
        middle = add_scaled(carry.y, [carry.slope], [-0.5], h)
        before = 2 * stage(0.5, middle) - carry.slope
        return Moving(add_scaled(middle, [before], [-0.5], h), before)
