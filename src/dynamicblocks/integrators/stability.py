"""How long the steps of a method may be, on the equations y' = lambda y that linear fields are made of.

Steps are equal, and long enough in number for what grows to show.
"""

import math
from collections.abc import Sequence
from functools import singledispatch

import numpy as np
import numpy.typing as npt

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.adams import START, Adams, adams_weights
from dynamicblocks.integrators.adams_bashforth import AdamsBashforth
from dynamicblocks.integrators.adaptive import Adaptive
from dynamicblocks.integrators.algebraic import ReversiblePair, ReversibleRungeKutta
from dynamicblocks.integrators.embedded import Embedded
from dynamicblocks.integrators.esdirk import Esdirk
from dynamicblocks.integrators.imex import Imex
from dynamicblocks.integrators.implicit import ImplicitRungeKutta
from dynamicblocks.integrators.integrator import Integrator
from dynamicblocks.integrators.linear_multistep import LinearMultistep
from dynamicblocks.integrators.pairs import Pair
from dynamicblocks.integrators.partitioned import FIRST, Partitioned
from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, ReversibleHeun
from dynamicblocks.integrators.runge_kutta import RungeKutta
from dynamicblocks.integrators.second_order import Leapfrog
from dynamicblocks.integrators.tableaus import Tableau
from dynamicblocks.integrators.two_step_midpoint import TwoStepMidpoint

Coefficients = npt.NDArray[np.complex128]
"""Of a polynomial in the size of the step, the constant first."""
Matrix = Sequence[Sequence[float]]


@singledispatch
def longest_step(integrator: Integrator | Embedded, eigenvalue: complex) -> float:
    """The size up to which no step makes the solutions of a method grow, for a field y -> lambda y.

    Zero where they grow at any size, infinity where they grow at none. Other classes of integrators are added by
    ``@longest_step.register``.

    Args:
        integrator: the method.
        eigenvalue: lambda, with a real part of at most zero. A method for second order solves y'' = lambda y, one for
            two halves y' = |lambda| z, z' = -|lambda| y.

    Raises:
        ConfigurationError: nothing is known of the integrator.

    >>> from dynamicblocks.integrators import as_integrator
    >>> rk4 = as_integrator("rk4")
    >>> round(longest_step(rk4, -1.0), 4), round(longest_step(rk4, 1j), 4), longest_step(as_integrator("euler"), 1j)
    (2.7853, 2.8284, 0.0)
    """
    raise ConfigurationError(
        f"no limit of the step is known for {integrator.name}; one of your own is added by "
        f"@dynamicblocks.integrators.longest_step.register"
    )


def contractive_step(integrator: Integrator) -> float:
    """The h L up to which no step parts two states, for fields that are minus the gradient of a convex function.

    L bounds the slope of the gradient. It is twice the radius r of circle contractivity, the largest with
    B A + A^T B - b b^T + B / r positive semi-definite, B = diag(b); zero where a weight is not positive, or nothing is
    known.

    Source: Dahlquist and Jeltsch 1979; Hairer and Wanner, Solving Ordinary Differential Equations II, IV.12.

    >>> from dynamicblocks.integrators import as_integrator
    >>> [round(contractive_step(as_integrator(name)), 6) for name in ("euler", "rk4_classic", "midpoint")]
    [2.0, 2.0, 0.0]
    """
    if isinstance(integrator, RungeKutta):
        a, b = _square(integrator.tableau), np.array(integrator.tableau.b)
    elif isinstance(integrator, ImplicitRungeKutta):
        a, b = np.array(integrator.tableau.a), np.array(integrator.tableau.b)
    else:  # behind a step of Euler's, the implicit half of the other parts nothing
        return 2.0 if isinstance(integrator, Imex) and not integrator.balanced else 0.0
    if min(b) <= 0:
        return 0.0
    form = b[:, None] * a
    scaled = (form + form.T - np.outer(b, b)) / np.sqrt(np.outer(b, b))
    least = float(np.linalg.eigvalsh(scaled)[0])
    return math.inf if least > -1e-12 else -2 / least


@longest_step.register
def _(integrator: RungeKutta, eigenvalue: complex) -> float:
    return _explicit(integrator.tableau, eigenvalue)


