"""The end of a training: the best weights on the test samples, and under other integrators."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from dynamicblocks.network import num_weights
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.evaluation import Score, evaluate
from dynamicblocks.training.hardware import make_place
from dynamicblocks.training.manifestations import Manifestation, comparable, manifestations
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.task import Task, batches_of
from dynamicblocks.training.training_state import TrainingState

# The integrators, beside its own and where they solve its equation, and multiples of the steps that a training shows at
# its end.
SHOWN_INTEGRATORS = ("euler", "midpoint", "rk4_classic")
SHOWN_FACTORS = (1, 2, 4)
# With more test samples than this, `dynamicblocks converge` is the place for it.
FEW_SAMPLES = 2000


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
    pictures: list[Path]
    unit: str

    def as_result(self, seed: int) -> dict[str, Any]:
        """Plain values, for the run's result.json."""
        return {
            **{f"test_{name}": value for name, value in self.test.figures.items()},
            f"test_{self.unit}": self.test.samples,
            **{f"validation_{name}": value for name, value in self.validation.figures.items()},
            "kept_epoch": self.kept_epoch,
            "training_seconds": self.seconds,
            "weights": self.weights,
            "seed": seed,
            "manifestations": [other.as_record(self.unit) for other in self.manifestations],
            "pictures": [path.name for path in self.pictures],
        }


def conclude(
    task: Task[Any], net: nn.Module, config: TrainConfig, fabric: Fabric, folder: RunFolder, state: TrainingState
) -> Outcome:
    """Read the test samples, for the chosen weights and then, where they are few, for their other manifestations."""
    place = make_place(config, fabric)
    test = batches_of(task, "test", place)
    few = test.samples <= FEW_SAMPLES
    score = evaluate(task, net, test, fabric)
    validation = evaluate(task, net, batches_of(task, "validation", place), fabric)
    integrators, factors = comparable(net, SHOWN_INTEGRATORS, SHOWN_FACTORS) if few else ([], [])
    others = manifestations(task, net, test, fabric, integrators, factors)
    return Outcome(
        folder=folder.path,
        net=net,
        test=score,
        validation=validation,
        kept_epoch=state.kept_epoch,
        seconds=state.seconds,
        weights=num_weights(net),
        manifestations=others,
        pictures=list(task.conclude(net, place, folder.path) or ()) if fabric.global_rank == 0 else [],
        unit=task.unit,
    )
