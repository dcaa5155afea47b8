"""A network with its optimiser on a device: one training step, and what a change of the network's shape renews."""

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dynamicblocks.surgery import freeze_unused_controls
from dynamicblocks.training.box import Box
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.optimizer import make_optimizer
from dynamicblocks.training.smoothness import SmoothnessPenalty
from dynamicblocks.training.task import Task


class Engine:
    """Everything that hangs on the network's shape: frozen controls, optimiser, compilation, wrappers.

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
        compiled = config.hardware.compile is True
        wrapped: nn.Module = torch.compile(net, dynamic=False) if compiled else net  # type: ignore[assignment]
        self.bare_optimizer = make_optimizer(net, config.optimizer)
        self.model, self.optimizer = fabric.setup(wrapped, self.bare_optimizer)
        self.smoothness = SmoothnessPenalty(net, self.options) if self.options.smoothness else None
        # After the setup, which may give the weights another precision.
        self.box = Box(net, self.options) if self.options.box else None
        if self.box is not None:
            self.box.project()

    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The loss to be lowered; and, without gradient, the task's sums of the batch."""
        loss, sums = self.task.loss(self.model, batch)
        if self.smoothness is not None:
            loss = loss + self.smoothness(loss.device)
        return loss, sums.detach()

    def step(self, loss: Tensor) -> None:
        """Backward pass, a step of the optimiser, and the weights back into their box."""
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.options.clip:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.options.clip)
        self.optimizer.step()
        if self.box is not None:
            self.box.project()
