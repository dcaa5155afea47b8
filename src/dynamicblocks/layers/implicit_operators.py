"""Operators A, symmetric and positive semi-definite, that know (I + h A)^-1: the implicit half of a step.

Numbers here are at least float32, under autocast too: what is divided by 1 + h A must not lose digits where that is
large. No solve reads a value from the device. Cosine transforms and 1x1 operators are matrix products: where PyTorch is
told to make those in TF32, it does.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.layers.boundary import check_kernel_size, init_like_convolution
from dynamicblocks.layers.dimensions import check_dims, shape_of
from dynamicblocks.layers.transforms import (
    circular_power,
    circular_product,
    reflecting_product,
    reflecting_spectrum,
)
from dynamicblocks.registry import Registry
from dynamicblocks.times import check_amount, check_count

Step = float | Tensor
SpectralBoundary = Literal["circular", "reflecting"]
SPECTRAL_BOUNDARIES: tuple[SpectralBoundary, ...] = ("circular", "reflecting")


class ImplicitOperator(nn.Module, ABC):
    """A linear map A of states, symmetric and positive semi-definite in the plain inner product, and its resolvent.

    So a step of y' = -A y that is implicit, y+ = (I + h A)^-1 y, never grows, whatever its size. ``forward`` is A y.

    Shapes:
        (batch, width, *) -> the same, with ``dims`` axes.
    """

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.width, self.dims = check_count(width, "width"), check_dims(dims)

    @abstractmethod
    def applied(self, y: Tensor) -> Tensor:
        """A y, of a state that is wide enough."""

    @abstractmethod
    def resolved(self, y: Tensor, h: Step) -> Tensor:
        """(I + h A)^-1 y, of a state that is wide enough."""

    def forward(self, y: Tensor) -> Tensor:
        return self._wide(self.applied, y)

    def solve(self, y: Tensor, h: Step) -> Tensor:
        """(I + h A)^-1 y for h >= 0.

        Raises:
            ConfigurationError: h is negative, or the state has another number of channels or dimensions.
        """
        if not isinstance(h, Tensor) and h < 0:
            raise ConfigurationError(
                f"{type(self).__name__}.solve: a step of an implicit operator must not be negative, got {h:g}: what "
                "diffuses cannot be solved back in time; let times increase"
            )
        return self._wide(lambda wide: self.resolved(wide, h), y)

    def _wide(self, function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        if y.ndim != self.dims + 2 or y.shape[1] != self.width:
            raise ConfigurationError(
                f"{type(self).__name__} expected a state of shape {shape_of(self.dims, self.width)}, got "
                f"{tuple(y.shape)}"
            )
        if 0 in y.shape:  # of no values, which not every transform takes
            return y
        wide, device = y.to(torch.promote_types(y.dtype, torch.float32)), y.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return function(wide).to(y.dtype)
        with torch.autocast(device, enabled=False):
            return function(wide).to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.width}"


operators: Registry[ImplicitOperator] = Registry("implicit operator")

OperatorSpec = str | Callable[[int], ImplicitOperator]


def make_operator(spec: OperatorSpec, width: int, *, dims: int = 2) -> ImplicitOperator:
    """The operator on ``width`` channels that ``spec`` names, or what a factory ``spec(width)`` returns."""
    if isinstance(spec, str):
        return operators.create(spec, width, **({"dims": dims} if operators.takes(spec, "dims") else {}))
    made = spec(width) if callable(spec) and not isinstance(spec, nn.Module) else None
    if not isinstance(made, ImplicitOperator):
        raise ConfigurationError(
            "operator must be a name or a function of the number of channels that makes an ImplicitOperator, got "
            f"{spec!r:.80}"
        )
    return made


class _Spectral(ImplicitOperator):
    """Diagonal in waves, for images of any size. Subclasses say by how much each wave is multiplied."""

    def __init__(self, width: int, boundary: str, dims: int) -> None:
        super().__init__(width, dims)
        if boundary not in SPECTRAL_BOUNDARIES:
            raise unknown_name("boundary condition of an implicit operator", boundary, SPECTRAL_BOUNDARIES)
        self.boundary = boundary

    @abstractmethod
    def spectrum(self, y: Tensor) -> Tensor:
        """The eigenvalues of A at the waves of images like ``y``, for each channel."""

    def multiplied(self, y: Tensor, factor: Tensor) -> Tensor:
        product = circular_product if self.boundary == "circular" else reflecting_product
        return product(y, factor, self.dims)

    def applied(self, y: Tensor) -> Tensor:
        return self.multiplied(y, self.spectrum(y))

    def resolved(self, y: Tensor, h: Step) -> Tensor:
        # As y less what is taken from it: where A is zero y stays to the last bit, and short steps round nothing off.
        rate = h * self.spectrum(y)
        return y - self.multiplied(y, rate / (1 + rate))

    def extra_repr(self) -> str:
        return f"{self.width}, boundary={self.boundary!r}"


@operators.register("depthwise")
class Depthwise(_Spectral):
    """A = L^T L, with L a convolution of each channel by a kernel of its own whose entries are projected to mean zero.

    So A takes nothing from the mean of a channel: it diffuses (Haber et al. 2019). At any size of images, also below
    that of the kernel, which then goes around several times, or to and fro between the mirrors.

    Args:
        width: number of channels.
        kernel_size: odd.
        boundary: ``circular``, solved by FFT, or ``reflecting`` (mirrors half a pixel outside the image, L made even in
            each axis besides), solved by the cosine transform.
        scale: of the first weights. The larger L is, the farther a solve reaches: a channel over about as many pixels
            as L is large, so with a few units networks see far from the start.
        dims: 1 for signals, 2 for images, 3 for volumes.

    >>> operator = Depthwise(4, boundary="reflecting")
    >>> y = torch.randn(1, 4, 6, 5)
    >>> smooth = operator.solve(y, 1e3)
    >>> bool(smooth.norm() <= y.norm()), bool(torch.allclose(smooth.mean((2, 3)), y.mean((2, 3)), atol=1e-5))
    (True, True)
    """

    def __init__(
        self, width: int, *, kernel_size: int = 3, boundary: str = "circular", scale: float = 1.0, dims: int = 2
    ) -> None:
        super().__init__(width, boundary, dims)
        self.scale = check_amount(scale, "scale", most=torch.finfo(torch.float32).max)
        self.weight = nn.Parameter(torch.empty(width, *(check_kernel_size(kernel_size),) * dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in (0, scale), as published with scale 1; the projection takes the mean away."""
        nn.init.uniform_(self.weight, 0, self.scale)

    def kernel(self, dtype: torch.dtype) -> Tensor:
        """L: of mean zero and, between mirrors, even."""
        kernel = self.weight.to(dtype)
        axes = tuple(range(1, kernel.ndim))
        if self.boundary == "reflecting":
            for axis in axes:
                kernel = (kernel + kernel.flip(axis)) / 2
        return kernel - kernel.mean(axes, keepdim=True)

    def spectrum(self, y: Tensor) -> Tensor:
        kernel, sizes = self.kernel(y.dtype), y.shape[2:]
        if self.boundary == "circular":
            return circular_power(kernel, sizes)
        return reflecting_spectrum(kernel, sizes).square()


