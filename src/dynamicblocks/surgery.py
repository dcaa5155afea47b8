"""Changes of choices in whole networks. Each returns a new network and leaves the old one as it was."""

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.controls import Basis, as_basis
from dynamicblocks.controls.calibration import measure, meters_of
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Gradient, as_gradient
from dynamicblocks.integrators import Adaptive, Integrator, as_integrator
from dynamicblocks.network import named_blocks
from dynamicblocks.times import Times, check_amount

Net = TypeVar("Net", bound=nn.Module)


def map_blocks(net: Net, change: Callable[[str, DynamicBlock], DynamicBlock]) -> Net:
    """A copy of ``net`` with every dynamic block, by name, put through ``change``; one in several places stays one."""
    return _mapped("", copy.deepcopy(net), change, {})  # type: ignore[return-value]


def _mapped(
    name: str, module: nn.Module, change: Callable[[str, DynamicBlock], DynamicBlock], made: dict[nn.Module, nn.Module]
) -> nn.Module:
    if module not in made:
        new = change(name, module) if isinstance(module, DynamicBlock) else module
        made[module] = made[new] = new
        # A change may have copied the layers of a block, so the blocks inside them come after it.
        for child, part in list(new._modules.items()):
            if part is not None:
                mapped = _mapped(f"{name}.{child}" if name else child, part, change, made)
                if mapped is not part:
                    setattr(new, child, mapped)
    return made[module]


def _change_blocks(net: Net, change: Callable[[str, DynamicBlock], DynamicBlock]) -> Net:
    """A copy of ``net`` with its blocks changed, or an error where it has none."""
    if not named_blocks(net):
        raise ConfigurationError(f"{type(net).__name__} holds no DynamicBlock, so there is nothing to change")
    return map_blocks(net, change)


def with_integrator(
    net: Net,
    integrator: Integrator | str | None = None,
    *,
    steps: int | None = None,
    steps_per_control: int | None = None,
    steps_factor: int | None = None,
    times: Times | None = None,
) -> Net:
    """The same weights under another integrator or grid: another manifestation of the same differential equation.

    Integrators of another ``equation`` (``leapfrog``, ``lm``, ``imex``, ``momentum``) make another function of them.
    Blocks whose gradient mode cannot run the new integrator get ``"backprop"``, with a warning.

    Args:
        net: a network or block.
        integrator: the new integrator; None keeps the present one.
        steps: equal steps for each block, over its present span; or
        steps_per_control: equal steps for each interval between the knots of the controls; or
        steps_factor: each present step cut into so many; or
        times: one grid for all blocks. At most one of the four; none keeps the present grids.

    >>> import dynamicblocks as db
    >>> block = db.DynamicBlock("symmetric(4)", controls=3)
    >>> db.with_integrator(block, "rk4", steps=12)
    DynamicBlock(
      constant(3) x Symmetric, 12 steps on [0, 3], rk4, Backprop()
    )
    """
    found, dropped = reintegrated(
        net, integrator, steps=steps, steps_per_control=steps_per_control, steps_factor=steps_factor, times=times
    )
    if dropped:
        warnings.warn(
            f"weights of the integrators of before are dropped: {', '.join(dropped)}; those of the new ones begin anew",
            stacklevel=2,
        )
    after = named_blocks(found)
    for block, other in ((block, after[name]) for name, block in named_blocks(net).items()):
        if other.gradient != block.gradient:
            warnings.warn(
                f"{block.gradient!r} cannot run {other.integrator.name}: the gradients are those of 'backprop' now; "
                "with_gradient(net, ...) sets another",
                stacklevel=2,
            )
            break
    return found


def reintegrated(
    net: Net,
    integrator: Integrator | str | None = None,
    *,
    steps: int | None = None,
    steps_per_control: int | None = None,
    steps_factor: int | None = None,
    times: Times | None = None,
) -> tuple[Net, list[str]]:
    """What :func:`with_integrator` returns, and the names of weights of integrators that were dropped."""
    if sum(choice is not None for choice in (steps, steps_per_control, steps_factor, times)) > 1:
        raise ConfigurationError("give one of steps, steps_per_control, steps_factor and times, not several")
    method = None if integrator is None else as_integrator(integrator)
    dropped: list[str] = []

    def change(name: str, block: DynamicBlock) -> DynamicBlock:
        grid = times
        if steps is not None:
            grid = block.uniform_steps(steps)
        elif steps_per_control is not None:
            grid = block.steps_for_each_control(steps_per_control)
        elif steps_factor is not None:
            grid = block.times.refine(steps_factor)
        other = block.replaced(integrator=method, times=grid)
        if method is not None or other.steps % block.steps:
            prefix = f"{name}.integrator" if name else "integrator"
            dropped.extend(f"{prefix}.{weight}" for weight in block.integrator_weights())
        return other

    return _change_blocks(net, change), dropped


