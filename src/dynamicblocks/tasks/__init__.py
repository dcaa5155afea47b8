"""Tasks: what can be trained on what, and the runs that came of it."""

from dynamicblocks.extras import needed_for

with needed_for(__name__):
    from dynamicblocks.tasks.classify import Classify
    from dynamicblocks.tasks.files import load_config, load_run
    from dynamicblocks.tasks.images import DataConfig
    from dynamicblocks.tasks.model import ModelConfig
    from dynamicblocks.tasks.own import own_task
    from dynamicblocks.tasks.prediction import FieldPrediction, Prediction
    from dynamicblocks.tasks.registry import tasks
    from dynamicblocks.tasks.regress import FieldConfig, Regress
    from dynamicblocks.tasks.segment import MaskConfig, Segment
    from dynamicblocks.tasks.task_run import Run

__all__ = [
    "Classify",
    "DataConfig",
    "FieldConfig",
    "FieldPrediction",
    "MaskConfig",
    "ModelConfig",
    "Prediction",
    "Regress",
    "Run",
    "Segment",
    "load_config",
    "load_run",
    "own_task",
    "tasks",
]
