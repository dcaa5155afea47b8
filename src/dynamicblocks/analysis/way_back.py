"""How well the steps of blocks can be taken back: what ``gradient="reversible"`` relies on."""

from functools import partial

import torch
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.gradients import Reversible
from dynamicblocks.gradients.reversible import drift as drift_of
from dynamicblocks.network import named_blocks


def drift(block: DynamicBlock, y: Tensor, before: Tensor | None = None) -> float:
    """How far from its input the steps of a block, taken there and back, lead: the 2-norm over that of the input.

    The input is what a call of the block takes. The block may have any gradient mode. Statistics, random numbers and
    gradients are as if nothing had been run. A few units in the last place are rounding. Where the equation contracts,
    which is an expansion back in time, it is more: a carry holds what has decayed in its last digits only, and the
    gradients of ``gradient="reversible"`` are off by as much.

    Raises:
        ConfigurationError: steps of its integrator, or of its layers, cannot be taken back.

    >>> class Decay(nn.Module):  # z' = -relu(50 z), of ANODE (Gholami et al. 2019)
    ...     def forward(self, z):
    ...         return -torch.relu(50 * z)
    >>> mild = DynamicBlock("symmetric(4)", times="uniform(0, 1, steps=400)", integrator="alf")
    >>> steep = DynamicBlock(Decay, times="uniform(0, 1, steps=400)", integrator="alf")
    >>> drift(mild, torch.ones(1, 4, 8, 8)) < 1e-5, drift(steep, torch.ones(1, 4)) > 1e-4
    (True, True)
    """
    mode = Reversible()
    mode.check(block.controls.layers)
    mode.check_integrator(block.integrator)
    course = block.replaced(compile=False).course(before=before)
    mode.check_grid(course)
    return drift_of(course, y)


def drifts(net: nn.Module, *inputs: object) -> dict[str, float]:
    """The :func:`drift` of each block of a network, by name, on what it is given when the network is called.

    The network is called once, without gradients and in the mode that it is in, so that in training its statistics
    move. Of a block that is called several times the largest counts.

    >>> net = nn.Sequential(DynamicBlock("symmetric(4)", 2, integrator="alf"), nn.ReLU())
    >>> {name: value < 1e-4 for name, value in drifts(net, torch.ones(1, 4, 8, 8)).items()}
    {'0': True}
    """
    blocks = named_blocks(net)
    if not blocks:
        raise ConfigurationError("the network has no dynamic block whose steps could be taken back")
    found: dict[str, float] = {}

    def seen(name: str, block: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        assert isinstance(block, DynamicBlock)
        found[name] = max(found.get(name, 0.0), drift(block, *arguments, **named))

    handles = [block.register_forward_pre_hook(partial(seen, name), with_kwargs=True) for name, block in blocks.items()]
    try:
        with torch.no_grad():
            net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
