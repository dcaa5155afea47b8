"""The methods of the package by name, as torchdiffeq's table of solver classes."""

import inspect
from collections.abc import Iterator, MutableMapping

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError
from dynamicblocks.integrators import METHODS, AdaptiveMethod, GridMethod, Method
from dynamicblocks.torchdiffeq._impl.adaptive_heun import AdaptiveHeunSolver
from dynamicblocks.torchdiffeq._impl.bosh3 import Bosh3Solver
from dynamicblocks.torchdiffeq._impl.dopri5 import Dopri5Solver
from dynamicblocks.torchdiffeq._impl.dopri8 import Dopri8Solver
from dynamicblocks.torchdiffeq._impl.fehlberg2 import Fehlberg2
from dynamicblocks.torchdiffeq._impl.fixed_adams import AdamsBashforth, AdamsBashforthMoulton
from dynamicblocks.torchdiffeq._impl.fixed_grid import RK4, Euler, Heun2, Heun3, Midpoint
from dynamicblocks.torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver
from dynamicblocks.torchdiffeq._impl.scipy_wrapper import ScipyWrapperODESolver
from dynamicblocks.torchdiffeq._impl.solvers import METHODS_OF_PACKAGE, FixedGridODESolver, ODESolver, PackageGridSolver
from dynamicblocks.torchdiffeq.solver_steps import solver_method

NAMED: dict[str, type[ODESolver]] = {
    each.package_method: each
    for each in (
        AdaptiveHeunSolver, Bosh3Solver, Dopri5Solver, Dopri8Solver, Fehlberg2, AdamsBashforth, AdamsBashforthMoulton,
        Euler, Midpoint, Heun2, Heun3, RK4, ScipyWrapperODESolver,
    )
}  # fmt: skip
NAMED["fixed_adams"] = AdamsBashforthMoulton
"""The classes that torchdiffeq has names for, by the methods for which they stand."""


class SolverTable(MutableMapping[str, type[ODESolver]]):
    """Every method of odeint with the class that stands for it; what is entered is a method of odeint from then on.

    An entry is a subclass of :class:`FixedGridODESolver` with a ``_step_func`` of its own, or a class that the table
    has under another name. It serves odeint, odeint_adjoint, odeint_event and solve until it is taken out; where it
    took the place of a method of the package, that is back then.
    """

    def __init__(self) -> None:
        self._classes: dict[str, type[ODESolver]] = {name: _class_of(method) for name, method in METHODS.items()}
        self._made = dict(METHODS)

    def __getitem__(self, name: str) -> type[ODESolver]:
        if name not in METHODS:
            raise KeyError(name)
        # What was registered elsewhere since.
        if self._made.get(name) is not METHODS[name]:
            self._made[name], self._classes[name] = METHODS[name], _class_of(METHODS[name])
        return self._classes[name]

    def __setitem__(self, name: str, solver: type[ODESolver]) -> None:
        if not isinstance(name, str) or not name or "(" in name:
            raise ArgumentTypeError(f"a method needs a name, a string without brackets, got {name!r:.80}")
        method = _method_of(name, solver)
        METHODS[name] = self._made[name] = method
        self._classes[name] = solver

    def __delitem__(self, name: str) -> None:
        if name not in METHODS:
            raise KeyError(name)
        before = METHODS_OF_PACKAGE.get(name)
        if METHODS[name] is before:
            raise ConfigurationError(f"{name} is a method of the package; another may take its place, but it stays")
        if before is None:
            del METHODS[name]
        else:
            METHODS[name] = before

    def __iter__(self) -> Iterator[str]:
        return iter(METHODS)

    def __len__(self) -> int:
        return len(METHODS)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: {self[name].__name__}' for name in self)}}}"


def _class_of(method: Method) -> type[ODESolver]:
    """The class that stands for a method of the package."""
    if method.name in NAMED:
        return NAMED[method.name]
    base: type[ODESolver] = ScipyWrapperODESolver
    if isinstance(method, AdaptiveMethod):
        base = RKAdaptiveStepsizeODESolver
    elif isinstance(method, GridMethod):
        base = PackageGridSolver
    return type(method.name, (base,), {"package_method": method.name, "__doc__": f"The method {method.name}."})


def _method_of(name: str, solver: object) -> Method:
    """The method that an entry means."""
    if isinstance(solver, type) and issubclass(solver, ODESolver):
        listed = solver.listed_method()
        if listed is not None:
            return listed
        own_loop = (solver.integrate, solver.integrate_until_event) != (
            ODESolver.integrate,
            ODESolver.integrate_until_event,
        )
        if issubclass(solver, FixedGridODESolver) and not inspect.isabstract(solver) and not own_loop:
            return solver_method(name, solver)
    raise ConfigurationError(
        f"SOLVERS takes subclasses of FixedGridODESolver with a _step_func, and with its integrate, got {solver!r:.80} "
        f"for {name!r}; odeint and solve take any Integrator of dynamicblocks as their method, too"
    )
