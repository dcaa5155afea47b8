"""Adams methods on grids of any steps."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.integrator import FieldStage, Integrator, Reads, Size, Stage
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.tableaus import TABLEAUS
from dynamicblocks.integrators.unsolved import Unsolved, tell, where_not_finite
from dynamicblocks.times import check_count

START = RungeKutta(next(tableau for tableau in TABLEAUS if tableau.name == "rk4"))
_LARGEST_ORDER = 12
# Largest orders after a start by rk4, which leaves an error of order h^5 whatever follows: higher ones have no higher
# order of convergence, and blow up. On uniform grids the explicit formula is stable for h lambda > -0.30 at order 4,
# -0.16 at order 5 and -0.0017 at order 12. The implicit one is for h lambda > -0.49 at order 8, where its iteration is
# slow and warns, but at order 12 for -0.07 only, where nothing warns.
_LARGEST_EXPLICIT, _LARGEST_IMPLICIT = 5, 8
# Errors of the slopes, of rounding at least, are multiplied by the sum of the weights: 7 at order 4, 1150 at order 12
# on uniform grids, but a million at order 4 where steps grow by ten. The order falls where it would be larger.
_LARGEST_SUM = 2000.0


def adams_weights(nodes: Sequence[Size]) -> list[Size]:
    """Weights w with sum_i w_i p(x_i) = int_0^1 p for polynomials of degree below the number of nodes.

    Args:
        nodes: the x_i in units of the step, all different: 0 for the newest slope, then negative ones; 1, where a slope
            at the end of the step is used, comes last.

    >>> adams_weights([0.0, -1.0])
    [1.5, -0.5]
    >>> adams_weights([0.0, 1.0])
    [0.5, 0.5]
    """
    # Newton's form, p = sum_j p[x_0, ..., x_j] pi_j. The coefficients of pi_j are positive, and all contributions to
    # one weight have the same sign, so nothing cancels.
    weights: list[Size] = []
    coefficients: list[Size] = [1.0]  # of pi_j(x) = prod_{i < j} (x - x_i), ascending
    products: list[Size] = []  # prod_{i <= j, i != m} (x_m - x_i) for each m <= j
    for count, node in enumerate(nodes):
        integral: Size = 0.0
        for power, coefficient in enumerate(coefficients):
            integral = integral + coefficient / (power + 1)
        own: Size = 1.0
        for m, other in enumerate(nodes[:count]):
            products[m] = products[m] * (other - node)
            own = own * (node - other)
        products.append(own)
        weights.append(0.0)
        weights = [weight + integral / product for weight, product in zip(weights, products, strict=True)]
        pairs = zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)
        coefficients = [low - node * high for low, high in pairs]
    return weights


@dataclass(frozen=True)
class History:
    """What an Adams method carries.

    Args:
        y: the state.
        slopes: those at the beginnings of the last steps, the newest first; zeros where there are none yet.
        behind: how far each lies behind the state.
        known: how many there are.
        given: whether the first of them were given, so that no start is needed.
    """

    y: Tensor
    slopes: tuple[Tensor, ...]
    behind: tuple[Size, ...]
    known: int = 0
    given: bool = False


@dataclass(frozen=True)
class Adams(Integrator):
    """The Adams methods: the integral of the polynomial through the last slopes, at their real distances.

        y(t + h) = y + h sum_i w_i f_{n - i}                       explicit (Adams-Bashforth)
        y(t + h) = y + h (w f(t + h, y(t + h)) + sum_i w_i f_{n - i})    implicit (Adams-Moulton)

    The first steps are those of rk4 (the 3/8 rule), until there are slopes for order four; then the order grows with
    the number of slopes, to five (explicit) or eight (implicit) at most: beyond, stability is lost and no order gained.
    The implicit equation is solved by iteration from the explicit formula's state.

    Args:
        implicit: which.
        max_order: the largest order, 1 to 12. Below four all steps are rk4's. Only where past slopes are given to
            :meth:`begin_with` is every order used.
        max_iters: most iterations of the implicit equation; where they are not enough, the solve is told, and decides.
        rtol, atol: the iteration stops where no entry changes the increment of the state by more than
            ``atol + rtol |increment|``, or than rounding does.

    Raises:
        ConfigurationError: an order that is not between 1 and 12.

    Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, III.1 and III.5.

    >>> Adams(implicit=False, max_order=4).order
    4
    """

    implicit: bool
    max_order: int = _LARGEST_ORDER
    max_iters: int = 4
    rtol: float | Tensor = 1e-7
    atol: float | Tensor = 1e-9

    irreversible: ClassVar[str] = "for each step lets go of the oldest slope that the one before was made of"

    def __post_init__(self) -> None:
        if check_count(self.max_order, "max_order") > _LARGEST_ORDER:
            raise ConfigurationError(f"max_order must be at most {_LARGEST_ORDER}, got {self.max_order}")
        check_count(self.max_iters, "max_iters")
        if self.max_order < START.order:
            warnings.warn("max_order is below 4, so the solver reduces to `rk4`.", stacklevel=3)

    @property
    def name(self) -> str:
        return "implicit_adams" if self.implicit else "explicit_adams"

    @property
    def order(self) -> int:
        return min(max(self.max_order, START.order), START.order + 1)

    @property
    def reads(self) -> Reads:
        return START.reads

    @property
    def fixed_cost(self) -> bool:
        return False

    @property
    def solves_equations(self) -> bool:
        return self.implicit

    @property
    def shorthand(self) -> str:
        usual = {each.name: each.default for each in fields(self)}
        chosen = [
            f"{name}={getattr(self, name)!r}"
            for name in ("max_order", "max_iters", "rtol", "atol")
            if getattr(self, name) is not usual[name] and getattr(self, name) != usual[name]
        ]
        return f"{self.name}({', '.join(chosen)})" if chosen else self.name

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in one step, at most, once the order is reached."""
        if self.max_order < START.order:
            return START.evaluations
        return 1 + self.max_iters if self.implicit else 1

    def begin(self, stage: Stage, h: Size, y: Tensor) -> History:
        kept = min(self.max_order, _LARGEST_IMPLICIT if self.implicit else _LARGEST_EXPLICIT)
        return History(y, (torch.zeros_like(y),) * kept, (0.0 * h,) * kept)

    def begin_with(self, y: Tensor, past: Sequence[tuple[float, Tensor]]) -> History:
        """The carry before the first step, with slopes that are known.

        Args:
            y: the state.
            past: slopes before it, each with its distance in time, the newest first. No step is rk4's then, even if
                there are none, and the order is the number of slopes (with those that a step adds), to ``max_order``.
        """
        count = max(self.max_order, len(past))
        missing = count - len(past)
        slopes = (*(slope for _, slope in past), *[torch.zeros_like(y)] * missing)
        return History(y, slopes, (*(far for far, _ in past), *[0.0] * missing), len(past), given=True)

    def restart(self, stage: Stage, h: Size, carry: History) -> History:
        """Slopes from before a jump say nothing of what follows it."""
        return replace(carry, known=0, given=False)

    def amend(self, carry: History, change: Callable[[Tensor], Tensor]) -> History:
        return replace(carry, y=change(carry.y))

    def finish(self, carry: History) -> Tensor:
        return carry.y

    def advance(self, stage: Stage, h: Size, carry: History) -> History:
        y, slope, kept = carry.y, stage(0.0, carry.y), len(carry.slopes)
        all_slopes, all_behind = (slope, *carry.slopes)[:kept], (0.0, *carry.behind)[:kept]
        known = min(carry.known + 1, kept, self.max_order)
        slopes, behind = all_slopes[:known], all_behind[:known]
        # An implicit formula has one slope more, and so has one order more.
        reached = min(len(slopes) + int(self.implicit), self.max_order)
        if not carry.given and reached < START.order:
            y1 = START.advance(FieldStage(lambda c, at: slope if c == 0 else stage(c, at)), h, y)
        else:
            y1 = self._multistep(stage, h, y, slopes, [-(far / h) for far in behind], self_started=not carry.given)
        return History(y1, all_slopes, tuple(far + h for far in all_behind), known, carry.given)

    def _multistep(
        self, stage: Stage, h: Size, y: Tensor, slopes: Sequence[Tensor], nodes: Sequence[Size], *, self_started: bool
    ) -> Tensor:
        """The state after a step with slopes at ``nodes``."""
        order = self.max_order
        if self_started:
            order = min(order, _LARGEST_IMPLICIT if self.implicit else _LARGEST_EXPLICIT)
        most = order - 1 if self.implicit else order
        weights = moderate_weights(nodes[: max(1, most)])
        guess = add_slopes(y, slopes[: len(weights)], weights, h)
        if not self.implicit:
            return guess
        count = min(len(weights), most)
        *known, last = adams_weights([*nodes[:count], 1.0])
        start = add_slopes(y, slopes[:count], known, h)
        for _ in range(self.max_iters):
            before, guess = guess, add_slopes(start, [stage(1.0, guess)], [last], h)
            if self._settled(y, before, guess):
                return guess
        tell(stage, self._unsolved(y, before, guess))
        return guess

    def _unsolved(self, y: Tensor, before: Tensor, after: Tensor) -> Unsolved:
        with torch.no_grad():
            size = torch.maximum((before - y).abs().amax(), (after - y).abs().amax())
            share = ((after - before).abs().amax() / size).item()
        return Unsolved(self.name, share, where_not_finite(after))

    def _settled(self, y: Tensor, before: Tensor, after: Tensor) -> bool:
        with torch.no_grad():
            largest = torch.maximum((before - y).abs(), (after - y).abs())
            # Below rounding errors of the state nothing settles.
            least = 2 * torch.finfo(y.dtype).eps * after.abs()
            return bool(((after - before).abs() <= self.atol + self.rtol * largest + least).all())


def moderate_weights(nodes: Sequence[Size]) -> list[Size]:
    """The weights for as many of the nodes as keep their sum moderate."""
    for count in range(len(nodes), 1, -1):
        weights = adams_weights(nodes[:count])
        total = sum(abs(weight.detach()) if isinstance(weight, Tensor) else abs(weight) for weight in weights)
        if float(total.max() if isinstance(total, Tensor) else total) <= _LARGEST_SUM:
            return weights
    return [1.0]


def add_slopes(y: Tensor, slopes: Sequence[Tensor], weights: Sequence[Size], h: Size) -> Tensor:
    """Y + h sum_i w_i k_i, where the weights have gradients if the steps have."""
    for slope, weight in zip(slopes, weights, strict=True):
        factor = h * weight
        y = y + factor * slope if isinstance(factor, Tensor) else torch.add(y, slope, alpha=factor)
    return y
