"""Every method by name: what it is made from, which options it has, and what it is in a block.

A block is solved from step to step of a grid along which the field may jump; a caller's problem is smooth as far as
anybody knows. The few methods to which that matters have a form for each.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, unknown_name
from dynamicblocks.integrators.adams import Adams
from dynamicblocks.integrators.adams_bashforth import AdamsBashforth
from dynamicblocks.integrators.adaptive import BEYOND, Adaptive
from dynamicblocks.integrators.algebraic import COUPLING, ReversiblePair, ReversibleRungeKutta
from dynamicblocks.integrators.coupling import AdditiveStep, AffineStep
from dynamicblocks.integrators.embedded import Embedded
from dynamicblocks.integrators.esdirk import ESDIRKS, Esdirk
from dynamicblocks.integrators.imex import Imex
from dynamicblocks.integrators.implicit import IMPLICIT, ImplicitRungeKutta, ImplicitTableau
from dynamicblocks.integrators.integrator import Integrator
from dynamicblocks.integrators.linear_multistep import LinearMultistep
from dynamicblocks.integrators.momentum import Momentum
from dynamicblocks.integrators.pairs import PAIRS, Pair
from dynamicblocks.integrators.partitioned import SymplecticEuler, Verlet
from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, ReversibleHeun
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.second_order import REST, Leapfrog
from dynamicblocks.integrators.tableaus import TABLEAUS
from dynamicblocks.integrators.two_step_midpoint import TwoStepMidpoint
from dynamicblocks.registry import Registry, parse_call

CONTROL_OPTIONS = (
    "first_step", "min_step", "max_step", "max_num_steps", "safety", "ifactor", "dfactor", "pcoeff", "icoeff", "dcoeff",
    "step_t", "jump_t", "norm", "dtype", "compile",
)  # fmt: skip
GRID_OPTIONS = (
    "step_size", "grid_constructor", "max_num_steps", "interp", "perturb", "enforce_openset", "norm", "compile",
)  # fmt: skip
SCIPY_OPTIONS = ("solver", "min_step", "max_step", "max_num_steps", "norm", "grid_points", "eps")

DEFAULT = "dopri5"


@dataclass(frozen=True)
class Method:
    """A way to solve: SciPy's, or one of the two kinds below.

    Args:
        name: its name.
        shared: names of the options of its kind.
        own: names of the options of its own, among them ``rtol`` and ``atol`` where it iterates on a grid.
        open: whether it takes options of any name, which what makes it checks; on a grid that is given the call's
            tolerances and its problem with them.
        block: makes it for a block, from its own arguments; else why there is none.
        given: whether it is an object of the caller's, which brings tolerances and options of its own.
    """

    name: str
    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    block: Callable[..., Integrator] | str = field(kw_only=True, default="")
    given: bool = field(kw_only=True, default=False)
    open: bool = field(kw_only=True, default=False)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options that it takes."""
        return (*(name for name in self.own if name not in ("rtol", "atol")), *self.shared)

    def chosen(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that are its own."""
        return dict(options) if self.open else {name: options[name] for name in self.own if name in options}


@dataclass(frozen=True)
class AdaptiveMethod(Method):
    """With steps as long as the error allows; ``settings`` are those of a caller's object."""

    make: Callable[..., Embedded] = field(kw_only=True)
    settings: Adaptive | None = field(kw_only=True, default=None)


@dataclass(frozen=True)
class GridMethod(Method):
    """With steps between given points."""

    make: Callable[..., Integrator] = field(kw_only=True)


def _implicit(tableau: ImplicitTableau) -> Callable[..., Integrator]:
    """Without the arguments that a caller does not choose."""

    def make(max_iters: int = 100) -> Integrator:
        return ImplicitRungeKutta(tableau, max_iters)

    return make


def _all() -> Iterator[Method]:
    for pair in PAIRS:
        yield AdaptiveMethod(
            pair.name, CONTROL_OPTIONS, make=lambda pair=pair: pair, block=partial(Adaptive, pair.name)
        )
    for esdirk in ESDIRKS:
        yield AdaptiveMethod(
            esdirk.name, CONTROL_OPTIONS, ("max_iters",), make=partial(Esdirk, esdirk),
            block=partial(Adaptive, esdirk.name) if max(esdirk.c) <= 1 else f"{esdirk.name} {BEYOND}",
        )  # fmt: skip
    for tableau in TABLEAUS:
        explicit = partial(RungeKutta, tableau)
        for name in (tableau.name, "ralston") if tableau.name == "ralston2" else (tableau.name,):
            yield GridMethod(name, GRID_OPTIONS, make=explicit, block=explicit)
    for implicit in IMPLICIT:
        solved = _implicit(implicit)
        yield GridMethod(implicit.name, GRID_OPTIONS, ("max_iters",), make=solved, block=solved)
    # Where the field jumps, Adams methods begin anew.
    bashforth, moulton = partial(Adams, implicit=False), partial(Adams, implicit=True)
    yield GridMethod("explicit_adams", GRID_OPTIONS, ("max_order", "max_iters"), make=bashforth, block=bashforth)
    for name in ("implicit_adams", "fixed_adams"):
        own = ("max_order", "max_iters", "rtol", "atol")
        yield GridMethod(name, GRID_OPTIONS, own, make=moulton, block=moulton)
    yield GridMethod("adams_bashforth", GRID_OPTIONS, ("order",), make=AdamsBashforth, block=AdamsBashforth)
    # The slope at the end of a step is not that at the beginning of the next where the field jumps.
    paired = partial(ReversibleHeun, reuse=False)
    yield GridMethod("reversible_heun", GRID_OPTIONS, make=ReversibleHeun, block=paired)
    yield GridMethod("alf", GRID_OPTIONS, make=AsynchronousLeapfrog, block=AsynchronousLeapfrog)
    yield GridMethod("two_step_midpoint", GRID_OPTIONS, make=TwoStepMidpoint, block=TwoStepMidpoint)
    why = (
        "scipy_solver solves with SciPy, without gradients, so no block can be trained with it; use dopri5 or kencarp4"
    )
    yield Method("scipy_solver", SCIPY_OPTIONS, block=why)


METHODS: dict[str, Method] = {method.name: method for method in _all()}

integrators: Registry[Integrator] = Registry("integrator")
"""The integrators of blocks by name, and where others are registered; those serve odeint and solve as well."""

for _name, _method in METHODS.items():
    if not isinstance(_method.block, str):
        integrators.register(_name)(_method.block)

# They read parts of a layer, which a function of a caller's has if it declares them.
integrators.register("symplectic_euler")(SymplecticEuler)
integrators.register("verlet")(Verlet)
integrators.register("additive_coupling")(AdditiveStep)
integrators.register("affine_coupling")(AffineStep)
integrators.register("imex")(Imex)
# Made for networks rather than for equations.
integrators.register("momentum")(Momentum)
# What it solves depends on its coefficients.
integrators.register("lm")(LinearMultistep)


@integrators.register("leapfrog")
def leapfrog(start: str = REST) -> Integrator:
    """The leapfrog of y'' = F(t, y), see :class:`~dynamicblocks.integrators.second_order.Leapfrog`."""
    return Leapfrog(start)


OF_OTHER_EQUATIONS = {
    "leapfrog": "it solves an equation of second order, y'' = func(t, y) from rest, not y' = func(t, y); "
    "method=\"leapfrog('rest')\" says that this is meant, and 'two_step_midpoint' is its like for y' = func(t, y)"
}
"""What solves refuse under a bare name, by which a method for y' = func(t, y) would be expected."""

REVERSIBLE = "reversible"
"""The gradient mode of that name needs steps that can be taken back; the integrator makes them so."""

EXAMPLES = ("reversible('rk4')", "reversible('dopri5(rtol=1e-6, atol=1e-8)')")


@integrators.register(REVERSIBLE)
def reversible(method: Integrator | str | None = None, coupling: float = COUPLING) -> Integrator:
    """An explicit Runge-Kutta method, on a grid or adaptive, whose steps can be taken back.

    Args:
        method: the name of the method, also with arguments, or an object.
        coupling: of its two states, see :class:`~dynamicblocks.integrators.algebraic.ReversibleRungeKutta`.

    Raises:
        ConfigurationError: no method, or one that is no explicit Runge-Kutta method; an impossible coupling.

    >>> reversible("dopri5(rtol=1e-6, atol=1e-8)").shorthand
    "reversible('dopri5(rtol=1e-06, atol=1e-08)', coupling=0.999)"
    """
    if method is None:
        raise ConfigurationError(
            f"'{REVERSIBLE}' alone is a gradient mode, gradient='{REVERSIBLE}'; as an integrator or a method it makes "
            f'the steps of another one reversible, which it must name: "{EXAMPLES[0]}" or "{EXAMPLES[1]}"'
        )
    named = METHODS.get(method.partition("(")[0].strip()) if isinstance(method, str) else None
    if named is not None and isinstance(named.block, str):
        raise _not_wrapped(named.name, "no explicit Runge-Kutta method")
    made = as_integrator(method)
    if isinstance(made, RungeKutta):
        return ReversibleRungeKutta(made, coupling)
    if isinstance(made, Adaptive) and isinstance(made.embedded, Pair):
        return replace(made, method=ReversiblePair(made.embedded, coupling))
    if made.solves_equations:
        why = "implicit: its stages are solutions of equations"
    elif made.reversible or (isinstance(made, Adaptive) and isinstance(made.embedded, ReversiblePair)):
        why = "reversible already"
    elif isinstance(made, Adams | AdamsBashforth | LinearMultistep):
        why = "a multistep method: its steps need slopes or states of those before"
    else:
        why = f"a {type(made).__name__}; write it as RungeKutta(Tableau(...))"
    raise _not_wrapped(made.name, why)


def _not_wrapped(name: str, why: str) -> ConfigurationError:
    explicit = [tableau.name for tableau in TABLEAUS] + [pair.name for pair in PAIRS]
    return ConfigurationError(
        f"'{REVERSIBLE}' wraps an explicit Runge-Kutta method ({', '.join(explicit)}, or one of your own), and {name} "
        f"is {why}"
    )


ADAPTIVE = {
    name: method.make()
    for name, method in METHODS.items()
    if isinstance(method, AdaptiveMethod) and name in integrators
}
"""The embedded methods that a block can be integrated with, by name."""


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
        refused = METHODS.get(integrator.partition("(")[0].strip())
        if refused is not None and isinstance(refused.block, str):
            raise ConfigurationError(refused.block)
        return integrators.create(integrator)
    raise ConfigurationError(f"integrator must be an Integrator or the name of one, got {integrator!r:.80}")


def as_method(method: Integrator | str | None) -> Method:
    """The method that a caller of odeint or solve names or gives; None for the usual one.

    A bare name means the method as it is for a smooth field, with tolerances and options of the call, also where it is
    made reversible. Objects, and strings with arguments, which mean what they mean in a block, bring their own.
    """
    if method is None or (isinstance(method, str) and method in METHODS):
        return METHODS[method or DEFAULT]
    if isinstance(method, str) and "(" not in method:
        if method not in integrators:
            raise unknown_name("method", method, {*METHODS, *integrators})
        if method == REVERSIBLE:
            reversible()
        if method in OF_OTHER_EQUATIONS:
            raise ConfigurationError(f"{method} is no method of odeint and solve: {OF_OTHER_EQUATIONS[method]}")
        return GridMethod(method, GRID_OPTIONS, make=integrators[method])
    chosen = as_integrator(method)
    if isinstance(chosen, ReversibleRungeKutta):
        # It brings no grid, and has no bare name.
        return GridMethod(chosen.name, GRID_OPTIONS, make=lambda: chosen)
    if isinstance(chosen, Adaptive):
        embedded = chosen.embedded
        if isinstance(embedded, ReversiblePair) and isinstance(method, str) and _wraps_a_bare_name(method):
            return AdaptiveMethod(chosen.name, CONTROL_OPTIONS, make=lambda: embedded)
        return AdaptiveMethod(chosen.name, make=lambda: embedded, settings=chosen, given=True)
    return GridMethod(chosen.name, make=lambda: chosen, given=True)


def _wraps_a_bare_name(text: str) -> bool:
    """Whether what is made reversible has no arguments of its own."""
    _, arguments, keywords = parse_call(text)
    return "(" not in (arguments[0] if arguments else keywords["method"])


def foreign_options(method: Method, options: Mapping[str, Any]) -> list[str]:
    """Names of options that do not belong to the method."""
    return [] if method.open else sorted(set(options) - set(method.options))


def list_integrators() -> list[str]:
    """The names that :func:`as_integrator` knows; ``reversible`` is none, for it wraps one of them.

    >>> "rk4_classic" in list_integrators()
    True
    """
    return [name for name in integrators if name != REVERSIBLE]


def other_methods() -> dict[str, Integrator]:
    """The integrators that are no methods of the catalogue, and that solves know under their bare names.

    >>> "verlet" in other_methods()
    True
    """
    found = {}
    for name in integrators:
        if name not in METHODS and name not in OF_OTHER_EQUATIONS and name != REVERSIBLE:
            try:
                found[name] = integrators.create(name)
            except (DynamicBlocksError, TypeError):  # it takes arguments
                continue
    return found