@longest_step.register
def _(integrator: Pair, eigenvalue: complex) -> float:
    return _explicit(integrator.tableau, eigenvalue)


@longest_step.register
def _(integrator: ImplicitRungeKutta, eigenvalue: complex) -> float:
    return _implicit(integrator.tableau.a, integrator.tableau.b, eigenvalue)


@longest_step.register
def _(integrator: Esdirk, eigenvalue: complex) -> float:
    tableau = integrator.tableau
    stages = len(tableau.c)
    a = np.zeros((stages, stages))
    for i, row in enumerate(tableau.a):
        a[i, :i] = row
        a[i, i] = tableau.gamma if i else 0.0
    return _implicit(a.tolist(), a[-1].tolist(), eigenvalue)


@longest_step.register
def _(integrator: Adaptive, eigenvalue: complex) -> float:
    return longest_step(integrator.embedded, eigenvalue)


@longest_step.register
def _(integrator: ReversibleRungeKutta, eigenvalue: complex) -> float:
    return _coupled(integrator.method.tableau, integrator.coupling, eigenvalue)


@longest_step.register
def _(integrator: ReversiblePair, eigenvalue: complex) -> float:
    return _coupled(integrator.pair.tableau, integrator.coupling, eigenvalue)


@longest_step.register(TwoStepMidpoint)
@longest_step.register(AsynchronousLeapfrog)
@longest_step.register(ReversibleHeun)
def _(integrator: Integrator, eigenvalue: complex) -> float:
    # All three have the roots of x^2 - 2 h lambda x - 1, whose product is -1: both must lie on the unit circle.
    if eigenvalue == 0:
        return math.inf
    return 0.0 if eigenvalue.real else 1 / abs(eigenvalue)


@longest_step.register
def _(integrator: Leapfrog, eigenvalue: complex) -> float:
    # Roots of x^2 - (2 + h^2 lambda) x + 1.
    if eigenvalue == 0:
        return math.inf
    return 2 / math.sqrt(-eigenvalue.real) if eigenvalue.imag == 0 and eigenvalue.real < 0 else 0.0


@longest_step.register
def _(integrator: Partitioned, eigenvalue: complex) -> float:
    # A step is a product of shears, of determinant one: its trace, a polynomial in h, must lie between -2 and 2.
    frequency = abs(eigenvalue)
    if eigenvalue.real != 0:
        raise ConfigurationError(
            f"no limit of the step is known for {integrator.name} on halves that do more than drive each other"
        )
    if not frequency:
        return math.inf
    one, h = np.polynomial.Polynomial([1.0]), np.polynomial.Polynomial([0.0, 1.0])
    rows = [[one, 0 * h], [0 * h, one]]
    for part, _, share in integrator.moves:
        moved, by, turn = (0, 1, h) if part == FIRST else (1, 0, -h)
        rows[moved] = [own + share * turn * other for own, other in zip(rows[moved], rows[by], strict=True)]
    return _exit(*_squared((rows[0][0] + rows[1][1]).coef), 4.0) / frequency


@longest_step.register
def _(integrator: Adams, eigenvalue: complex) -> float:
    if integrator.implicit:
        raise ConfigurationError(
            f"no limit of the step is known for {integrator.name}: its equation is solved by an iteration that itself "
            "converges for short steps only"
        )
    start = longest_step(START, eigenvalue)
    orders = range(START.order, integrator.order + 1) if integrator.max_order >= START.order else ()
    return min([start, *(bashforth_limit(order, eigenvalue) for order in orders)])


@longest_step.register
def _(integrator: AdamsBashforth, eigenvalue: complex) -> float:
    return bashforth_limit(integrator.order, eigenvalue)


@longest_step.register
def _(integrator: LinearMultistep, eigenvalue: complex) -> float:
    if integrator.per_channel:
        raise ConfigurationError(
            f"no limit of the step is known for {integrator.shorthand}, whose coefficients differ between channels"
        )
    # Of the steps with each coefficient, as if it were that of all; an Euler step has none.
    coefficients = [0.0] if integrator.k is None else integrator.k.detach().double().flatten().tolist()
    scales = [1 + k if integrator.scaled else 1.0 for k in coefficients]
    return min(
        multistep_limit((-k, k - 1, 1.0), (0.0, scale), eigenvalue)
        for k, scale in zip(coefficients, scales, strict=True)
    )


