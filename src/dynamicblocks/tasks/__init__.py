"""Tasks: what can be trained on what, and the runs that came of it."""

from dynamicblocks.extras import needed_for

with needed_for(__name__):
    from dynamicblocks.tasks.classify import Classify
    from dynamicblocks.tasks.density import Density
    from dynamicblocks.tasks.density_options import DensityConfig, DensityModel, PenaltyConfig
    from dynamicblocks.tasks.dynamics import Dynamics, TrajectoryConfig
    from dynamicblocks.tasks.dynamics_options import DynamicsModel, ShootingConfig
    from dynamicblocks.tasks.event_options import EventConfig, EventModel
    from dynamicblocks.tasks.events import Events
    from dynamicblocks.tasks.files import load_config, load_run
    from dynamicblocks.tasks.fit import fit
    from dynamicblocks.tasks.images import DataConfig
    from dynamicblocks.tasks.model import ModelConfig
    from dynamicblocks.tasks.own import own_task
    from dynamicblocks.tasks.own_equation import own_equation
    from dynamicblocks.tasks.own_field import own_field
    from dynamicblocks.tasks.prediction import FieldPrediction, Prediction, SeriesPrediction
    from dynamicblocks.tasks.registry import tasks
    from dynamicblocks.tasks.regress import FieldConfig, Regress
    from dynamicblocks.tasks.segment import MaskConfig, Segment
    from dynamicblocks.tasks.series import Series
    from dynamicblocks.tasks.series_options import SeriesConfig, SeriesModelConfig
    from dynamicblocks.tasks.task_run import Run

__all__ = [
    "Classify",
    "DataConfig",
    "Density",
    "DensityConfig",
    "DensityModel",
    "Dynamics",
    "DynamicsModel",
    "EventConfig",
    "EventModel",
    "Events",
    "FieldConfig",
    "FieldPrediction",
    "MaskConfig",
    "ModelConfig",
    "PenaltyConfig",
    "Prediction",
    "Regress",
    "Run",
    "Segment",
    "Series",
    "SeriesConfig",
    "SeriesModelConfig",
    "SeriesPrediction",
    "ShootingConfig",
    "TrajectoryConfig",
    "fit",
    "load_config",
    "load_run",
    "own_equation",
    "own_field",
    "own_task",
    "tasks",
]
