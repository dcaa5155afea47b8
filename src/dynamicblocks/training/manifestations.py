"""The same weights under other integrators and step counts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import FIRST_ORDER, as_integrator
from dynamicblocks.network import evaluations_of, named_blocks
from dynamicblocks.surgery import reintegrated
from dynamicblocks.training.evaluation import Score, evaluate
from dynamicblocks.training.task import Batches, Task


@dataclass(frozen=True)
class Manifestation:
    """The same weights under one integrator and step count."""

    integrator: str
    steps_factor: int
    evaluations: int
    score: Score

    def as_record(self, unit: str) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "integrator": self.integrator,
            "steps_factor": self.steps_factor,
            "evaluations": self.evaluations,
            **self.score.recorded,
            f"{unit}_per_second": self.score.samples_per_second,
        }


def own_integrator(net: nn.Module) -> str:
    """The integrators of its blocks, each once."""
    return ", ".join(dict.fromkeys(block.integrator.shorthand for block in named_blocks(net).values()))


def own_equation(net: nn.Module) -> str:
    """What the integrators of all blocks solve; empty where that is not one equation."""
    solved = {block.integrator.equation for block in named_blocks(net).values()}
    return solved.pop() if len(solved) == 1 else ""


def solves_its_equation(net: nn.Module, integrator: str) -> bool:
    """Whether the weights of ``net`` make the same function under it, more or less exactly."""
    if not own_equation(net) or as_integrator(integrator).equation != own_equation(net):
        return False
    try:
        reintegrated(net, integrator)
    except ConfigurationError:  # a layer without the parts that it reads, steps that it cannot take
        return False
    return True


def comparable(net: nn.Module, integrators: Sequence[str], factors: Sequence[int]) -> tuple[list[str], Sequence[int]]:
    """What of these to show ``net`` under: the integrators that it has, and those that solve the same equation."""
    own = own_integrator(net)
    names = [name for name in integrators if name == own or solves_its_equation(net, name)]
    if own and own not in names:
        names.insert(0, own)
    return names, [1] if any(block.integrator.bound_to_steps for block in named_blocks(net).values()) else factors


def caveat(net: nn.Module, integrators: Iterable[str]) -> str:
    """What to know of a table of ``net`` under these: which of them make another function of its weights."""
    own, equation = own_integrator(net), own_equation(net)
    others = [name for name in dict.fromkeys(integrators) if name != own and not solves_its_equation(net, name)]
    if not equation:
        return "With other steps or integrators these weights make another function." if own else ""
    if others:
        return f"Trained as {equation}. Another function of the same weights: {', '.join(others)}."
    return "" if equation == FIRST_ORDER else f"Trained as {equation}, which other integrators do not solve."


Cell = tuple[str, int]
"""A place in a table: the integrator, and how many times the steps."""


def affordable(
    net: nn.Module, integrators: Iterable[str], factors: Sequence[int], trained: int, most: float
) -> tuple[list[Cell], list[Cell]]:
    """What of a table to measure, and what to leave out: the cheapest ones, as the evaluations of a pass are counted.

    Args:
        net: as it was trained, which is always in the table, and is the first to be counted.
        integrators, factors: of the whole table.
        trained: evaluations that ``net`` took in a pass.
        most: evaluations that all of the table may take together.
    """
    own = own_integrator(net)
    cells = [(integrator, factor) for integrator in integrators for factor in factors]
    # An integrator that chooses its steps takes about as many whatever the grid.
    costs = {cell: max(evaluations_of(_variant(net, cell)), trained if cell[0] == own else 0) for cell in cells}
    found = {(own, 1)} & set(cells)
    spent = trained * len(found)
    for cell in sorted(costs.keys() - found, key=lambda cell: (costs[cell], cells.index(cell))):
        spent += costs[cell]
        if spent > most:
            break
        found.add(cell)
    return [cell for cell in cells if cell in found], [cell for cell in cells if cell not in found]


def manifestations(
    task: Task[Any],
    net: nn.Module,
    batches: Batches[Any],
    fabric: Fabric,
    integrators: Iterable[str],
    factors: Sequence[int],
    seen: Callable[[int], object] | None = None,
) -> list[Manifestation]:
    """The weights of ``net`` under every integrator and with so many times its steps.

    ``seen`` is called after each batch with the evaluations of a pass. Its own integrator keeps the weights it has.
    """
    cells = [(integrator, factor) for integrator in integrators for factor in factors]
    return [manifestation(task, net, batches, fabric, cell, seen) for cell in cells]


def manifestation(
    task: Task[Any],
    net: nn.Module,
    batches: Batches[Any],
    fabric: Fabric,
    cell: Cell,
    seen: Callable[[int], object] | None = None,
) -> Manifestation:
    """One of them."""
    other = _variant(net, cell)

    def heard(_: int) -> None:
        if seen is not None:
            seen(evaluations_of(other))

    score = evaluate(task, other, batches, fabric, heard)
    return Manifestation(*cell, evaluations_of(other), score)


def evaluations_in(net: nn.Module, cells: Iterable[Cell]) -> int:
    """Evaluations of a pass of all of these together, as far as they are known before."""
    return sum(evaluations_of(_variant(net, cell)) for cell in cells)


def _variant(net: nn.Module, cell: Cell) -> nn.Module:
    integrator, factor = cell
    return reintegrated(net, None if integrator == own_integrator(net) else integrator, steps_factor=factor)[0]
