"""What a training is going to do, tried before anything is downloaded or written."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, raised_at
from dynamicblocks.memory import bytes_of, check_weights
from dynamicblocks.network import named_blocks
from dynamicblocks.times import MAX_BLOCK_STEPS
from dynamicblocks.training.box import Box
from dynamicblocks.training.config import OptimizerConfig, TrainConfig
from dynamicblocks.training.engine import Engine
from dynamicblocks.training.evaluation import evaluating
from dynamicblocks.training.hardware import make_fabric, random_state, set_random_state
from dynamicblocks.training.hardware_rules import can_compile
from dynamicblocks.training.network_changes import changes_before
from dynamicblocks.training.run_folder import RunFolder
from dynamicblocks.training.runs import run_name, run_path
from dynamicblocks.training.smoothness import SmoothnessPenalty
from dynamicblocks.training.task import Batches, Task


def check_plan(task: Task[Any], config: TrainConfig) -> None:
    """Raise for what cannot be, whatever the data are: folder, device, network, its changes.

    Raises:
        ConfigurationError: it says what.
        StorageError: the folder cannot be made.
    """
    RunFolder.check_free(run_path(config.output, run_name(task, config)))
    task.check()
    hardware = config.hardware
    make_fabric(replace(hardware, precision="32-true" if hardware.precision == "auto" else hardware.precision))
    if hardware.compile is True and not can_compile():
        raise ConfigurationError(
            "hardware.compile needs a C++ compiler and Python's headers, and they are not here; install them, or leave "
            "it auto"
        )
    net = task.sketch()
    if net is None:
        return
    net = config.twist.twist(net) if config.twist.turned_on(epoch=0) else net
    check_constraints(net, config.optimizer)
    check_refinements(net, config)
    for epoch in range(1, config.epochs):
        for change in changes_before(config, epoch):
            net = change.apply(net)
            check_constraints(net, config.optimizer)


def check_refinements(net: nn.Module, config: TrainConfig) -> None:
    """Raise where refinements make more controls than a block may have, or than there is memory for: they multiply."""
    if config.rediscretise.epochs:  # which may make them few again: they are made one by one
        return
    times = sum(epoch < config.epochs for epoch in config.refine.epochs)
    finer = config.refine.factor**times
    for name, block in named_blocks(net).items() if times else ():
        basis = block.controls.basis
        controls = basis.size_of((len(basis.points) - 1) * finer)
        for what, number, most in (("controls", controls, basis.most), ("steps", block.steps * finer, MAX_BLOCK_STEPS)):
            if number > most:
                raise ConfigurationError(
                    f"refine.epochs: {times} refinements by refine.factor {config.refine.factor} give the block "
                    f"{name!r} more than {most:,} {what}; refine less often"
                )
        check_weights(controls * bytes_of(block.controls.layers[0]), f"the block {name!r}, refined {times} times")


def check_constraints(net: nn.Module, options: OptimizerConfig) -> None:
    """Raise where a box has nothing to act on, or a basis has no slopes that could be penalised."""
    if options.smoothness:
        SmoothnessPenalty(net, options)
    if options.box:
        Box(net, options)


def idle_choices(net: nn.Module, config: TrainConfig) -> Iterator[str]:
    """What was asked for and does nothing."""
    options = config.optimizer
    yield from options.idle()
    if not options.box and (options.box_scale or options.box_kernels_only):
        yield "optimizer.box_scale and box_kernels_only do nothing without optimizer.box"
    if not options.smoothness and (options.smoothness_kind != "l2" or options.smoothness_kernels_only):
        yield "optimizer.smoothness_kind and smoothness_kernels_only do nothing without optimizer.smoothness"
    hardware = config.hardware
    if hardware.fast and "auto" not in (hardware.precision, hardware.channels_last, hardware.compile):
        yield "hardware.fast does nothing: precision, channels_last and compile are given"
    elif hardware.fast and hardware.devices > 1:
        yield "hardware.fast does nothing with several processes, which might not agree; they follow the rules"
    for name in ("refine", "rediscretise"):
        changes = getattr(config, name)
        if changes.restart and not changes.epochs:
            yield f"{name}.restart does nothing without {name}.epochs"
    blocks = named_blocks(net).values()
    grows = config.refine.epochs or config.rediscretise.controls
    if options.smoothness and not any(map(_in_time, blocks)):
        yield "optimizer.smoothness does nothing: no dynamic block of the network has weights in its controls"
    elif options.smoothness and not grows and all(len(block.controls) == 1 for block in blocks):
        yield "optimizer.smoothness does nothing: every block has a single control, so weights are constant in time"


def _in_time(block: DynamicBlock) -> bool:
    return next(block.controls.parameters(), None) is not None


def rehearse(net: nn.Module, task: Task[Any], config: TrainConfig, batches: Batches[Any], fabric: Fabric) -> None:
    """Run a training step without its end, and an evaluation, on a copy of the network and a few samples.

    Weights, running statistics and random numbers are as if nothing had been run.

    Raises:
        ConfigurationError: batches of these shapes, or weights of this precision, cannot be trained so.
        SolverError: no steps lead through a block.
    """
    state = random_state()
    batch = None
    try:
        # Compiled, it is the same network, after a minute.
        uncompiled = replace(config, hardware=replace(config.hardware, compile=False))
        engine = Engine(copy.deepcopy(net), task, uncompiled, fabric)
        engine.net.train()
        for batch in task.rehearsal(batches):
            loss, _ = engine.loss(batch, partial(check_answer, task))
            fabric.backward(loss)
        with evaluating(engine.net, fabric):
            check_score(task, task.score(engine.net, batch))
    except DynamicBlocksError:
        raise
    except Exception as error:  # whatever a network or a task may raise
        said = (str(error).splitlines() or [""])[0]
        raise ConfigurationError(
            f"a training step fails on {_described(batch)} with precision {config.hardware.precision}"
            f"{_line(task, error)}: {type(error).__name__}: {said:.300}".rstrip(": ")
        ) from error
    finally:
        set_random_state(state)


def check_answer(task: Task[Any], answer: Any) -> None:
    """Raise unless what ``task.loss`` gives is a number and a vector of sums."""
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not isinstance(answer[0], Tensor):
        raise ConfigurationError(
            f"loss of the task {task.name} must give the loss and a vector of sums, got "
            f"{_described(answer, 'something')}"
        )
    loss, sums = answer
    if loss.ndim:
        raise ConfigurationError(f"the loss of the task {task.name} must be one number, got shape {tuple(loss.shape)}")
    check_sums(task, sums, "loss")


def check_sums(task: Task[Any], sums: Any, method: str) -> None:
    """Raise unless there is one number for each of the sums of a task."""
    names = task.sums
    if not isinstance(sums, Tensor) or sums.shape != (len(names),):
        came = f"shape {tuple(sums.shape)}" if isinstance(sums, Tensor) else f"a {type(sums).__name__}"
        raise ConfigurationError(
            f"sums that {method} of the task {task.name} gives must be a vector of {len(names)} numbers "
            f"({', '.join(names)}), got {came}"
        )


def check_score(task: Task[Any], sums: Any) -> None:
    """Raise unless all figures of a task follow from what ``task.score`` gives."""
    check_sums(task, sums, "score")
    try:
        measured = task.measured(dict(zip(task.sums, sums.tolist(), strict=True)))
    except ArithmeticError:  # a few samples may lack what all of them have
        return
    needed = dict.fromkeys(("loss", *(figure.name for figure in task.figures)))
    missing = [name for name in needed if name not in measured]
    if missing:
        raise ConfigurationError(
            f"measured of the task {task.name} must give all its figures, and lacks {', '.join(missing)}; it gives "
            f"{', '.join(measured)}"
        )


def _line(task: Task[Any], error: BaseException) -> str:
    """Where in the file of a task of one's own an error was raised."""
    file = getattr(sys.modules.get(type(task).__module__), "__file__", None)
    place = raised_at(error, {file})
    return f" ({file}, line {place[1]})" if task.source_hash and place else ""


def _described(batch: Any, what: str = "a batch") -> str:
    """The shapes of the tensors of a batch."""
    entries = batch if isinstance(batch, (tuple, list)) else [batch]
    shapes = ", ".join(str(tuple(each.shape)) for each in entries if isinstance(each, Tensor))
    return f"{what} of shapes {shapes}" if shapes else f"{what} of type {type(batch).__name__}"