@longest_step.register
def _(integrator: Imex, eigenvalue: complex) -> float:
    # With A symmetric positive semi-definite, (I + h A)^-1 (I + h J) is no longer than I + h J, and the eigenvalues of
    # I + h (I + h A)^-1 J lie between those of I + h J and 1, if J is symmetric negative semi-definite.
    if integrator.norm or eigenvalue.imag or eigenvalue.real > 0:
        raise ConfigurationError(
            f"no limit of the step is known for {integrator.shorthand} on what is no symmetric layer of sign -1, "
            "and for none that normalises the state"
        )
    return math.inf if eigenvalue == 0 else -2 / eigenvalue.real


def bashforth_limit(order: int, eigenvalue: complex) -> float:
    """Of the Adams-Bashforth method of an order.

    >>> [round(bashforth_limit(order, -1.0), 4) for order in (2, 3, 4)]
    [1.0, 0.5455, 0.3]
    """
    weights = [float(weight) for weight in adams_weights([-float(n) for n in range(order)])]
    return multistep_limit((*[0.0] * (order - 1), -1.0, 1.0), weights[::-1], eigenvalue)


def multistep_limit(rho: Sequence[float], sigma: Sequence[float], eigenvalue: complex) -> float:
    """Of the linear multistep method sum_k rho_k y_{n+k} = h sum_k sigma_k f_{n+k}, on equal steps.

    Its solutions are powers of the roots x of rho(x) = h lambda sigma(x), which leave the unit disc at steps where one
    of them is on its edge.

    >>> round(multistep_limit((0.0, -1.0, 1.0), (-0.5, 1.5), -2.0), 6)
    0.5
    >>> round(multistep_limit((-1.0, 0.0, 1.0), (0.0, 2.0), 1j), 6)
    1.0
    """
    if eigenvalue == 0:
        return math.inf
    size, direction = abs(eigenvalue), eigenvalue / abs(eigenvalue)
    degree = len(rho) - 1
    first, second = np.array(rho), np.array([*sigma, *[0.0] * (degree + 1 - len(sigma))])
    # On the unit circle the conjugate of a polynomial has the coefficients in reverse: rho / sigma is a positive
    # multiple of the eigenvalue where Im(rho(x) conj(sigma(x) lambda)) = 0.
    crossing = np.convolve(first, second[::-1]) * np.conj(direction) - np.convolve(first[::-1], second) * direction
    if np.abs(crossing).max() > 1e-12:
        at = np.roots(np.trim_zeros(crossing[::-1], "f"))
    else:  # all of the circle, which then turns back where rho / sigma has no slope
        down = [np.polynomial.polynomial.polyder(each) for each in (first, second)]
        at = np.roots((np.convolve(down[0], second) - np.convolve(first, down[1]))[::-1])
    at = at[np.abs(np.abs(at) - 1) < 1e-6]
    values = np.array([np.polyval(first[::-1], x) for x in at]), np.array([np.polyval(second[::-1], x) for x in at])
    known = [
        (top / bottom / direction).real
        for top, bottom in zip(*values, strict=True)
        if abs(bottom) > 1e-9 and (top / bottom / direction).real > 1e-6
    ]
    ends = sorted(known)
    within = 0.0
    for end in [*ends, 2 * (ends[-1] if ends else 1.0)]:
        middle = (within + end) / 2
        roots = np.roots((first - middle * direction * second)[::-1])
        if np.abs(roots).max() > 1 + 1e-9:
            return float(within / size)
        within = end
    return math.inf


def _square(tableau: Tableau) -> npt.NDArray[np.float64]:
    stages = len(tableau.b)
    return np.array([[*row, *[0.0] * (stages - len(row))] for row in tableau.a]).reshape(stages, stages)


def _powers(tableau: Tableau) -> Coefficients:
    """The factor R(z) of a step of an explicit method on y' = y, of steps z: 1 + z b^T (1 + z A + ...) 1."""
    a, stages = _square(tableau), np.ones(len(tableau.b))
    coefficients = [1.0]
    for _ in tableau.b:
        coefficients.append(float(np.array(tableau.b) @ stages))
        stages = a @ stages
    return np.array(coefficients, dtype=complex)


