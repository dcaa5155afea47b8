"""The same weights solved to other tolerances: what a tolerance is worth, in figures, evaluations and time."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.integrators import Adaptive
from dynamicblocks.network import evaluations_of, named_blocks
from dynamicblocks.solving import SolveError
from dynamicblocks.surgery import with_tolerance
from dynamicblocks.training.evaluation import Score, evaluate, score_of
from dynamicblocks.training.task import Batches, Task


@dataclass(frozen=True)
class AtTolerance:
    """The same weights solved to one tolerance.

    Args:
        tolerance: relative and absolute, of every block that chooses its steps.
        evaluations: of layer functions in a pass, the mean over the batches.
        score: what came out; None where no steps led to the end.
        failure: why not.
        trained: whether it is the tolerance of the training.
    """

    tolerance: float
    evaluations: float
    score: Score | None
    failure: str = ""
    trained: bool = False

    def as_record(self, unit: str) -> dict[str, Any]:
        """Plain values for a file."""
        found: dict[str, Any] = {"tolerance": self.tolerance, "trained": self.trained}
        if self.score is None:
            return {**found, "failure": self.failure}
        return {
            **found,
            "evaluations": self.evaluations,
            **self.score.recorded,
            f"{unit}_per_second": self.score.samples_per_second,
        }


def at_tolerances(
    task: Task[Any],
    net: nn.Module,
    batches: Batches[Any],
    fabric: Fabric,
    tolerances: Sequence[float],
    seen: Callable[[], object] | None = None,
) -> list[AtTolerance]:
    """The weights of ``net`` at each tolerance; one at which there is no solution is no error, but says so.

    ``seen`` is called after each batch.

    Raises:
        ConfigurationError: no block of ``net`` chooses its steps, or a tolerance is not positive.
    """
    nets = [with_tolerance(net, tolerance) for tolerance in tolerances]
    if nets:
        _warm_up(task, nets[0], batches, fabric)
    own = {
        (block.integrator.rtol, block.integrator.atol)
        for block in named_blocks(net).values()
        if isinstance(block.integrator, Adaptive)
    }
    found = []
    for tolerance, other in zip(tolerances, nets, strict=True):
        counts: list[int] = []

        def heard(_: int, other: nn.Module = other, counts: list[int] = counts) -> None:
            counts.append(evaluations_of(other))
            if seen is not None:
                seen()

        trained = own == {(tolerance, tolerance)}
        try:
            score = evaluate(task, other, batches, fabric, heard)
        except SolveError as error:
            found.append(AtTolerance(tolerance, 0.0, None, f"{error}", trained))
            continue
        found.append(AtTolerance(tolerance, fmean(counts), score, trained=trained))
    return found


def _warm_up(task: Task[Any], net: nn.Module, batches: Batches[Any], fabric: Fabric) -> None:
    """One batch, unmeasured: what is loaded by the first is no time of its tolerance."""
    for batch in batches.evaluation():
        with suppress(SolveError):
            score_of(task, net, [batch], fabric)
        return
