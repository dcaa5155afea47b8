"""Branches of residual networks: convolution, normalisation and activation in any order."""

from itertools import count
from typing import ClassVar, TypedDict

from torch import nn

from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.layers.activations import ActivationSpec, make_activation
from dynamicblocks.layers.boundary import CONVOLUTIONS
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.norms import NormSpec, make_norm
from dynamicblocks.layers.skipinit import SkipInit
from dynamicblocks.layers.twist import twisted
from dynamicblocks.times import check_count

WORDS = ("conv", "norm", "act", "scale", "reduce", "expand")
# Of a bottleneck: channels outside for each one inside (He et al. 2015).
EXPANSION = 4


class Style(TypedDict, total=False):
    """The options that all parts of a network share."""

    norm: NormSpec
    activation: ActivationSpec
    boundary: str
    bias: bool
    dims: int


class Branch(nn.Sequential):
    """A sequence of ``conv``, ``norm``, ``act`` and ``scale`` in a given order; children are ``conv1``, ``norm1``, ...

    The first convolution changes the number of channels and carries the stride. A norm ``"none"`` leaves no child.
    A bottleneck has 1x1 convolutions besides: ``reduce`` to a quarter of ``out_channels`` and ``expand`` back to them.

    Shapes:
        (batch, in_channels, H, W) -> (batch, out_channels, ceil(H / stride), ceil(W / stride)), and alike for other
        ``dims``.

    Args:
        order: words out of ``conv``, ``norm``, ``act``, ``scale`` (SkipInit), ``reduce`` and ``expand``, for example
            ``"norm act conv"``.
        in_channels, out_channels: number of channels before and after.
        norm: name of a normalisation, or a factory called with the number of channels.
        activation: name of an activation, or a factory.
        boundary: padding of the convolutions: zeros, replicate, reflect or circular.
        bias: whether the convolutions have one.
        kernel_size: odd.
        stride: of the first convolution.
        twist: parametrisation of the twist of the convolutions, see
            :class:`~dynamicblocks.layers.TwistConv2d`; None for plain ones.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> [name for name, _ in Branch("conv norm act conv", 3, 16).named_children()]
    ['conv1', 'norm1', 'act1', 'conv2']
    """

    def __init__(
        self,
        order: str,
        in_channels: int,
        out_channels: int,
        *,
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = False,
        kernel_size: int = 3,
        stride: int = 1,
        twist: str | None = None,
        dims: int = 2,
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[check_dims(dims)]
        self.dims = dims
        self.width = check_count(in_channels, "in_channels")
        check_count(out_channels, "out_channels")
        if not isinstance(order, str):
            raise ConfigurationError(f"order must be a text of {', '.join(WORDS)}, got {brief(order)}")
        number = {word: count(1) for word in WORDS}
        width, target = in_channels, out_channels
        for word in order.split():
            if word not in number:
                raise ConfigurationError(f"a branch is made of {', '.join(WORDS)}, got {word!r} in {order!r}")
            if word == "norm" and norm == "none":
                continue
            name = f"{word}{next(number[word])}"
            if word == "conv":
                plain = convolution(width, target, kernel_size, stride, boundary, bias)
                self.add_module(name, plain if twist is None else twisted(plain, twist))
                width, stride = target, 1
            elif word in ("reduce", "expand"):
                target = _inner(out_channels) if word == "reduce" else out_channels
                self.add_module(name, convolution(width, target, 1, bias=bias))
                width = target
            elif word == "norm":
                self.add_module(name, make_norm(norm, width, dims=dims))
            elif word == "scale":
                self.add_module(name, SkipInit())
            else:
                self.add_module(name, make_activation(activation))


def _inner(out_channels: int) -> int:
    inner, rest = divmod(out_channels, EXPANSION)
    if rest or not inner:
        raise ConfigurationError(f"a bottleneck takes a multiple of {EXPANSION} channels, got {out_channels}")
    return inner


class _NamedBranch(Branch):
    ORDER: ClassVar[str]

    def __init__(
        self,
        width: int,
        *,
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = False,
        kernel_size: int = 3,
        twist: str | None = None,
        dims: int = 2,
    ) -> None:
        super().__init__(
            self.ORDER,
            check_count(width, "width"),
            width,
            norm=norm,
            activation=activation,
            boundary=boundary,
            bias=bias,
            kernel_size=kernel_size,
            twist=twist,
            dims=dims,
        )


class PreactDouble(_NamedBranch):
    """F(y) = K2 a(N2 K1 a(N1 y)): norm, activation, convolution, twice (He et al. 2016, full pre-activation).

    >>> import torch
    >>> PreactDouble(8)(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """

    ORDER = "norm act conv norm act conv"


class PreactSingle(_NamedBranch):
    """F(y) = K a(N y): norm, activation, convolution."""

    ORDER = "norm act conv"


class PostactDouble(_NamedBranch):
    """F(y) = N2 a(K2 N1 a(K1 y)): convolution, activation, norm, twice (Queiruga et al. 2020, arXiv:2008.02389)."""

    ORDER = "conv act norm conv act norm"


class PostactSingle(_NamedBranch):
    """F(y) = N a(K y): convolution, activation, norm."""

    ORDER = "conv act norm"
