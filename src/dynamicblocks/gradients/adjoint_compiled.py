"""Both passes of the adjoint method in the compiled loop.

The adjoint equation is then a function of tensors alone: torch.func differentiates the field, whose parameters are
arguments. What it cannot see, such as a tensor that the field merely closes over, is refused before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.counting import counted, going_back
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients.adjoint import NO_SECOND
from dynamicblocks.gradients.graph import described, unlisted_leaves
from dynamicblocks.layers.stand_in import stand_in
from dynamicblocks.solving.batched_solve import SampleProblem
from dynamicblocks.solving.compiled_solve import solve_compiled
from dynamicblocks.solving.nesting import conformed, leaves, mixed_norm, one_number, rebuilt, tensors_in
from dynamicblocks.solving.refusal import differentiable_once
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.solving.solution import Solution
from dynamicblocks.tracing import untraced
from dynamicblocks.transforms import refuse_forward_mode


@dataclass(frozen=True)
class CompiledAdjoint:
    """What both passes need and no gradient flows to.

    Args:
        func: the right-hand side (t, y, *args).
        args: its other arguments; tensors in them that require a gradient get one, as parameters of ``func`` do.
        like: the initial state; its tensors get gradients.
        t: the times.
        forward, back: by what the passes are solved.
        max_steps: most steps of each pass.
        return_failures: whether a forward pass that fails returns what was solved.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    like: Any
    t: Tensor
    forward: Scheme
    back: Scheme
    max_steps: int
    return_failures: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the parameters of ``func`` that get gradients."""
        if not isinstance(self.func, nn.Module):
            return []
        return [name for name, each in self.func.named_parameters() if each.requires_grad]

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors beside the state that get gradients: parameters, then those in the arguments."""
        params = dict(self.func.named_parameters()) if isinstance(self.func, nn.Module) else {}
        return [*(params[name] for name in self.names), *_wanted(self.args)]

    def problem(
        self, func: Callable[..., Any], y0: Any, t: Tensor, args: tuple[Any, ...], scheme: Scheme, role: str
    ) -> SampleProblem:
        """A compiled solve."""
        lenient = self.return_failures and func is self.func
        limit = int(scheme.options.get("max_num_steps", self.max_steps))
        options = {name: value for name, value in scheme.options.items() if name != "max_num_steps"}
        return SampleProblem(
            func, y0, t, args, replace(scheme, options=options), limit, self.func,
            return_failures=lenient, compile=True, role=role,
        )  # fmt: skip


def compiled_adjoint(task: CompiledAdjoint) -> Solution:
    """The solution, with gradients of its states by the adjoint method."""
    refuse_forward_mode("gradient='adjoint'")
    if task.t.requires_grad:
        raise ConfigurationError("times get no gradient in a compiled loop; detach t, or leave compile out")
    task = replace(task, forward=_with_numbers(task.forward), back=_with_numbers(task.back))
    _check_unlisted(task)
    box: list[Solution] = []
    states = _Node.apply(task, box, *tensors_in(task.like), *task.inputs)  # type: ignore[no-untyped-call]
    return replace(box[0], y=rebuilt(task.like, iter(states)))


