"""The loop of tensors, compiled: several attempts of all samples in one call."""

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, warn_caller
from dynamicblocks.integrators import Tolerance
from dynamicblocks.solving.batched_loop import BatchedLoop, Carry, Record, Summary
from dynamicblocks.solving.field import Tally

# Attempts in one call where many are ahead: a call costs as much as a dozen attempts of a small field.
ATTEMPTS = 12
# Where fewer are ahead, they are made one by one: attempts that nobody needs cost as much as others.
FEW = 4
# So are those of states with more entries, whose time is not that of the call.
SMALL = 4096

Build = Callable[[Any], Callable[[Tensor, Tensor], Tensor]]

# So many programs are kept, and compiled for one form of loop, before old ones go and new ones are refused.
PROGRAMS = 64
LIMIT: dict[str, Any] = (
    {"recompile_limit": PROGRAMS} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}
)

_programs: "OrderedDict[Hashable, _Program]" = OrderedDict()


class _Program:
    """The loop of one field with one method, as compiled functions of tensors.

    Args:
        loop: what is compiled.
        func: the caller's function, which is held.
        build: makes the field from the arguments of a call.
    """

    def __init__(self, loop: BatchedLoop, func: Any, build: Build) -> None:
        self.func, self.failed = func, False
        method, control, jumps, norm = loop.method, loop.control, loop.jumps, loop.tolerance.norm

        def made(given: Any) -> BatchedLoop:
            direction, stops, (rtol, atol), args = given
            return BatchedLoop(build(args), method, Tolerance(rtol, atol, norm), control, direction, stops, jumps)

        def begin(given: Any, s: Tensor, y: Tensor, first_step: float | None) -> tuple[Tensor, Tensor]:
            return made(given).begin(s, y, first_step)

        def attempts(
            given: Any, carry: Carry, end: Tensor, s: Tensor, passed: Tensor, count: int
        ) -> tuple[Carry, Record, Summary]:
            return made(given).attempts(carry, end, s, passed, count)

        # Not the graphs of CUDA: the tensors of one call, which the next begins with, would be overwritten by it.
        options: dict[str, Any] = {"cpp_wrapper": True} if loop.direction.device.type == "cpu" else {}
        self.begin, self.attempts = (
            torch.compile(part, fullgraph=True, dynamic=False, options=options, **LIMIT) for part in (begin, attempts)
        )


def _program(loop: BatchedLoop, func: Any, key: Hashable, build: Build) -> _Program:
    """The program of a function and a way to solve; it holds the function, so that its identity stays its own."""
    place = (id(func), key)
    # No step of this leaves another thread without the program: it is never taken out to be put in anew.
    found = _programs.get(place) or _programs.setdefault(place, _Program(loop, func, build))
    with suppress(KeyError):  # another thread made place
        _programs.move_to_end(place)
    if len(_programs) > PROGRAMS:
        _programs.popitem(last=False)
    return found


@contextmanager
def tracing_may_look_at_grad() -> Iterator[None]:
    """Leave out the warning of a compiler that looks at ``grad`` of inputs that are no leaves.

    Filters of warnings are the process's, so they are exchanged only with gradients, and where warnings are errors:
    PyTorch cannot hide it then, and inputs have graphs without gradients, too, such as the states of a backward pass.
    """
    if not torch.is_grad_enabled() and all(action != "error" for action, *_ in warnings.filters):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        yield


class CompiledLoop:
    """A loop that is compiled once for a function and a way to solve.

    Args:
        loop: what is compiled.
        tally: counts evaluations in compiled calls, too.
        func: the caller's function.
        key: everything else that is compiled in.
        build: makes the field of the loop from ``args``.
        args: tensors, and what holds them, that may change from call to call.
        single: whether someone looks at every attempt, so that a call makes no more than one.

    Warns:
        UserWarning: it could not be compiled, and why; the loop then runs as it is.
    """

    def __init__(
        self, loop: BatchedLoop, tally: Tally, func: Any, key: Hashable, build: Build, args: Any, *, single: bool
    ) -> None:
        self.loop, self.tally, self.single = loop, tally, single
        self._program = _program(loop, func, key, build)
        self._given = (loop.direction, loop.stops, (loop.tolerance.rtol, loop.tolerance.atol), args)

    def begin(self, s: Tensor, y: Tensor, first_step: float | None) -> tuple[Tensor, Tensor]:
        """As :meth:`BatchedLoop.begin`."""
        found = self._run(self._program.begin, s, y, first_step)
        if found is None:
            return self.loop.begin(s, y, first_step)
        self.tally.evaluations += 1 if first_step is not None else 2
        return found

    def attempts(
        self, carry: Carry, end: Tensor, s: Tensor, passed: Tensor, ahead: int
    ) -> tuple[Carry, Record, Summary]:
        """As :meth:`BatchedLoop.attempts`; how many depends on how many are ``ahead``."""
        # With gradients an attempt that nobody takes must not enter the graph: one at a time.
        graph = torch.is_grad_enabled() and carry.y.requires_grad
        alone = self.single or graph or ahead < FEW or carry.y.numel() > SMALL
        count = 1 if alone else ATTEMPTS
        found = self._run(self._program.attempts, carry, end, s, passed, count)
        if found is None:
            return self.loop.attempts(carry, end, s, passed, 1)
        self.tally.evaluations += count * (len(self.loop.method.fractions) - 1 + self.loop.jumps)
        return found

    def _run(self, part: Callable[..., Any], *arguments: Any) -> Any:
        """What a compiled part returns; None if it cannot be compiled."""
        if self._program.failed:
            return None
        try:
            with tracing_may_look_at_grad():
                return part(self._given, *arguments)
        except ConfigurationError:
            raise
        except Exception as error:
            self._program.failed = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            warn_caller(f"the solve was not compiled and runs as usual: {reason:.300}")
            return None
