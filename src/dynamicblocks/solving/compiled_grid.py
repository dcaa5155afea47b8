"""A caller's problem along a grid, whose steps are compiled: what samplers of flows make many of."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, warn_caller
from dynamicblocks.integrators import Carry, GridMethod, Integrator
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.solving.compiled_steps import STEPS, Form, StepPrograms, programs_of
from dynamicblocks.solving.grid_loop import Advance, ProblemOnGrid
from dynamicblocks.solving.outputs import Outputs, collect
from dynamicblocks.solving.timed_steps import GridStep


def check_compilable(method: GridMethod, integrator: Integrator) -> None:
    """Raise a ConfigurationError for steps whose cost depends on values, or that read more than the function."""
    if method.open:
        why = "is a class of the caller's, whose steps are calls of its own"
    elif isinstance(integrator, nn.Module) or integrator.equal_steps:
        why = "has weights, or wants equal steps"
    elif not integrator.fixed_cost:
        why = "takes steps whose cost is not fixed"
    elif any(part != FIELD for _, part in integrator.reads):
        why = "reads other parts of func than its slope"
    else:
        return
    raise ConfigurationError(
        f"compile on a grid needs explicit steps that read func alone, such as those of euler, midpoint or rk4, and "
        f"{method.name} {why}; leave compile out, or take another method"
    )


@dataclass(frozen=True, kw_only=True)
class CompiledGrid(ProblemOnGrid):
    """A course whose steps are compiled, many in one call. Of the states on the way those that are wanted are kept.

    What cannot be compiled runs as it is, with a warning.
    """

    def follow(
        self, y: Tensor, advance: Advance | None = None, *, passed: Callable[[int], None] | None = None
    ) -> Outputs:
        programs = programs_of(
            self.problem.func, self.problem.nesting, self.integrator, self.field.fractions, self.problem.y0.device
        )
        if programs.failed or not self.steps:
            return super().follow(y, advance, passed=passed)
        try:
            return self._followed(y, programs)
        except ConfigurationError:
            raise
        except Exception as error:
            programs.failed = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            warn_caller(f"the solve was not compiled and runs as usual: {reason:.300}")
            self.problem.field.tally.evaluations = 0
            return super().follow(y, advance, passed=passed)

    def _followed(self, y: Tensor, programs: StepPrograms) -> Outputs:
        if self.points is self.problem.times and len(self.points) > 2:
            made = [states for _, states in self._chunks(y, programs, path=True) if states is not None]
            return Outputs(torch.cat([y[None], *made]))
        if len(self.problem.times) == 2 and not self.problem.t.requires_grad:
            last, _ = deque(self._chunks(y, programs, path=False), maxlen=1).pop()
            return Outputs([y, self.state(last)])
        return collect(self.problem, y, self._steps_with_outputs(y, programs))

    def _chunks(self, y: Tensor, programs: StepPrograms, *, path: bool) -> Iterator[tuple[Carry, Tensor | None]]:
        """The carry behind the steps of each call, and the states at their ends if a path of them is wanted."""
        times, sizes = self._tables(y)
        integrator, problem, tally = self.integrator, self.problem, self.problem.field.tally
        # A carry of several tensors has no clone of its own.
        graphs = y.is_cuda and not torch.is_grad_enabled() and not integrator.begins
        carry: Carry = y
        done = 0
        while done < self.steps:
            count = STEPS if self.steps - done >= STEPS else 1
            form = Form(count, integrator.begins and done == 0, path, graphs)
            end = done + count
            carry, states = programs(form, problem.func, problem.args, carry, times[done:end], sizes[done:end])
            tally.evaluations += count * integrator.evaluations + (integrator.evaluations_to_begin if not done else 0)
            done = end
            yield carry, states

    def _tables(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The times of the stages of all steps, shape (steps, stages), and the sizes of the steps."""
        clock, fractions, kind = self.problem.clock, self.field.fractions, y.real.dtype if y.is_complex() else y.dtype
        times = torch.tensor(self.field.numbers(0, self.steps), dtype=clock.dtype, device=y.device)
        times = times.reshape(self.steps, len(fractions))
        sizes = torch.tensor([t1 - t0 for t0, t1 in pairwise(self.points)], dtype=kind, device=y.device)
        grid = self.field.grid
        if grid is not None:
            # Both move with the points of the grid: zeros with gradients.
            moved = grid - grid.detach()
            longer = moved.diff()
            times = times + torch.stack([moved[:-1] + c * longer for c in fractions], 1).to(clock.dtype)
            sizes = sizes + longer.to(kind)
        return times, sizes

    def _steps_with_outputs(self, y: Tensor, programs: StepPrograms) -> Iterator[GridStep]:
        """The steps on which times of output lie."""
        wanted, first = set(self._places()), 0
        for _, states in self._chunks(y, programs, path=True):
            assert states is not None
            for step in range(first, first + len(states)):
                y1 = states[step - first]
                if step in wanted:
                    yield self._step(step, y, y1)
                y = y1
            first += len(states)

    def _places(self) -> Iterator[int]:
        """The step on which each time of output lies, but the first."""
        step, direction = 0, self.problem.direction
        for time in self.problem.times[1:]:
            while (time - self.points[step + 1]) * direction > 0:
                step += 1
            yield step