def _along(coefficients: Coefficients, eigenvalue: complex) -> Coefficients:
    """Of a polynomial in z = h lambda, that in h."""
    return coefficients * eigenvalue ** np.arange(len(coefficients))


def _explicit(tableau: Tableau, eigenvalue: complex) -> float:
    size, direction = _polar(eigenvalue)
    return _exit(*_squared(_along(_powers(tableau), direction)), 1.0) / size if size else math.inf


def _implicit(a: Matrix, b: Sequence[float], eigenvalue: complex) -> float:
    """|P| <= |Q| for the factor P / Q, with Q(z) = det(1 - z A) and P(z) = det(1 - z (A - 1 b^T))."""
    size, direction = _polar(eigenvalue)
    if not size:
        return math.inf
    matrix = np.array(a, dtype=float)
    below, scale = _squared(_along(_determinant(matrix), direction))
    above, other = _squared(_along(_determinant(matrix - np.outer(np.ones(len(b)), b)), direction))
    return _exit(above - below, scale + other, 0.0) / size


def _determinant(matrix: npt.NDArray[np.float64]) -> Coefficients:
    """det(1 - z M), by the recurrence of Faddeev and LeVerrier: exact also where eigenvalues coincide."""
    count = len(matrix)
    coefficients, power = [1.0], np.eye(count)
    for k in range(1, count + 1):
        image = matrix @ power
        coefficients.append(-float(np.trace(image)) / k)
        power = image + coefficients[-1] * np.eye(count)
    bounds = np.linalg.norm(matrix) ** np.arange(count + 1)
    return np.where(np.abs(coefficients) > 1e-12 * bounds, coefficients, 0.0).astype(complex)


def _coupled(tableau: Tableau, coupling: float, eigenvalue: complex) -> float:
    """Of a method made reversible: its two solutions are the roots of x^2 - T x + c, c the coupling.

    T = 1 + c - (R(-z) - 1) (R(z) - c). For c < 1 they lie in the unit disc where |T - c conj(T)| <= 1 - c^2, for c = 1
    where T is real, between -2 and 2.
    """
    size, direction = _polar(eigenvalue)
    if not size:
        return math.inf
    factor = _powers(tableau)
    there, back = _along(factor, direction), _along(factor, -direction)
    trace = -np.convolve(back - np.eye(len(back))[0], there - coupling * np.eye(len(there))[0])
    trace[0] += 1 + coupling
    magnitude = np.convolve(np.abs(back), np.abs(there))
    imaginary = np.where(np.abs(trace.imag) > 1e-12 * magnitude, trace.imag, 0.0)
    if coupling == 1:
        return 0.0 if imaginary.any() else _exit(*_squared(trace.real), 4.0) / size
    real, other = _squared(trace.real / (1 + coupling)), _squared(imaginary / (1 - coupling))
    return _exit(real[0] + other[0], real[1] + other[1], 1.0) / size


def _polar(eigenvalue: complex) -> tuple[float, complex]:
    size = abs(eigenvalue)
    return size, eigenvalue / size if size else 0.0


def _squared(polynomial: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """|p(h)|^2, and the size of the products that each of its coefficients is a sum of."""
    return (
        np.convolve(polynomial, np.conj(polynomial)).real,
        np.convolve(np.abs(polynomial), np.abs(polynomial)),
    )


def _exit(polynomial: npt.NDArray[np.float64], scale: npt.NDArray[np.float64], bound: float) -> float:
    """The first h > 0 behind which a polynomial that is at the bound at h = 0 exceeds it."""
    reduced = polynomial.copy()
    reduced[0] -= bound
    reduced[np.abs(reduced) <= 1e-12 * np.maximum(scale, 1e-300)] = 0.0
    reduced[0] = 0.0
    nonzero = np.flatnonzero(reduced)
    if not len(nonzero):
        return math.inf
    reduced = reduced[nonzero[0] : nonzero[-1] + 1]
    roots = np.roots(reduced[::-1])
    real = roots[(np.abs(roots.imag) <= 1e-9 * np.abs(roots)) & (roots.real > 0)].real
    ends = [0.0, *sorted(real.tolist())]
    for begin, end in zip(ends, [*ends[1:], 2 * ends[-1] + 1], strict=True):
        if np.polyval(reduced[::-1], (begin + end) / 2) > 0:
            return float(begin)
    return math.inf
