"""The work of a training step, counted: the same on every run, which seconds are not."""

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dynamicblocks.block import DynamicBlock
from dynamicblocks.gradients import Backprop
from dynamicblocks.memory import check_memory
from dynamicblocks.network import evaluations_of
from dynamicblocks.training.task import Task

SHAPES_ALONE = "meta"

MANY_EVALUATIONS = 1000
"""In a pass, of layers: below it, memory is a matter of samples and pixels rather than of steps."""

A_NODE = 2**13
"""Bytes that PyTorch needs to remember the operations of one evaluation of a small layer, whatever its tensors."""


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


def check_states(task: Task[Any], net: nn.Module, batch: Any) -> None:
    """Raise where the evaluations of a pass are so many that there is no memory to remember them for the pass back.

    The states' sizes are found on shapes alone, with blocks that take no step, as all their states are of one size.

    Raises:
        ConfigurationError: it names the memory needed.
    """
    need = 0
    trial = copy.deepcopy(net).to(SHAPES_ALONE)
    for block in _outermost(trial):
        if not isinstance(block.gradient, Backprop):
            continue
        evaluations = evaluations_of(block)

        def stay(y: Any, *_: Any, evaluations: int = evaluations, **__: Any) -> Any:
            nonlocal need
            need += evaluations * (A_NODE + y.numel() * y.element_size())
            return y

        block.forward = stay  # type: ignore[method-assign]
    with suppress(Exception):  # whatever a network or a task may raise; why is for the rehearsal to say
        task.loss(trial, _moved(batch, SHAPES_ALONE))
    check_memory(
        need,
        f"a training step that keeps the states of {evaluations_of(net):,} evaluations of layers",
        "; take fewer steps, smaller batches, or a gradient that keeps fewer states (checkpoint)",
    )


def _outermost(net: nn.Module) -> list[DynamicBlock]:
    """The blocks that stand in no block."""
    if isinstance(net, DynamicBlock):
        return [net]
    return [block for child in net.children() for block in _outermost(child)]


def _moved(batch: Any, device: str) -> Any:
    """A batch on another device, where it is a tensor or a tuple or list of such."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if not isinstance(batch, (tuple, list)):
        return batch
    entries = [_moved(each, device) for each in batch]
    return type(batch)(*entries) if hasattr(batch, "_fields") else type(batch)(entries)
