"""Trainings on images, for the tests."""

from dynamicblocks.tasks import Classify
from dynamicblocks.training import TrainConfig

OF_THE_TASK = ("data", "model", "label_smoothing")


def classification(**options):
    """Task and configuration, from options of either; what is left out is as by default."""
    task = Classify(**{name: options.pop(name) for name in OF_THE_TASK if name in options})
    return task, TrainConfig(**options)
