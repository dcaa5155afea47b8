"""Training, whatever the task: configuration, loop, checkpoints, evaluation."""

from dynamicblocks.extras import needed_for

with needed_for(__name__):
    from dynamicblocks.training.config import (
        HardwareConfig,
        OptimizerConfig,
        RediscretiseConfig,
        RefineConfig,
        TrainConfig,
        TwistConfig,
    )
    from dynamicblocks.training.evaluation import Score, evaluate
    from dynamicblocks.training.manifestations import Manifestation, manifestations
    from dynamicblocks.training.outcome import Outcome
    from dynamicblocks.training.run_folder import RunFolder
    from dynamicblocks.training.task import LOSS, Batches, Figure, Place, Task
    from dynamicblocks.training.tensor_batches import TensorBatches
    from dynamicblocks.training.tolerances import AtTolerance, at_tolerances
    from dynamicblocks.training.train import Training

__all__ = [
    "LOSS",
    "AtTolerance",
    "Batches",
    "Figure",
    "HardwareConfig",
    "Manifestation",
    "OptimizerConfig",
    "Outcome",
    "Place",
    "RediscretiseConfig",
    "RefineConfig",
    "RunFolder",
    "Score",
    "Task",
    "TensorBatches",
    "TrainConfig",
    "Training",
    "TwistConfig",
    "at_tolerances",
    "evaluate",
    "manifestations",
]
