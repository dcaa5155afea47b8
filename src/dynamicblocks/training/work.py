"""The work of a training step, counted: the same on every run, which seconds are not."""

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dynamicblocks.training.task import Task


@dataclass(frozen=True)
class Work:
    """What a training step of one process does.

    Args:
        operations: of tensors that compute something, views are none; forwards and backwards.
        flops: floating-point operations of matrix products and convolutions.
    """

    operations: int
    flops: int

    @property
    def intensity(self) -> float:
        """Floating-point operations in an operation, on average: how much there is to gain by faster arithmetic."""
        return self.flops / max(1, self.operations)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what computes something. PyTorch's own counter follows modules, which reversible networks do not bear."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += not func.is_view
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def count_work(task: Task[Any], net: nn.Module, batch: Any) -> Work | None:
    """The work of a step on ``batch``, by running one on a copy of ``net``; None where it cannot be run.

    Why it cannot be is for the rehearsal to say.
    """
    trial = copy.deepcopy(net).train()
    counter = _Counter()
    try:
        with counter:
            loss, _ = task.loss(trial, batch)
            loss.backward()  # type: ignore[no-untyped-call]
    except Exception:  # whatever a network, a task or a subclass of tensors may raise
        return None
    return Work(counter.operations, counter.flops)
