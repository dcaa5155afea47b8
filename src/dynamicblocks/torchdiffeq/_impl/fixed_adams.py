"""Adams methods on given points."""

from dynamicblocks.torchdiffeq._impl.solvers import PackageGridSolver


class AdamsBashforth(PackageGridSolver):
    """The explicit ones."""

    package_method, order = "explicit_adams", 4


class AdamsBashforthMoulton(PackageGridSolver):
    """The implicit ones, predicted by the explicit."""

    package_method, order = "implicit_adams", 4
