"""A block whose integrator chooses its own steps: the adaptive loop over theta(t), clipped to the knots."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from dynamicblocks.controls import Alignment, Controls, TimedField
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Gradient
from dynamicblocks.gradients.buffers import Buffers, KeptBuffers
from dynamicblocks.integrators import Adaptive
from dynamicblocks.integrators.half import HALF
from dynamicblocks.solving import SolveError
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.adaptive_loop import AdaptiveLoop, Hooks, Stops
from dynamicblocks.solving.failures import Circumstances, explained
from dynamicblocks.solving.field import Field, HostClock, Tally
from dynamicblocks.solving.nesting import ONE_TENSOR
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.step_control import StepControl


@dataclass
class AdaptiveSolve:
    """One forward pass: dy/dt = f(t, y; theta(t)) over the span of a block's grid.

    Args:
        controls, alignment, integrator, gradient: of the block.
        name: of the block, for errors.
        tally: counts evaluations and steps.
        narrow: the type of the layers, where it is half precision, in which small steps would be lost.
    """

    controls: Controls
    alignment: Alignment
    integrator: Adaptive
    gradient: Gradient
    name: str
    tally: Tally = field(default_factory=Tally)
    narrow: torch.dtype | None = None

    def states(self, y: Tensor, *, all_times: bool) -> list[Tensor]:
        """The states at every point of the grid, or at its begin and end only.

        Raises:
            SolveError: no steps lead to the end; it says why, and where in the block.
        """
        if y.dtype in HALF:
            wide = replace(self, narrow=y.dtype)
            return [state.to(y.dtype) for state in wide.states(y.float(), all_times=all_times)]
        timed = TimedField(self.controls, self.alignment, self.narrow)
        times = timed.times
        if not timed.projects:
            return self._solve(timed, y, times if all_times else (times[0], times[-1]), times[1] - times[0])
        # A projection belongs to the steps of the grid, whatever the tolerance: it changes the state there.
        states, first = [y], times[1] - times[0]
        for step, ends in enumerate(pairwise(times)):
            (_, end), first = self._segment(timed, states[-1], ends, first)
            states.append(timed.projection(step, end))
        return states

    def _segment(
        self, timed: TimedField, y: Tensor, ends: tuple[float, float], first: float
    ) -> tuple[list[Tensor], float]:
        """The states at both ends of a step of the grid, and the longest step between them."""
        taken: list[float] = []
        states = self._solve(timed, y, ends, first, taken)
        return states, max(taken, default=first)

    def _solve(
        self, timed: TimedField, y: Tensor, times: Sequence[float], first: float, taken: list[float] | None = None
    ) -> list[Tensor]:
        t = torch.tensor(times, dtype=torch.float64)
        right_hand_side = Field(timed, explains=False)
        right_hand_side.tally = self.tally
        weights, layers = list(self.controls.parameters()), list(self.controls.layers)
        clock = HostClock(y, t[0])
        problem = Problem(timed, right_hand_side, clock, y, t, list(times), ONE_TENSOR, (), weights, layers)
        course = AdaptiveCourse(problem, self._loop(problem, timed, first, taken))
        try:
            return list(self.gradient.run(course, y).states)
        except SolveError as error:
            raise self._located(explained(error, y, self.controls)) from None

    def _loop(self, problem: Problem, timed: TimedField, first: float, taken: list[float] | None) -> AdaptiveLoop:
        method = self.integrator
        kinks, jumps = timed.stops()
        # The last time is a stop as well: beyond it theta is not known.
        ends = problem.times if method.embedded.meets_outputs else problem.times[-1:]
        statistics = _Statistics(timed) if self.controls.training else None

        def accepted(_t: float, _y: Tensor, h: float) -> None:
            if taken is not None:
                taken.append(h)

        return AdaptiveLoop(
            problem.field,
            problem.clock,
            method.embedded,
            method.tolerance if self.narrow is None else method.tolerance.at_least(torch.finfo(self.narrow).eps),
            StepControl.of(method),
            Stops(sorted({*kinks, *ends}), jumps, resume=True),
            # No step is tried beforehand to find a length: it would be one more evaluation that moves statistics.
            first if method.first_step is None else method.first_step,
            method.max_steps,
            Hooks(accept=accepted) if statistics is None else Hooks(statistics.keep, accepted, statistics.restore),
            self.tally.accepted + self.tally.rejected,
        )

    def _located(self, error: SolveError) -> SolveError:
        circumstances: Circumstances = error.circumstances
        times = self.alignment.times
        step = sum(1 for end in times[1:-1] if end <= circumstances.t)
        return type(error)(
            f"{self.name}, in step {step} of its grid (from t = {times[step]:g} to {times[step + 1]:g}): {error}",
            circumstances,
        )


class _Statistics:
    """The buffers of the layers that a step reads, set back where the step is rejected."""

    def __init__(self, timed: TimedField) -> None:
        self._timed = timed
        self._kept: tuple[KeptBuffers, list[Tensor]] | None = None

    def keep(self, t: float, _y: Tensor, h: float) -> None:
        """Before a step."""
        buffers = Buffers(self._timed.layers_near(t + 0.5 * h))
        self._kept = KeptBuffers(buffers), buffers.now()

    def restore(self, _t: float, _y: Tensor, _h: float) -> None:
        """After a step was rejected."""
        assert self._kept is not None
        kept, live = self._kept
        kept.set_back(live)


def check_choices(integrator: Adaptive) -> None:
    """Raise a ConfigurationError for a controller that cannot be."""
    StepControl.of(integrator)


# What may be done with a network that was trained otherwise.
_EVALUATED = (
    "a network trained with another integrator may be evaluated with this one: with_integrator(net.eval(), ...)"
)


def check_deterministic(layers: nn.ModuleList, what: str, instead: str = "") -> None:
    """Raise a ConfigurationError for layers in training that draw anew in each evaluation.

    Args:
        layers: of a block.
        what: needs an equation, in words.
        instead: what to use; by default an explicit integrator.
    """
    instead = instead or f"use an explicit integrator on the grid such as 'rk4'; {_EVALUATED}"
    for name, module in layers.named_modules():
        if module.training and _draws(module):
            raise ConfigurationError(
                f"{type(module).__name__} (layer {name}) draws anew in each evaluation, so for {what} there is no "
                f"equation to solve; set p=0, put it between blocks, or {instead}"
            )


def _draws(module: nn.Module) -> bool:
    """Whether a module in training is one of PyTorch's that draw random numbers."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    # Of attention and recurrent modules.
    share = getattr(module, "dropout", 0.0)
    return isinstance(module, nn.RReLU) or (isinstance(share, float) and share > 0)


def check_still(layers: nn.ModuleList, what: str) -> None:
    """Raise a ConfigurationError for layers in training whose statistics each iteration of a solver would move."""
    for name, module in layers.named_modules():
        if module.training and getattr(module, "running_mean", None) is not None:
            raise ConfigurationError(
                f"{type(module).__name__} (layer {name}) moves its running statistics in each evaluation, and {what} "
                "evaluates it again and again in its iterations; use a norm without running statistics (group, tv) or "
                f"an explicit integrator; {_EVALUATED}"
            )
