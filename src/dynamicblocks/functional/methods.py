"""Methods by name, and the options that belong to each."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dynamicblocks.errors import unknown_name
from dynamicblocks.integrators import (
    ESDIRKS,
    IMPLICIT,
    PAIRS,
    TABLEAUS,
    Adams,
    AsynchronousLeapfrog,
    Embedded,
    Esdirk,
    ImplicitRungeKutta,
    Integrator,
    ReversibleHeun,
    RungeKutta,
)

CONTROL_OPTIONS = (
    "first_step",
    "min_step",
    "max_step",
    "max_num_steps",
    "safety",
    "ifactor",
    "dfactor",
    "pcoeff",
    "icoeff",
    "dcoeff",
    "step_t",
    "jump_t",
    "norm",
    "dtype",
    "compile",
)
GRID_OPTIONS = ("step_size", "grid_constructor", "interp", "perturb", "norm")

SCIPY_OPTIONS = ("solver", "min_step", "max_step", "norm", "grid_points", "eps")

DEFAULT = "dopri5"


@dataclass(frozen=True)
class Method:
    """A way to solve: SciPy's, or one of the two kinds below.

    Args:
        name: its name.
        shared: names of the options of its kind.
        own: names of the options of its own, among them ``rtol`` and ``atol`` where it iterates on a grid.
    """

    name: str
    shared: tuple[str, ...]
    own: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options that it takes."""
        return (*(name for name in self.own if name not in ("rtol", "atol")), *self.shared)

    def chosen(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that are its own."""
        return {name: options[name] for name in self.own if name in options}


@dataclass(frozen=True)
class AdaptiveMethod(Method):
    """With steps as long as the error allows."""

    make: Callable[..., Embedded] = field(kw_only=True)


@dataclass(frozen=True)
class GridMethod(Method):
    """With steps between given points."""

    make: Callable[..., Integrator] = field(kw_only=True)


def _all() -> Iterator[Method]:
    for pair in PAIRS:
        yield AdaptiveMethod(pair.name, CONTROL_OPTIONS, make=partial(_same, pair))
    for esdirk in ESDIRKS:
        yield AdaptiveMethod(esdirk.name, CONTROL_OPTIONS, ("max_iters",), make=partial(Esdirk, esdirk))
    for tableau in TABLEAUS:
        yield GridMethod(tableau.name, GRID_OPTIONS, make=partial(RungeKutta, tableau))
        if tableau.name == "ralston2":
            yield GridMethod("ralston", GRID_OPTIONS, make=partial(RungeKutta, tableau))
    for implicit in IMPLICIT:
        yield GridMethod(implicit.name, GRID_OPTIONS, ("max_iters",), make=partial(ImplicitRungeKutta, implicit))
    yield GridMethod("explicit_adams", GRID_OPTIONS, ("max_order", "max_iters"), make=partial(Adams, implicit=False))
    for name in ("implicit_adams", "fixed_adams"):
        own = ("max_order", "max_iters", "rtol", "atol")
        yield GridMethod(name, GRID_OPTIONS, own, make=partial(Adams, implicit=True))
    yield GridMethod("reversible_heun", GRID_OPTIONS, make=ReversibleHeun)
    yield GridMethod("alf", GRID_OPTIONS, make=AsynchronousLeapfrog)
    yield Method("scipy_solver", SCIPY_OPTIONS)


def _same(method: Embedded) -> Embedded:
    return method


METHODS = {method.name: method for method in _all()}


def as_method(name: str | None) -> Method:
    """The method of that name; None for the usual one."""
    chosen = DEFAULT if name is None else name
    if chosen not in METHODS:
        raise unknown_name("method", str(chosen), METHODS)
    return METHODS[chosen]


def check_options(method: Method, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of the options that belong to the method; others are left out with a warning, as in torchdiffeq."""
    given = dict(options or {})
    foreign = foreign_options(method, given)
    if foreign:
        warnings.warn(
            f"{method.name}: unexpected options {', '.join(foreign)}; it takes {', '.join(method.options)}",
            stacklevel=3,
        )
    return {name: value for name, value in given.items() if name not in foreign}


def foreign_options(method: Method, options: Mapping[str, Any]) -> list[str]:
    """Names of options that do not belong to the method."""
    return sorted(set(options) - set(method.options))