class _Node(torch.autograd.Function):
    """States at the times, and their gradients by the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, task: CompiledAdjoint, box: list[Solution], *tensors: Tensor) -> tuple[Tensor, ...]:
        count = sum(1 for _ in tensors_in(task.like))
        y0 = rebuilt(task.like, iter([each.detach() for each in tensors[:count]]))
        found = solve_compiled(task.problem(task.func, y0, task.t, task.args, task.forward, "adjoint, forward"))
        box.append(found)
        states = tuple(tensor for _, tensor in leaves(found.y))
        ctx.task, ctx.count = task, count
        ctx.save_for_backward(*states, *tensors[count:])
        return states

    @staticmethod
    @untraced
    def backward(ctx: Any, *by_states: Tensor) -> tuple[Tensor | None, ...]:
        task: CompiledAdjoint = ctx.task
        saved = ctx.saved_tensors
        states, inputs = saved[: ctx.count], [each.detach() for each in saved[ctx.count :]]
        equation = _AdjointEquation(task)
        a = [by[-1] for by in by_states]
        sums = [torch.zeros_like(each) for each in inputs]
        with torch.no_grad(), going_back():
            for n in range(len(task.t) - 1, 0, -1):
                y = rebuilt(task.like, (each[n] for each in states))
                start = (y, rebuilt(task.like, iter(a)), *sums)
                times = task.t[n - 1 : n + 1].flip(0)
                found = solve_compiled(
                    task.problem(equation, start, times, (inputs, task.args), task.back, "adjoint, backward")
                )
                counted(found.statistics.evaluations)
                _, reached, *totals = found.y
                # y itself goes on from the forward pass; what came back from the far end of the interval is less exact.
                pairs = zip(tensors_in(reached), by_states, strict=True)
                a, sums = [each[-1] + by[n - 1] for each, by in pairs], [each[-1] for each in totals]
        return None, None, *differentiable_once((*a, *sums), by_states[0], NO_SECOND)


class _AdjointEquation:
    """d/dt of (y, a, *dL/dtheta): one evaluation of the field and one backward pass through it."""

    def __init__(self, task: CompiledAdjoint) -> None:
        self.func, self.names = task.func, task.names

    def __call__(self, t: Tensor, state: Any, inputs: Sequence[Tensor], args: tuple[Any, ...]) -> Any:
        y, a, *_ = state

        def slope_of(y: Any, *inputs: Tensor) -> Any:
            given = _substituted(args, iter(inputs[len(self.names) :]))
            if isinstance(self.func, nn.Module):
                params = dict(zip(self.names, inputs, strict=False))
                if torch.compiler.is_dynamo_compiling():
                    return torch.func.functional_call(self.func, params, (t, y, *given))  # exchanges nothing in a trace
                return stand_in(self.func, params)(t, y, *given)
            return self.func(t, y, *given)

        slope, back = torch.func.vjp(lambda *given: conformed(slope_of(*given), y), y, *inputs)[:2]
        pairs = zip(tensors_in(slope), tensors_in(a), strict=True)
        by_y, *by_inputs = back(rebuilt(slope, iter([-each.to(kind.dtype) for kind, each in pairs])))
        return (slope, by_y, *by_inputs)


def with_norm(back: Scheme) -> Scheme:
    """The scheme of the backward pass, its norm one of (y, a, *dL/dtheta)."""
    norm = back.options.get("norm")
    if norm is None or norm == "seminorm":
        return replace(back, options={**back.options, "norm": None if norm is None else _seminorm})
    raise ConfigurationError(
        "a compiled adjoint measures errors in the usual norm or in 'seminorm', not in a function; leave norm or "
        "compile out"
    )


def _with_numbers(scheme: Scheme) -> Scheme:
    """The scheme with tolerances that are numbers in whatever form."""
    found = [one_number(each, lists=True) for each in (scheme.rtol, scheme.atol)]
    if None in found:
        wrong = (scheme.rtol, scheme.atol)[found.index(None)]
        raise ConfigurationError(f"tolerances must be numbers for a compiled adjoint, got {wrong!r:.80}")
    return replace(scheme, rtol=found[0], atol=found[1])


def _seminorm(state: Any) -> Tensor:
    """The norm of y and a alone."""
    return torch.as_tensor(mixed_norm(tuple(tensors_in(state[:2]))))


def _wanted(args: Any) -> list[Tensor]:
    return [each for each in tensors_in(args) if each.requires_grad]


def _substituted(nested: Any, tensors: Iterator[Tensor]) -> Any:
    """The same arguments with other tensors where a gradient is wanted."""
    if isinstance(nested, Tensor):
        return next(tensors) if nested.requires_grad else nested
    if isinstance(nested, dict):
        return {key: _substituted(value, tensors) for key, value in nested.items()}
    if isinstance(nested, (tuple, list)):
        values = [_substituted(value, tensors) for value in nested]
        return type(nested)(*values) if hasattr(nested, "_fields") else type(nested)(values)
    return nested


def _check_unlisted(task: CompiledAdjoint) -> None:
    """Refuse a field that uses other tensors with gradients than those that are known."""
    if not torch.is_grad_enabled():
        return
    y = rebuilt(task.like, (each.detach().requires_grad_() for _, each in leaves(task.like)))
    slopes = task.func(task.t[0].to(next(tensors_in(y)).dtype), y, *task.args)
    known = [*tensors_in(y), *task.inputs]
    for slope in tensors_in(slopes):
        lost = unlisted_leaves(slope.view_as(slope), known) if slope.requires_grad else []
        if lost:
            raise ConfigurationError(
                f"{described(lost)}: the compiled adjoint would lose it. Make them parameters of func, hand them "
                "over in args of solve, or leave compile out"
            )
