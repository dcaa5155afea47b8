"""Tasks by name."""

from typing import Any

from dynamicblocks.registry import Registry
from dynamicblocks.training.task import Task

tasks: Registry[Task[Any]] = Registry("task")
