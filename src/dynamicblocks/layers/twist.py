"""Convolutions whose coefficients vary over the image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.layers.dimensions import PLAIN
from dynamicblocks.layers.parametrisations import (
    Parametrisation,
    check_twist,
    coefficients,
    free_kernels,
    twist_kernels,
)
from dynamicblocks.layers.weighted_sum import laid_out, weighted_sum
from dynamicblocks.times import check_count

# Bytes of terms that are summed up before they have to be written to memory and read again (benchmarks/twist_cost.py).
CACHED = 8 << 20


class TwistConv(nn.modules.conv._ConvNd):
    """What :class:`TwistConv1d`, :class:`TwistConv2d` and :class:`TwistConv3d` share; PyTorch's class comes behind it.

    ``dims`` is the number of axes of the kernel.
    """

    dims: ClassVar[int]
    twist: nn.Parameter
    parametrisation: Parametrisation

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *args: Any,
        parametrisation: str = "vector",
        degree: int = 1,
        fused: bool = True,
        **kwargs: Any,
    ) -> None:
        size = (kernel_size,) * self.dims if isinstance(kernel_size, int) else kernel_size
        if not isinstance(size, tuple | list) or len(size) != self.dims:
            raise ConfigurationError(f"kernel_size must be a whole number or {self.dims} of them, got {brief(size)}")
        for name, count in (("in_channels", in_channels), ("out_channels", out_channels)):
            check_count(count, name)
        for length in size:
            check_count(length, "kernel_size")
        known = check_twist(parametrisation, degree, size)
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)  # type: ignore[arg-type]
        self._twist(known, degree, fused)

    @classmethod
    def of(cls, plain: nn.modules.conv._ConvNd, parametrisation: str = "vector", degree: int = 1) -> Self:
        """The same function as ``plain``, ready to be twisted; weight, bias, hooks and modes are shared with it."""
        if len(plain.kernel_size) != cls.dims:
            raise ConfigurationError(f"{cls.__name__} is of {cls.dims} dimensions, got a {type(plain).__name__}")
        known = check_twist(parametrisation, degree, plain.kernel_size)
        twisted = cls.__new__(cls)
        # All that a module holds, so that nothing of it is forgotten; only the list of parameters will differ.
        twisted.__dict__ = {**vars(plain), "_parameters": dict(plain._parameters)}
        twisted._twist(known, degree, fused=True)
        return twisted

    def plain(self) -> nn.modules.conv._ConvNd:
        """The convolution without the twist; it shares weight, bias, hooks and modes."""
        plain = PLAIN[self.dims].__new__(PLAIN[self.dims])
        parameters = {name: weight for name, weight in self._parameters.items() if name != "twist"}
        own = ("parametrisation", "degree", "fused")
        kept = {name: value for name, value in vars(self).items() if name not in own}
        plain.__dict__ = {**kept, "_parameters": parameters}
        return plain

    def _twist(self, parametrisation: Parametrisation, degree: int, fused: bool) -> None:
        self.parametrisation = parametrisation
        self.degree = degree
        self.fused = fused
        weight = self.weight
        # Of four dimensions on images, for nn.Module.to(memory_format=...) takes five for a volume.
        shape = (free_kernels(parametrisation, degree, self.dims) * weight.shape[0], *weight.shape[1:])
        self.twist = nn.Parameter(weight.new_zeros(shape), requires_grad=weight.requires_grad)

    def reset_parameters(self) -> None:
        """As a convolution of PyTorch, without a twist."""
        super().reset_parameters()
        if "twist" in self._parameters:
            nn.init.zeros_(self.twist)

    def extra_repr(self) -> str:
        degree = "" if self.degree == 1 else f", degree={self.degree}"
        convolution: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{convolution}, parametrisation={self.parametrisation!r}{degree}"

    def twist_kernels(self) -> list[Tensor]:
        """The kernels of the coefficients, each of the shape of ``weight``: Wx, Wy, ..., and those of degree 2."""
        return twist_kernels(self.twist, self.parametrisation, self.degree)

    def coefficients_on(self, size: tuple[int, ...], like: Tensor) -> Tensor:
        """What each of :meth:`twist_kernels` is multiplied with on an output of that size: (kernels, *size)."""
        return coefficients(self.parametrisation, self.degree, size, like)

    def forward(self, x: Tensor) -> Tensor:
        if not self.fused or self._runs_faster_apart(x):
            return self._separate(x)
        kernels = [self.weight, *self.twist_kernels()]
        # The outputs of a group lie together, so each group holds a share of every kernel.
        groups, share = self.groups, self.out_channels // self.groups
        stacked = torch.stack([torch.unflatten(kernel, 0, (groups, share)) for kernel in kernels], dim=1)
        stacked, bias = stacked.flatten(0, 2), self.bias
        if bias is not None:
            # Joined, not padded: the inductor of PyTorch 2.6 takes no view of a padded tensor as a bias.
            none = bias.new_zeros(groups, len(kernels) - 1, share)
            bias = torch.cat((bias.view(groups, 1, share), none), dim=1).flatten()
        parts = self._parts(x, len(kernels))
        results = [self._together(part, stacked, bias) for part in parts]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _runs_faster_apart(self, x: Tensor) -> bool:
        """On a CPU: whether putting the kernels together costs more than it saves (benchmarks/twist_cost.py)."""
        if not self._on_cpu(x):
            return False
        if self.weight.numel() > len(x) * self._results(x):
            # Small images of many channels: the kernels are more to copy than the results.
            return True
        # Channels last, without gradients: short rows of channels are slow to sum. By the strides, for torch.func.vmap
        # cannot tell the memory format.
        return not torch.is_grad_enabled() and x.stride(-1 - self.dims) == 1 and x.stride(-1) != 1

    def _parts(self, x: Tensor, terms: int) -> Sequence[Tensor]:
        """All images, or on a CPU as many at a time as have terms that stay in its cache."""
        if not self._on_cpu(x):
            return (x,)
        image = terms * self._results(x) * x.element_size()
        return (x,) if image * len(x) <= 2 * CACHED else torch.split(x, max(1, CACHED // image))

    def _results(self, x: Tensor) -> int:
        """About as many numbers as one kernel makes of an image."""
        return self.out_channels * math.prod(x.shape[-self.dims :]) // math.prod(self.stride)

    def _together(self, x: Tensor, stacked: Tensor, bias: Tensor | None) -> Tensor:
        terms = self._conv_forward(x, stacked, bias)
        size = tuple(terms.shape[-self.dims :])
        share = self.out_channels // self.groups
        channels = -1 - self.dims
        terms = torch.unflatten(terms, channels, (self.groups, stacked.shape[0] // self.out_channels, share))
        return weighted_sum(terms, self.coefficients_on(size, terms)).flatten(channels - 1, channels)

    def _separate(self, x: Tensor) -> Tensor:
        total = self._conv_forward(x, self.weight, self.bias)
        size = tuple(total.shape[-self.dims :])
        factors = laid_out(self.coefficients_on(size, total)[:, None], total)
        for coefficient, kernel in zip(factors, self.twist_kernels(), strict=True):
            total = torch.addcmul(total, self._conv_forward(x, kernel, None), coefficient)
        return total

    def _on_cpu(self, x: Tensor) -> bool:
        """Whether a batch is run eagerly on a CPU, where what is fastest depends on sizes."""
        return x.device.type == "cpu" and x.ndim == self.dims + 2 and not torch.compiler.is_compiling()


class TwistConv2d(TwistConv, nn.Conv2d):
    r"""A convolution with variable coefficients: W * x + X (Wx * x) + Y (Wy * x).

    A 3x3 kernel is a differential operator of order at most two. One convolution has constant coefficients, so it can
    shift and diffuse an image; coefficients that are linear in the coordinates of a pixel can also turn and scale it
    (liuyao12, "ResNet with a twist"). X grows with the column and Y with the row of the *output*, from pixel centre to
    pixel centre inside (-1, 1), whatever the size of the image.

    ``twist`` holds free kernels, and ``forward`` makes the kernels of the coefficients of them:

    ===============  ==========================================  ================================================
    parametrisation  degree 1                                    degree 2 adds
    ===============  ==========================================  ================================================
    ``vector``       Wx = A(V), Wy = Wx turned by 90 degrees     (X^2 - Y^2) A(V2) + 2 X Y (A(V2) turned)
    ``independent``  Wx = A(V1), Wy = A(V2)                      X^2 A(V3) + X Y A(V4) + Y^2 A(V5)
    ``full``         Wx = V1, Wy = V2                            X^2 V3 + X Y V4 + Y^2 V5
    ===============  ==========================================  ================================================

    A(V) = (V - V turned by 180 degrees) / 2 is antisymmetric, an operator of odd order: a vector field. It does not
    respond to constants. A ``vector`` twist is one field and its turns: with complex numbers z = X + iY, and i for a
    turn by 90 degrees, z A(V) + z^2 A(V2). Its first term commutes with turning square images by 90 degrees.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            of :class:`torch.nn.Conv2d`.
        parametrisation: ``vector`` (odd or even square kernels), ``independent`` or ``full``.
        degree: of the coefficients in X and Y, 1 or 2.
        fused: whether all kernels are run as one convolution where that is faster; otherwise as one each, so that
            the term W * x is that of the plain convolution to the last bit.

    Shapes:
        as of :class:`torch.nn.Conv2d`; ``twist`` (n out_channels, in_channels / groups, *kernel_size) holds the free
        kernels V1, ..., Vn one below the other. It is zero at first, so that the layer starts as the plain convolution
        with the same ``weight`` and ``bias``.

    Raises:
        ConfigurationError: an unknown parametrisation or degree, or a kernel that it cannot have.

    >>> twist = TwistConv2d(3, 8, 3, padding=1)
    >>> x = torch.randn(2, 3, 8, 8)
    >>> plain = torch.nn.functional.conv2d(x, twist.weight, twist.bias, padding=1)
    >>> torch.allclose(twist(x), plain, atol=1e-5)
    True
    """

    dims = 2

    def coefficients(self, height: int, width: int, like: Tensor) -> Tensor:
        """What each of :meth:`twist_kernels` is multiplied with on an output of that size: (kernels, height, width)."""
        return self.coefficients_on((height, width), like)


class TwistConv1d(TwistConv, nn.Conv1d):
    r"""A convolution of signals with variable coefficients: W * x + X (Wx * x), and of degree 2 + X^2 (Wxx * x).

    As :class:`TwistConv2d`, with one coordinate X along the output, in (-1, 1). On a line there is nothing to turn, so
    ``vector`` is ``independent``: antisymmetric kernels A(V) = (V - V backwards) / 2, a stretch of the signal about its
    centre; ``full`` has any.

    >>> twist = TwistConv1d(3, 8, 3, padding=1)
    >>> twist(torch.randn(2, 3, 20)).shape
    torch.Size([2, 8, 20])
    """

    dims = 1


class TwistConv3d(TwistConv, nn.Conv3d):
    r"""A convolution of volumes with variable coefficients: W * x + X (Wx * x) + Y (Wy * x) + Z (Wz * x).

    As :class:`TwistConv2d`; X grows with the last axis of the output, Y with the one before, Z with the first.

    ===============  =================================================  ================================================
    parametrisation  degree 1                                           degree 2 adds
    ===============  =================================================  ================================================
    ``vector``       Wx = A(V), Wy = Wx turned by 120 degrees about     (X^2 + 2 Y Z) A(V2) + (Z^2 + 2 X Y) (A(V2)
                     the diagonal, x to y to z, Wz = Wy turned again    turned) + (Y^2 + 2 X Z) (A(V2) turned twice)
    ``independent``  Wx = A(V1), Wy = A(V2), Wz = A(V3)                 X^2 A(V4) + X Y A(V5) + X Z A(V6) + Y^2 A(V7) +
                                                                        Y Z A(V8) + Z^2 A(V9)
    ``full``         the same with V in the place of A(V)               the same with V in the place of A(V)
    ===============  =================================================  ================================================

    A(V) = (V - V mirrored at its centre) / 2. In the plane a ``vector`` twist is z A(V) + z^2 A(V2) with z = X + iY and
    i the turn that takes the first axis to the second. In space the turn that takes each axis to the next is c, of 120
    degrees, with c^3 = 1, and z = X + cY + c^2 Z. The first term commutes with that turn of cubic volumes. It can
    scale, and rotate about the diagonal; for rotations about any axis take ``independent``.

    >>> twist = TwistConv3d(3, 8, 3, padding=1)
    >>> twist(torch.randn(2, 3, 6, 6, 6)).shape
    torch.Size([2, 8, 6, 6, 6])
    """

    dims = 3


TWISTED: Mapping[int, type[TwistConv1d | TwistConv2d | TwistConv3d]] = {1: TwistConv1d, 2: TwistConv2d, 3: TwistConv3d}


def twisted(plain: nn.modules.conv._ConvNd, parametrisation: str = "vector", degree: int = 1) -> TwistConv:
    """``plain`` ready to be twisted, in as many dimensions as it has (:meth:`TwistConv.of`)."""
    return TWISTED[len(plain.kernel_size)].of(plain, parametrisation, degree)
