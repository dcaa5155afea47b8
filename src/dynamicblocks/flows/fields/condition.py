"""What a field reads beside the state: the time, in some form, and the context."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ArgumentError, unknown_name
from dynamicblocks.times import check_count

TimeName = Literal["linear", "fourier"]
FREQUENCIES = 4


class Condition(nn.Module):
    """The time and the context of samples as one vector.

    With ``linear`` the time is one number, t / horizon; with ``fourier`` sines and cosines of pi k t / horizon for
    k = 1, ..., 4 stand beside it.

    Args:
        time: the form of the time.
        context: numbers of context of a sample.
        horizon: the last time.

    >>> Condition("fourier", context=2)(torch.tensor(0.5), torch.zeros(3, 2)).shape
    torch.Size([3, 11])
    """

    frequencies: Tensor

    def __init__(self, time: TimeName = "linear", context: int = 0, horizon: float = 1.0) -> None:
        super().__init__()
        if time not in get_args(TimeName):
            raise unknown_name("form of the time", time, get_args(TimeName))
        check_count(context, "context", least=0)
        number = FREQUENCIES if time == "fourier" else 0
        self.register_buffer("frequencies", math.pi * torch.arange(1.0, number + 1), persistent=False)
        self.context, self.horizon = context, horizon
        self.width = 1 + 2 * number + context

    def forward(self, t: Tensor, context: Tensor | None) -> Tensor:
        """(width,) of one time without context, else (n, width)."""
        time = (t / self.horizon)[..., None]
        parts = [time]
        if len(self.frequencies):
            angles = time * self.frequencies.to(time.dtype)
            parts += [angles.sin(), angles.cos()]
        if self.context:
            if context is None or context.shape[-1:] != (self.context,):
                came = "none" if context is None else f"{tuple(context.shape)}"
                raise ArgumentError(f"the field takes a context of shape (n, {self.context}), got {came}")
            parts = [each.expand(len(context), -1) for each in parts] + [context.to(time.dtype)]
        elif context is not None:
            raise ArgumentError(f"the field takes no context, got one of shape {tuple(context.shape)}")
        return torch.cat(parts, dim=-1) if len(parts) > 1 else time

    def extra_repr(self) -> str:
        return f"width={self.width}"
