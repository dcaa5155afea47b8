"""The semi-implicit layer: a right-hand side, and beside it a linear operator that a step may solve for."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.implicit_operators import OperatorSpec, Step, make_operator
from dynamicblocks.layers.inner import InnerSpec, check_timeless, given, inner_layer
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.layers.parts import PROJECTION, parts_of
from dynamicblocks.layers.registry import layers
from dynamicblocks.layers.spectrum import Spectrum, spectrum_of
from dynamicblocks.layers.symmetric import Symmetric
from dynamicblocks.times import check_count


@layers.register("semi_implicit")
class SemiImplicit(nn.Module):
    """f of any layer with an implicit operator A beside it (Haber, Lensink, Treister & Ruthotto 2019, IMEXnet).

    By default f(y) = K^T a(N(K y)) with K projected to mean zero, and A = L^T L of a depthwise kernel. The layer
    declares the parts ``field`` (f), ``operator`` (A y) and ``solve`` ((I + h A)^-1 y), and, where f has a
    normalisation as wide as the state, that as ``norm``. With them the integrator ``imex`` solves y' = f(y) - A y, and
    ``imex(balanced=True)`` y' = f(y); all others read f alone.

    Shapes:
        (batch, width, *) -> the same, with ``dims`` axes.

    Args:
        width: number of channels of the state.
        explicit: f: the name of a layer, also with arguments, or a function that makes a layer of a width; None for
            that of the published network.
        operator: A: the name of one, also with arguments (``depthwise``, ``laplacian``, ``diagonal``, ``pointwise``;
            see :mod:`~dynamicblocks.layers.implicit_operators`), or a function of the width.
        norm, activation, boundary, bias, kernel_size, groups: of f, where given; else as the layer has them, and in the
            published one ``batch`` and no bias. A has a boundary and a kernel size of its own.
        dims: 1 for signals, 2 for images, 3 for volumes; functions make what fits.

    Raises:
        ConfigurationError: options that f does not take, or no layer or operator.

    >>> import torch
    >>> layer = SemiImplicit(4, operator="depthwise(boundary='reflecting')")
    >>> y = torch.randn(2, 4, 8, 8)
    >>> torch.allclose(layer.solve(y + 0.5 * layer.operator(y), 0.5), y, atol=1e-5)
    True
    """

    def __init__(
        self,
        width: int,
        *,
        explicit: InnerSpec | None = None,
        operator: OperatorSpec = "depthwise",
        norm: NormSpec | None = None,
        activation: ActivationSpec | None = None,
        boundary: str | None = None,
        bias: bool | None = None,
        kernel_size: int | None = None,
        groups: int | None = None,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.width = check_count(width, "width")
        options = given(
            norm=norm, activation=activation, boundary=boundary, bias=bias, kernel_size=kernel_size, groups=groups
        )
        self.explicit = _made(explicit, width, dims, options)
        self.operator = make_operator(operator, width, dims=dims)
        self.parts = {"field": "forward", "operator": "operator", "solve": "solve"}
        as_wide = getattr(self.explicit, "hidden", width) == width
        if as_wide and isinstance(getattr(self.explicit, "norm", None), nn.Module):
            self.parts["norm"] = "normalised"
        if PROJECTION in parts_of(self.explicit):
            self.parts[PROJECTION] = "projected"

    def reset_parameters(self) -> None:
        """Its modules reset themselves."""

    def forward(self, y: Tensor) -> Tensor:
        return self.explicit(y)

    def solve(self, y: Tensor, h: Step) -> Tensor:
        """(I + h A)^-1 y."""
        return self.operator.solve(y, h)

    def spectrum(self, size: tuple[int, ...]) -> Spectrum:
        """That of f, which is all that explicit methods read."""
        return spectrum_of(self.explicit, size)

    def normalised(self, y: Tensor) -> Tensor:
        """The state under the normalisation of f."""
        norm: nn.Module = self.explicit.get_submodule("norm")
        return norm(y)

    def projected(self, y: Tensor) -> Tensor:
        """The state under the projection of f."""
        projection: nn.Module = self.explicit.get_submodule(PROJECTION)
        return projection(y)


def _made(explicit: InnerSpec | None, width: int, dims: int, options: Mapping[str, Any]) -> nn.Module:
    if explicit is None:
        return Symmetric(width, **{"norm": "batch", "bias": False, **options}, sign=1, zero_mean=True, dims=dims)
    made = inner_layer(explicit, width, options, dims=dims, name="explicit")
    return check_timeless(
        made,
        "the explicit half of a semi-implicit layer is a function of the state",
        "; write a layer that declares the parts 'field' and 'solve' itself",
    )
