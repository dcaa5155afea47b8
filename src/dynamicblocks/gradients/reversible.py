"""Gradients of a solve by steps that are taken back one by one: memory does not grow with their number."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, SolverError
from dynamicblocks.gradients.buffers import RandomState, Surroundings
from dynamicblocks.gradients.evaluations import Notes, Replayable, Shared
from dynamicblocks.gradients.gradient import Course, Gradient, check_generators, gradients
from dynamicblocks.gradients.graph import Listed
from dynamicblocks.gradients.tape import Replay, Through, taped
from dynamicblocks.integrators import (
    METHODS,
    PAIRS,
    TABLEAUS,
    Adaptive,
    Carry,
    GridMethod,
    Integrator,
    Paired,
    ReversibleHeun,
    ReversibleRungeKutta,
    integrators,
)
from dynamicblocks.solving.grid_loop import GridCourse, ProblemOnGrid
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.recording import Action, Recording
from dynamicblocks.solving.scipy_solver import ScipyCourse

# What makes a method of others reversible, and how it differs from the gradient mode.
WRAPPED = (
    "integrator=\"reversible('rk4')\" makes any explicit Runge-Kutta method one of them (gradient='reversible' is the "
    'backward pass, integrator="reversible(...)" the method)'
)


class DriftError(SolverError):
    """Steps that were taken back did not lead to the state that they came from.

    Args:
        message: says what to do.
        drift: how far from it they led, relative to it.
    """

    def __init__(self, message: str, drift: float) -> None:
        super().__init__(message)
        self.drift = drift


@gradients.register("reversible")
@dataclass(frozen=True)
class Reversible(Gradient):
    """Keep the carry at the end alone; the backward pass takes each step back, and then again with a graph.

    For integrators with ``unstep``. Where the step back evaluates the field where the step itself does, as that of each
    method here, an evaluation is made once for both: a training step takes 4/3 of the evaluations of backpropagation,
    and not 5/3. Statistics move in the forward pass alone, random layers are replayed with the same draws; with
    ``reversible('rk4')``, whose steps see the field at one time twice, they are refused.

    The states that come back differ from those of the first pass by rounding errors. Where the equation contracts,
    which is an expansion back in time, the last digits of the carry alone hold what has decayed, and over many steps
    the states that come back, and the gradients with them, are off by more. See ``max_drift``, and
    :func:`dynamicblocks.analysis.drift`, which measures it.

    Memory does not grow with the number of steps, but for random numbers and for buffers that a layer changes and reads
    (spectral normalisation, not batch normalisation), which are kept for each evaluation, and, of integrators that
    forget at a jump of theta (``restart``), one carry for each jump.

    Args:
        max_drift: the largest relative drift of the initial state that is let pass: the 2-norm of its difference to the
            one that the steps lead back to, over its own. The backward pass then takes the first step back as well, and
            raises a :class:`DriftError` beyond the bound. By default nothing is measured, but with integrators whose
            errors grow in any case: there the bound is the square root of the precision of the state (float32: 3.5e-4,
            float64: 1.5e-8), half of its digits; ``math.inf`` lets all pass.

    Source: Zhuang et al. 2021, arXiv:2102.04668; Kidger et al. 2021, arXiv:2105.13493.
    """

    max_drift: float | None = None

    traced: ClassVar[bool] = False

    def __post_init__(self) -> None:
        bound = self.max_drift
        if bound is not None and not (isinstance(bound, (int, float)) and bound > 0):
            raise ConfigurationError(f"max_drift must be a positive number, or None, got {bound!r}")

    def check(self, layers: Iterable[nn.Module]) -> None:
        check_generators(layers, "reversible")

    def check_integrator(self, integrator: Integrator) -> None:
        if not (isinstance(integrator.embedded, Paired) if isinstance(integrator, Adaptive) else integrator.reversible):
            kind = f"has no unstep, {integrator.irreversible}"
            if isinstance(integrator, Adaptive):
                kind = "chooses its own steps, which cannot be taken back"
            raise ConfigurationError(
                f"gradient='reversible' takes steps back, and {integrator.name} {kind}; integrators with "
                f"an unstep are {', '.join(reversible_integrators())}, and {WRAPPED}. With {integrator.name}, "
                "gradient='checkpoint' needs little memory"
            )

    def check_grid(self, course: GridCourse) -> None:
        if course.projects:
            raise ConfigurationError(
                "gradient='reversible' takes steps back, but the layer ends each step with a projection of the state, "
                "which has no inverse; take a layer without one, or gradient='checkpoint'"
            )
        self._check_slopes(course)

    def check_course(self, course: Course) -> None:
        if isinstance(course, ScipyCourse) or not course.reversible:
            explicit = course.name if course.name in {each.name for each in (*TABLEAUS, *PAIRS)} else "rk4"
            why = f", whose steps cannot, {course.integrator.irreversible}" if isinstance(course, GridCourse) else ""
            raise ConfigurationError(
                f"gradient='reversible' needs a method whose steps can be taken back "
                f"({', '.join(reversible_methods())}), got {course.name}{why}. The method \"reversible('{explicit}')\" "
                "makes those of an explicit Runge-Kutta method such; gradient='checkpoint' needs little memory with any"
            )
        if isinstance(course, GridCourse):
            self._check_slopes(course)

    def _check_slopes(self, course: GridCourse) -> None:
        """Raise a ConfigurationError where a slope serves two steps that see another field."""
        if not (isinstance(course.integrator, ReversibleHeun) and course.integrator.reuse):
            return
        if isinstance(course, ProblemOnGrid) and course.field.perturb:
            raise ConfigurationError(
                "gradient='reversible' cannot take back steps of reversible_heun with perturb=True: a slope would "
                "serve two steps, which see the field at different times. Use alf"
            )
        if any(course.field.jumps(step) for step in range(1, course.steps)):
            raise ConfigurationError(
                "gradient='reversible' cannot take back steps of reversible_heun(reuse=True) where theta(t) jumps: a "
                "slope would serve two steps, which see other weights. Use 'reversible_heun', or 'alf'"
            )

    def run(self, course: Course, y: Tensor) -> Outputs:
        self.check_course(course)
        assert not isinstance(course, ScipyCourse)
        begun = RandomState.now(y)
        found = taped(course, y, LastOne(forgetful_steps(course), self._bound(course, y)), "reversible")
        drawn = found.states[-1].requires_grad and not begun.equals(RandomState.now(y))
        if drawn and _sees_times_twice(course):
            raise ConfigurationError(
                f"the field draws random numbers: gradient='reversible' cannot take back steps of {course.name}, which "
                "evaluates it at one time twice, and in another order on the way back. Use alf, or "
                "gradient='checkpoint'"
            )
        return found

    def _bound(self, course: Course, y: Tensor) -> float | None:
        """The largest drift that is let pass; None where it is not measured."""
        if self.max_drift is None and isinstance(course, GridCourse) and course.integrator.drifts:
            return usual_drift(y.dtype)
        return None if self.max_drift == math.inf else self.max_drift


def usual_drift(dtype: torch.dtype) -> float:
    """The largest drift that is let pass where nobody says which: half of the digits."""
    return float(torch.finfo(dtype).eps ** 0.5)


def _sees_times_twice(course: Course) -> bool:
    """Whether steps evaluate the field at one time twice, there and back."""
    return not isinstance(course, GridCourse) or isinstance(course.integrator, ReversibleRungeKutta)


def reversible_methods() -> list[str]:
    """Names of the methods whose steps can be taken back."""
    known = {name: method for name, method in METHODS.items() if isinstance(method, GridMethod) and not method.open}
    return [name for name, method in known.items() if method.make().reversible]


def reversible_integrators() -> list[str]:
    """Names of the integrators of blocks whose steps can be taken back.

    >>> {'alf', 'reversible_heun'} <= {*reversible_integrators()}
    True
    """
    found = []
    for name in integrators:
        try:
            made = integrators.create(name)
        except (DynamicBlocksError, TypeError):  # it takes arguments
            continue
        found += [name] if made.reversible else []
    return found


def forgetful_steps(course: Replayable) -> frozenset[int]:
    """The steps before which the integrator forgets what led there, so that nothing leads back."""
    if not isinstance(course, GridCourse) or not course.integrator.restarts:
        return frozenset()
    derivatives = course.integrator.restart_derivatives
    return frozenset(step for step in range(1, course.steps) if course.field.jumps(step, derivatives))


Back = Callable[[int, Carry], Carry]
"""(n, the carry after the action n) -> the one before it."""

Measure = Callable[[Carry, Carry], None]
"""Called with a carry that steps were taken back to, and with what it should be."""


@dataclass
class LastOne:
    """Keeps the last carry, from which the others come back, and those from which none comes back.

    Args:
        forgetful: the actions before which the method forgets.
        max_drift: as that of :class:`Reversible`.
    """

    forgetful: frozenset[int] = frozenset()
    max_drift: float | None = None
    places: list[int] = field(default_factory=list)
    carries: list[Carry] = field(default_factory=list)
    by_evaluation: ClassVar[bool] = True

    def keep(self, n: int, carry: Carry) -> None:
        if self.places and self.places[-1] not in self.forgetful:
            self.places.pop()
            self.carries.pop()
        self.places.append(n)
        self.carries.append(carry)

    def earlier(self, replay: Replay) -> Iterator[tuple[int, Carry, Through]]:
        tape = replay.tape
        on_cpu = replay.y0.device.type == "cpu"
        shared = Shared(replay.live, replay.listed, tape.notes, tape.mode, serves=replay.shares, reads=on_cpu)

        def back(n: int, carry: Carry) -> Carry:
            return replay.around(n, partial(_taken_back, shared, n, tape.actions[n], carry))

        def measure(found: Carry, exact: Carry) -> None:
            check_drift(relative_drift(replay.course, found, exact), self.max_drift)

        measured = None if self.max_drift is None else measure
        for n, carry in self.way_back(replay.y0, replay.carries, back, measured):
            yield n, carry, partial(shared.giving, n)
        shared.check()

    def way_back(
        self, y0: Tensor, carries: Iterable[Carry], back: Back, measure: Measure | None
    ) -> Iterator[tuple[int, Carry]]:
        """The carry before each action, the last one first.

        Args:
            y0: the one before the first.
            carries: that were kept.
            back: takes an action back.
            measure: compares, if it is given, what actions were taken back to with what is known.
        """
        known = dict(zip(self.places, carries, strict=True))
        carry = known[self.places[-1]]
        known[0] = y0
        for n in range(self.places[-1] - 1, -1, -1):
            if n not in known:
                carry = back(n, carry)
            else:
                if measure is not None:
                    measure(back(n, carry), known[n])
                carry = known[n]
            yield n, carry


def _taken_back(shared: Shared, n: int, action: Action, carry: Carry, course: Replayable) -> Carry:
    with torch.no_grad():
        return shared.keeping(n, course).back(n, action, carry)


def relative_drift(course: Replayable, found: Carry, exact: Carry) -> float:
    """The 2-norm of the difference of two states over that of the second."""
    one, two = (
        carry if isinstance(carry, Tensor) else course.state(carry) if isinstance(course, GridCourse) else carry[0]
        for carry in (found, exact)
    )
    off, size = (float(torch.linalg.vector_norm(each)) for each in (one - two, two))
    return off / size if size else math.inf if off else 0.0


def check_drift(drift: float, bound: float | None) -> None:
    """Raise a DriftError beyond the bound; what is not a number is beyond any."""
    if bound is not None and not drift <= bound:
        raise DriftError(
            f"the steps taken back lead to a state that is off by {drift:.3g} of the one that they came from, more "
            f"than max_drift={bound:g}: the gradients would be those of other states. Where an equation contracts, "
            "the last digits alone hold what has decayed, and the way back multiplies their rounding errors; that of "
            "momentum does so in any case (momentum_steps says how many steps a drift allows). Take fewer or shorter "
            "steps, float64, or gradient='checkpoint', which keeps states",
            drift,
        )


@torch.no_grad()
def drift(course: GridCourse, y: Tensor) -> float:
    """How far from a state its steps, taken there and back, lead; nothing that the field holds changes.

    Where the method forgets at jumps, the largest drift of the states known there.
    """
    begun = Surroundings(course.modules, y).now()
    found = [0.0]
    with begun.random.again():
        own = course.apart(begun.buffers())
        notes, keeper = Notes(Surroundings(own.modules, y), looks=False), LastOne(forgetful_steps(course))
        recording = Recording(lambda: None, keeper.keep)
        notes.of(own).record(y, recording)
        shared = Shared(own, Listed([]), notes.end(), "reversible", serves=False)

        def back(n: int, carry: Carry) -> Carry:
            return _taken_back(shared, n, recording.actions[n], carry, own)

        def measure(there: Carry, exact: Carry) -> None:
            found.append(relative_drift(own, there, exact))

        for _ in keeper.way_back(y, keeper.carries, back, measure):
            pass
    return math.nan if any(math.isnan(each) for each in found) else max(found)
