"""Changes of choices in whole networks. Each returns a new network and leaves the old one as it was."""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.controls import Basis, as_basis
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Gradient, as_gradient
from dynamicblocks.integrators import Integrator, as_integrator
from dynamicblocks.times import Times

Net = TypeVar("Net", bound=nn.Module)


def named_blocks(net: nn.Module) -> dict[str, DynamicBlock]:
    """Every dynamic block in a module, by name, also where it is the module itself."""
    return {name: module for name, module in net.named_modules() if isinstance(module, DynamicBlock)}


def map_blocks(net: Net, change: Callable[[DynamicBlock], DynamicBlock]) -> Net:
    """A copy of ``net`` with every dynamic block put through ``change``."""
    other = copy.deepcopy(net)
    blocks = named_blocks(other)
    if not blocks:
        raise ConfigurationError(f"{type(net).__name__} holds no DynamicBlock, so there is nothing to change")
    for name, block in blocks.items():
        if name == "":
            return change(block)  # type: ignore[return-value]
        parent, _, child = name.rpartition(".")
        setattr(other.get_submodule(parent), child, change(block))
    return other


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
    if sum(choice is not None for choice in (steps, steps_per_control, steps_factor, times)) > 1:
        raise ConfigurationError("give one of steps, steps_per_control, steps_factor and times, not several")
    method = None if integrator is None else as_integrator(integrator)

    def change(block: DynamicBlock) -> DynamicBlock:
        grid = times
        if steps is not None:
            grid = block.uniform_steps(steps)
        elif steps_per_control is not None:
            grid = block.steps_for_each_control(steps_per_control)
        elif steps_factor is not None:
            grid = block.times.refine(steps_factor)
        return block.replaced(integrator=method, times=grid)

    return map_blocks(net, change)


def with_gradient(net: Net, gradient: Gradient | str) -> Net:
    """The same network, differentiated in another way."""
    mode = as_gradient(gradient)
    return map_blocks(net, lambda block: block.replaced(gradient=mode))


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

    def change(block: DynamicBlock) -> DynamicBlock:
        grid = block.times.refine(factor) if steps else block.times
        return block.replaced(controls=block.controls.refine(factor), times=grid)

    return map_blocks(net, change)


def project(net: Net, controls: Basis | str | int) -> Net:
    """theta(t), weights and running statistics, projected by least squares onto another basis; grids are kept.

    Exact where the new basis contains the old one.
    """
    basis = as_basis(controls)
    return map_blocks(net, lambda block: block.replaced(controls=block.controls.project(basis)))


def freeze_unused_controls(net: nn.Module) -> list[str]:
    """Stop the gradients of the controls that the present grids never read, in place, and name them.

    An optimiser then leaves them alone and DDP does not wait for them. Called again after a change of integrator or
    grid, it lets those go on that are read now. Controls that the caller froze stay frozen.
    """
    names = []
    for name, block in named_blocks(net).items():
        unread = block.unused_controls()
        block.controls.freeze_unread(unread)
        prefix = f"{name}." if name else ""
        names += [f"{prefix}controls.layers.{index}" for index in sorted(unread)]
    return names
