"""A network with its optimiser on a device: one training step, and what a change of the network's shape renews."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dynamicblocks.gradients import Checkpoint
from dynamicblocks.network import evaluations_of, named_blocks
from dynamicblocks.surgery import freeze_unused_controls
from dynamicblocks.training.average import Average
from dynamicblocks.training.box import Box
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.optimizer import make_optimizer
from dynamicblocks.training.smoothness import SmoothnessPenalty
from dynamicblocks.training.task import Task


class Cost(NamedTuple):
    """Evaluations of fields in an average step of training; ``fixed`` if the network tells them beforehand."""

    forward: float
    backward: float
    fixed: bool


class Engine:
    """Everything that hangs on the network's shape: frozen controls, optimiser, average, compilation, wrappers.

    Args:
        net: the bare network; it is kept for evaluation and storage, with names without the prefixes of wrappers.
        task: its loss is lowered.
        config: of the training.
        fabric: device, precision, processes.
    """

    def __init__(self, net: nn.Module, task: Task[Any], config: TrainConfig, fabric: Fabric) -> None:
        self.net = net
        self.task = task
        self.fabric = fabric
        self.options = config.optimizer
        self.frozen = freeze_unused_controls(net)
        last = config.hardware.channels_last is True
        net.to(memory_format=torch.channels_last if last else torch.preserve_format)  # type: ignore[call-overload]
        net.to(fabric.device)
        self.compiled = config.hardware.compile is True
        wrapped: nn.Module = torch.compile(net, dynamic=False) if self.compiled else net  # type: ignore[assignment]
        self.bare_optimizer = make_optimizer(net, config.optimizer)
        self.model, self.optimizer = fabric.setup(wrapped, self.bare_optimizer)
        self.smoothness = SmoothnessPenalty(net, self.options) if self.options.smoothness else None
        # After the setup, which may give the weights another precision.
        self.box = Box(net, self.options) if self.options.box else None
        if self.box is not None:
            self.box.project()

        self.average = Average(net, self.options.ema) if self.options.ema else None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the average, or, without one, the network itself."""
        return self.net if self.average is None else self.average.net

    def take_average(self, net: nn.Module, updates: int) -> None:
        """Go on with an average of other shape, which ``net`` has been made from."""
        if self.average is not None:
            self.average.load_state_dict({"weights": net.state_dict(), "updates": updates})
            if self.box is not None:
                Box(self.average.net, self.options).project()

    def agree(self) -> None:
        """Give all processes the statistics of the first, which are those that are stored."""
        if self.fabric.world_size > 1:
            mine = list(self.evaluated.buffers())
            for buffer, first in zip(mine, self.fabric.broadcast(mine), strict=True):
                buffer.copy_(first)

    def loss(self, batch: Any, check: Callable[[Any], None] | None = None) -> tuple[Tensor, Tensor]:
        """The loss to be lowered; and, without gradient, the task's sums of the batch.

        ``check`` is shown what the task gives.
        """
        given = self.task.loss(self.model, batch)
        if check is not None:
            check(given)
        loss, sums = given
        if self.smoothness is not None:
            loss = loss + self.smoothness(loss.device)
        return loss, sums.detach()

    def cost(self, forward: int, backward: int, steps: int) -> Cost:
        """Evaluations in each of so many steps, of which these were counted.

        The blocks inside compiled code count nothing; those with steps of their own are never inside.
        """
        blocks = named_blocks(self.net).values()
        average = forward / steps, backward / steps
        if self.compiled:
            again = sum(block.evaluations for block in blocks if isinstance(block.gradient, Checkpoint))
            average = max(average[0], evaluations_of(self.net)), max(average[1], again)
        fixed = all(block.integrator.fixed_cost for block in blocks) and average[0] == evaluations_of(self.net)
        return Cost(*average, fixed)

    def exchange(self, enabled: bool) -> AbstractContextManager[Any]:
        """Whether processes exchange the gradients of the loss and the backward pass inside: once a group is enough."""
        return self.fabric.no_backward_sync(self.model, enabled=not enabled)

    def step(self, loss: Tensor, place: int = 0, size: int = 1) -> None:
        """Backward pass of one of ``size`` batches; after the last, a step with the mean of their gradients.

        Then the weights go back into their box, and the average follows them.
        """
        if place == 0:
            self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss if size == 1 else loss / size)
        if place + 1 < size:
            return
        if self.options.clip:
            # Gradients that are no numbers make a loss that is none, which is told with what to do; Fabric would raise
            # here, also where a scaler of losses only skips the step.
            norm = self.options.clip
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=norm, error_if_nonfinite=False)
        self.optimizer.step()
        if self.box is not None:
            self.box.project()
        if self.average is not None:
            self.average.update()
