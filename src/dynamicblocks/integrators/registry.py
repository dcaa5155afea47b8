"""Integrators by name."""

from collections.abc import Callable
from functools import partial

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.adaptive import ADAPTIVE, Adaptive
from dynamicblocks.integrators.base import Integrator
from dynamicblocks.integrators.implicit import IMPLICIT, ImplicitRungeKutta, ImplicitTableau
from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, ReversibleHeun
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.tableaus import TABLEAUS
from dynamicblocks.registry import Registry

integrators: Registry[Integrator] = Registry("integrator")
for _tableau in TABLEAUS:
    integrators.register(_tableau.name)(partial(RungeKutta, _tableau))


def _implicit(tableau: ImplicitTableau) -> Callable[..., Integrator]:
    def make(max_iters: int = 100) -> Integrator:
        return ImplicitRungeKutta(tableau, max_iters)

    return make


for _implicit_tableau in IMPLICIT:
    integrators.register(_implicit_tableau.name)(_implicit(_implicit_tableau))
# The weights may jump between two steps: the slope at the end of one is not that at the beginning of the next.
integrators.register("reversible_heun")(partial(ReversibleHeun, reuse=False))
integrators.register("alf")(AsynchronousLeapfrog)
for _name in ADAPTIVE:
    integrators.register(_name)(partial(Adaptive, _name))


def as_integrator(integrator: Integrator | str) -> Integrator:
    """An integrator, or the one of that name.

    >>> as_integrator("rk4_classic").order
    4
    >>> as_integrator("dopri5(rtol=1e-4)").order
    5
    """
    if isinstance(integrator, Integrator):
        return integrator
    if isinstance(integrator, str):
        return integrators.create(integrator)
    raise ConfigurationError(f"integrator must be an Integrator or the name of one, got {integrator!r}")


def list_integrators() -> list[str]:
    """The names that :func:`as_integrator` knows.

    >>> "rk4_classic" in list_integrators()
    True
    """
    return list(integrators)
