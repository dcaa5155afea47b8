"""The configuration of a training: a tree of frozen dataclasses, each field a flag of the command line."""

from dynamicblocks.training.config.hardware import HardwareConfig
from dynamicblocks.training.config.optimizer import OptimizerConfig
from dynamicblocks.training.config.rediscretise import RediscretiseConfig
from dynamicblocks.training.config.refine import RefineConfig
from dynamicblocks.training.config.tree import TrainConfig
from dynamicblocks.training.config.twist import TwistConfig

__all__ = [
    "HardwareConfig",
    "OptimizerConfig",
    "RediscretiseConfig",
    "RefineConfig",
    "TrainConfig",
    "TwistConfig",
]
