"""Evaluations of the field one by one: what each of them drew and read, and those of a way back that serve again."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.buffers import Snapshot, Surroundings
from dynamicblocks.gradients.carries import as_leaf
from dynamicblocks.gradients.graph import Listed, described, separate_gradients, unlisted_leaves
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.grid_loop import GridCourse

Replayable = GridCourse | AdaptiveCourse
"""Courses whose actions can be taken again."""

Key = tuple[str, float]
"""A part, and the fraction of the step at which it is evaluated."""

Arguments = tuple[Any, ...]
"""The state, and what else the part takes."""

# A state is that of an evaluation made before if it differs by so many units in the last place of its largest entry.
ROUNDING = 1000


class Through:
    """A stage whose evaluations somebody else makes: ``evaluate(stage, key, arguments)``."""

    def __init__(self, stage: Any, evaluate: Callable[[Any, Key, Arguments], Tensor]) -> None:
        self._stage, self._evaluate = stage, evaluate

    def __call__(self, c: float, y: Tensor) -> Tensor:
        return self._evaluate(self._stage, (FIELD, c), (y,))

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        """As that of a stage."""
        return self._evaluate(self._stage, (name, c), (y, *extra))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


def evaluated(stage: Any, key: Key, arguments: Arguments) -> Tensor:
    """A part of a stage."""
    name, c = key
    value: Tensor = stage(c, *arguments) if name == FIELD and len(arguments) == 1 else stage.part(name, c, *arguments)
    return value


class Notes:
    """Buffers and random numbers as they were before each evaluation of a first pass.

    Where they never change, as where nothing is drawn and only batches are normalised, nothing is noted down.

    Args:
        surroundings: as they are.
        looks: whether the first evaluation is made with a graph, to see what the field depends on.
    """

    def __init__(self, surroundings: Surroundings, *, looks: bool) -> None:
        self._surroundings, self._looks = surroundings, looks
        self.begun = surroundings.now()
        self.leaves: list[Tensor] = []
        self._steps: dict[int, list[tuple[Key, Snapshot]]] = {}
        self.draws = False

    def of(self, course: GridCourse) -> GridCourse:
        """The course whose evaluations are noted down."""
        return course.through(lambda n, stage: Through(stage, partial(self._note, n)))

    def _note(self, n: int, stage: Any, key: Key, arguments: Arguments) -> Tensor:
        self._steps.setdefault(n, []).append((key, self._surroundings.now()))
        if self._looks:
            self._looks = False
            return self._look(stage, key, arguments)
        return evaluated(stage, key, arguments)

    def _look(self, stage: Any, key: Key, arguments: Arguments) -> Tensor:
        leaves = as_leaves(arguments)
        with torch.enable_grad():
            value = evaluated(stage, key, leaves)
            self.leaves = unlisted_leaves(value.view_as(value), [each for each in leaves if isinstance(each, Tensor)])
        return value.detach()

    def end(self) -> "Notes | None":
        """What is needed of them after the first pass; None where nothing is."""
        last = self._surroundings.now()
        if last is self.begun:
            return None
        self.draws = last.random is not self.begun.random
        return self

    @property
    def changing(self) -> bool:
        """Whether buffers change that the field may read."""
        return self._surroundings.changing

    def before(self, n: int, key: Key, number: int | None) -> Snapshot:
        """The surroundings of an evaluation of a step.

        Args:
            n: the step.
            key: what was evaluated.
            number: how many of the same key came before it in its step; None where that is not known.
        """
        found = self._of(n, key)
        if not found and key[1] in (0, 1):
            # A slope that serves two steps was found in the one and is looked for in the other.
            found = self._of(n - 1, (key[0], 1.0)) if key[1] == 0 else self._of(n + 1, (key[0], 0.0))
            number = None
        if number is not None and number < len(found):
            return found[number]
        if len(found) == 1:
            return found[0]
        raise ConfigurationError(
            "the layer draws random numbers, or reads buffers that it changes: gradient='reversible' takes a step back "
            f"with those of then, but the integrator evaluates {key[0]!r} at the fraction {key[1]:g} of a step "
            f"{len(found)} times, and which of them its unstep repeats is not known. Use gradient='checkpoint'"
        )

    def _of(self, n: int, key: Key) -> list[Snapshot]:
        return [snapshot for each, snapshot in self._steps.get(n, []) if each == key]


def as_leaves(arguments: Arguments) -> Arguments:
    """The same numbers, the tensors among them to be differentiated for."""
    return tuple(as_leaf(each) if isinstance(each, Tensor) else each for each in arguments)


@dataclass
class Kept:
    """An evaluation with its graph.

    Args:
        arguments: its leaves, and numbers.
        slope: what it returned.
        used: what else it depends on.
        versions: of the slope and the leaves, which whoever has them may have changed.
        served: whether it was spliced in.
    """

    arguments: Arguments
    slope: Tensor
    used: list[Tensor]
    versions: list[int]
    served: bool = False

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors among the arguments."""
        return [each for each in self.arguments if isinstance(each, Tensor)]


