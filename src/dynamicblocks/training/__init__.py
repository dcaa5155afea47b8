"""Training: configuration, loop, checkpoints, evaluation."""

from dynamicblocks.extras import needed_for

with needed_for(__name__):
    from dynamicblocks.training.config import (
        DataConfig,
        HardwareConfig,
        ModelConfig,
        OptimizerConfig,
        RediscretiseConfig,
        RefineConfig,
        TrainConfig,
    )
    from dynamicblocks.training.evaluation import Manifestation, Score, evaluate, manifestations
    from dynamicblocks.training.loading import make_batches
    from dynamicblocks.training.outcome import Outcome
    from dynamicblocks.training.run_folder import RunFolder
    from dynamicblocks.training.train import Training

__all__ = [
    "DataConfig",
    "HardwareConfig",
    "Manifestation",
    "ModelConfig",
    "OptimizerConfig",
    "Outcome",
    "RediscretiseConfig",
    "RefineConfig",
    "RunFolder",
    "Score",
    "TrainConfig",
    "Training",
    "evaluate",
    "make_batches",
    "manifestations",
]
