"""The adjoint equation, solved from the last time to the first."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynamicblocks.functional.adjoint.stored import StoredSteps
from dynamicblocks.functional.adjoint.task import AdjointTask
from dynamicblocks.functional.lost import apart_from_each_other, lost_tensors
from dynamicblocks.functional.odeint import states_at_times
from dynamicblocks.functional.problem import Problem
from dynamicblocks.functional.state import Layout
from dynamicblocks.marching import Clock, Field

CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")


def solve_back(
    task: AdjointTask,
    times: Tensor,
    states: Tensor,
    by_states: Tensor,
    params: Sequence[Tensor],
    *,
    of_times: bool,
    stored: StoredSteps | None,
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """The gradients of y0, of the times if wanted, and of the parameters.

    Args:
        task: what is solved, and how.
        times, states: of output; ``by_states`` the gradients of the latter.
        params: get gradients.
        of_times: whether the times do.
        stored: the states in between, if they are not to be solved for.
    """
    field = task.problem.field
    clock = Clock(states[0], times[0])
    system = _AdjointField(task.problem, params, of_times=of_times, lost=task.lost, stored=stored)
    by_t = torch.zeros_like(times) if of_times else None
    moving = times.new_zeros((), dtype=clock.dtype)
    a = by_states[-1]
    sums = [torch.zeros_like(param) for param in params]
    numbers = times.tolist()
    for n in range(len(numbers) - 1, 0, -1):
        if by_t is not None:
            (time,) = clock.tensors([numbers[n]])
            change = (field(time, states[n]).conj() * by_states[n]).real.sum().to(clock.dtype)
            moving = moving - change
            by_t[n] = change
        state = (moving, *([states[n]] if stored is None else []), a, *sums)
        layout = Layout.of(state)
        flat = layout.flat(state)
        problem = Problem(
            system,
            Field(layout.func(system)),
            Clock(flat, times[n]),
            flat,
            times[n - 1 : n + 1].flip(0),
            [numbers[n], numbers[n - 1]],
            layout,
        )
        solved = states_at_times(problem, task.backward_method, state, *task.backward_tolerances, task.backward_options)
        moving, *found = layout.unflat(solved[-1])
        # y itself goes on from the forward pass; what came back from the far end of the interval is less exact.
        a, *sums = found if stored is not None else found[1:]
        moving, a = moving.real, a + by_states[n - 1]
    if by_t is not None:
        by_t[0] = moving
    return a, by_t, [total if param.is_complex() else total.real for total, param in zip(sums, params, strict=True)]


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
        lost: Callable[[list[Tensor]], None] | None,
        stored: StoredSteps | None,
    ) -> None:
        self.field, self.params, self.of_times = problem.field, params, of_times
        self.lost, self.stored = lost, stored
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
            if self.lost is not None:
                # A view has a graph, even if the slope is a parameter itself.
                found_lost = lost_tensors(slope.view_as(slope), inputs)
                if found_lost:
                    self.lost(found_lost)
                self.lost = None  # once is enough
            # The graph may go on into the caller's, which is needed again.
            with apart_from_each_other(self.params):
                found = torch.autograd.grad(slope, inputs, -a, retain_graph=True, allow_unused=True)
        by_y = torch.zeros_like(y) if found[0] is None else found[0]
        by_t = found[1] if self.of_times and found[1] is not None else torch.zeros_like(moving)
        by_params = found[2:] if self.of_times else found[1:]
        sums = [torch.zeros_like(p) if g is None else g for g, p in zip(by_params, self.params, strict=True)]
        return (by_t.to(moving.dtype), *(each.detach() for each in slopes), by_y, *sums)
