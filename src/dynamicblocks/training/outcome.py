"""The end of a training: the best weights on the test samples, and under other integrators."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.network import evaluations_of, num_weights
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.evaluation import Score, evaluate
from dynamicblocks.training.hardware import make_place
from dynamicblocks.training.manifestations import (
    Cell,
    Manifestation,
    affordable,
    comparable,
    evaluations_in,
    manifestation,
    own_integrator,
)
from dynamicblocks.training.progress import Report, evaluation_steps
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Batches, Task, batches_of
from dynamicblocks.training.training_state import TrainingState

# The integrators, beside its own and where they solve its equation, and multiples of the steps that a training shows at
# its end.
SHOWN_INTEGRATORS = ("euler", "midpoint", "rk4_classic")
SHOWN_FACTORS = (1, 2, 4)
# What share of the evaluations of the training they may take together; `dynamicblocks converge` is the place for more.
FEW = 1 / 3

TableSize = Literal["full", "few", "none"]
"""How much of that table there is: all of it, as much as is cheap beside the training, nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a training came to; the network has the weights that were kept."""

    folder: Path
    net: nn.Module
    test: Score
    validation: Score
    kept_epoch: int
    seconds: float
    weights: int
    manifestations: list[Manifestation]
    left_out: list[Cell]
    pictures: list[Path]
    unit: str

    def as_result(self, seed: int) -> dict[str, Any]:
        """Plain values, for the run's result.json."""
        return {
            **{f"test_{name}": value for name, value in self.test.recorded.items()},
            f"test_{self.unit}": self.test.samples,
            **{f"validation_{name}": value for name, value in self.validation.recorded.items()},
            "kept_epoch": self.kept_epoch,
            "training_seconds": self.seconds,
            "weights": self.weights,
            "seed": seed,
            "manifestations": [other.as_record(self.unit) for other in self.manifestations],
            "pictures": [path.name for path in self.pictures],
        }


def check_table(table: str) -> None:
    """Raise unless there is such a size of the table."""
    if table not in get_args(TableSize):
        raise ConfigurationError(f"--table is one of {', '.join(get_args(TableSize))}, got {table!r}")


def conclude(
    task: Task[Any],
    net: nn.Module,
    config: TrainConfig,
    fabric: Fabric,
    folder: RunFolder,
    state: TrainingState,
    report: Report,
    table: TableSize = "few",
) -> Outcome:
    """Read the test samples, for the chosen weights and then for other manifestations of them."""
    place = make_place(config, fabric)
    test, validation = batches_of(task, "test", place), batches_of(task, "validation", place)
    with report.working(f"reading {test.samples:,} test {task.unit}", evaluation_steps(test)) as bar:
        score = evaluate(task, net, test, fabric, bar.step)
    chosen, left_out = _cells(net, test.samples, fabric, state, table)
    with report.working("validation", evaluation_steps(validation), said=False) as bar:
        validated = evaluate(task, net, validation, fabric, bar.step)
    return Outcome(
        folder=folder.path,
        net=net,
        test=score,
        validation=validated,
        kept_epoch=state.kept_epoch,
        seconds=state.seconds,
        weights=num_weights(net),
        manifestations=_manifestations(task, net, test, fabric, chosen, score, report),
        left_out=left_out,
        pictures=list(task.conclude(net, place, folder.path) or ()) if fabric.global_rank == 0 else [],
        unit=task.unit,
    )


def _cells(
    net: nn.Module, samples: int, fabric: Fabric, state: TrainingState, table: TableSize
) -> tuple[list[Cell], list[Cell]]:
    """What the table shows, and what it leaves out: the same in all processes, and after each of equal commands."""
    if table == "none":
        return [], []
    whole = comparable(net, SHOWN_INTEGRATORS, SHOWN_FACTORS)
    # Integrators that choose their steps may take others in each process.
    trained, evaluations = fabric.broadcast((evaluations_of(net), state.evaluations))
    return affordable(net, *whole, trained, math.inf if table == "full" else FEW * evaluations / samples)


def _manifestations(
    task: Task[Any],
    net: nn.Module,
    test: Batches[Any],
    fabric: Fabric,
    cells: Sequence[Cell],
    score: Score,
    report: Report,
) -> list[Manifestation]:
    """The network as it was trained, which was measured, and others."""
    trained = (own_integrator(net), 1)
    others = [cell for cell in cells if cell != trained]
    found = {trained: Manifestation(*trained, evaluations_of(net), score)}
    if others:
        steps = evaluation_steps(test)
        total = steps and steps * evaluations_in(net, others)
        with report.working(f"other integrators on the test {task.unit}", total) as bar:
            for cell in others:
                found[cell] = manifestation(task, net, test, fabric, cell, bar.advance)
    return [found[cell] for cell in cells]
