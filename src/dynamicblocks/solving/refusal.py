"""Nodes of the graph that have no derivative, and say so to whoever asks for it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError


def differentiable_once(values: Sequence[Tensor | None], like: Tensor, message: str) -> tuple[Tensor | None, ...]:
    """Gradients; who differentiates them gets a ConfigurationError with the message, rather than constants."""
    return without_gradient(values, like, message) if torch.is_grad_enabled() else tuple(values)


def without_gradient(values: Sequence[Tensor | None], like: Tensor, message: str) -> tuple[Tensor | None, ...]:
    """The values; who differentiates them gets a ConfigurationError with the message."""
    handle = like.new_zeros((), requires_grad=True)
    return _Refused.apply(handle, message, *values)  # type: ignore[no-untyped-call]


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _handle: Tensor, message: str, *values: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.message = message
        return tuple(None if value is None else value.clone() for value in values)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[None, ...]:
        raise ConfigurationError(ctx.message)