@operators.register("laplacian")
class Laplacian(_Spectral):
    """A = -c Delta, without weights: the compact stencil whose sums over an axis are that of one dimension less.

    In two dimensions [[-1, -4, -1], [-4, 20, -4], [-1, -4, -1]] / 6, times c = ``scale``, as published.

    >>> Laplacian(1, dims=1, scale=1.0)(torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])).round().int()
    tensor([[[-1,  2, -1,  0]]], dtype=torch.int32)
    """

    # Six times the stencil, by the number of axes along which a neighbour is off the centre. Integers have no rounding.
    TAPS = ((12, -6), (20, -4, -1), (24, -2, -1, 0))

    def __init__(self, width: int, *, scale: float = 0.01, boundary: str = "circular", dims: int = 2) -> None:
        super().__init__(width, boundary, dims)
        self.scale = check_amount(scale, "scale")
        off = torch.tensor([1, 0, 1])
        distance = sum(off.view(3, *(1,) * axis) for axis in range(dims))
        self.register_buffer("stencil", torch.tensor(self.TAPS[dims - 1])[distance].unsqueeze(0), persistent=False)
        self.stencil: Tensor

    def spectrum(self, y: Tensor) -> Tensor:
        stencil, sizes = self.stencil.to(y.dtype), y.shape[2:]
        if self.boundary == "circular":
            size = circular_power(stencil, sizes).sqrt()
        else:
            size = reflecting_spectrum(stencil, sizes).abs()
        return self.scale / 6 * size


@operators.register("diagonal")
class Diagonal(ImplicitOperator):
    """A = r^2, a rate of its own for each channel: what decays at each pixel.

    >>> operator = Diagonal(2, dims=1)
    >>> _ = nn.init.ones_(operator.weight)
    >>> operator.solve(torch.ones(1, 2, 1), 3.0).flatten().tolist()
    [0.25, 0.25]
    """

    def __init__(self, width: int, *, dims: int = 2) -> None:
        super().__init__(width, dims)
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rates r uniform in (0, 1)."""
        nn.init.uniform_(self.weight)

    def rates(self, y: Tensor) -> Tensor:
        """r^2 for each channel."""
        return self.weight.to(y.dtype).square().view(-1, *(1,) * self.dims)

    def applied(self, y: Tensor) -> Tensor:
        return y * self.rates(y)

    def resolved(self, y: Tensor, h: Step) -> Tensor:
        return y / (1 + h * self.rates(y))


@operators.register("pointwise")
class Pointwise(ImplicitOperator):
    """A = L^T L with L a matrix of the channels, the same at each pixel: a 1x1 convolution.

    With the columns of (I, sqrt(h) L) made orthonormal, Q, its upper half gives (I + h A)^-1 = Q1 Q1^T: nothing of it
    grows, however large h is and however few digits there are.

    Args:
        width: number of channels.
        hidden: rows of L; the width if None.
        dims: 1 for signals, 2 for images, 3 for volumes.
    """

    def __init__(self, width: int, *, hidden: int | None = None, dims: int = 2) -> None:
        super().__init__(width, dims)
        rows = width if hidden is None else check_count(hidden, "hidden")
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As a convolution of PyTorch."""
        init_like_convolution(self.weight)

    def applied(self, y: Tensor) -> Tensor:
        matrix = self.weight.to(y.dtype)
        return self._mixed(y, matrix.mT @ matrix)

    def resolved(self, y: Tensor, h: Step) -> Tensor:
        root = h.to(y.dtype).sqrt() if isinstance(h, Tensor) else math.sqrt(h)
        identity = torch.eye(self.width, dtype=y.dtype, device=y.device)
        upper = torch.linalg.qr(torch.cat((identity, root * self.weight.to(y.dtype))))[0][: self.width]
        return self._mixed(y, upper @ upper.mT)

    @staticmethod
    def _mixed(y: Tensor, matrix: Tensor) -> Tensor:
        return (matrix @ y.flatten(2)).reshape(y.shape)
