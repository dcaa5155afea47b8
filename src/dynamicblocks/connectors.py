"""What stands between, before and after dynamic blocks: the parts that change widths and sizes."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.layers import Branch, unit_order
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.boundary import CONVOLUTIONS
from dynamicblocks.layers.dimensions import INPUTS, POOLS, check_dims, extent
from dynamicblocks.layers.inputs import check_input, telling_causes
from dynamicblocks.layers.norms import NormSpec, make_norm
from dynamicblocks.times import check_amount, check_count

Pool = Literal["average", "max", "none"]

Shortcut = Literal["convolution", "convolution_norm", "padding"]


def make_pool(pool: str, dims: int = 2) -> nn.Module:
    """Pooling over two pixels along each axis by name, or nothing."""
    if pool == "none":
        return nn.Identity()
    if not isinstance(pool, str) or pool not in POOLS:
        raise unknown_name("pooling", pool, [*POOLS, "none"])
    return POOLS[pool][check_dims(dims)](2)


class Opening(Branch):
    """Image to state: a convolution onto the first width, by default with norm and activation.

    Shapes:
        (batch, in_channels, H, W) -> (batch, width, ceil(H / stride), ceil(W / stride)); (batch, in_channels, L) and
        (batch, in_channels, D, H, W) alike, with ``dims`` 1 and 3.

    Raises:
        ConfigurationError: the images have another number of dimensions or channels.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        order: str = "conv norm act",
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = False,
        kernel_size: int = 3,
        stride: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__(
            order,
            in_channels,
            width,
            norm=norm,
            activation=activation,
            boundary=boundary,
            bias=bias,
            kernel_size=kernel_size,
            stride=stride,
            dims=dims,
        )
        self.in_channels = in_channels

    @telling_causes
    def forward(self, images: Tensor) -> Tensor:
        check_input(self, images, self.in_channels, INPUTS[self.dims], self.dims)
        return super().forward(images)  # type: ignore[no-untyped-call]