class DiffersError(Exception):
    """An evaluation was taken for another one, which was seen afterwards."""


@dataclass
class Shared:
    """The evaluations by which a step was taken back, which serve where it is taken again with a graph.

    An evaluation is asked for by part, fraction and state. Where one of the way back had the same ones but for
    rounding, its graph is spliced in: it is made once, not twice. What was not made before is made anew.

    On a device the states are compared when an evaluation is met for the first time. From then on it is taken to be the
    same one in each step, and all differences are looked at together at the end (:meth:`check`).

    Args:
        course: whose actions are taken back, on the modules whose buffers were noted down.
        listed: what gets gradients.
        notes: of the first pass, where anything changed.
        mode: the name of the gradient mode, for errors.
        serves: whether evaluations are shared.
        reads: whether states are compared at once, each time: on the CPU.
    """

    course: Replayable
    listed: Listed
    notes: Notes | None
    mode: str
    serves: bool = True
    reads: bool = True
    _step: int = -1
    _kept: dict[Key, list[Kept]] = field(default_factory=dict)
    _behind: dict[Key, list[Kept]] = field(default_factory=dict)
    _met: dict[Key, int] = field(default_factory=dict)
    _chosen: dict[tuple[Key, int, int], int] = field(default_factory=dict)
    _off: Tensor | None = None

    def keeping(self, n: int, course: Replayable) -> Replayable:
        """The course by which the action ``n`` is taken back."""
        self._turn(n)
        return course.through(lambda n, stage: Through(stage, partial(self._keep, n)))

    def giving(self, n: int, course: Replayable) -> Replayable:
        """The course by which it is taken again."""
        self._turn(n)
        self._met = {}
        return course.through(lambda n, stage: Through(stage, partial(self._give, n)))

    def _turn(self, n: int) -> None:
        """Let go of what serves other steps. What served nobody at the begin of a step may be the end of this one."""
        if n != self._step:
            begun = self._kept.items() if n + 1 == self._step else ()
            left = {name: [each for each in kept if not each.served] for (name, c), kept in begun if c == 0}
            self._behind = {(name, 1.0): kept for name, kept in left.items() if kept}
            self._kept, self._step = {}, n

    def _keep(self, n: int, stage: Any, key: Key, arguments: Arguments) -> Tensor:
        if not self.serves:
            return self._made(n, stage, key, arguments, None)
        leaves = as_leaves(arguments)
        with torch.enable_grad():
            slope = self._made(n, stage, key, leaves, None)
        if slope.requires_grad:
            tensors = [each for each in leaves if isinstance(each, Tensor)]
            places, lost = self.listed.met([slope], tensors)
            check_none_lost(lost, self.mode)
            used = [each for place in places if (each := self.listed.tensors[place]) is not None]
            versions = [each._version for each in (slope, *tensors)]
            self._kept.setdefault(key, []).append(Kept(leaves, slope, used, versions))
        return slope.detach()

    def _give(self, n: int, stage: Any, key: Key, arguments: Arguments) -> Tensor:
        number = self._met.get(key, 0)
        self._met[key] = number + 1
        kept = self._same(n, key, number, arguments) if self.serves else None
        if kept is None:
            return self._made(n, stage, key, arguments, number)
        kept.served = True
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        spliced: Tensor = _Spliced.apply(kept, *tensors, *kept.used)  # type: ignore[no-untyped-call]
        return spliced

    def _same(self, n: int, key: Key, number: int, arguments: Arguments) -> Kept | None:
        """The evaluation of the way back that this one repeats, if there is one."""
        known = self._kept.get(key, [])
        if not known and key in self._behind and self.course.meets(n + 1):
            known = self._behind[key]
        candidates = [each for each in known if _comparable(each, arguments)]
        if not candidates:
            return None
        for each in candidates:
            if _identical(each, arguments):
                return each
        usual = (key, number, len(candidates))
        if self.reads or usual not in self._chosen:
            distances = torch.stack([_distance(each, arguments) for each in candidates]).tolist()
            nearest = min(range(len(candidates)), key=distances.__getitem__)
            if not distances[nearest] <= 1:
                return None
            self._chosen[usual] = nearest
        else:
            nearest = self._chosen[usual]
            off = _distance(candidates[nearest], arguments)
            self._off = off if self._off is None else torch.maximum(self._off, off)
        return candidates[nearest]

    def check(self) -> None:
        """Raise :class:`DiffersError` where an evaluation served for another one."""
        if self._off is not None and not float(self._off) <= 1:
            raise DiffersError

    def _made(self, n: int, stage: Any, key: Key, arguments: Arguments, number: int | None) -> Tensor:
        """An evaluation, with buffers and random numbers of then."""
        if self.notes is None:
            return evaluated(stage, key, arguments)
        then = self.notes.before(n, key, number)
        if self.notes.changing and isinstance(self.course, GridCourse):
            stage = self.course.apart(then.buffers()).stage(n)
        with then.random.again() if self.notes.draws else contextlib.nullcontext():
            return evaluated(stage, key, arguments)


