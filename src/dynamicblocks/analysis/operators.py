"""Kernels of 3x3 convolutions as differential operators on the pixel grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, overload

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.layers import TwistConv2d
from dynamicblocks.layers.coordinates import monomials
from dynamicblocks.layers.one_kernel import OneKernel
from dynamicblocks.solving.summary import described

NAMES = ("1", "dx", "dy", "dxx", "dxy", "dyy", "dxxy", "dxyy", "dxxyy")
ORDERS = (0, 1, 1, 2, 2, 2, 3, 3, 4)
# Of each operator, how often it differentiates in y and in x.
POWERS = tuple((name.count("y"), name.count("x")) for name in NAMES)
# Central differences of order 0, 1, 2 at pixel distance 1, and their inverse: half powers of two, so both are exact.
STENCILS = ((0.0, 1.0, 0.0), (-0.5, 0.0, 0.5), (1.0, -2.0, 1.0))
MOMENTS = ((1.0, 1.0, 1.0), (-1.0, 0.0, 1.0), (0.5, 0.0, 0.5))
# Coefficients of a twist, in the order of layers.coordinates.monomials.
TERMS = ("X", "Y", "X^2", "XY", "Y^2")


@dataclass(frozen=True, eq=False, repr=False)
class Operators:
    r"""3x3 kernels as sums of differential operators: K = c_1 1 + c_dx d/dx + c_dy d/dy + c_dxx d²/dx² + ...

    Each operator is the product of a central difference in x (to the right) and one in y (downwards), [0, 1, 0],
    [-1, 0, 1] / 2 or [1, -2, 1]; the nine of them are a basis of the kernels. Coefficients are in pixels to the power
    of the order, of one pixel for a convolution without dilation.

    Args:
        coefficients: (..., 9), in the order of ``names``.
    """

    coefficients: Tensor
    names: ClassVar[tuple[str, ...]] = NAMES

    def __getitem__(self, name: str) -> Tensor:
        """The coefficient of an operator, for each kernel."""
        if name not in self.names:
            raise unknown_name("operator", name, self.names)
        return self.coefficients[..., self.names.index(name)]

    def kernel(self) -> Tensor:
        """The kernels themselves: (..., 3, 3)."""
        places = self.coefficients.new_zeros((*self.coefficients.shape[:-1], 3, 3))
        rows, columns = zip(*POWERS, strict=True)
        places[..., rows, columns] = self.coefficients
        stencils = places.new_tensor(STENCILS)
        return stencils.T @ places @ stencils

    def symbol(self, xi: Tensor | float, eta: Tensor | float) -> Tensor:
        """What plane waves exp(i (xi x + eta y)) are multiplied with: sum_ab K[b, a] exp(i (a xi + b eta)).

        Args:
            xi, eta: frequencies in radians per pixel, to the right and downwards; they are broadcast.

        Shapes:
            (..., 3, 3) kernels and frequencies (*F) -> (..., *F), complex.
        """
        kernel = self.kernel()
        right, down = (torch.as_tensor(each).to(kernel)[..., None, None] for each in (xi, eta))
        offsets = torch.arange(-1, 2).to(kernel)
        phase = offsets * right + offsets[:, None] * down
        waves = torch.polar(torch.ones_like(phase), phase)
        return torch.tensordot(kernel.to(waves.dtype), waves, dims=([-2, -1], [-2, -1]))

    @property
    def order_shares(self) -> tuple[float, ...]:
        """Share of the operators of order 0, 1, 2, 3, 4 in the sum of squared coefficients of all kernels.

        >>> operators(torch.tensor([[0.0, 0.0, 0.0], [-0.5, 1.0, 0.5], [0.0, 0.0, 0.0]])).order_shares
        (0.5, 0.5, 0.0, 0.0, 0.0)
        """
        squares = self.coefficients.detach().double().square().reshape(-1, 9).sum(0)
        sums = [sum(squares[index].item() for index in range(9) if ORDERS[index] == order) for order in range(5)]
        return shares(sums)

    def size(self) -> Tensor:
        """Root mean square of each coefficient over the kernels: (9,)."""
        return self.coefficients.detach().reshape(-1, 9).square().mean(0).sqrt()

    def __repr__(self) -> str:
        """One line; ``print`` gives the table."""
        return f"{type(self).__name__}(coefficients: {described(self.coefficients)})"

    def __str__(self) -> str:
        if self.coefficients.ndim == 1:
            column = ("coefficient", self.coefficients.detach())
        else:
            column = (f"rms of {self.coefficients[..., 0].numel()} kernels", self.size())
        return table([column])


@dataclass(frozen=True, eq=False)
class TwistOperators:
    """The operators of a twisted convolution: W + X Wx + Y Wy, and of degree 2 + X^2 Wxx + XY Wxy + Y^2 Wyy.

    Args:
        plain: of W.
        terms: of Wx, Wy, ..., by what they are multiplied with: X, Y, X^2, XY, Y^2.
    """

    plain: Operators
    terms: Mapping[str, Operators]

    def pair(self, out: int, into: int) -> "TwistOperators":
        """Those from one channel of the input to one of the output."""
        of = {name: Operators(term.coefficients[out, into]) for name, term in self.terms.items()}
        return TwistOperators(Operators(self.plain.coefficients[out, into]), of)

    def field(self, height: int, width: int) -> Tensor:
        """The vector field v(X, Y) whose components are the coefficients of d/dx and d/dy at each pixel.

        To first order the layer reads its input at p + v(p), in pixels: what is in the image moves by -v.

        Shapes:
            (out, in, 2, height, width).
        """
        constant = vector(self.plain)
        degree = 1 if len(self.terms) == 2 else 2
        coordinates = monomials((height, width), degree, constant)
        twisted = torch.stack([vector(self.terms[name]) for name in TERMS[: len(coordinates)]], dim=-1)
        return constant[..., None, None] + torch.einsum("...vt,thw->...vhw", twisted, coordinates)

    @property
    def divergence(self) -> Tensor:
        """dv_x/dX + dv_y/dY of the linear part: scaling, for each pair of channels."""
        return self.terms["X"]["dx"] + self.terms["Y"]["dy"]

    @property
    def curl(self) -> Tensor:
        """dv_y/dX - dv_x/dY of the linear part: rotation, for each pair of channels.

        On a square image of n pixels, curl / n is the angle in radians by which the image is turned (anticlockwise as
        it is seen, with y downwards), to first order.
        """
        return self.terms["X"]["dy"] - self.terms["Y"]["dx"]

    @property
    def shears(self) -> tuple[Tensor, Tensor]:
        """dv_x/dX - dv_y/dY and dv_y/dX + dv_x/dY of the linear part; zero where the twist is a ``vector`` one."""
        x, y = self.terms["X"], self.terms["Y"]
        return x["dx"] - y["dy"], x["dy"] + y["dx"]

    @property
    def field_shares(self) -> dict[str, float]:
        """Share of rotation, scaling and shear in the squared gradient of the linear field, over all channels."""
        sizes = [float(each.double().square().sum()) for each in (self.curl, self.divergence, torch.stack(self.shears))]
        return dict(zip(("rotation", "scaling", "shear"), shares(sizes), strict=True))

    def __str__(self) -> str:
        lines = table([("plain", self.plain.size()), *((name, term.size()) for name, term in self.terms.items())])
        found = ", ".join(f"{name} {share:.0%}" for name, share in self.field_shares.items())
        return f"{lines}\nroot mean squares over channels; of the linear field: {found}"


@overload
def operators(kernel: TwistConv2d) -> TwistOperators: ...  # type: ignore[overload-overlap]  # the narrower comes first
@overload
def operators(kernel: Tensor | nn.Conv2d | OneKernel) -> Operators: ...
def operators(kernel: Tensor | nn.Conv2d | OneKernel) -> Operators | TwistOperators:
    r"""Take 3x3 kernels apart into differential operators: 1, dx, dy, dxx, dxy, dyy, dxxy, dxyy, dxxyy.

    The coefficients are moments of the kernel, c_ab = sum_ij m_b[i] K[i, j] m_a[j] with m_0 = (1, 1, 1),
    m_1 = (-1, 0, 1) and m_2 = (1, 0, 1) / 2: the first terms of the Taylor series of what the kernel does, at pixel
    distance 1. Kernels are meant as PyTorch applies them, without a flip. A dilated kernel has the distance of its
    dilation. Ruthotto & Haber 2018 (arXiv:1804.04272) read kernels in one dimension so.

    Args:
        kernel: a tensor (..., 3, 3), a convolution, or a layer of one kernel, which is read as it is applied: K of a
            symmetric layer, also projected to mean zero, and K - K^T of an antisymmetric one, which away from the
            boundary is a convolution. Of a module weights are taken without their gradients.

    Returns:
        :class:`Operators`, or :class:`TwistOperators` of a twisted convolution.

    Raises:
        ConfigurationError: the kernels are not 3x3, or it is something else.

    >>> sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    >>> print(operators(sobel))
    operator  order  coefficient
    1             0       0.0000
    dx            1       1.0000
    dy            1       0.0000
    dxx           2       0.0000
    dxy           2       0.0000
    dyy           2       0.0000
    dxxy          3       0.0000
    dxyy          3       0.2500
    dxxyy         4       0.0000
    """
    if isinstance(kernel, TwistConv2d):
        plain, *twisted = (_operators(each.detach()) for each in (kernel.weight, *kernel.twist_kernels()))
        if kernel.parametrisation == "vector" and kernel.degree == 2:
            # (X^2 - Y^2) A + 2 XY B, in the monomials of the others.
            x, y, a, b = twisted
            twisted = [x, y, a, Operators(2 * b.coefficients), Operators(-a.coefficients)]
        return TwistOperators(plain, dict(zip(TERMS, twisted, strict=False)))
    if isinstance(kernel, nn.Conv2d):
        return _operators(kernel.weight.detach())
    if isinstance(kernel, OneKernel) and kernel.dims == 2:
        return _operators(kernel.kernel.detach())
    if not isinstance(kernel, Tensor):
        raise ConfigurationError(
            f"operators expects a tensor (..., 3, 3) or a Conv2d, of two dimensions, but a {type(kernel).__name__} "
            "came; network_operators takes a whole network"
        )
    return _operators(kernel)


def network_operators(net: nn.Module) -> dict[str, Operators | TwistOperators]:
    """The operators of every 3x3 convolution of a network, and of every layer of one kernel, by the name of the module.

    Raises:
        ConfigurationError: there is none.

    >>> list(network_operators(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), TwistConv2d(8, 8, 3))))
    ['0', '2']
    """
    convolutions = {
        name: (module, _size(module))
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, OneKernel) and module.dims == 2)
    }
    found: dict[str, Operators | TwistOperators] = {
        name: operators(module) for name, (module, size) in convolutions.items() if size == (3, 3)
    }
    if not found:
        sizes = sorted({"x".join(map(str, size)) for _, size in convolutions.values()})
        have = f"only of {', '.join(sizes)}" if sizes else "no Conv2d at all"
        raise ConfigurationError(f"expected a network with 3x3 convolutions, but {type(net).__name__} has {have}")
    return found


def _size(module: nn.Conv2d | OneKernel) -> tuple[int, ...]:
    return tuple(module.weight.shape[-2:])


def plain_part(found: Operators | TwistOperators) -> Operators:
    """The operators of the constant coefficients."""
    return found.plain if isinstance(found, TwistOperators) else found


def vector(found: Operators) -> Tensor:
    """The coefficients of dx and dy: (..., 2)."""
    return torch.stack([found["dx"], found["dy"]], dim=-1)


def shares(sizes: Sequence[float]) -> tuple[float, ...]:
    """Each divided by the sum; zeros where all are zero."""
    total = sum(sizes)
    return tuple(size / total if total else 0.0 for size in sizes)


def table(columns: Sequence[tuple[str, Tensor]]) -> str:
    """A row for each operator and its order."""
    heads = ["operator  order", *(name.rjust(8) for name, _ in columns)]
    lines = ["  ".join(heads)]
    for index, (name, order) in enumerate(zip(NAMES, ORDERS, strict=True)):
        cells = [f"{float(values[index]):.4f}".rjust(max(8, len(head))) for head, values in columns]
        lines.append("  ".join([f"{name:<8}  {order:>5}", *cells]))
    return "\n".join(lines)


def _operators(kernel: Tensor) -> Operators:
    if kernel.shape[-2:] != (3, 3):
        raise ConfigurationError(f"expected kernels of 3x3 pixels, (..., 3, 3), but {tuple(kernel.shape)} came")
    if not kernel.is_floating_point():
        raise ConfigurationError(f"expected kernels of floating-point numbers, but {kernel.dtype} came")
    moments = kernel.new_tensor(MOMENTS)
    rows, columns = zip(*POWERS, strict=True)
    return Operators((moments @ kernel @ moments.T)[..., rows, columns])
