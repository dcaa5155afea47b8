"""Gradients that are no numbers, under clipping: told as a loss that is none, with what to do."""

import pytest
import torch

from dynamicblocks.errors import SolverError
from dynamicblocks.training import OptimizerConfig
from tests.training.small_task import Small, plan, quiet


class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.inf


class Overflowing(Small):
    """The loss is a number, and its gradient is none."""

    name = "overflowing"

    def loss(self, net, batch):
        loss, sums = super().loss(net, batch)
        return Bad.apply(loss), sums


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_the_error_is_the_same_with_and_without_clipping(clip, tmp_path):
    training = quiet(Overflowing(), plan(tmp_path, optimizer=OptimizerConfig(clip=clip)))
    with pytest.raises(SolverError, match=r"not finite in epoch 1.*Try a lower --optimizer.lr"):
        training.run()
