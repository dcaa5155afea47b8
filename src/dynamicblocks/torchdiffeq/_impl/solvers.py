"""What the solver classes of torchdiffeq are made from.

Those that ``SOLVERS`` lists stand for methods of this package. A subclass of :class:`FixedGridODESolver` is a method of
its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.functional.arguments import BACKPROP, run
from dynamicblocks.integrators import METHODS, FieldStage, GridMethod, Method
from dynamicblocks.integrators.interpolant import combine, hermite_weights
from dynamicblocks.solving.events import EventFunction, check_event_times, event_found
from dynamicblocks.solving.make_course import make_course
from dynamicblocks.solving.options import make_grid
from dynamicblocks.solving.problem import make_problem
from dynamicblocks.solving.scheme import Scheme
from dynamicblocks.torchdiffeq._impl.misc import Perturb, _handle_unused_kwargs
from dynamicblocks.torchdiffeq.solver_steps import solver_method

Func = Callable[..., Tensor]
EventOf = Callable[[Tensor, Tensor], Tensor]


class ODESolver(ABC):
    """A right-hand side and a first state, one tensor, with a method, tolerances and options.

    Args:
        func: (t, y) -> slope.
        y0: one tensor.
        rtol, atol, options: as in odeint.
    """

    package_method: ClassVar[str] = ""
    """The method of this package for which a class stands itself; what is derived from it is another."""

    func: Func
    y0: Tensor
    rtol: Any
    atol: Any
    options: dict[str, Any]

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        """The callbacks of func that it calls."""
        return set()

    @classmethod
    def listed_method(cls) -> Method | None:
        """The method for which this very class stands."""
        return METHODS_OF_PACKAGE.get(cls.__dict__.get("package_method", ""))

    def method(self) -> Method:
        """The method by which this solver solves."""
        found = self.listed_method()
        if found is None:
            raise ConfigurationError(
                f"{type(self).__name__} is a class of its own, not one that SOLVERS lists; of those, subclasses of "
                "FixedGridODESolver with a _step_func can solve"
            )
        return found

    def integrate(self, t: Tensor) -> Tensor:
        """The states at the times."""
        problem = make_problem(self.func, self.y0, t)
        found = run(BACKPROP, make_course(self._scheme(), problem))
        return problem.nesting.nested(found.stacked(), (len(problem.times),))

    def integrate_until_event(self, t0: Tensor, event_fn: EventOf) -> tuple[Tensor, Tensor]:
        """The time at which a function of time and state changes its sign, and the states at ``t0`` and then."""
        first = t0.reshape(1)
        problem = make_problem(self.func, self.y0, torch.cat([first, first.detach() + 1]))
        check_event_times(problem)
        course = make_course(self._scheme(), problem, event=EventFunction(event_fn, problem), beyond=True)
        time, state = event_found(run(BACKPROP, course))
        return problem.t.new_tensor(time), problem.nesting.nested(torch.stack([problem.y0, state]), (2,))

    def _scheme(self) -> Scheme:
        return Scheme(self.method(), self.rtol, self.atol, self.options, limit_each=True)


class AdaptiveStepsizeODESolver(ODESolver):
    """A method with steps as long as its tolerance allows."""

    def __init__(self, func: Func, y0: Tensor, rtol: Any = 1e-7, atol: Any = 1e-9, **options: Any) -> None:
        self.func, self.y0, self.rtol, self.atol = func, y0, rtol, atol
        known = self.method().options
        _handle_unused_kwargs(self, {name: options[name] for name in options if name not in known})
        self.options = {name: options[name] for name in options if name in known}
        self.norm = options.get("norm")

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        """The callbacks of func that it calls."""
        return {"callback_step", "callback_accept_step", "callback_reject_step"}


class AdaptiveStepsizeEventODESolver(AdaptiveStepsizeODESolver):
    """The same; each finds events."""


class FixedGridODESolver(ODESolver):
    """A method with steps between given points.

    A subclass defines ``_step_func`` and ``order``. Entered into ``SOLVERS``, it serves odeint, odeint_adjoint,
    odeint_event and solve under its name there, and is made anew for each solve, from the right-hand side over one
    tensor, the first state as one tensor, the tolerances and the options.

    Args:
        func: (t, y, perturb=Perturb.NONE) -> slope.
        y0: the first state, one tensor.
        step_size, grid_constructor, interp, perturb: the options of that name.
        unused: others; tolerances and norm are no surprise, of others it warns.
    """

    order: int

    def __init__(
        self,
        func: Func,
        y0: Tensor,
        step_size: float | None = None,
        grid_constructor: Callable[..., Tensor] | None = None,
        interp: str = "linear",
        perturb: bool = False,
        **unused: Any,
    ) -> None:
        self.func, self.y0, self.dtype, self.device = func, y0, y0.dtype, y0.device
        self.rtol, self.atol = unused.pop("rtol", 0.0), unused.pop("atol", 1e-9)
        given = {"step_size": step_size, "grid_constructor": grid_constructor, "interp": interp, "perturb": perturb}
        self.options = {name: value for name, value in given.items() if value is not None}
        unused.pop("norm", None)
        _handle_unused_kwargs(self, unused)
        if step_size is not None and grid_constructor is not None:
            raise ConfigurationError("step_size and grid_constructor are mutually exclusive arguments.")
        self.step_size, self.interp, self.perturb = step_size, interp, perturb
        self.grid_constructor = grid_constructor or self._usual_grid

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        """The callbacks of func that it calls."""
        return {"callback_step"}

    def method(self) -> Method:
        """The method by which this solver solves: its own steps, where it is not one that SOLVERS lists."""
        return self.listed_method() or solver_method(type(self).__name__, lambda **_: self)

    @abstractmethod
    def _step_func(self, func: Func, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        """The change of the state from t0 to t1 = t0 + dt, and the slope at t0."""

    def _usual_grid(self, func: Func, y0: Tensor, t: Tensor) -> Tensor:
        return make_grid(make_problem(func, y0, t), {"step_size": self.step_size})

    @staticmethod
    def _linear_interp(t0: Tensor, t1: Tensor, y0: Tensor, y1: Tensor, t: Tensor) -> Tensor:
        """The state at a time on the straight line between both ends of a step."""
        return y0 + (t - t0) / (t1 - t0) * (y1 - y0)

    @staticmethod
    def _cubic_hermite_interp(
        t0: Tensor, y0: Tensor, f0: Tensor, t1: Tensor, y1: Tensor, f1: Tensor, t: Tensor
    ) -> Tensor:
        """The state at a time on the cubic with the states and slopes at both ends of a step."""
        h = t1 - t0
        return combine(hermite_weights((t - t0) / h, middle=False), [y0, y1, h * f0, h * f1])


class PackageGridSolver(FixedGridODESolver):
    """A method of this package with steps between given points; it takes the options of that method, too."""

    def __init__(self, func: Func, y0: Tensor, **options: Any) -> None:
        names = METHODS_OF_PACKAGE[self.package_method].own
        self.own = {name: options.pop(name) for name in names if name in options and name not in ("rtol", "atol")}
        super().__init__(func, y0, **options)
        self.options.update(self.own)

    def _step_func(self, func: Func, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        method = METHODS_OF_PACKAGE[self.package_method]
        assert isinstance(method, GridMethod)
        integrator = method.make(**self.own)
        slopes: dict[float, Tensor] = {}
        sides = {0.0: Perturb.NEXT, 1.0: Perturb.PREV} if self.perturb else {}

        def slope(c: float, y: Tensor) -> Tensor:
            time = t1 if c == 1 else t0 + c * dt
            slopes.setdefault(c, found := func(time, y, perturb=sides.get(c, Perturb.NONE)))
            return found

        stage = FieldStage(slope)
        y1 = integrator.finish(integrator.advance(stage, dt, integrator.begin(stage, dt, y0)))
        return y1 - y0, slopes[0.0] if 0.0 in slopes else slope(0.0, y0)


METHODS_OF_PACKAGE = dict(METHODS)
"""The methods of this package by name, whatever is entered into SOLVERS later."""
