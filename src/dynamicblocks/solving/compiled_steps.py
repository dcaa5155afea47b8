"""Steps along a grid as compiled programs: several in one call, their times and sizes handed over as tensors."""

import inspect
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicblocks.integrators import Carry, FieldStage, Integrator
from dynamicblocks.solving.compiled_loop import LIMIT, PROGRAMS, tracing_may_look_at_grad
from dynamicblocks.solving.field import unchanging
from dynamicblocks.solving.nesting import Nesting, rebuilt

# Steps in one call, where as many are ahead; others are made one by one. With torchcfm's field (2-D, three layers of
# 64, batch 256) 50 steps of Euler's method on one core, the first solve and the shortest of 25 later ones
# (torchdiffeq's took 23 ms):
#     steps in a call     5      10     25     50
#     first solve, s      8.7    12     25     47
#     a solve, ms         12.3   7.8    10.5   10.2
STEPS = 10

Steps = Callable[[Any, Any, Carry, Tensor, Tensor], tuple[Carry, Tensor | None]]
"""(func, args, carry, times of stages, sizes) -> the carry behind the steps, and perhaps the states at their ends."""

_numbered = count()


class Form(NamedTuple):
    """Which of the programs of a function: how many steps, whether the first ones, whether all states are wanted.

    ``graphs``: whether it is recorded as a CUDA graph.
    """

    steps: int
    begins: bool
    path: bool
    graphs: bool


class StepPrograms:
    """The programs of one function with one integrator for one kind of state.

    The function is an argument of theirs, so nothing of it is part of them that may change: parameters, and tensors
    that it closes over, are read at each call, and numbers and other objects are looked at before.

    Args:
        nesting: of the state.
        integrator: makes the steps.
        fractions: of a step at which it reads the function.
    """

    def __init__(self, nesting: Nesting, integrator: Integrator, fractions: Sequence[float]) -> None:
        nothing = torch.empty(0)
        # Not the caller's state: it would live as long as the programs.
        self._nesting = replace(nesting, like=rebuilt(nesting.like, iter([nothing] * len(nesting.shapes))))
        self._integrator, self._fractions, self._made = integrator, tuple(fractions), dict[Form, Steps]()
        self.failed = False

    def __call__(
        self, form: Form, func: Any, args: Any, carry: Carry, times: Tensor, sizes: Tensor
    ) -> tuple[Carry, Tensor | None]:
        """Make steps; what comes back is nobody else's."""
        if form not in self._made:
            self._made.setdefault(form, self._compiled(form, sizes.device))
        with tracing_may_look_at_grad():
            found, states = self._made[form](func, args, carry, times, sizes)
        if form.graphs:  # the next run of the graph writes to the same memory
            return found.clone(), None if states is None else states.clone()
        return found, states

    def _compiled(self, form: Form, device: torch.device) -> Steps:
        nesting, integrator, fractions = self._nesting, self._integrator, self._fractions

        def steps(func: Any, args: Any, carry: Carry, times: Tensor, sizes: Tensor) -> tuple[Carry, Tensor | None]:
            slope = unchanging(nesting.func(func, args))
            states = []
            for n, (h, row) in enumerate(zip(sizes.unbind(), times.unbind(), strict=True)):
                at = dict(zip(fractions, row.unbind(), strict=True))
                stage = FieldStage(partial(_read, slope, at))
                if form.begins and n == 0:
                    carry = integrator.begin(stage, h, carry)
                carry = integrator.advance(stage, h, carry)
                states.append(integrator.finish(carry))
            return carry, torch.stack(states) if form.path else None

        # A function of its own: the compiler keeps programs, up to a limit, for each code object.
        code = steps.__code__.replace(co_name=f"steps_{next(_numbered)}")
        own = FunctionType(code, steps.__globals__, code.co_name, None, steps.__closure__)
        options: dict[str, Any] = {"cpp_wrapper": True} if device.type == "cpu" else {"triton.cudagraphs": form.graphs}
        return torch.compile(own, fullgraph=True, dynamic=False, options=options, **LIMIT)


def _read(slope: Callable[[Tensor, Tensor], Tensor], at: dict[float, Tensor], c: float, y: Tensor) -> Tensor:
    return slope(at[c], y)


_kept: "OrderedDict[Hashable, tuple[StepPrograms, object]]" = OrderedDict()


def programs_of(
    func: object, nesting: Nesting, integrator: Integrator, fractions: Sequence[float], device: torch.device
) -> StepPrograms:
    """The programs of a function. They go when it does, and when many others were asked for since.

    Functions that are made anew from the same lines (a lambda before each solve) share theirs.
    """
    anchor, name = _anchor(func)
    kind = integrator if isinstance(integrator, Hashable) else id(integrator)
    layout = repr(rebuilt(nesting.like, iter(zip(nesting.shapes, nesting.kinds, strict=True))))
    place = (id(anchor), name, kind, layout, str(device))
    found = _kept.get(place)
    if found is None:
        try:
            holds: object = weakref.ref(anchor, lambda _gone: _kept.pop(place, None))
        except TypeError:
            holds = anchor
        found = _kept.setdefault(place, (StepPrograms(nesting, integrator, fractions), holds))
    with suppress(KeyError):  # another thread made place
        _kept.move_to_end(place)
        if len(_kept) > PROGRAMS:
            _kept.popitem(last=False)
    return found[0]


def _anchor(func: object) -> tuple[object, str]:
    """The object that stays where a function is made anew, and what it is of that object."""
    if isinstance(func, partial):
        return _anchor(func.func)
    if inspect.ismethod(func):
        return func.__self__, func.__func__.__qualname__
    return (func.__code__ if isinstance(func, FunctionType) else func), ""
