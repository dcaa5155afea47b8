"""The work of a training step, counted: the same on every run, which seconds are not."""

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dynamicblocks.training.task import Task

SHAPES_ALONE = "meta"


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
    """The work of a step on ``batch``, by a step of a copy of ``net``; None where there can be none.

    It is taken on tensors that have shapes and no numbers, which takes no time for large ones and no free cores; where
    something reads numbers, on the batch as it is. Why a step cannot be taken is for the rehearsal to say.
    """
    for device in (SHAPES_ALONE, None):
        counter = _Counter()
        try:
            trial = copy.deepcopy(net).to(device).train()
            with counter:
                loss, _ = task.loss(trial, batch if device is None else _moved(batch, device))
                loss.backward()  # type: ignore[no-untyped-call]
        except Exception:  # whatever a network, a task or a subclass of tensors may raise
            continue
        return Work(counter.operations, counter.flops)
    return None


def _moved(batch: Any, device: str) -> Any:
    """A batch on another device, where it is a tensor or a tuple or list of such."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if not isinstance(batch, (tuple, list)):
        return batch
    entries = [_moved(each, device) for each in batch]
    return type(batch)(*entries) if hasattr(batch, "_fields") else type(batch)(entries)
