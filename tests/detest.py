"""The non-stiff problems of DETEST, classes A to E, each in t and y, on [0, 20].

Source: Hull, Enright, Fellen and Sedgwick 1972, SIAM Journal on Numerical Analysis 9, 603-637. C4, a longer C3, is left
out, and so is C5, the five outer planets; D2 to D4 lie between D1 and D5, which differ in their eccentricity.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from tests.optional import optional

(solve_ivp,) = optional("scipy.integrate", "solve_ivp")

END = 20.0


@dataclass(frozen=True)
class Detest:
    """A problem.

    Args:
        func: (t, y) -> dy/dt.
        y0: the state at t = 0.
        growth: how much a disturbance of the state anywhere on the way grows at most, forward and back, rounded up:
            the condition of the problem, measured by disturbing SciPy's solution at five times.
        back: where solves that run back to 0 begin; near 0 where what decays forward would grow without bounds.
    """

    func: Callable[[Tensor, Tensor], Tensor]
    y0: tuple[float, ...]
    growth: tuple[float, float]
    back: float = END

    def times(self, direction: str) -> tuple[float, ...]:
        """Nine times in the order of the solve."""
        ends = (0.0, END) if direction == "forward" else (self.back, 0.0)
        return tuple(np.linspace(*ends, 9).tolist())

    def slope(self, t: float, y: np.ndarray) -> np.ndarray:
        """The field for SciPy."""
        return self.func(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()


def _chain(rates):
    """Substances that decay into each other: the last is left of all."""
    loss = torch.tensor([*rates, 0.0], dtype=torch.float64)

    def func(t, y):
        flow = loss.to(y) * y
        return torch.cat([-flow[:1], flow[:-1] - flow[1:]])

    return func


def _orbit(t, y):
    return torch.cat([y[2:], -y[:2] / (y[:2] ** 2).sum() ** 1.5])


def _start(eccentricity):
    return 1 - eccentricity, 0.0, 0.0, math.sqrt((1 + eccentricity) / (1 - eccentricity))


def _b4(t, y):
    r = torch.sqrt(y[0] ** 2 + y[1] ** 2)
    return torch.stack([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


def _diffusion(t, y):
    padded = torch.nn.functional.pad(y, (1, 1))
    return padded[:-2] - 2 * y + padded[2:]


def _e1(t, y):
    return torch.stack([y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])])


TEN = (1.0,) + (0.0,) * 9

DETEST = {
    # One equation.
    "A1": Detest(lambda t, y: -y, (1.0,), growth=(1, 8), back=2.0),
    "A2": Detest(lambda t, y: -(y**3) / 2, (1.0,), growth=(1, 15), back=5.0),
    "A3": Detest(lambda t, y: y * torch.cos(t), (1.0,), growth=(7, 3)),
    "A4": Detest(lambda t, y: y / 4 * (1 - y / 20), (1.0,), growth=(5, 3)),
    "A5": Detest(lambda t, y: (y - t) / (y + t), (4.0,), growth=(6, 1)),
    # Small systems: growth of two populations in conflict, a linear and a nonlinear reaction, an integral surface of a
    # torus, a rigid body without forces.
    "B1": Detest(
        lambda t, y: torch.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])]), (1.0, 3.0), growth=(7, 90)
    ),
    "B2": Detest(
        lambda t, y: torch.stack([y[1] - y[0], y[0] - 2 * y[1] + y[2], y[1] - y[2]]),
        (2.0, 0.0, 1.0),
        growth=(1, 20),
        back=1.0,
    ),
    "B3": Detest(
        lambda t, y: torch.stack([-y[0], y[0] - y[1] ** 2, y[1] ** 2]), (1.0, 0.0, 0.0), growth=(2, 5), back=1.0
    ),
    "B4": Detest(_b4, (3.0, 0.0, 0.0), growth=(21, 20)),
    "B5": Detest(
        lambda t, y: torch.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]), (0.0, 1.0, 1.0), growth=(23, 23)
    ),
    # Ten equations: radioactive chains, and heat on a rod.
    "C1": Detest(_chain([1.0] * 9), TEN, growth=(4, 12), back=1.0),
    "C2": Detest(_chain([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]), TEN, growth=(4, 8), back=0.1),
    "C3": Detest(_diffusion, TEN, growth=(1, 13), back=0.5),
    # Orbits, of eccentricity 0.1 and 0.9.
    "D1": Detest(_orbit, _start(0.1), growth=(140, 140)),
    "D5": Detest(_orbit, _start(0.9), growth=(5000, 100), back=0.5),
    # Equations of second order: Bessel, van der Pol, Duffing, a falling body, a pursuit.
    "E1": Detest(_e1, (0.6713967071418030, 0.09540051444747446), growth=(2, 7)),
    "E2": Detest(lambda t, y: torch.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]]), (2.0, 0.0), growth=(3, 13), back=1.0),
    "E3": Detest(
        lambda t, y: torch.stack([y[1], y[0] ** 3 / 6 - y[0] + 2 * torch.sin(2.78535 * t)]), (0.0, 0.0), growth=(6, 6)
    ),
    "E4": Detest(lambda t, y: torch.stack([y[1], 0.032 - 0.4 * y[1] ** 2]), (30.0, 0.0), growth=(9, 7), back=5.0),
    "E5": Detest(lambda t, y: torch.stack([y[1], torch.sqrt(1 + y[1] ** 2) / (25 - t)]), (0.0, 0.0), growth=(26, 12)),
}


@cache
def reference(name: str, direction: str) -> np.ndarray:
    """SciPy's solution at the nine times, of shape (9, n)."""
    problem, times = DETEST[name], DETEST[name].times(direction)
    y0 = np.array(problem.y0) if direction == "forward" else _at(name, problem.back)
    return _solved(problem, y0, times)


def _at(name: str, t: float) -> np.ndarray:
    problem = DETEST[name]
    return _solved(problem, np.array(problem.y0), (0.0, t))[-1]


def _solved(problem: Detest, y0: np.ndarray, times: tuple[float, ...]) -> np.ndarray:
    found = solve_ivp(problem.slope, (times[0], times[-1]), y0, t_eval=times, method="DOP853", rtol=1e-12, atol=1e-14)
    assert found.success, found.message
    return found.y.T
