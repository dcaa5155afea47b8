"""What of odeint torch.compile traces: explicit methods along the times of output, whose steps are known."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from dynamicblocks.functional.arguments import Func, State
from dynamicblocks.gradients import Backprop, Gradient
from dynamicblocks.integrators import METHODS, GridMethod, Integrator, Reads, Stage
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.layers.stand_in import Places
from dynamicblocks.solving.field import Field
from dynamicblocks.solving.grid_loop import GridCourse
from dynamicblocks.solving.nesting import Nesting
from dynamicblocks.tracing import untraced

P = ParamSpec("P")
R = TypeVar("R")


def untraced_but_for_grids(odeint: Callable[P, R]) -> Callable[P, R]:
    """Odeint, which a compiled caller calls as it is, unless its steps are known to the compiler."""
    alone: Callable[..., Any] = untraced(odeint)

    @wraps(odeint)
    def face(func: Func, y0: State, t: Tensor, **keywords: Any) -> Any:
        if torch.compiler.is_compiling() and _can_be_traced(func, y0, t, **keywords):
            return _traced(func, y0, t, keywords["method"])
        return alone(func, y0, t, **keywords)

    return face  # type: ignore[return-value]


def _can_be_traced(
    func: Func,
    y0: State,
    t: Tensor,
    *,
    method: Integrator | str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    gradient: Gradient | str = "backprop",
    **_tolerances: Any,
) -> bool:
    """Whether no number of the solve depends on values, and nothing about it is to be explained to the caller."""
    # The method first: all that is looked at is a condition of the trace.
    if not _explicit(method) or options or event_fn is not None:
        return False
    if not (gradient == "backprop" or isinstance(gradient, Backprop)) or hasattr(func, "callback_step"):
        return False
    states = (y0,) if isinstance(y0, Tensor) else y0
    if not isinstance(states, tuple) or not states:
        return False
    if not all(isinstance(each, Tensor) and each.is_floating_point() for each in states):
        return False
    fits = isinstance(t, Tensor) and t.is_floating_point() and t.ndim == 1 and len(t) > 0
    return fits and all(each.device == t.device for each in states)


def _explicit(method: Integrator | str | None) -> bool:
    """Whether it is a method on a grid of any steps that reads the field alone, at a fixed cost."""
    if isinstance(method, str):
        known = METHODS.get(method)
        return isinstance(known, GridMethod) and not known.open and _explicit(known.make())
    if not isinstance(method, Integrator) or method.equal_steps:
        return False
    return method.fixed_cost and all(part == FIELD for _, part in method.reads)


def _traced(func: Func, y0: State, t: Tensor, method: Integrator | str) -> Any:
    """The states at the times, in tensors alone."""
    nesting = Nesting.of(y0, 0)
    y = nesting.flat(y0)
    integrator = METHODS[method].make() if isinstance(method, str) else method  # type: ignore[attr-defined]
    # As where times are numbers, in double precision; but times without dimensions would widen such a state.
    wide = y.ndim > 0 and t.device.type != "mps"
    points = t.to(torch.float64 if wide else y.dtype).unbind()
    field = TracedSteps(Field(nesting.func(func, ())), points, y.dtype)
    course = TracedGrid(field, integrator.for_block(len(points) - 1, None), points, all_times=True)
    return nesting.nested(course.follow(y).stacked(), (len(points),))


@dataclass(frozen=True)
class TracedGrid(GridCourse):
    """Steps between points that are tensors."""

    points: Sequence[Any]


class TracedSteps:
    """A caller's field along a grid whose points are tensors."""

    parts: ClassVar[Container[str]] = ()
    tally: ClassVar[None] = None  # a compiler would see another number each time
    tensors: ClassVar[Sequence[Tensor]] = ()
    modules: ClassVar[Sequence[nn.Module]] = ()

    def __init__(self, field: Field, points: Sequence[Tensor], kind: torch.dtype) -> None:
        self._field, self._points, self._kind = field, points, kind

    def on_step(self, step: int) -> Stage:
        """The field on one step."""
        return TracedStage(self._field, self._points[step], self._points[step + 1], self._kind)

    def jumps(self, step: int, derivatives: int = 0) -> bool:
        """A caller's field is smooth as far as anybody knows."""
        return False

    def apart(self, places: Places) -> "TracedSteps":
        """Nobody runs it again."""
        return self

    def layers_read(self, steps: Iterable[int], reads: Reads) -> Sequence[nn.Module]:
        """Nobody keeps their buffers."""
        return ()


class TracedStage:
    """A caller's field between two times."""

    def __init__(self, field: Field, begin: Tensor, end: Tensor, kind: torch.dtype) -> None:
        self._field, self._begin, self._end, self._kind = field, begin, end, kind

    def __call__(self, c: float, y: Tensor) -> Tensor:
        time = self._end if c == 1 else self._begin + c * (self._end - self._begin)
        return self._field(time.to(self._kind), y)

    def part(self, name: str, c: float, y: Tensor, *extra: float | Tensor) -> Tensor:
        """Methods that read other parts are not traced."""
        return self(c, y)
