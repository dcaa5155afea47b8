"""Tasks by name."""

from typing import Any, cast

from dynamicblocks.registry import Registry
from dynamicblocks.training.task import Task

tasks: Registry[Task[Any]] = Registry("task")


def named_task(name: str) -> type[Task[Any]]:
    """The task of that name: what is registered is its class.

    Raises:
        ConfigurationError: there is none; the message lists those that there are.
    """
    return cast(type[Task[Any]], tasks[name])
