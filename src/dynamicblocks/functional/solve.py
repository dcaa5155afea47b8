"""The project's own face over the solvers: one function, one solution object."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.methods import as_method, foreign_options
from dynamicblocks.functional.request import GRADIENTS, ON_FAILURE, Request
from dynamicblocks.functional.runs import compiled_adjoint_solution
from dynamicblocks.functional.solution import Solution
from dynamicblocks.functional.solve_batched import solve_batched
from dynamicblocks.functional.solve_compiled import solve_compiled
from dynamicblocks.functional.solve_shared import solve_shared


def solve(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    args: tuple[Any, ...] = (),
    method: str = "dopri5",
    rtol: Any = 1e-5,
    atol: Any = 1e-7,
    options: Mapping[str, Any] | None = None,
    gradient: str = "backprop",
    gradient_options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Tensor] | None = None,
    batched: bool = False,
    dense: bool = False,
    compile: bool = False,
    max_steps: int = 10_000,
    on_failure: str = "raise",
) -> Solution:
    """Solve dy/dt = func(t, y, *args), y(t[0]) = y0, and say what it took.

    Args:
        func: right-hand side; ``t`` has no dimensions or, with ``batched``, shape (B, 1, ..., 1).
        y0: a tensor, or any nesting of tuples, lists and dicts of tensors; with ``batched`` each has the samples first.
        t: times, shape (T,) or, for samples with times of their own, (B, T); strictly increasing or decreasing.
        args: handed on to ``func`` and ``event_fn``; tensors in it get gradients under every gradient mode.
        method: as in :func:`~dynamicblocks.odeint`.
        rtol, atol: the error of a step may be ``atol + rtol |y|``: numbers, or tensors that broadcast to the state.
        options: of the method, as in :func:`~dynamicblocks.odeint`; those of another method are an error.
        gradient: how the backward pass is made. ``"backprop"``: through the steps. ``"checkpoint"``: through the steps,
            taken again from a few that were kept. ``"adjoint"``: by the continuous adjoint equation. ``"reversible"``:
            through steps taken back one by one (``alf``, ``reversible_heun``). The parameters of ``func`` (a module)
            and the tensors in ``args`` are found; a tensor that would lose its gradient is an error.
        gradient_options: of ``"checkpoint"``: ``states``, how many are kept on a level (16), and ``params``. Of
            ``"adjoint"``: ``rtol``, ``atol``, ``method``, ``options`` of the adjoint equation, ``params``, and
            ``interpolant=True`` to keep the steps of the forward pass, two states and two slopes each, rather than
            solve for y back in time. ``params`` are tensors that get gradients, beside those that are found.
        event_fn: g(t, y, *args); the solve ends where g changes its sign, or at the last time. With ``batched`` g has
            shape (B,), and each sample ends at its own event.
        batched: each sample takes steps of its own, whatever its neighbours are, and ends at its last time (steps that
            are common to the state go beyond it, and states are interpolated). Explicit adaptive methods.
        dense: also return the solution as a function of time.
        compile: compile the loop, several attempts in one call: the first solve takes long, those after it little.
            Explicit adaptive methods, ``backprop`` and ``adjoint``; what cannot be compiled runs as usual, with a
            warning.
        max_steps: most steps, accepted or not, of the solve or of each sample; adaptive methods only.
        on_failure: "raise" a :class:`~dynamicblocks.SolveError`, or "return" what was solved, with its status.

    Returns:
        A :class:`~dynamicblocks.Solution`.

    Raises:
        ConfigurationError: an argument that cannot be used, alone or beside the others.
        SolveError: the solve did not reach the last time.

    >>> import torch
    >>> found = solve(lambda t, y: {"x": -y["x"]}, {"x": torch.ones(1)}, torch.tensor([0.0, 1.0]))
    >>> found.y["x"], found.status.name, found.statistics.rejected
    (tensor([[1.0000],
            [0.3679]]), 'DONE', 0)
    """
    chosen = as_method(method)
    given = dict(options or {})
    foreign = foreign_options(chosen, given)
    if foreign:
        raise ConfigurationError(
            f"{chosen.name} does not take the options {', '.join(foreign)}; it takes {', '.join(chosen.options)}"
        )
    for name, value, known in (("gradient", gradient, GRADIENTS), ("on_failure", on_failure, ON_FAILURE)):
        if value not in known:
            raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    asked = dict(gradient_options or {})
    unknown = sorted(set(asked) - set(GRADIENTS[gradient]))
    if unknown:
        takes = f"takes the options {', '.join(GRADIENTS[gradient])}" if GRADIENTS[gradient] else "takes no options"
        raise ConfigurationError(f"gradient={gradient!r} {takes}, got {', '.join(unknown)}")
    if max_steps < 1:
        raise ConfigurationError(f"max_steps must be at least 1, got {max_steps}")
    request = Request(
        func, y0, t, args, chosen, rtol, atol, given, gradient, asked, event_fn, dense, max_steps,
        on_failure == "return", compile, func,
    )  # fmt: skip
    own_times = isinstance(t, Tensor) and t.ndim == 2
    if batched or own_times:
        return solve_batched(request)
    if not compile:
        return solve_shared(request)
    return compiled_adjoint_solution(request) if gradient == "adjoint" else solve_compiled(request)