def with_gradient(net: Net, gradient: Gradient | str) -> Net:
    """The same network, differentiated in another way."""
    mode = as_gradient(gradient)
    return _change_blocks(net, lambda _, block: block.replaced(gradient=mode))


def with_tolerance(net: Net, rtol: float, atol: float | None = None) -> Net:
    """The same weights, solved to another tolerance by every block whose integrator chooses its steps.

    Other blocks, and everything else of those integrators, stay as they are.

    Args:
        net: a network or block.
        rtol: relative tolerance of a step, positive.
        atol: absolute tolerance, positive; that number too, if None.

    Raises:
        ConfigurationError: no block has an adaptive integrator, or a tolerance is not positive.

    >>> import dynamicblocks as db
    >>> with_tolerance(db.DynamicBlock("symmetric(4)", 2, integrator="bosh3"), 1e-5).integrator.shorthand
    'bosh3(rtol=1e-05, atol=1e-05)'
    """
    atol = rtol if atol is None else atol
    for name, value in (("rtol", rtol), ("atol", atol)):
        if check_amount(value, name) == 0:
            raise ConfigurationError(f"{name} must be positive, got 0")
    if not any(isinstance(block.integrator, Adaptive) for block in named_blocks(net).values()):
        raise ConfigurationError(
            f"no block of {type(net).__name__} chooses its own steps, so a tolerance would change nothing; give the "
            "blocks an adaptive integrator first, such as with_integrator(net, 'dopri5')"
        )

    def change(_: str, block: DynamicBlock) -> DynamicBlock:
        method = block.integrator
        if not isinstance(method, Adaptive):
            return block
        return block.replaced(integrator=replace(method, rtol=rtol, atol=atol))

    return map_blocks(net, change)


def refine(net: Net, factor: int = 2, *, steps: bool = True) -> Net:
    """``factor`` times as many control intervals with the same theta(t), and as many more steps.

    Args:
        net: a network or block.
        factor: at least 2.
        steps: False keeps the grids, and with them the function that the network computes.

    >>> import dynamicblocks as db
    >>> db.refine(db.DynamicBlock("symmetric(4)", controls=3))
    DynamicBlock(
      constant(6) x Symmetric, 6 steps on [0, 3], euler, Backprop()
    )
    """

    def change(_: str, block: DynamicBlock) -> DynamicBlock:
        grid = block.times.refine(factor) if steps else block.times
        return block.replaced(controls=block.controls.refine(factor), times=grid)

    return _change_blocks(net, change)


def rediscretise(net: Net, *, controls: int | None = None, steps: int | None = None) -> Net:
    """Every block with so many equal control intervals and equal steps over its span; theta(t) is projected.

    Where the new basis contains the old one theta(t) is the same, as after :func:`refine`. Numbers may fall, too.

    Args:
        net: a network or block.
        controls: intervals between knots (of a polynomial: controls); None keeps the controls as they are.
        steps: None keeps the grids.

    Raises:
        ConfigurationError: a basis or an integrator cannot have so many, or its weights would be lost.

    >>> import dynamicblocks as db
    >>> db.rediscretise(db.DynamicBlock("symmetric(4)", "linear(3)"), controls=4, steps=8)
    DynamicBlock(
      linear(5) x Symmetric, 8 steps on [0, 2], euler, Backprop()
    )
    """

    def change(name: str, block: DynamicBlock) -> DynamicBlock:
        grid = block.times if steps is None else block.uniform_steps(steps)
        if block.integrator_weights() and grid.steps % block.steps:
            raise ConfigurationError(
                f"the weights of {block.integrator.name} belong to steps, so those of {block.steps} steps say nothing "
                f"of {grid.steps} (block {name!r}); take a multiple of {block.steps}"
            )
        theta = block.controls if controls is None else block.controls.with_intervals(controls)
        return block.replaced(controls=theta, times=grid)

    return _change_blocks(net, change)


