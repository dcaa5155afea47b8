"""What the adjoint equation of a block can be solved with: refused where it is built, with the reason."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Adaptive, Integrator, as_integrator
from dynamicblocks.layers.parts import FIELD, PROJECTION, parts_of
from dynamicblocks.solving.options import CONTROL

OTHERS = "use gradient='checkpoint', or 'backprop'"
# The options of an adaptive integrator by the names that solves give them, and by its own.
_OPTIONS = {
    **CONTROL,
    "max_num_steps": "max_steps",
    **{each.name: each.name for each in dataclasses.fields(Adaptive) if each.name not in ("method", "rtol", "atol")},
}


def check_equation_of(layer: nn.Module, integrator: Integrator) -> None:
    """Raise a ConfigurationError for a block on a grid whose steps are not those of one equation for its field."""
    if isinstance(integrator, Adaptive):
        return
    if PROJECTION in parts_of(layer):
        raise ConfigurationError(
            f"{type(layer).__name__} has a projection, which changes the state after each step, so from the state at "
            f"the end of a step gradient='adjoint' cannot solve back; {OTHERS}, or an adaptive integrator such as "
            "'dopri5', which keeps the states at the points of the grid then"
        )
    check_grid_method(integrator)


def check_grid_method(integrator: Integrator) -> None:
    """Raise a ConfigurationError for steps on a grid that do not solve y' = f(t, y) for any y."""
    name = integrator.name
    others = sorted({part for _, part in integrator.reads if part != FIELD})
    if others or isinstance(integrator, nn.Module):
        what = f"reads {', '.join(others)} of the layer" if others else "has weights of its own"
        raise ConfigurationError(f"the adjoint equation is that of the field alone, and {name} {what}; {OTHERS}")
    beyond = [c for c in integrator.fractions if not 0 <= c <= 1]
    if beyond:
        raise ConfigurationError(
            f"{name} reads at the fraction {beyond[0]} of a step, where theta(t) may be another piece; {OTHERS}"
        )
    if integrator.takes_past:
        raise ConfigurationError(f"the adjoint equation begins from one state, and {name} from two; {OTHERS}")
    check_first_order(integrator)


def check_first_order(integrator: Integrator) -> None:
    """Raise a ConfigurationError for a method of another equation than y' = f(t, y), or of states of one form alone.

    y and its gradient are laid out as one vector and solved back in time: one step of y' = 1 tells whether they can.
    """
    name, h = integrator.name, -0.25
    try:
        with torch.no_grad():
            start = torch.zeros(6, dtype=torch.float64)
            found = integrator.finish(integrator.step(_ones, 0.0, h, integrator.start(_ones, 0.0, h, start)))
    except Exception as error:
        raise ConfigurationError(
            f"gradient='adjoint' steps the state and its gradient as one vector back in time, which {name} cannot: "
            f"{type(error).__name__}: {error}; {OTHERS}"
        ) from error
    if found.shape != start.shape or not bool(((found - h).abs() < 1e-6).all()):
        raise ConfigurationError(
            f"gradient='adjoint' solves y' = f(t, y), and {name} solves another equation: a step of {h:g} of y' = 1 "
            f"from 0 leads to {found.flatten()[0].item():.3g}; {OTHERS}"
        )


def _ones(_t: float, y: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(y)


def back_integrator(
    forward: Integrator,
    method: Integrator | str | None,
    rtol: Any,
    atol: Any,
    options: Mapping[str, Any] | None,
    *,
    interpolant: bool,
) -> Integrator:
    """By what the adjoint equation of a block with that integrator is solved, or an error that says what is wrong.

    The arguments are those of the gradient mode; the norm among the options is not looked at.
    """
    chosen = forward if method is None else as_integrator(method)
    given = {name: value for name, value in (options or {}).items() if name != "norm"}
    tolerances = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    if not isinstance(forward, Adaptive):
        if isinstance(chosen, Adaptive):
            raise ConfigurationError(
                f"on a grid the adjoint is solved back on that grid, and {chosen.name}, the method of the adjoint, "
                "chooses its own steps; name one with steps on the grid, or give the block an adaptive integrator"
            )
        wrong = [*tolerances, *(options or {}), *["interpolant"] * interpolant]
        if wrong:
            raise ConfigurationError(
                f"on a grid the steps of the adjoint are those of the grid, so {', '.join(wrong)} of gradient='adjoint'"
                " would change nothing; leave it out, or give the block an adaptive integrator such as 'dopri5'"
            )
        check_grid_method(chosen)
        return chosen
    if not isinstance(chosen, Adaptive):
        raise ConfigurationError(
            f"{forward.name} chooses its own steps, so the method of the adjoint must be adaptive too, such as "
            f"'dopri5', got {chosen.name}"
        )
    if method is not None and (not isinstance(method, str) or "(" in method):
        if tolerances or given:
            raise ConfigurationError(
                f"the method of the adjoint, {chosen.name}, brings tolerances and options of its own; give its name, "
                "or leave them out"
            )
        return chosen
    foreign = sorted(given.keys() - _OPTIONS.keys())
    if foreign:
        raise ConfigurationError(
            f"the adjoint of a block does not take {', '.join(foreign)}; known: {', '.join(sorted(_OPTIONS))}, norm"
        )
    settings = {_OPTIONS[name]: value for name, value in given.items()}
    if method is not None:
        forward = Adaptive(chosen.method, forward.rtol, forward.atol, forward.max_steps)
    return replace(forward, **{**tolerances, **settings})


def settings_of(loop: Any) -> Adaptive:
    """The integrator whose steps an adaptive loop takes."""
    control = {each.name: getattr(loop.control, each.name) for each in dataclasses.fields(loop.control)}
    # The length of a first step is that of the first pass; a loop that chose it leaves it to be chosen.
    return Adaptive(
        loop.method,
        loop.tolerance.rtol,
        loop.tolerance.atol,
        loop.max_steps,
        None if loop.first_step is None or not math.isfinite(loop.first_step) else loop.first_step,
        **control,
    )