def _comparable(kept: Kept, arguments: Arguments) -> bool:
    """Whether an evaluation had arguments of this form, with the same numbers, and its tensors are as they were."""
    return (
        [each._version for each in (kept.slope, *kept.leaves)] == kept.versions
        and len(kept.arguments) == len(arguments)
        and all(
            isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == two.shape and one.dtype == two.dtype
            if isinstance(one, Tensor) or isinstance(two, Tensor)
            else one == two
            for one, two in zip(kept.arguments, arguments, strict=True)
        )
    )


def _identical(kept: Kept, arguments: Arguments) -> bool:
    """Whether comparable arguments are those of an evaluation in the same memory, so that nothing is to be compared."""
    return all(
        one.data_ptr() == two.data_ptr() != 0 and one.stride() == two.stride()
        for one, two in zip(kept.arguments, arguments, strict=True)
        if isinstance(one, Tensor)
    )


@torch.no_grad()
def _distance(kept: Kept, arguments: Arguments) -> Tensor:
    """How far the arguments are from those of an evaluation; rounding leads to at most one."""
    found = []
    for one, two in zip(kept.arguments, arguments, strict=True):
        if isinstance(one, Tensor) and one.numel():
            numbers = torch.finfo(one.dtype) if one.is_floating_point() or one.is_complex() else None
            least = 0.0 if numbers is None else min(ROUNDING * numbers.eps, numbers.eps**0.5)
            wide = one.double() if numbers is None else one
            # The norm of that name takes fifty times as long on a CPU.
            size = wide.abs().amax()
            off = (two - wide).abs().amax()
            found.append(off / (least * size).clamp_min(torch.finfo(size.dtype).tiny))
    if not found:  # empty states are alike
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([each.double() for each in found]).amax() if len(found) > 1 else found[0]


def check_none_lost(lost: Sequence[Tensor], mode: str) -> None:
    """Raise a ConfigurationError for leaves that would lose their gradient."""
    if lost:
        raise ConfigurationError(
            f"{described(lost)}, and does not read them at the first time: gradient={mode!r} would lose it. Hand them "
            "over in args (of a layer in a block: make them its parameters), or use gradient='backprop'"
        )


class _Spliced(torch.autograd.Function):
    """The slope of an evaluation that was made before, as a function of what is asked now."""

    @staticmethod
    def forward(ctx: Any, kept: Kept, *inputs: Tensor) -> Tensor:
        ctx.kept = kept
        return kept.slope.detach()

    @staticmethod
    def backward(ctx: Any, by_slope: Tensor) -> tuple[Tensor | None, ...]:
        kept: Kept = ctx.kept
        tensors = [*kept.leaves, *kept.used]
        wanted = [each for each in tensors if each.requires_grad]
        found = iter(separate_gradients([kept.slope], wanted, [by_slope]))
        return None, *(next(found) if each.requires_grad else None for each in tensors)
