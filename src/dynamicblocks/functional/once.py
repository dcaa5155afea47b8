"""Gradients that cannot be differentiated again, and say so rather than count as constants."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError


def once(values: Sequence[Tensor | None], like: Tensor, message: str) -> tuple[Tensor | None, ...]:
    """The values; who differentiates them gets a ConfigurationError with the message."""
    if not torch.is_grad_enabled():
        return tuple(values)
    handle = like.new_zeros((), requires_grad=True)
    return _Once.apply(handle, message, *values)  # type: ignore[no-untyped-call]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _handle: Tensor, message: str, *values: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.message = message
        return tuple(None if value is None else value.clone() for value in values)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[None, ...]:
        raise ConfigurationError(ctx.message)