def project(net: Net, controls: Basis | str | int) -> Net:
    """theta(t), weights and running statistics, projected by least squares onto another basis; grids are kept.

    Exact where the new basis contains the old one.
    """
    basis = as_basis(controls)
    return _change_blocks(net, lambda _, block: block.replaced(controls=block.controls.project(basis)))


def recalibrate(net: Net, batches: Iterable[Tensor | Sequence[Tensor]]) -> Net:
    """A copy of ``net`` with the running statistics of its normalisations measured anew, its weights as they are.

    For networks whose statistics are not those of their weights: averaged, projected, under another integrator, or
    trained for a short time only. Dropout is off meanwhile, and no gradient is recorded.

    A control that is read alone gets the plain mean of the batch statistics of all its reads. Controls that are
    blended get those statistics of which the blends are the batches' own (by least squares, where more places than
    controls are read); none of the present ones enters. A control that nothing reads keeps its statistics.

    Args:
        net: a network or block.
        batches: images, or pairs of images and labels as a data loader gives them; moved to the network's device.

    Raises:
        ConfigurationError: no normalisation keeps running statistics, or no batch came.

    >>> import torch
    >>> import dynamicblocks as db
    >>> block = db.DynamicBlock(lambda: nn.BatchNorm2d(1), "linear(2)")
    >>> images = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    >>> recalibrate(block, [images]).controls.layers[0].running_mean.item()
    2.0
    """
    other = copy.deepcopy(net)
    meters = meters_of(other)
    if not meters:
        raise ConfigurationError(
            f"{type(net).__name__} has no normalisation with running statistics, so there is nothing to measure"
        )
    device = next(chain(other.parameters(), other.buffers())).device
    if measure(other, meters, (_images(batch).to(device) for batch in batches)) == 0:
        raise ConfigurationError("recalibrate needs at least one batch of images, got none")
    if not any(meter.reads for meter in meters):
        raise ConfigurationError(
            f"no normalisation of {type(net).__name__} was seen to run; give the network itself, not a compiled one"
        )
    return other


def _images(batch: Tensor | Sequence[Tensor]) -> Tensor:
    images = batch[0] if isinstance(batch, Sequence) and batch else batch
    if not isinstance(images, Tensor):
        raise ConfigurationError(f"a batch must be a tensor of images or (images, labels), got {type(batch).__name__}")
    return images


def freeze_unused_controls(net: nn.Module, batch: Tensor | None = None) -> list[str]:
    """Stop the gradients of the controls that the present grids never read, in place, and name them.

    And of weights of integrators that no step reads. An optimiser then leaves them alone, and DDP does not wait for
    them. Called again after a change of integrator or grid, it lets those go on that are read now. Weights that the
    caller froze stay frozen.

    Args:
        net: a network or block.
        batch: what the network takes. With one, weights of controls are found, too, that only parts of the layer use
            which no step reads: they get no gradient from it in a pass of a copy of the network.
    """
    names = []
    for name, block in named_blocks(net).items():
        unread = block.unused_controls()
        block.controls.freeze_unread(unread)
        prefix = f"{name}." if name else ""
        names += [f"{prefix}controls.layers.{index}" for index in sorted(unread)]
        names += [f"{prefix}integrator.{weight}" for weight in block.freeze_unused_integrator_weights()]
    return names if batch is None else names + _freeze_unused_weights(net, batch)


def _freeze_unused_weights(net: nn.Module, batch: Tensor) -> list[str]:
    trial = copy.deepcopy(net)
    for weight in trial.parameters():
        weight.grad = None
    with torch.enable_grad():
        trial(batch).sum().backward()
    idle = {name for name, weight in trial.named_parameters() if weight.requires_grad and weight.grad is None}
    found = []
    for name, block in named_blocks(net).items():
        prefix = f"{name}.controls." if name else "controls."
        for weight_name, _ in block.controls.named_parameters():
            if prefix + weight_name in idle:
                block.controls.freeze_weight(weight_name)
                found.append(prefix + weight_name)
    return found
