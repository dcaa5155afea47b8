"""SciPy's solvers."""

from dynamicblocks.torchdiffeq._impl.solvers import AdaptiveStepsizeODESolver


class ScipyWrapperODESolver(AdaptiveStepsizeODESolver):
    """SciPy's solvers, without gradients."""

    package_method = "scipy_solver"

    @classmethod
    def valid_callbacks(cls) -> set[str]:
        """None."""
        return set()
