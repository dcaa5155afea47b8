"""The adjoint equation, solved from the last time to the first."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.graph import separate_gradients, unlisted_leaves
from dynamicblocks.integrators import Embedded
from dynamicblocks.integrators.interpolant import combine
from dynamicblocks.solving.adaptive_loop import Step
from dynamicblocks.solving.callbacks import CALLBACKS, warn_of_uncalled
from dynamicblocks.solving.failures import SolveError, explained
from dynamicblocks.solving.field import Clock, Field
from dynamicblocks.solving.make_course import inside_steps, make_course
from dynamicblocks.solving.nesting import Nesting, mixed_norm
from dynamicblocks.solving.options import tolerance
from dynamicblocks.solving.problem import Problem
from dynamicblocks.solving.scheme import Scheme


class StoredSteps:
    """The solution on the steps of a solve, with no more of each than its interpolant needs.

    Args:
        direction: 1 where time runs up, -1 where it runs down.
    """

    def __init__(self, direction: float) -> None:
        self._direction = direction
        self._methods: list[Embedded] = []
        self._begins: list[float] = []
        self._ends: list[float] = []  # times the direction, so that they grow
        self._parts: list[list[Tensor]] = []

    def append(self, step: Step) -> None:
        """Keep a step that was taken; two states and two slopes of it, and what its method adds."""
        self._methods.append(step.method)
        self._begins.append(step.t0)
        self._ends.append(step.t1 * self._direction)
        with torch.no_grad():
            self._parts.append(step.trial.parts(step.y0, step.h))

    def at(self, time: float) -> Tensor:
        """The state at a time; beyond the ends of the solution, the state there.

        Stages of implicit methods may lie beyond; a polynomial would lead anywhere from there.
        """
        n = min(bisect_left(self._ends, time * self._direction), len(self._ends) - 1)
        begin, end = self._begins[n], self._ends[n] * self._direction
        x = min(max((time - begin) / (end - begin), 0.0), 1.0)
        return combine(self._methods[n].weights(x), self._parts[n])


def solve_back(
    problem: Problem,
    scheme: Scheme,
    times: Tensor,
    states: Tensor,
    by_states: Tensor,
    params: Sequence[Tensor],
    *,
    of_times: bool,
    stored: StoredSteps | None,
    unlisted: Callable[[list[Tensor]], None] | None,
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """The gradients of y0, of the times if wanted, and of the parameters.

    Args:
        problem: what was solved.
        scheme: by what the adjoint equation is solved.
        times, states: of output; ``by_states`` the gradients of the latter.
        params: get gradients.
        of_times: whether the times do.
        stored: the states in between, if they are not to be solved for.
        unlisted: called with tensors that would lose their gradients; None not to look for them.
    """
    warn_of_uncalled(problem.func, scheme.method, ending="_adjoint")
    field = problem.field
    clock = Clock(states[0], times[0])
    system = _AdjointField(problem, params, of_times=of_times, unlisted=unlisted, stored=stored)
    by_t = torch.zeros_like(times) if of_times else None
    moving = times.new_zeros((), dtype=clock.dtype)
    a = by_states[-1]
    # Sums of what may be narrow parameters are as wide as the state.
    sums = [torch.zeros_like(param, dtype=torch.promote_types(param.dtype, states.dtype)) for param in params]
    numbers = times.tolist()
    for n in range(len(numbers) - 1, 0, -1):
        if by_t is not None:
            number = numbers[n]
            if inside_steps(scheme.options):
                number = clock.before(number, number - numbers[n - 1])
            (time,) = clock.tensors([number])
            change = (field(time, states[n]).conj() * by_states[n]).real.sum().to(clock.dtype)
            moving = moving - change
            by_t[n] = change
        if numbers[n] == numbers[n - 1]:  # an event at the begin
            a = a + by_states[n - 1]
            continue
        state = (moving, *([states[n]] if stored is None else []), a, *sums)
        nesting = Nesting.of(state, 0)
        flat = nesting.flat(state)
        back = Problem(
            system,
            Field(nesting.func(system)),
            Clock(flat, times[n]),
            flat,
            times[n - 1 : n + 1].flip(0),
            [numbers[n], numbers[n - 1]],
            nesting,
            eps=problem.eps,
        )
        try:
            solved = (
                make_course(with_tolerances(scheme, problem, state, y=stored is None), back).follow(flat).states[-1]
            )
        except SolveError as error:
            raise explained(error, flat, system) from None
        moving, *found = nesting.nested(solved)
        # y itself goes on from the forward pass; what came back from the far end of the interval is less exact.
        a, *sums = found if stored is not None else found[1:]
        moving, a = moving.real, a + by_states[n - 1]
    if by_t is not None:
        by_t[0] = moving
    return a, by_t, [total if param.is_complex() else total.real for total, param in zip(sums, params, strict=True)]


def with_tolerances(scheme: Scheme, problem: Problem, state: Sequence[Tensor], *, y: bool) -> Scheme:
    """The scheme with tolerances of y for y and a, where they differ from entry to entry; others get the least.

    Tolerances that are one for each tensor of the adjoint's state stay as they are.
    """
    if scheme.settings is not None:
        return scheme

    def of_adjoint(value: Any, name: str) -> Any:
        if isinstance(value, (int, float)):
            return value
        try:
            of_y = tolerance(problem.nesting.tolerance(value, name), name, problem.y0)
        except ConfigurationError:
            if isinstance(value, (tuple, list)) and len(value) == len(state):
                return value
            raise
        if isinstance(of_y, float):
            return of_y
        least = float(of_y.min())
        return (least, *([of_y] if y else []), of_y, *[least] * (len(state) - (3 if y else 2)))

    rtol, atol = of_adjoint(scheme.rtol, "rtol"), of_adjoint(scheme.atol, "atol")
    return replace(scheme, rtol=rtol, atol=atol)


class _AdjointField:
    """d/dt of (dL/dt, y, a, *dL/dtheta) by one evaluation of the field and one backward pass through it.

    Where states are stored, y is read and not part of it.
    """

    def __init__(
        self,
        problem: Problem,
        params: Sequence[Tensor],
        *,
        of_times: bool,
        unlisted: Callable[[list[Tensor]], None] | None,
        stored: StoredSteps | None,
    ) -> None:
        self.field, self.params, self.of_times = problem.field, params, of_times
        self.unlisted, self.stored = unlisted, stored
        for name in CALLBACKS:
            callback = getattr(problem.func, f"{name}_adjoint", None)
            if callback is not None:
                setattr(self, name, callback)

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        moving, *rest = state
        known, a = (rest[0], rest[1]) if self.stored is None else (self.stored.at(float(t)), rest[0])
        with torch.enable_grad():
            # Fresh views: a tensor that is its own input would be differentiated as one.
            y = known.detach().requires_grad_()
            time = t.detach().requires_grad_(self.of_times)
            slope = self.field(time, y)
            slopes = [slope] if self.stored is None else []
            if not slope.requires_grad:
                return (torch.zeros_like(moving), *slopes, *(torch.zeros_like(each) for each in (a, *self.params)))
            inputs = [y, *([time] if self.of_times else []), *self.params]
            if self.unlisted is not None:
                # A view has a graph, even if the slope is a parameter itself.
                lost = unlisted_leaves(slope.view_as(slope), inputs)
                if lost:
                    self.unlisted(lost)
                    self.unlisted = None  # a warning is given once
            # The graph may go on into the caller's, which is needed again.
            found = separate_gradients([slope], inputs, [-a])
        by_y = torch.zeros_like(y) if found[0] is None else found[0]
        by_t = found[1] if self.of_times and found[1] is not None else torch.zeros_like(moving)
        by_params = found[2:] if self.of_times else found[1:]
        sums = [torch.zeros_like(p) if g is None else g for g, p in zip(by_params, self.params, strict=True)]
        return (by_t.to(moving.dtype), *(each.detach() for each in slopes), by_y, *sums)


def adjoint_norm(
    norm: Callable[[Any], Any] | str | None,
    state_norm: Callable[[Any], Any] | None,
    nesting: Nesting,
    *,
    interpolant: bool = False,
) -> Callable[[tuple[Tensor, ...]], Any]:
    """The norm of the adjoint's state (dL/dt, y, a, *dL/dtheta), in which y and a are one tensor each.

    With ``interpolant`` there is no y in it.
    """
    of_state = nesting.norm(state_norm)
    count = 1 if interpolant else 2  # y and a, or a alone
    if norm is None or norm == "seminorm":
        with_params = norm is None

        def usual(state: tuple[Tensor, ...]) -> Tensor:
            t, states, params = state[0], state[1 : 1 + count], state[1 + count :]
            parts = [t.abs(), *map(of_state, states), *([mixed_norm(params)] if with_params else [])]
            # One number to be read from the device.
            return torch.stack([torch.as_tensor(part, device=t.device).real.to(t.real.dtype) for part in parts]).max()

        return usual
    if not callable(norm):
        raise ConfigurationError(f"the norm of the adjoint must be a function or 'seminorm', got {norm!r}")
    if nesting.single:
        return norm

    def unpacked(state: tuple[Tensor, ...]) -> Any:
        states = [part for each in state[1 : 1 + count] for part in nesting.nested(each)]
        return norm((state[0], *states, *state[1 + count :]))

    return unpacked
