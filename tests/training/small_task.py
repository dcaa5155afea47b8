"""A task of a few random images, for tests of the loop."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from rich.console import Console

import dynamicblocks as db
from dynamicblocks.draws import generator
from dynamicblocks.training import HardwareConfig, Task, TrainConfig, Training
from dynamicblocks.training.tensor_batches import TensorBatches


@dataclass(frozen=True)
class Small(Task):
    """Random images into random numbers.

    Args:
        norm: of the network.
        controls: its basis.
        integrator, gradient: of its block.
        samples: of training.
        batch_size: of training.
    """

    name: ClassVar[str] = "small"

    norm: str = "batch"
    controls: str = "constant"
    integrator: str = "euler"
    gradient: str = "backprop"
    samples: int = 24
    batch_size: int = 4

    def load(self):
        return "random numbers"

    def build(self):
        return db.create_model(
            "dynamicnet",
            in_channels=1,
            num_classes=2,
            widths=(2,),
            units=2,
            layer="preact_single",
            norm=self.norm,
            controls=self.controls,
            integrator=self.integrator,
            gradient=self.gradient,
        )

    def batches(self, split, place):
        count = self.samples if split == "train" else 4
        draw = generator(sum(map(ord, split)))
        images = torch.randn(count, 1, 4, 4, generator=draw)
        return TensorBatches((images, torch.randn(count, 2, generator=draw)), self.batch_size, place)

    def loss(self, net, batch):
        images, targets = batch
        loss = (net(images) - targets).square().mean()
        return loss, torch.stack([loss.new_tensor(len(images)), loss.detach() * len(images)])


class StopError(Exception):
    """In the place of a power cut."""


def plan(tmp_path, run="run", *, precision="32-true", devices=1, **changes):
    """A configuration of a short training of it."""
    hardware = HardwareConfig("cpu", devices, precision=precision, compile=False, channels_last=False)
    return TrainConfig(**{"hardware": hardware, "epochs": 2, "output": str(tmp_path), "run": run, **changes})


def quiet(task, config, **options):
    """A training that writes nothing to the screen."""
    return Training(task, config, console=Console(quiet=True), **options)


def stopped(task, config, steps, monkeypatch, **options):
    """A training that stops, as at a power cut, after so many steps."""
    training = quiet(task, config, **options)
    step, done = Training._step, []

    def stopping(self, batch):
        if len(done) == steps:
            raise StopError
        done.append(1)
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", stopping)
        try:
            training.run()
        except StopError:
            return training
    raise AssertionError(f"the training ended before {steps} steps")


def assert_same(one, other):
    """Trees of dictionaries, lists and tensors that are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for each, its in zip(one, other, strict=True):
            assert_same(each, its)
    else:
        assert one == other
