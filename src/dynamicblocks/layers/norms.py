"""Normalisations by name: batch, group, tv, none."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.dimensions import BATCH_NORMS, check_dims
from dynamicblocks.registry import Registry
from dynamicblocks.times import check_amount, check_count

norms: Registry[nn.Module] = Registry("normalisation")

NormSpec = str | Callable[[int], nn.Module]


@norms.register("batch")
def batch_norm(*arguments: Any, dims: int = 2, **options: Any) -> nn.Module:
    """Batch normalisation over signals, images or volumes: PyTorch's, with its options."""
    made = BATCH_NORMS[check_dims(dims)]
    call = inspect.signature(made).bind(*arguments, **options)
    check_count(call.arguments.get("num_features", 0), "num_features")
    check_amount(call.arguments.get("eps", 0.0), "eps")
    if call.arguments.get("momentum") is not None and check_amount(call.arguments["momentum"], "momentum") > 1:
        raise ConfigurationError(f"momentum must lie between 0 and 1, got {call.arguments['momentum']}")
    return made(*arguments, **options)


# Which options there are depends on the version of PyTorch.
_options = inspect.signature(nn.BatchNorm2d)
_dims = inspect.Parameter("dims", inspect.Parameter.KEYWORD_ONLY, default=2, annotation=int)
batch_norm.__signature__ = _options.replace(  # type: ignore[attr-defined]
    parameters=[*_options.parameters.values(), _dims]
)


class TVNorm(nn.Module):
    """Normalise the channel vector of each pixel: N(y) = w * y / sqrt(sum_c y_c^2 + eps) + b.

    The square root of a sum over channels is the pointwise part of a total-variation norm, hence the name
    (Ruthotto & Haber 2018, arXiv:1804.04272). It couples no samples, so it behaves alike in training and evaluation.

    Shapes:
        (batch, channels, *) -> the same.

    Args:
        width: number of channels.
        eps: added under the root.
        weight, bias: whether to learn a scale and a shift for each channel.
        dims: for the sake of other norms; this one is the same in all.

    >>> TVNorm(2)(torch.tensor([[[[3.0]], [[4.0]]]])).flatten().tolist()  # doctest: +ELLIPSIS
    [0.59999..., 0.79999...]
    """

    def __init__(self, width: int, eps: float = 1e-4, weight: bool = True, bias: bool = True, *, dims: int = 2) -> None:
        super().__init__()
        check_dims(dims)
        check_count(width, "width")
        self.eps = check_amount(eps, "eps")
        self.weight = nn.Parameter(torch.empty(width)) if weight else None
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale one, shift zero."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, y: Tensor) -> Tensor:
        # Half precision cannot hold the sum of many squares.
        wide = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
        scale = torch.rsqrt(wide.square().sum(dim=1, keepdim=True) + self.eps)
        channels = (-1,) + (1,) * (y.ndim - 2)
        if self.weight is not None:
            scale = scale * self.weight.view(channels)
        normalised = wide * scale
        if self.bias is not None:
            normalised = normalised + self.bias.view(channels)
        return normalised.to(y.dtype)


norms.register("tv")(TVNorm)


@norms.register("group")
def group_norm(width: int, groups: int | None = None, *, dims: int = 2) -> nn.GroupNorm:
    """Group normalisation; by default the largest number of groups up to 8 that divides ``width``."""
    check_dims(dims)
    check_count(width, "width")
    groups = math.gcd(width, 8) if groups is None else groups
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or width % groups:
        raise ConfigurationError(f"group normalisation: {groups} groups do not divide {width} channels")
    return nn.GroupNorm(groups, width)


@norms.register("none")
def no_norm(width: int, *, dims: int = 2) -> nn.Identity:
    """No normalisation."""
    check_dims(dims)
    return nn.Identity()


def make_norm(spec: NormSpec, width: int, *, dims: int = 2) -> nn.Module:
    """The normalisation of ``width`` channels that ``spec`` names, or what a factory ``spec(width)`` returns.

    A name is told ``dims`` if it takes it: one of the caller's own need not care.
    """
    check_count(width, "the number of channels of a normalisation")
    if isinstance(spec, str):
        return norms.create(spec, width, **({"dims": dims} if norms.takes(spec, "dims") else {}))
    made = spec(width) if callable(spec) and not isinstance(spec, nn.Module) else None
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"norm must be a name or a function of the number of channels that makes a module, got {spec!r:.80}"
        )
    return made


def left_out(*normalisations: nn.Module) -> str:
    """What a bound that is none of normalised layers says of them; nothing where there are none."""
    names = dict.fromkeys(type(each).__name__ for each in normalisations if not isinstance(each, nn.Identity))
    return (
        f"the normalisation ({', '.join(names)}) is left out: with it the layer has another Jacobian" if names else ""
    )
