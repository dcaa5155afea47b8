"""What is twisted in a network."""

from dataclasses import dataclass

import torch
from torch import nn

from dynamicblocks.layers.twist import TwistConv
from dynamicblocks.twisting.places import Convolution as Module
from dynamicblocks.twisting.places import convertible


@dataclass(frozen=True)
class Convolution:
    """One convolution of a network.

    Args:
        name: of the module.
        shape: of its kernel.
        twist: parametrisation and degree, or "" of a plain one.
        weights: of kernel and bias.
        twist_weights: of the twist.
        strength: norm of the twist's kernels relative to that of the plain one.
        note: why it cannot be twisted, if so.
    """

    name: str
    shape: tuple[int, ...]
    twist: str
    weights: int
    twist_weights: int
    strength: float
    note: str


@dataclass(frozen=True)
class Twists:
    """The convolutions of a network; printed, a table."""

    convolutions: tuple[Convolution, ...]

    @property
    def twisted(self) -> tuple[Convolution, ...]:
        """Those with a twist."""
        return tuple(each for each in self.convolutions if each.twist)

    @property
    def weights(self) -> int:
        """Weights of all twists."""
        return sum(each.twist_weights for each in self.convolutions)

    def __str__(self) -> str:
        rows = [("convolution", "kernel", "twist", "weights", "of the twist", "strength")]
        for each in self.convolutions:
            kernel = " x ".join(map(str, each.shape))
            twist = each.twist or (f"plain ({each.note})" if each.note else "plain")
            strength = f"{each.strength:.3f}" if each.twist else ""
            of_twist = f"{each.twist_weights:,}" if each.twist else ""
            rows.append((each.name or "(itself)", kernel, twist, f"{each.weights:,}", of_twist, strength))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        total = (
            f"{len(self.twisted)} of {len(self.convolutions)} convolutions twisted, {self.weights:,} weights of twists"
        )
        return "\n".join([*lines, total])


def twists(net: nn.Module) -> Twists:
    """Every convolution of a network, twisted or not; one that is used at several places by its first name.

    >>> import dynamicblocks as db
    >>> print(db.twists(db.twist(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 1)))))
    convolution  kernel         twist   weights  of the twist  strength
    0            8 x 3 x 3 x 3  vector  224      216           0.000
    1            8 x 8 x 1 x 1  plain   72
    1 of 2 convolutions twisted, 216 weights of twists
    """
    found = ((name, module) for name, module in net.named_modules() if isinstance(module, Module))
    return Twists(tuple(_describe(name, module) for name, module in found))


def _describe(name: str, module: Module) -> Convolution:
    own = sum(weight.numel() for weight in module.parameters())
    shape = tuple(module.weight.shape)
    if not isinstance(module, TwistConv):
        note = "" if convertible(module) else f"{type(module).__name__} has a forward of its own"
        return Convolution(name, shape, "", own, 0, 0.0, note)
    added = module.twist.numel()
    with torch.no_grad():
        size = torch.stack([kernel.norm() for kernel in module.twist_kernels()]).norm()
        strength = float(size / module.weight.norm().clamp_min(torch.finfo(module.weight.dtype).tiny))
    kind = module.parametrisation if module.degree == 1 else f"{module.parametrisation}, degree {module.degree}"
    return Convolution(name, shape, kind, own - added, added, strength, "")
