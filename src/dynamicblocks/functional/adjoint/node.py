"""A solve as one node of the graph, whose backward pass solves the adjoint equation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.functional.adjoint.equation import solve_back
from dynamicblocks.functional.adjoint.stored import StoredSteps
from dynamicblocks.functional.adjoint.task import AdjointTask
from dynamicblocks.functional.odeint import states_at_times, states_until_event
from dynamicblocks.functional.once import once
from dynamicblocks.marching import Clock

ONCE = "the adjoint method has no second derivatives; use odeint, whose steps can be differentiated twice"


def adjoint_states(task: AdjointTask, params: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
    """The time of the event, if there is one, and the states at the times, with gradients by the adjoint method."""
    return _Adjoint.apply(task, task.problem.y0, task.problem.t, *params)  # type: ignore[no-untyped-call]


class _Adjoint(torch.autograd.Function):
    """States at the times, and their gradients by the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, task: AdjointTask, y0: Tensor, t: Tensor, *params: Tensor) -> tuple[Tensor | None, Tensor]:
        problem = replace(task.problem, y0=y0.detach(), t=t.detach(), clock=Clock(y0.detach(), t.detach()[0]))
        ctx.task, ctx.of_times = task, t.requires_grad
        ctx.autocast = (torch.is_autocast_enabled(y0.device.type), torch.get_autocast_dtype(y0.device.type))
        wanted = task.interpolant and any(ctx.needs_input_grad)
        ctx.stored = StoredSteps(problem.direction) if wanted else None
        how = (*task.tolerances, task.options)
        event_t = None
        if task.happening is None:
            states = states_at_times(problem, task.method, task.y0, *how, kept=ctx.stored)
            times = t.detach()
        else:
            time, states = states_until_event(problem, task.method, *how, task.happening, kept=ctx.stored)
            event_t = t.new_tensor(time)
            times = torch.stack([t.detach()[0], event_t])
            ctx.mark_non_differentiable(event_t)
        ctx.save_for_backward(times, states, *params)
        return event_t, states

    @staticmethod
    def backward(ctx: Any, _event: Tensor | None, by_states: Tensor) -> tuple[Tensor | None, ...]:
        task: AdjointTask = ctx.task
        times, states, *params = ctx.saved_tensors
        enabled, kind = ctx.autocast
        with torch.no_grad(), torch.autocast(states.device.type, dtype=kind, enabled=enabled):
            by_y0, by_t, by_params = solve_back(
                task, times, states, by_states, params, of_times=ctx.of_times, stored=ctx.stored
            )
        if task.happening is not None and by_t is not None:
            # The time of the event is no free variable; odeint_event gives it its gradient.
            by_t = torch.cat([by_t[:1], torch.zeros_like(by_t[1:])])
        return None, *once((by_y0, by_t, *by_params), by_y0, ONCE)
