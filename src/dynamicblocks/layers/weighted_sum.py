"""Sums of convolved images with weights that vary over the image, in as few passes over memory as PyTorch allows."""

from typing import Any

import torch
from torch import Tensor

# By the number of axes of a batch; PyTorch has none for signals.
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def weighted_sum(terms: Tensor, weights: Tensor) -> Tensor:
    """z_0 + sum_t w_t z_t, the weights varying over the image and shared by samples and channels.

    Shapes:
        terms (..., 1 + T, channels, height, width), weights (T, height, width) -> (..., channels, height, width), or
        with one or three axes in the place of height and width.

    >>> terms = torch.stack([torch.ones(2, 3, 3), 2 * torch.ones(2, 3, 3)])
    >>> weighted_sum(terms, torch.full((1, 3, 3), 0.5))[0, 0]
    tensor([2., 2., 2.])
    """
    if torch.compiler.is_compiling():
        # The compiler fuses both passes by itself.
        return _composed(terms, weights[:, None])
    return _WeightedSum.apply(terms, laid_out(weights[:, None], terms))  # type: ignore[no-untyped-call]


class _WeightedSum(torch.autograd.Function):
    """The derivative of unbound slices would copy each of them once more to put them together: this one is one product.

    It is made of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(terms: Tensor, weights: Tensor) -> Tensor:
        total, *others = terms.unbind(-weights.ndim)
        total = torch.addcmul(total, others[0], weights[0])
        for term, weight in zip(others[1:], weights[1:], strict=True):
            total.addcmul_(term, weight)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        _, weights = inputs
        ctx.save_for_backward(weights)
        ctx.save_for_forward(weights)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        one = torch.ones_like(weights[:1])
        if _is_channels_last(weights):
            # In the order of memory: pixels, terms, channels.
            axes = weights.ndim
            factors = torch.cat([one, weights]).movedim((0, 1), (-2, -1))
            product = slope.movedim(1 - axes, -1).unsqueeze(-2) * factors.contiguous()
            return product.movedim((-2, -1), (-axes, 1 - axes)), None
        return slope.unsqueeze(-weights.ndim) * torch.cat([one, weights]), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (weights,) = ctx.saved_tensors
        return _composed(tangent, weights)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], terms: Tensor, weights: Tensor) -> tuple[Tensor, int]:
        # What comes before the terms is a batch in any case.
        return _WeightedSum.apply(terms.movedim(in_dims[0], 0), weights), 0  # type: ignore[no-untyped-call]


def _composed(terms: Tensor, weights: Tensor) -> Tensor:
    total, *others = terms.unbind(-weights.ndim)
    for term, weight in zip(others, weights, strict=True):
        total = torch.addcmul(total, term, weight)
    return total


def laid_out(weights: Tensor, terms: Tensor) -> Tensor:
    """Weights as the terms lie in memory: repeated for channels that come last, which are read as vectors.

    Shapes:
        weights (T, 1, *size), terms (..., channels, *size).
    """
    axis = 1 - weights.ndim
    layout = CHANNELS_LAST.get(weights.ndim)
    if layout is not None and terms.stride(axis) == 1 and terms.shape[axis] > 1:
        wide = weights.expand(-1, terms.shape[axis], *weights.shape[2:])
        return wide.contiguous(memory_format=layout)
    return weights


def _is_channels_last(weights: Tensor) -> bool:
    return weights.shape[1] > 1
