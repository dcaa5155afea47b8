"""What a training writes down as it goes."""

from typing import Any

from torch import nn

from dynamicblocks.network import evaluations_of, num_weights
from dynamicblocks.training.engine import Cost
from dynamicblocks.training.evaluation import Score
from dynamicblocks.training.task import Task


def epoch_entry(
    task: Task[Any],
    epoch: int,
    rate: float,
    trained: Score,
    validated: Score,
    per_second: float,
    seconds: float,
    cost: Cost,
) -> dict[str, Any]:
    """An epoch, for metrics.jsonl: its last learning rate, the figures, and how fast and how dear it was."""
    return {
        "epoch": epoch,
        "learning_rate": rate,
        **trained.recorded,
        **{f"validation_{name}": value for name, value in validated.recorded.items()},
        f"{task.unit}_per_second": per_second,
        "seconds": seconds,
        **({"evaluations_forward": cost.forward, "evaluations_backward": cost.backward} if cost.forward else {}),
    }


def change_entry(net: nn.Module, before: Score, after: Score) -> dict[str, Any]:
    """A change of the network, for the entry of its epoch: the size it has now, and each figure before and after."""
    return {
        "weights": num_weights(net),
        "evaluations": evaluations_of(net),
        **{f"validation_{name}": [value, after.recorded[name]] for name, value in before.recorded.items()},
    }


def change_line(task: Task[Any], net: nn.Module, before: Score, after: Score) -> str:
    """The same for the eye."""
    figures = ", ".join(
        f"{figure.heading} {figure.shown(before[figure.name])} -> {figure.shown(after[figure.name])}"
        for figure in task.figures
    )
    return f"to {num_weights(net):,} weights and {evaluations_of(net)} evaluations; validation {figures}"
