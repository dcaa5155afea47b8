"""Fields that do what no field should, and what each face and method of the solvers may answer.

An answer is the right value, within so many evaluations, or an error of a type that is documented.
``python -m tests.solving.hostile_fields`` prints the table, with what is wrong in it.
"""

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

import dynamicblocks as db
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.integrators import METHODS, AdaptiveMethod

# Most evaluations of a solve over ten intervals, of at most STEPS attempted steps each interval: the stages of an
# implicit step are looked for again and again where the field draws anew.
MOST = 50_000
STEPS = 50
HALF = 0.5
Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
TIMES = torch.linspace(0, 1, 11, dtype=torch.float64)


class TooManyError(Exception):
    """More evaluations than stated."""


class OwnError(RuntimeError):
    """An error of the field's own, of a type that libraries catch."""


class Hostile(nn.Module):
    """A field with one weight that counts its evaluations."""

    def __init__(self, change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.change, self.evaluations = change, 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.evaluations += 1
        if self.evaluations > MOST:
            raise TooManyError
        return self.change(t, y, self.rate)


def late(t: Tensor) -> bool:
    """Whether the second half of the time has begun, for any sample."""
    return bool((t > HALF).any())


def _raises(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    if late(t):
        raise OwnError
    return -rate * y


def _in_place(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    with torch.no_grad():
        y.neg_()
    return rate * y


def _moves_time(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    slope = -rate * y
    with torch.no_grad():
        t.add_(100.0)
    return slope


def near(exact: Callable[[Tensor], Tensor], within: float) -> Callable[[Tensor], bool]:
    """Whether states are near to factors of the first one."""

    def right(y: Tensor) -> bool:
        expected = exact(TIMES).reshape(-1, *[1] * (y.ndim - 1)) * y[0]
        return bool((y - expected).abs().max() <= within * y[0].abs().max())

    return right


decays = near(lambda t: torch.exp(-t), 0.05)


def _undefined_late(y: Tensor) -> bool:
    early = torch.exp(-TIMES).reshape(-1, *[1] * (y.ndim - 1)) * y[0]
    # A step into the second half may take the first along: nobody takes that for a number.
    return bool((((y - early)[:5].abs() <= 0.1) | y[:5].isnan()).all() and y[7:].isnan().all())


def _not_finite(y: Tensor) -> bool:
    return not bool(torch.isfinite(y[-1]).any())


@dataclass(frozen=True)
class Entry:
    """A field and what may come of it: whether states are right, errors that may be instead; ``right`` None: errors.

    States of which a warning says that they may be wrong, in the words of ``warning``, may be.
    """

    change: Callable[[Tensor, Tensor, Tensor], Tensor]
    right: Callable[[Tensor], bool] | None
    errors: tuple[type[BaseException], ...] = ()
    warning: str | None = None


FIELDS = {
    "not a number from a time on": Entry(
        lambda t, y, rate: torch.where(t > HALF, math.nan, -rate) * y, _undefined_late, (SolverError,)
    ),
    "jumps": Entry(
        lambda t, y, rate: torch.where(t > HALF, rate, -rate) * y,
        near(lambda t: torch.exp(torch.where(t > HALF, t - 1, -t)), 0.25),
    ),
    "explodes": Entry(
        lambda t, y, rate: rate * torch.exp(4 * y), _not_finite, (SolverError,), "Solution may be incorrect"
    ),
    "raises": Entry(_raises, None, (OwnError,)),
    "changes its shape to a broadcast": Entry(
        lambda t, y, rate: -rate * (y[..., :1] if late(t) else y), None, (ConfigurationError,)
    ),
    "changes its shape to more dimensions": Entry(
        lambda t, y, rate: -rate * (y[None] if late(t) else y), None, (ConfigurationError,)
    ),
    "changes to a narrower type": Entry(
        lambda t, y, rate: (-rate * y).to(torch.float32 if late(t) else y.dtype), decays
    ),
    "changes to complex numbers": Entry(
        lambda t, y, rate: -rate * y * (1 + 1j) if late(t) else -rate * y, None, (ConfigurationError,)
    ),
    "changes its device": Entry(
        lambda t, y, rate: (-rate * y).to("meta") if late(t) else -rate * y, None, (ConfigurationError,)
    ),
    "changes to no tensor": Entry(lambda t, y, rate: None if late(t) else -rate * y, None, (ConfigurationError,)),
    "draws anew": Entry(
        lambda t, y, rate: (0.1 * torch.randn_like(y) - rate) * y,
        near(lambda t: torch.exp(-t), 0.3),
        (SolverError, ConfigurationError),
    ),
    "changes the state in its place": Entry(_in_place, decays, (ConfigurationError,)),
    "changes the time in its place": Entry(_moves_time, decays, (ConfigurationError,)),
}

Face = Callable[[nn.Module, Tensor], Tensor]


def _odeint(method: str, **keywords: object) -> Face:
    adaptive = isinstance(METHODS[method], AdaptiveMethod)
    options = {"max_num_steps": STEPS} if adaptive else {}
    tolerances = {"rtol": 1e-4, "atol": 1e-6} if adaptive or method == "scipy_solver" else {}
    return lambda func, y0: db.odeint(func, y0, TIMES, method=method, options=options, **tolerances, **keywords)


def _solve(method: str, **keywords: object) -> Face:
    return lambda func, y0: (
        db.solve(func, y0, TIMES, method=method, rtol=1e-4, atol=1e-6, max_steps=10 * STEPS, **keywords).y
    )


def _adjoint(method: str) -> Face:
    options = {"max_num_steps": STEPS} if isinstance(METHODS[method], AdaptiveMethod) else {}
    return lambda func, y0: db.odeint_adjoint(func, y0, TIMES, method=method, options=options, rtol=1e-4, atol=1e-6)


def _batched(method: str) -> Face:
    solved = _solve(method, batched=True)
    return lambda func, y0: solved(func, torch.stack([y0, 2 * y0]))


FACES: dict[str, Face] = {
    **{f"odeint {name}": _odeint(name) for name in METHODS},
    "solve dopri5": _solve("dopri5"),
    "solve dopri5 checkpoint": _solve("dopri5", gradient="checkpoint"),
    "solve rk4 checkpoint": _solve("rk4", gradient="checkpoint"),
    "solve kvaerno3 checkpoint": _solve("kvaerno3", gradient="checkpoint"),
    "solve dopri5 adjoint": _solve("dopri5", gradient="adjoint"),
    "solve alf reversible": _solve("alf", gradient="reversible"),
    "solve reversible_heun reversible": _solve("reversible_heun", gradient="reversible"),
    "odeint_adjoint dopri5": _adjoint("dopri5"),
    "odeint_adjoint rk4": _adjoint("rk4"),
    "odeint_adjoint gl4": _adjoint("gl4"),
    "batched dopri5": _batched("dopri5"),
    "batched tsit5": _batched("tsit5"),
    "batched bosh3": _batched("bosh3"),
}
FEW = (
    "odeint euler", "odeint rk4", "odeint dopri5", "odeint kvaerno3", "odeint trapezoid", "odeint explicit_adams",
    "odeint alf", "odeint scipy_solver", "solve dopri5 checkpoint", "batched dopri5",
)  # fmt: skip

# SciPy estimates derivatives from differences, and says nothing where noise makes them up: it returns the same alone.
AS_SCIPY = ("draws anew", "odeint scipy_solver")


def answer(entry: Entry, face: Face) -> str:
    """Empty where a face answers a field as it should, or what it does instead."""
    torch.manual_seed(0)
    func = Hostile(entry.change)
    y0 = Y0.clone()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            y = face(func, y0.requires_grad_(entry.right is decays)).detach()
    except entry.errors:
        return ""
    except TooManyError:
        return f"more than {MOST} evaluations"
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:150]
    if not torch.equal(y0.detach(), Y0):
        return "y0 was changed"
    if entry.right is None:
        return f"no error, {y[-1].flatten().tolist()}"
    if entry.warning is not None and any(entry.warning in str(each.message) for each in caught):
        return ""
    return "" if entry.right(y) else f"a wrong value, {y[-1].flatten().tolist()}"


def table(faces: tuple[str, ...] = tuple(FACES), fields: tuple[str, ...] = tuple(FIELDS)) -> dict[tuple[str, str], str]:
    """What is wrong, by field and face."""
    left_out = () if find_spec("scipy") else (AS_SCIPY[1],)
    places = [(field, face) for field in fields for face in faces if face not in left_out and (field, face) != AS_SCIPY]
    found = {(field, face): answer(FIELDS[field], FACES[face]) for field, face in places}
    return {place: what for place, what in found.items() if what}


def main() -> int:
    """Print what is wrong, and how many answers there are."""
    wrong = 0
    for field in FIELDS:
        for (_, face), what in table(fields=(field,)).items():
            wrong += 1
            print(f"{field} / {face}: {what}", flush=True)
    print(f"{wrong} of {len(FIELDS) * len(FACES)} answers are wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