class PooledConnector(nn.Sequential):
    """Convolution that changes the width, norm, activation, then pooling over 2 x 2 pixels.

    Shapes:
        (batch, in_channels, H, W) -> (batch, out_channels, H // 2, W // 2), or H, W without pooling; alike with
        ``dims`` 1 for signals and 3 for volumes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        pool: Pool = "average",
        boundary: str = "zeros",
        bias: bool = False,
        kernel_size: int = 1,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.branch = Branch(
            "conv norm act",
            in_channels,
            out_channels,
            norm=norm,
            activation=activation,
            boundary=boundary,
            bias=bias,
            kernel_size=kernel_size,
            dims=dims,
        )
        self.pool = make_pool(pool, dims)

    @telling_causes
    def forward(self, y: Tensor) -> Tensor:
        dims = self.branch.dims
        check_input(self, y, self.branch.width, "a state", dims)
        _check_pooled(self.pool, y, dims)
        return super().forward(y)  # type: ignore[no-untyped-call]


def _check_pooled(pool: nn.Module, y: Tensor, dims: int) -> None:
    if not isinstance(pool, nn.Identity) and min(y.shape[2:]) < 2:
        raise ConfigurationError(
            f"pooling over {extent((2,) * dims)} pixels leaves nothing of a state of shape {tuple(y.shape)}; take "
            f"larger {INPUTS[dims]}, fewer blocks, or pool='none'"
        )


class PaddedConnector(nn.Module):
    """The connector without weights: pooling over 2 x 2 pixels, then zeros for the channels that are new.

    Half of the new channels come before the old ones and half after; with two streams, such as the halves of a
    Hamiltonian pair, each gets its own (Chang et al. 2018, arXiv:1709.03698).

    Shapes:
        (batch, in_channels, H, W) -> (batch, out_channels, H // 2, W // 2), or H, W without pooling; alike with
        ``dims`` 1 for signals and 3 for volumes.

    Args:
        in_channels, out_channels: number of channels before and after, both a multiple of ``streams``.
        pool: average, max or none.
        streams: equal parts of the channels that are padded each by itself.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> PaddedConnector(2, 6, streams=2)(torch.ones(1, 2, 2, 2)).flatten().tolist()
    [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, pool: Pool = "average", streams: int = 1, dims: int = 2
    ) -> None:
        super().__init__()
        self.in_channels = check_count(in_channels, "in_channels")
        self.out_channels = check_count(out_channels, "out_channels")
        self.streams = check_count(streams, "streams")
        self.dims = check_dims(dims)
        self.pool = make_pool(pool, dims)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % streams:
                raise ConfigurationError(f"{name} must be a multiple of streams = {streams}, got {channels}")
        new = _new_channels(in_channels, out_channels, "connector")
        self.channels = _on_both_sides(new // streams)

    @telling_causes
    def forward(self, y: Tensor) -> Tensor:
        check_input(self, y, self.in_channels, "a state", self.dims)
        _check_pooled(self.pool, y, self.dims)
        padding = (0, 0) * self.dims + self.channels
        return torch.cat([F.pad(part, padding) for part in self.pool(y).chunk(self.streams, dim=1)], dim=1)

    def extra_repr(self) -> str:
        streams = f", streams={self.streams}" if self.streams > 1 else ""
        return f"{self.in_channels}, {self.out_channels}{streams}"


class ZeroChannels(nn.Module):
    """So many channels more, which are zero and come after the others: an augmented state.

    >>> ZeroChannels(1)(torch.ones(1, 2, 1)).flatten().tolist()
    [1.0, 1.0, 0.0]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = check_count(channels, "channels")

    def forward(self, y: Tensor) -> Tensor:
        return F.pad(y, (0, 0) * (y.ndim - 2) + (0, self.channels))

    def extra_repr(self) -> str:
        return f"{self.channels}"


class FirstChannels(nn.Module):
    """The first so many channels, such as the position of a state of position and velocity.

    >>> FirstChannels(1)(torch.tensor([[1.0, 2.0]])).tolist()
    [[1.0]]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = check_count(channels, "channels")

    def forward(self, y: Tensor) -> Tensor:
        return y[:, : self.channels]

    def extra_repr(self) -> str:
        return f"{self.channels}"


def _new_channels(before: int, after: int, what: str) -> int:
    if after < before:
        raise ConfigurationError(f"a padded {what} cannot lower {before} channels to {after}")
    return after - before


def _on_both_sides(channels: int) -> tuple[int, int]:
    return channels // 2, channels - channels // 2


class PaddedShortcut(nn.Module):
    """The shortcut without weights: every ``stride``-th pixel, and zeros for the channels that are new.

    The new channels are half before and half after the old ones (He et al. 2015, option A).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.channels = _on_both_sides(_new_channels(in_channels, out_channels, "shortcut"))
        self.stride = stride

    def forward(self, y: Tensor) -> Tensor:
        axes = y.ndim - 2
        strided = y[(slice(None), slice(None), *(slice(None, None, self.stride),) * axes)]
        return F.pad(strided, ((0, 0) * axes + self.channels))


class ResidualConnector(nn.Module):
    """A residual unit that changes width and size: P(S(y) + h F(y)), with a strided shortcut S.

    ContinuousNet calls it a stitch. F and P are those of the residual unit of the same name.

    Shapes:
        (batch, in_channels, H, W) -> (batch, out_channels, ceil(H / stride), ceil(W / stride)), and alike for other
        ``dims``.

    Args:
        unit: a, b, c, d, e (He et al. 2016) or post (Queiruga et al. 2020).
        shortcut: ``convolution`` (1x1, strided), ``convolution_norm`` (followed by a norm) or ``padding``.
        shortcut_bias: whether the shortcut's convolution has a bias.
        skipinit: whether F ends with a trainable scalar, zero at first.
        step: the length h of the unit's own Euler step.
        dims: 1 for signals, 2 for images, 3 for volumes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 2,
        unit: str = "post",
        shortcut: Shortcut = "convolution",
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        boundary: str = "zeros",
        bias: bool = False,
        shortcut_bias: bool = False,
        skipinit: bool = False,
        step: float = 1.0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        order = unit_order(unit, skipinit)
        check_count(stride, "stride")
        self.step = check_amount(step, "step")
        self.branch = Branch(
            order.branch,
            in_channels,
            out_channels,
            norm=norm,
            activation=activation,
            boundary=boundary,
            bias=bias,
            stride=stride,
            dims=dims,
        )
        self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride, norm, shortcut_bias, dims)
        self.projection = Branch(
            order.projection, out_channels, out_channels, norm=norm, activation=activation, dims=dims
        )

    @telling_causes
    def forward(self, y: Tensor) -> Tensor:
        check_input(self, y, self.branch.width, "a state", self.branch.dims)
        return self.projection(torch.add(self.shortcut(y), self.branch(y), alpha=self.step))


def _shortcut(
    kind: str, in_channels: int, out_channels: int, stride: int, norm: NormSpec, bias: bool, dims: int
) -> nn.Module:
    if kind == "padding":
        return PaddedShortcut(in_channels, out_channels, stride)
    convolution = CONVOLUTIONS[dims](in_channels, out_channels, kernel_size=1, stride=stride, bias=bias)
    if kind == "convolution":
        return convolution
    if kind == "convolution_norm":
        return nn.Sequential(convolution, make_norm(norm, out_channels, dims=dims))
    raise unknown_name("shortcut", kind, ("convolution", "convolution_norm", "padding"))


class Head(nn.Module):
    """State to logits: perhaps norm and activation, the mean over all pixels, a linear map.

    Shapes:
        (batch, width, H, W) -> (batch, num_classes); (batch, width, L) and (batch, width, D, H, W) with ``dims`` 1
        and 3.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        order: str = "",
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        bias: bool = True,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.branch = Branch(order, width, width, norm=norm, activation=activation, dims=dims)
        self.linear = nn.Linear(width, check_count(num_classes, "num_classes"), bias=bias)

    @telling_causes
    def forward(self, y: Tensor) -> Tensor:
        check_input(self, y, self.linear.in_features, "a state", self.branch.dims)
        return self.linear(self.branch(y).mean(dim=tuple(range(-self.branch.dims, 0))))


class DenseHead(nn.Module):
    """State to logits of each pixel: perhaps norm and activation, a linear map of the channels, a 1x1 convolution.

    Shapes:
        (batch, width, H, W) -> (batch, num_classes, H, W), and alike for other ``dims``.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        order: str = "",
        norm: NormSpec = "batch",
        activation: ActivationSpec = "relu",
        bias: bool = True,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.branch = Branch(order, width, width, norm=norm, activation=activation, dims=dims)
        self.linear = CONVOLUTIONS[dims](width, check_count(num_classes, "num_classes"), kernel_size=1, bias=bias)

    @telling_causes
    def forward(self, y: Tensor) -> Tensor:
        check_input(self, y, self.branch.width, "a state", self.branch.dims)
        return self.linear(self.branch(y))
