"""Right-hand sides that somebody knows but for their constants."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError, unknown_name

RightHandSide = Callable[..., Tensor]


def lotka_volterra(
    t: Tensor, y: Tensor, growth: Any = 1.0, predation: Any = 1.0, reproduction: Any = 1.0, death: Any = 1.0
) -> Tensor:
    """Prey x and predators z: dx/dt = growth x - predation x z, dz/dt = reproduction x z - death z."""
    prey, predators = y.unbind(-1)
    met = prey * predators
    return torch.stack((growth * prey - predation * met, reproduction * met - death * predators), dim=-1)


def oscillator(t: Tensor, y: Tensor, stiffness: Any = 1.0, damping: Any = 0.1) -> Tensor:
    """Position x and velocity v of a damped spring: dx/dt = v, dv/dt = -stiffness x - damping v."""
    position, velocity = y.unbind(-1)
    return torch.stack((velocity, -stiffness * position - damping * velocity), dim=-1)


def pendulum(t: Tensor, y: Tensor, gravity: Any = 1.0, damping: Any = 0.1) -> Tensor:
    """Angle x and velocity v: dx/dt = v, dv/dt = -gravity sin(x) - damping v, for a length of one."""
    angle, velocity = y.unbind(-1)
    return torch.stack((velocity, -gravity * torch.sin(angle) - damping * velocity), dim=-1)


def van_der_pol(t: Tensor, y: Tensor, mu: Any = 1.0) -> Tensor:
    """Van der Pol's oscillator: dx/dt = v, dv/dt = mu (1 - x^2) v - x."""
    x, v = y.unbind(-1)
    return torch.stack((v, mu * (1 - x**2) * v - x), dim=-1)


def spiral(t: Tensor, y: Tensor, xx: Any = 0.0, xy: Any = 0.0, yx: Any = 0.0, yy: Any = 0.0) -> Tensor:
    """The spiral of the well-known example: dx/dt = xx x^3 + xy y^3, dy/dt = yx x^3 + yy y^3."""
    first, second = (y**3).unbind(-1)
    return torch.stack((xx * first + xy * second, yx * first + yy * second), dim=-1)


def logistic(t: Tensor, y: Tensor, rate: Any = 1.0, capacity: Any = 1.0) -> Tensor:
    """Growth up to a bound, of each feature alone: dy/dt = rate y (1 - y / capacity)."""
    return rate * y * (1 - y / capacity)


equations: dict[str, RightHandSide] = {
    each.__name__: each for each in (lotka_volterra, oscillator, pendulum, van_der_pol, spiral, logistic)
}
"""Those that have a name."""


class Equation(nn.Module):
    """A right-hand side with unknown constants, each a weight of the module.

    Args:
        function: f(t, y, name=guess, ...), whose arguments behind t and y are the constants and whose defaults are the
            first guesses; y has the features in its last dimension. Or the name of one: lotka_volterra, oscillator,
            pendulum, van_der_pol, spiral, logistic.
        guesses: first guesses in the place of those of the function, by name.

    Raises:
        ConfigurationError: there is no such equation or no such constant, or one has no guess.

    >>> known = Equation("lotka_volterra", death=1.5)
    >>> known.values()
    {'growth': 1.0, 'predation': 1.0, 'reproduction': 1.0, 'death': 1.5}
    """

    def __init__(self, function: RightHandSide | str, **guesses: float) -> None:
        super().__init__()
        if isinstance(function, str):
            if function not in equations:
                raise unknown_name("equation", function, equations)
            function = equations[function]
        if not callable(function):
            raise ArgumentTypeError(f"function must be f(t, y, ...) or the name of an equation, got {function!r:.80}")
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        found = _guesses(function, self.name)
        for name in guesses:
            if name not in found:
                raise unknown_name(f"constant of {self.name}", name, found)
        found |= guesses
        bare = [name for name, guess in found.items() if not _is_number(guess)]
        if bare:
            raise ConfigurationError(
                f"every constant of {self.name} needs a first guess, a finite number, as {bare[0]}=1.0; got "
                f"{found[bare[0]]!r:.80}"
                if found[bare[0]] is not inspect.Parameter.empty
                else f"the constant {bare[0]!r} of {self.name} has no first guess; give one as {bare[0]}=1.0"
            )
        self.constants = nn.ParameterDict()
        for name, guess in found.items():  # one by one, for from a dictionary they would be sorted by name
            self.constants[name] = nn.Parameter(torch.tensor(float(guess)))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.function(t, y, **self.constants)

    def values(self) -> dict[str, float]:
        """The constants as numbers."""
        return {name: float(value.detach()) for name, value in self.constants.items()}

    def extra_repr(self) -> str:
        return ", ".join([self.name, *(f"{name}={value:.4g}" for name, value in self.values().items())])


def constants_of(equation: nn.Module) -> dict[str, Tensor]:
    """The constants of an equation by name, each a number without a graph; of another module all its weights.

    >>> constants_of(Equation("van_der_pol"))
    {'mu': tensor(1.)}
    """
    found: dict[str, Tensor] = {}
    for path, weight in equation.named_parameters():
        name, one = path.removeprefix("constants."), weight.numel() == 1
        for place, value in enumerate(weight.detach().flatten()):
            found[name if one else f"{name}_{place}"] = value
    return found


def check_field(field: nn.Module, features: int, outputs: int, what: str) -> None:
    """Raise unless a field takes states of so many features and gives so many slopes.

    Raises:
        ConfigurationError: it does not; the message says what it does.
    """
    like = next((each for each in field.parameters() if each.is_floating_point()), torch.empty(()))
    y = torch.full((2, features), 0.5, dtype=like.dtype, device=like.device)
    try:
        with torch.no_grad():
            slopes = field(like.new_zeros(()), y)
    except (ConfigurationError, ValueError, RuntimeError, TypeError, IndexError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(
            f"{what} cannot be evaluated at a state of {features} features, y of shape {tuple(y.shape)}: {said:.200}"
        ) from error
    if not isinstance(slopes, Tensor) or slopes.shape != (2, outputs):
        came = tuple(slopes.shape) if isinstance(slopes, Tensor) else type(slopes).__name__
        raise ConfigurationError(
            f"{what} must give {outputs} numbers for a state of {features}, shape {(2, outputs)} for y of shape "
            f"{tuple(y.shape)}, got {came}"
        )


def _guesses(function: RightHandSide, name: str) -> dict[str, Any]:
    """The arguments behind t and y, with their defaults."""
    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the arguments of {name} cannot be read, so its constants are not known") from error
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(given) < 2 or any(each.kind not in kinds for each in given[:2]):
        raise ConfigurationError(
            f"{name} must begin with t and y, as f(t, y, a=1.0), got {inspect.signature(function)}"
        )
    return {
        each.name: each.default
        for each in given[2:]
        if each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }


def _is_number(guess: Any) -> bool:
    return isinstance(guess, int | float) and not isinstance(guess, bool) and math.isfinite(guess)
