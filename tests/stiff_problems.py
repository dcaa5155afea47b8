"""Stiff initial value problems in double precision, with references from SciPy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tests.optional import optional

(solve_ivp,) = optional("scipy.integrate", "solve_ivp")


@dataclass(frozen=True)
class StiffProblem:
    """A problem with the tolerances at which methods are compared.

    Args:
        func: (t, y) -> dy/dt, perhaps with more arguments.
        y0: the state at the first time.
        times: the first, and those at which solutions are compared.
        rtol, atol: of the methods under test.
        within: the error to expect at most, in these tolerances; a problem magnifies the errors of its steps.
        reference_method: of SciPy; an implicit one makes the Jacobian entry by entry.
        reference_tolerance: (rtol, atol) of the reference.
    """

    func: Callable[..., Tensor]
    y0: Tensor
    times: tuple[float, ...]
    rtol: float
    atol: float
    within: float
    reference_method: str = "Radau"
    reference_tolerance: tuple[float, float] = (1e-10, 1e-13)

    @property
    def t(self) -> Tensor:
        return torch.tensor(self.times, dtype=torch.float64)

    @cached_property
    def reference(self) -> Tensor:
        """The states at the times, by SciPy."""
        rtol, atol = self.reference_tolerance
        found = solve_ivp(
            lambda t, y: self.func(t, torch.tensor(y).reshape(self.y0.shape)).flatten().numpy(),
            (self.times[0], self.times[-1]),
            self.y0.flatten().numpy(),
            method=self.reference_method,
            t_eval=np.array(self.times),
            rtol=rtol,
            atol=atol,
        )
        assert found.success, found.message
        return torch.from_numpy(found.y.T.copy()).reshape(-1, *self.y0.shape)

    def error(self, states: Tensor) -> float:
        """The largest difference from the reference at its first times, in tolerances atol + rtol |y|."""
        exact = self.reference[: len(states)]
        return ((states - exact).abs() / (self.atol + self.rtol * exact.abs())).max().item()


def robertson(t, y, rates=(0.04, 3e7, 1e4)):
    """A chemical reaction whose rates are nine powers of ten apart (Robertson 1966)."""
    a, b, c = y
    slow, fast, back = rates[0] * a, rates[1] * b * b, rates[2] * b * c
    return torch.stack([back - slow, slow - back - fast, fast])


def van_der_pol(t, y, mu=1000.0):
    """Relaxation oscillations: slow arcs with jumps between them, near t = 807 and 1614."""
    return torch.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def hires(t, y):
    """The high irradiance response of a plant to light: eight reactions (Schäfer 1975)."""
    a, b, c, d, e, f, g, h = y
    bound = 280 * f * h - 1.81 * g
    return torch.stack(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * f + 0.43 * g,
            -280 * f * h + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            bound,
            -bound,
        ]
    )


def laplacian(y: Tensor) -> Tensor:
    """Five points on the periodic unit square, for states (..., n, n)."""
    around = sum(torch.roll(y, shift, dim) for shift in (1, -1) for dim in (-1, -2))
    return (around - 4 * y) * y.shape[-1] ** 2


def brusselator(t, y, diffusion=1.0):
    """Reaction and diffusion, state (2, n, n); eigenvalues reach to -8 diffusion n^2."""
    u, v = y
    reaction = u * u * v
    return torch.stack([1 + reaction - 4.4 * u, 3.4 * u - reaction]) + diffusion * laplacian(y)


def _brusselator_y0(n: int) -> Tensor:
    x = torch.arange(n, dtype=torch.float64) / n
    bump = x * (1 - x) ** 1.5
    return torch.stack([22 * bump[:, None].expand(n, n), 27 * bump[None, :].expand(n, n)])


def _vector(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=torch.float64)


# Sources: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.1 and IV.10; the brusselator with ten times
# their diffusion, so that a small grid is stiff. At that size DOP853 is limited by its stability, and still cheap.
STIFF = {
    "robertson": StiffProblem(robertson, _vector(1, 0, 0), (0.0, 0.4, 4.0, 40.0, 1e3, 1e5), 1e-4, 1e-9, within=5),
    "van_der_pol": StiffProblem(van_der_pol, _vector(2, 0), (0.0, 1.0, 400.0, 1200.0, 2000.0), 1e-4, 1e-6, within=5),
    # The state falls fast just before the last time.
    "hires": StiffProblem(hires, _vector(1, 0, 0, 0, 0, 0, 0, 0.0057), (0.0, 5.0, 321.8122), 1e-4, 1e-7, within=20),
    "brusselator": StiffProblem(
        brusselator, _brusselator_y0(32), (0.0, 0.25, 1.0), 1e-4, 1e-4, 2, "DOP853", (1e-10, 1e-10)
    ),
}
