"""Transforms of torch.func and forward mode, and what cannot be inside of them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dynamicblocks.errors import ConfigurationError


def forward_mode() -> bool:
    """Whether derivatives are being carried forward: inside of jvp, jacfwd, or a level of torch.autograd.forward_ad.

    >>> forward_mode(), torch.func.jvp(lambda x: x * forward_mode(), (torch.ones(1),), (torch.ones(1),))[0]
    (False, tensor([1.]))
    """
    return getattr(forward_ad, "_current_level", -1) >= 0


def transformed() -> bool:
    """Whether a transform of torch.func is being applied, or forward mode; batches of gradients have another way."""
    level = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", lambda: None)()
    return level is not None or forward_mode()


def moves(tensor: Tensor) -> bool:
    """Whether what is made of a tensor has a derivative with respect to it, backward or forward."""
    if tensor.requires_grad:
        return True
    # Each solve asks this several times: a call less.
    if getattr(forward_ad, "_current_level", -1) < 0:
        return False
    functorch: Any = torch._C._functorch
    # Of a tensor of several transforms the innermost alone is seen.
    unpacked: Any = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return functorch.is_functorch_wrapped_tensor(tensor) or unpacked.tangent is not None


def refuse_forward_mode(what: str) -> None:
    """Raise a ConfigurationError in forward mode, for what would lose the derivatives or has none of that kind."""
    if forward_mode():
        raise ConfigurationError(
            f"{what} cannot be in forward mode (torch.func.jvp, jacfwd, torch.autograd.forward_ad), which goes through "
            "explicit steps with gradient='backprop' and no event; take such a method, or derivatives backward (vjp)"
        )
