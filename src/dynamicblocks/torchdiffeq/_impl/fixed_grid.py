"""Explicit Runge-Kutta methods on given points."""

from dynamicblocks.torchdiffeq._impl.solvers import PackageGridSolver


class Euler(PackageGridSolver):
    """Euler's method."""

    package_method, order = "euler", 1


class Midpoint(PackageGridSolver):
    """The midpoint rule."""

    package_method, order = "midpoint", 2


class Heun2(PackageGridSolver):
    """Heun's method of order two."""

    package_method, order = "heun2", 2


class Heun3(PackageGridSolver):
    """Heun's method of order three."""

    package_method, order = "heun3", 3


class RK4(PackageGridSolver):
    """Kutta's method of order four with the weights 1/8, 3/8, 3/8, 1/8."""

    package_method, order = "rk4", 4
