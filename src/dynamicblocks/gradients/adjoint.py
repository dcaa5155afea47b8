"""The continuous adjoint method: gradients by solving a second differential equation back in time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.counting import going_back
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.adjoint_block import run_in_block
from dynamicblocks.gradients.adjoint_checks import back_integrator, check_equation_of, check_first_order, settings_of
from dynamicblocks.gradients.adjoint_equation import StoredSteps, adjoint_norm, solve_back
from dynamicblocks.gradients.gradient import Course, Gradient, ProblemCourse, gradients
from dynamicblocks.gradients.graph import OutsideTransforms, described, each_once, unlisted_leaves
from dynamicblocks.integrators import METHODS, AdaptiveMethod, Integrator, as_method, foreign_options
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.solving.adaptive_course import AdaptiveCourse
from dynamicblocks.solving.events import event_found
from dynamicblocks.solving.failures import SolveError
from dynamicblocks.solving.grid_loop import GridCourse, ProblemOnGrid
from dynamicblocks.solving.nesting import ONE_TENSOR
from dynamicblocks.solving.options import check_step_size
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.refusal import differentiable_once
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.solving.scipy_solver import ScipyCourse
from dynamicblocks.tracing import untraced
from dynamicblocks.transforms import refuse_forward_mode

NO_SECOND = "the adjoint method has no second derivatives; use odeint, whose steps can be differentiated twice"


def refuse_unlisted(lost: list[Tensor]) -> None:
    """Raise a ConfigurationError for tensors that would lose their gradients."""
    raise ConfigurationError(
        f"{described(lost)}: the adjoint method would lose it. Hand them over in args or in "
        "gradient_options={'params': (...)}, or use gradient='backprop'"
    )


@gradients.register("adjoint")
@dataclass(frozen=True, repr=False)
class Adjoint(Gradient):
    """Solve the adjoint equation back in time, in memory that does not grow with the steps.

        da/dt = -a^T df/dy,    dL/dtheta = int a^T df/dtheta dt

    beside y itself. These are the gradients of the exact solution: they agree with those of the steps to the
    tolerances only (Chen et al. 2018, arXiv:1806.07366).

    In a block with an adaptive integrator the equation is solved from knot to knot of theta(t), with the field as it is
    inside each interval. Gradients are measured in units of those that come in, so tolerances mean the same whatever
    the loss is multiplied by.

    In a block on a fixed grid it is solved from the end state along the same grid, back to its begin. The gradient is
    the equation's, not that of the steps: the two differ by O(h^order), which on coarse grids is much, and ``rtol``,
    ``atol``, ``options`` and ``interpolant`` have no meaning there. A step taken back reads theta at the fractions
    1 - c, so Euler reads the other end of it. Where the steps themselves are the model, as in a residual network, take
    ``checkpoint``.

    Running statistics move in the forward pass only; the pass back works on copies. Layers that draw anew in each
    evaluation, such as dropout in training, leave no equation and are refused, as are integrators that read other
    parts of a layer or have weights, and projections on a fixed grid.

    Args:
        rtol, atol, method, options: of the backward pass; by default those of the forward pass, but for a norm.
            ``options={"norm": "seminorm"}`` leaves the integrals for the parameters out of the error of a step.
        interpolant: keep the steps of the forward pass, two states and two slopes each, and read y from them, where it
            cannot be solved for back in time. Adaptive methods.
        unlisted: called with tensors that would lose their gradients; by default an error. None not to look for them.
    """

    rtol: Any = None
    atol: Any = None
    method: Integrator | str | None = None
    options: Mapping[str, Any] | None = None
    interpolant: bool = False
    unlisted: Callable[[list[Tensor]], None] | None = field(default=refuse_unlisted, repr=False)

    of_steps = False

    def __repr__(self) -> str:
        """What is not as usual."""
        shown = [(each.name, getattr(self, each.name), each.default) for each in fields(self) if each.repr]
        return f"Adjoint({', '.join(f'{name}={value!r}' for name, value, usual in shown if value != usual)})"

    def check_block(self, layers: nn.ModuleList, integrator: Integrator) -> None:
        check_equation_of(layers[0], integrator)
        self._of_block(integrator)
        adjoint_norm((self.options or {}).get("norm"), None, ONE_TENSOR)

    def _of_block(self, integrator: Integrator) -> Integrator:
        """By what the adjoint equation of a block with that integrator is solved."""
        own = self.interpolant
        return back_integrator(integrator, self.method, self.rtol, self.atol, self.options, interpolant=own)

    def check_course(self, course: Course) -> None:
        if not isinstance(course, ProblemCourse):
            raise ConfigurationError("gradient='adjoint' differentiates the problems of odeint and solve")
        if not isinstance(course, ScipyCourse) and course.event is not None and not course.beyond:
            raise ConfigurationError(
                "gradient='adjoint' knows the times of output only, not event_fn; use another mode, or odeint_event "
                "with odeint_interface=odeint_adjoint"
            )
        check_continuous(course, interpolant=self.interpolant)
        back, times = self.scheme(course), course.problem.times
        if back.options.get("step_size") is not None:
            # Now, not when the backward pass begins.
            longest = max((abs(after - before) for before, after in pairwise(times)), default=0.0)
            check_step_size(course.problem, back.options, longest)

    def scheme(self, course: ProblemCourse) -> Scheme:
        """By what the adjoint equation of a course is solved."""
        assert course.scheme is not None
        forward = course.scheme
        back = self.backward(forward)
        norm = adjoint_norm(
            back.options.get("norm"), forward.options.get("norm"), course.problem.nesting, interpolant=self.interpolant
        )
        return replace(back, options={**back.options, "norm": norm})

    def backward(self, forward: Scheme) -> Scheme:
        """The method of the backward pass with its tolerances and options, its norm as it was given."""
        same = self.method is None
        method = forward.method if same else as_method(self.method)
        usual = {name: value for name, value in forward.options.items() if name != "norm"} if same else {}
        options = dict(usual if self.options is None else self.options)
        foreign = foreign_options(method, {name: value for name, value in options.items() if name != "norm"})
        if foreign and not method.given:
            raise ConfigurationError(f"{method.name}, the method of the adjoint, does not take {', '.join(foreign)}")
        if method.given and (self.rtol is not None or self.atol is not None or self.options):
            raise ConfigurationError(
                f"the method of the adjoint, {method.name}, is an object with tolerances and options of its own; give "
                "its name, or leave them out"
            )
        if isinstance(method, AdaptiveMethod) and "max_num_steps" in forward.options:
            options.setdefault("max_num_steps", forward.options["max_num_steps"])
        rtol, atol = (a if b is None else b for a, b in ((forward.rtol, self.rtol), (forward.atol, self.atol)))
        return Scheme(method, rtol, atol, options, limit_each=True, strict=forward.strict)

    def run(self, course: Course, y: Tensor) -> Outputs:
        refuse_forward_mode("gradient='adjoint'")
        if isinstance(course, AdaptiveCourse) and course.in_block:
            return self._run_in_block(course, self._of_block(settings_of(course.loop)), y)
        if isinstance(course, GridCourse) and course.graph_of_steps:
            return self._run_in_block(course, self._of_block(course.integrator), y)
        self.check_course(course)
        assert isinstance(course, ProblemCourse)
        inputs = each_once(course.problem.tensors)
        known = any(each.requires_grad for each in (y, course.problem.t, *inputs))
        if self.unlisted is not None and not known and torch.is_grad_enabled():
            return self._without_gradient(course, y, self.unlisted)
        node = _Node(course, self.scheme(course), self.unlisted, self.interpolant)
        event_t, states = _Adjoint.apply(node, y, course.problem.t, *inputs)  # type: ignore[no-untyped-call]
        for failure in node.failures:
            failure.circumstances.states = list(states.unbind())
            raise failure
        return Outputs(states) if event_t is None else Outputs(states[:1], event_t.item(), states[1])

    def _run_in_block(self, course: GridCourse | AdaptiveCourse, back: Integrator, y: Tensor) -> Outputs:
        norm = (self.options or {}).get("norm")
        return run_in_block(course, y, back, norm, self._lost_in_block, interpolant=self.interpolant)

    def _lost_in_block(self, block: str, lost: list[Tensor]) -> None:
        """Called with tensors that are no parameters of the layers of a block, but were read there."""
        if self.unlisted is refuse_unlisted:
            shapes = ", ".join(str(tuple(each.shape)) for each in lost)
            raise ConfigurationError(
                f"{block}: a layer reads {len(lost)} tensors that require a gradient and are no parameters of the "
                f"block (shapes {shapes}): gradient='adjoint' would lose it. Make them parameters of the layer, or use "
                "gradient='backprop'"
            )
        if self.unlisted is not None:
            self.unlisted(lost)

    @staticmethod
    def _without_gradient(course: ProblemCourse, y: Tensor, unlisted: Callable[[list[Tensor]], None]) -> Outputs:
        """The states where nothing that is known needs a gradient: then nothing that func reads may need one."""
        found = course.follow(y)
        states = torch.stack([*found.states, *([] if found.event_state is None else [found.event_state])])
        if not states.requires_grad:
            return found
        unlisted(unlisted_leaves(states, []))
        event = None if found.event_state is None else found.event_state.detach()
        return Outputs([each.detach() for each in found.states], found.event_time, event)


def check_continuous(course: ProblemCourse, *, interpolant: bool) -> None:
    """Raise a ConfigurationError for a course whose adjoint equation is not that of its field."""
    if interpolant and not isinstance(course, AdaptiveCourse):
        raise ConfigurationError(
            f"the adjoint with a stored interpolant needs an adaptive method such as dopri5, got {course.name}"
        )
    if not isinstance(course, ProblemOnGrid):
        return
    if any(part != FIELD for _, part in course.integrator.reads) or isinstance(course.integrator, nn.Module):
        raise ConfigurationError(
            f"the adjoint equation is that of the field alone, and {course.name} reads other parts, or has weights of "
            "its own; use gradient='backprop' or 'checkpoint'"
        )
    if course.scheme.method not in METHODS.values() and not course.scheme.method.open:
        check_first_order(course.integrator)


@dataclass(frozen=True)
class _Node:
    """What both passes need and no gradient flows to."""

    course: ProblemCourse
    back: Scheme
    unlisted: Callable[[list[Tensor]], None] | None
    interpolant: bool
    failures: list[SolveError] = field(default_factory=list)

    def forward(self, y0: Tensor, t: Tensor, stored: StoredSteps | None) -> tuple[float | None, Tensor]:
        """The time of the event, if one ends the solve, and the states."""
        course = self.course.moving(y0, t, None)
        if isinstance(course, AdaptiveCourse):
            course = replace(course, kept=stored)
        found = course.follow(y0)
        if isinstance(course, ScipyCourse) or course.event is None:
            return None, found.stacked()
        time, state = event_found(found)
        return time, torch.stack([y0, state])


class _Adjoint(torch.autograd.Function):
    """States at the times, and their gradients by the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, node: _Node, y0: Tensor, t: Tensor, *params: Tensor) -> tuple[Tensor | None, Tensor]:
        ctx.node, ctx.of_times = node, t.requires_grad
        ctx.autocast = (torch.is_autocast_enabled(y0.device.type), torch.get_autocast_dtype(y0.device.type))
        wanted = node.interpolant and any(ctx.needs_input_grad)
        ctx.stored = StoredSteps(node.course.problem.direction) if wanted else None
        try:
            time, states = node.forward(y0.detach(), t.detach(), ctx.stored)
        except SolveError as error:
            # What was solved till then has gradients as well.
            node.failures.append(error)
            time, states = None, torch.stack(list(error.circumstances.states) or [y0.detach()])
        times, event_t = t.detach()[: len(states)], None
        ctx.missing = len(t) - len(times)
        if time is not None:
            event_t = t.new_tensor(time)
            times = torch.stack([times[0], event_t])
            ctx.mark_non_differentiable(event_t)
        ctx.ended = time is not None
        ctx.save_for_backward(times, states, *params)
        return event_t, states

    @staticmethod
    @untraced
    def backward(ctx: Any, _event: Tensor | None, by_states: Tensor) -> tuple[Tensor | None, ...]:
        node: _Node = ctx.node
        times, states, *params = ctx.saved_tensors
        enabled, kind = ctx.autocast
        autocast = torch.autocast(states.device.type, dtype=kind, enabled=enabled)
        with torch.no_grad(), autocast, OutsideTransforms(), going_back(node.course.problem.field.tally):
            by_y0, by_t, by_params = solve_back(
                node.course.problem, node.back, times, states, by_states, params,
                of_times=ctx.of_times, stored=ctx.stored, unlisted=node.unlisted,
            )  # fmt: skip
        if by_t is not None and ctx.missing:
            by_t = torch.cat([by_t, by_t.new_zeros(ctx.missing)])
        if ctx.ended and by_t is not None:
            # The time of the event is no free variable; odeint_event gives it its gradient.
            by_t = torch.cat([by_t[:1], torch.zeros_like(by_t[1:])])
        return None, *differentiable_once((by_y0, by_t, *by_params), by_y0, NO_SECOND)
