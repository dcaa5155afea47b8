"""Configurations as flags of a command."""

from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.task import Task


def add_task_arguments(parser: ArgumentParser, task: type[Task[Any]]) -> None:
    """Give a parser every option of a task, and every field of :class:`TrainConfig`, as a flag."""
    parser.add_class_arguments(task, nested_key=None)
    parser.add_class_arguments(TrainConfig, nested_key=None)


def task_and_config(task: type[Task[Any]], options: Namespace) -> tuple[Task[Any], TrainConfig]:
    """The task and the configuration among instantiated options."""
    parts = ({each.name: options[each.name] for each in fields(kind)} for kind in (task, TrainConfig))  # type: ignore[arg-type]
    return task(**next(parts)), TrainConfig(**next(parts))
