"""What callers of odeint, its relatives and solve write, checked and understood."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, ConfigurationError, warn_caller
from dynamicblocks.gradients import Backprop, Gradient
from dynamicblocks.gradients.gradient import ProblemCourse
from dynamicblocks.gradients.graph import each_once
from dynamicblocks.integrators import Integrator, Method, as_method, foreign_options
from dynamicblocks.solving.callbacks import warn_of_uncalled
from dynamicblocks.solving.failures import SolveError, explained
from dynamicblocks.solving.holdings import held_by
from dynamicblocks.solving.nesting import tensors_in
from dynamicblocks.solving.outputs import Outputs
from dynamicblocks.solving.scheme import Scheme

Func = Callable[..., Any]
State = Tensor | tuple[Tensor, ...]
Tol = float | Tensor | tuple[float | Tensor, ...]

BACKPROP = Backprop()

# Of odeint and its relatives.
RTOL, ATOL = 1e-7, 1e-9


def scheme_of(
    method: Integrator | str | None, rtol: Any, atol: Any, options: Mapping[str, Any] | None, *, limit_each: bool = True
) -> Scheme:
    """The scheme that a caller of odeint asks for; options of another method are left out with a warning."""
    chosen = as_method(method)
    check_brought(chosen, rtol=(rtol, RTOL), atol=(atol, ATOL), options=(options or None, None))
    given = dict(options) if options else {}
    foreign = foreign_options(chosen, given) if given else []
    if foreign:
        warn_caller(f"{chosen.name}: unexpected options {', '.join(foreign)}; it takes {', '.join(chosen.options)}")
    return Scheme(chosen, rtol, atol, {name: given[name] for name in given if name not in foreign}, limit_each)


def check_brought(method: Method, **pairs: tuple[Any, Any]) -> None:
    """Raise a ConfigurationError for arguments, each beside its default, that an object brings itself."""
    if not method.given:
        return
    wrong = [
        name
        for name, (value, usual) in pairs.items()
        if value is not usual and not (isinstance(value, (int, float)) and value == usual)
    ]
    if wrong:
        raise ConfigurationError(
            f"the method {method.name} is an object, or a string with arguments, and brings what it needs, so "
            f"{', '.join(wrong)} beside it would have no effect; give its bare name, or leave {', '.join(wrong)} out"
        )


def check_torchdiffeq_state(y0: object) -> None:
    """Raise an ArgumentError for states that torchdiffeq does not know."""
    if not isinstance(y0, Tensor) and not (isinstance(y0, tuple) and all(isinstance(each, Tensor) for each in y0)):
        raise ArgumentError(f"y0 must be either a torch.Tensor or a tuple of them, got {type(y0).__name__}")


def parameters_of(func: object) -> list[Tensor]:
    """The parameters of a module, or of what else holds some, and the tensors it holds."""
    if isinstance(func, nn.Module):
        return _parameters(func)
    return [tensor for each in held_by(func) for tensor in ([each] if isinstance(each, Tensor) else _parameters(each))]


def _parameters(module: nn.Module) -> list[Tensor]:
    """In a replica of DataParallel they are plain attributes."""
    if not getattr(module, "_is_replica", False):
        return list(module.parameters())
    return [
        value
        for each in module.modules()
        for value in vars(each).values()
        if isinstance(value, Tensor) and value.requires_grad
    ]


def differentiated(func: object, args: tuple[Any, ...] = (), params: Iterable[Tensor] = ()) -> list[Tensor]:
    """The tensors that get gradients beside state and times, as far as they are known."""
    return each_once(
        [*(tensor for each in (func, *args) for tensor in parameters_of(each)), *tensors_in(args), *params]
    )


def run(mode: Gradient, course: ProblemCourse) -> Outputs:
    """The states that a course wants; an error tells its causes."""
    problem, scheme = course.problem, course.scheme
    assert scheme is not None
    warn_of_uncalled(problem.func, scheme.method)
    try:
        found = mode.run(course, problem.y0)
    except SolveError as error:
        raise explained(error, problem.y0, problem.func) from None
    if problem.field.late is not None:
        problem.field.late()
    return found
