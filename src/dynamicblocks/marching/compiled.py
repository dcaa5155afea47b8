"""The loop of tensors, compiled: several attempts of all samples in one call."""

import warnings
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Tolerance
from dynamicblocks.marching.batched import Attempts, BatchedMarch, Carry, Record

# Attempts in one call where no gradients are wanted: a call costs as much as a few attempts of a small field.
ATTEMPTS = 8

_programs: "WeakKeyDictionary[Any, dict[Hashable, _Program]]" = WeakKeyDictionary()


class _Program:
    """Attempts of one field with one method, as a compiled function of tensors."""

    def __init__(self, loop: BatchedMarch, build: Callable[[Any], Callable[[Tensor, Tensor], Tensor]]) -> None:
        self.failed = False

        method, control, jumps, norm = loop.method, loop.control, loop.jumps, loop.tolerance.norm

        def attempts(
            carry: Carry,
            end: Tensor,
            s: Tensor,
            passed: Tensor,
            direction: Tensor,
            stops: Tensor | None,
            tolerances: tuple[float | Tensor, float | Tensor],
            args: Any,
            count: int,
        ) -> tuple[Carry, Record, Tensor]:
            tolerance = Tolerance(tolerances[0], tolerances[1], norm)
            own = BatchedMarch(build(args), method, tolerance, control, direction, stops, jumps)
            return own.attempts(carry, end, s, passed, count)

        on_cpu = loop.direction.device.type == "cpu"
        options: dict[str, Any] = {"cpp_wrapper": True} if on_cpu else {"triton.cudagraphs": True}
        self._run = torch.compile(attempts, fullgraph=True, dynamic=False, options=options)

    def __call__(self, graph: bool, *arguments: Any) -> tuple[Carry, Record, Tensor]:
        """Run it; ``graph`` says whether gradients are recorded."""
        if not graph:
            return self._run(*arguments)
        with warnings.catch_warnings():
            # Tracing looks at `grad` of inputs that are no leaves.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
            return self._run(*arguments)


def compiled_attempts(
    loop: BatchedMarch,
    func: Any,
    key: Hashable,
    build: Callable[[Any], Callable[[Tensor, Tensor], Tensor]],
    args: Any,
    *,
    single: bool,
) -> Attempts:
    """The loop's attempts, compiled once for a function and a way to solve.

    Args:
        loop: what is compiled.
        func: the caller's function; what is compiled lives as long as it does.
        key: everything else that is compiled in.
        build: makes the field of the loop from ``args``.
        args: tensors, and what holds them, that may change from call to call.
        single: whether someone looks at every attempt, so that a call makes no more than one.

    Warns:
        UserWarning: it could not be compiled, and why; the loop then runs as it is.
    """
    try:
        known = _programs.setdefault(func, {})
    except TypeError:  # no weak references to such an object
        known = {}
    program = known.setdefault(key, _Program(loop, build))
    tolerances = (loop.tolerance.rtol, loop.tolerance.atol)

    def attempts(carry: Carry, end: Tensor, s: Tensor, passed: Tensor) -> tuple[Carry, Record, Tensor]:
        # With gradients an attempt that nobody takes must not enter the graph: one at a time.
        graph = torch.is_grad_enabled() and carry.y.requires_grad
        count = 1 if single or graph else ATTEMPTS
        if not program.failed:
            try:
                return program(graph, carry, end, s, passed, loop.direction, loop.stops, tolerances, args, count)
            except ConfigurationError:
                raise
            except Exception as error:
                program.failed = True
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                warnings.warn(f"the solve was not compiled and runs as usual: {reason:.300}", stacklevel=6)
        return loop.attempts(carry, end, s, passed, 1)

    return attempts
