"""What a training is going to do, tried before anything is downloaded or written."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dynamicblocks.block import DynamicBlock
from dynamicblocks.data import Batches
from dynamicblocks.data.images.augmentation import resized
from dynamicblocks.errors import ConfigurationError, DynamicBlocksError
from dynamicblocks.network import DynamicNet
from dynamicblocks.training.box import Box
from dynamicblocks.training.config import OptimizerConfig, TrainConfig
from dynamicblocks.training.engine import Engine
from dynamicblocks.training.evaluation import evaluation_mode, in_precision
from dynamicblocks.training.hardware import make_fabric, random_state, set_random_state
from dynamicblocks.training.measured import can_compile
from dynamicblocks.training.network_changes import changes_before
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.smoothness import SmoothnessPenalty

# Of images that are not read yet. What is possible does not depend on them.
CHANNELS, CLASSES = 3, 10
# Images of a rehearsal.
FEW = 2


def check_plan(config: TrainConfig) -> None:
    """Raise for what cannot be, whatever the images are: folder, device, network, its changes.

    Raises:
        ConfigurationError: it says what.
    """
    if config.run is not None:
        RunFolder.check_free(Path(config.output) / config.run)
    hardware = config.hardware
    make_fabric(replace(hardware, precision="32-true" if hardware.precision == "auto" else hardware.precision))
    if hardware.compile is True and not can_compile():
        raise ConfigurationError(
            "hardware.compile needs a C++ compiler and Python's headers, and they are not here; install them, or leave "
            "it auto"
        )
    net = config.model.create(CHANNELS, CLASSES)
    net = config.twist.twist(net) if config.twist.turned_on(epoch=0) else net
    check_constraints(net, config.optimizer)
    for epoch in range(1, config.epochs):
        for change in changes_before(config, epoch):
            net = change.apply(net)
            check_constraints(net, config.optimizer)


def check_constraints(net: DynamicNet, options: OptimizerConfig) -> None:
    """Raise where a box has nothing to act on, or a basis has no slopes that could be penalised."""
    if options.smoothness:
        SmoothnessPenalty(net, options)
    if options.box:
        Box(net, options)


def idle_choices(net: DynamicNet, config: TrainConfig) -> Iterator[str]:
    """What was asked for and does nothing."""
    options = config.optimizer
    if not options.box and (options.box_scale or options.box_kernels_only):
        yield "optimizer.box_scale and box_kernels_only do nothing without optimizer.box"
    if not options.smoothness and (options.smoothness_kind != "l2" or options.smoothness_kernels_only):
        yield "optimizer.smoothness_kind and smoothness_kernels_only do nothing without optimizer.smoothness"
    for name in ("refine", "rediscretise"):
        changes = getattr(config, name)
        if changes.restart and not changes.epochs:
            yield f"{name}.restart does nothing without {name}.epochs"
    grows = config.refine.epochs or config.rediscretise.controls
    if options.smoothness and not any(map(_in_time, net.blocks)):
        yield "optimizer.smoothness does nothing: no dynamic block of the network has weights in its controls"
    elif options.smoothness and not grows and all(len(block.controls) == 1 for block in net.blocks):
        yield "optimizer.smoothness does nothing: every block has a single control, so weights are constant in time"


def _in_time(block: DynamicBlock) -> bool:
    return next(block.controls.parameters(), None) is not None


def rehearse(net: DynamicNet, config: TrainConfig, batches: Batches, fabric: Fabric) -> None:
    """Run a training step without its end, and an evaluation, on a copy of the network and a few images.

    Weights, running statistics and random numbers are as if nothing had been run.

    Raises:
        ConfigurationError: images of this size, or weights of this precision, cannot be trained so.
        SolverError: no steps lead through a block.
    """
    state = random_state()
    images, labels = (each[:FEW] for each in next(batches.training(0)))
    sides = dict.fromkeys(side for _, side in config.data.progressive)
    try:
        # Compiled, it is the same network, after a minute.
        uncompiled = replace(config, hardware=replace(config.hardware, compile=False))
        engine = Engine(copy.deepcopy(net), uncompiled, fabric)
        engine.net.train()
        for side in sides or (None,):
            loss, _ = engine.loss(images if side is None else resized(images, side), labels)
            fabric.backward(loss)
        with evaluation_mode(engine.net), torch.inference_mode(), fabric.autocast():
            engine.net(in_precision(images, fabric))
    except DynamicBlocksError:
        raise
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise ConfigurationError(
            f"a training step fails on images of shape {tuple(images.shape)} with precision "
            f"{config.hardware.precision}: {type(error).__name__}: {str(error).splitlines()[0]:.300}"
        ) from error
    finally:
        set_random_state(state)
