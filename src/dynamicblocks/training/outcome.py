"""The end of a training: the best weights on the test images, and under other integrators."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from dynamicblocks.data import Batches
from dynamicblocks.network import DynamicNet
from dynamicblocks.training.evaluation import Manifestation, Score, comparable, evaluate, manifestations
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.training_state import TrainingState

# The integrators, beside its own and where they solve its equation, and multiples of the steps that a training shows at
# its end.
SHOWN_INTEGRATORS = ("euler", "midpoint", "rk4_classic")
SHOWN_FACTORS = (1, 2, 4)
# With more test images than this, `dynamicblocks converge` is the place for it.
FEW_IMAGES = 2000


@dataclass(frozen=True)
class Outcome:
    """What a training came to; the network has the weights that were kept."""

    folder: Path
    net: DynamicNet
    test: Score
    validation: Score
    kept_epoch: int
    seconds: float
    weights: int
    manifestations: list[Manifestation]

    def as_result(self, seed: int) -> dict[str, Any]:
        """Plain values, for the run's result.json."""
        return {
            "test_accuracy": self.test.accuracy,
            "test_loss": self.test.loss,
            "test_images": self.test.images,
            "validation_accuracy": self.validation.accuracy,
            "kept_epoch": self.kept_epoch,
            "training_seconds": self.seconds,
            "weights": self.weights,
            "seed": seed,
            "manifestations": [asdict(other) for other in self.manifestations],
        }


def conclude(
    net: DynamicNet, validation: Batches, test: Batches, fabric: Fabric, folder: RunFolder, state: TrainingState
) -> Outcome:
    """Read the test images, for the chosen weights and then, where they are few, for their other manifestations."""
    return Outcome(
        folder=folder.path,
        net=net,
        test=evaluate(net, test, fabric),
        validation=evaluate(net, validation, fabric),
        kept_epoch=state.kept_epoch,
        seconds=state.seconds,
        weights=net.num_weights,
        manifestations=manifestations(net, test, fabric, *comparable(net, SHOWN_INTEGRATORS, SHOWN_FACTORS))
        if len(test.split) <= FEW_IMAGES
        else [],
    )
