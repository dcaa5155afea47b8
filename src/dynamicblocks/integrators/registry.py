"""Integrators by name."""

from functools import partial

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.base import Integrator
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.tableaus import TABLEAUS
from dynamicblocks.registry import Registry

integrators: Registry[Integrator] = Registry("integrator")
for _tableau in TABLEAUS:
    integrators.register(_tableau.name)(partial(RungeKutta, _tableau))


def as_integrator(integrator: Integrator | str) -> Integrator:
    """An integrator, or the one of that name.

    >>> as_integrator("rk4_classic").order
    4
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
