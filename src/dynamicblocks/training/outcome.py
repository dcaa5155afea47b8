"""The end of a training: the best weights on the test images, and under other integrators."""

from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_fabric import Fabric

from dynamicblocks.data import ImageDataset
from dynamicblocks.network import DynamicNet
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.evaluation import Manifestation, Score, evaluate, manifestations
from dynamicblocks.training.loading import make_batches
from dynamicblocks.training.position import Position
from dynamicblocks.training.run_folder import RunFolder

# The integrators and multiples of the steps that a training shows at its end.
SHOWN_INTEGRATORS = ("euler", "midpoint", "rk4_classic")
SHOWN_FACTORS = (1, 2, 4)


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    folder: Path
    test: Score
    validation: Score
    best_epoch: int
    seconds: float
    weights: int
    manifestations: list[Manifestation]


def conclude(
    net: DynamicNet,
    data: ImageDataset,
    config: TrainConfig,
    fabric: Fabric,
    folder: RunFolder,
    position: Position,
) -> Outcome:
    """Read the test images, for the chosen weights and then for their other manifestations, and write the result."""
    test = make_batches(data, data.test, config, fabric)
    outcome = Outcome(
        folder=folder.path,
        test=evaluate(net, test, fabric),
        validation=evaluate(net, make_batches(data, data.validation, config, fabric), fabric),
        best_epoch=position.best_epoch,
        seconds=position.seconds,
        weights=sum(weight.numel() for weight in net.parameters()),
        manifestations=manifestations(net, test, fabric, SHOWN_INTEGRATORS, SHOWN_FACTORS),
    )
    if fabric.global_rank == 0:
        folder.write_result(
            {
                "test_accuracy": outcome.test.accuracy,
                "test_loss": outcome.test.loss,
                "test_images": outcome.test.images,
                "validation_accuracy": outcome.validation.accuracy,
                "best_epoch": outcome.best_epoch,
                "training_seconds": outcome.seconds,
                "weights": outcome.weights,
                "seed": config.seed,
                "manifestations": [asdict(other) for other in outcome.manifestations],
            }
        )
    return outcome
