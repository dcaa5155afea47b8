"""A loss that is not finite in half precision: the training goes on from its last checkpoint in float32."""

import json
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch

from dynamicblocks.training import HardwareConfig, TrainConfig, Training
from tests.training.small_task import Small


@dataclass(frozen=True)
class Overflowing(Small):
    """Its loss is infinite in its third training step in half precision."""

    @cached_property
    def seen(self):
        return []

    def loss(self, net, batch):
        loss, sums = super().loss(net, batch)
        self.seen.append(next(net.parameters()).dtype)
        return (loss + torch.inf if len(self.seen) == 5 else loss), sums


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_weights_are_in_float32_from_there_on(precision, tmp_path):
    hardware = HardwareConfig(accelerator="cpu", precision=precision, compile=False, channels_last=False)
    task = Overflowing(samples=16)
    config = TrainConfig(epochs=2, hardware=hardware, output=str(tmp_path), run="run")
    outcome = Training(task, config).run()
    assert task.seen[-1] == torch.float32
    assert {weight.dtype for weight in outcome.net.parameters()} == {torch.float32}
    event = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])
    assert (event["from"], event["to"]) == (precision, "32-true")
