"""Two halves of the channels that drive each other."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.activations import ActivationSpec
from dynamicblocks.layers.dimensions import check_dims
from dynamicblocks.layers.inner import InnerSpec, check_timeless, given, inner_layer
from dynamicblocks.layers.norms import NormSpec
from dynamicblocks.layers.registry import layers
from dynamicblocks.layers.spectrum import Spectrum, spectrum_of
from dynamicblocks.layers.symmetric import Symmetric, linear_frequency
from dynamicblocks.times import check_count


class HamiltonianPair(nn.Module):
    """dy/dt = F1(z), dz/dt = -F2(y), with y and z the first and the second half of the channels.

    With symmetric layers F1 and F2 = -K^T a(K y + b), a the derivative of a function A, H(y, z) =
    sum A(K1 z + b1) + sum A(K2 y + b2) is the Hamiltonian, which stays as it is (Ruthotto & Haber 2018,
    arXiv:1804.04272). The integrators ``symplectic_euler`` and ``verlet`` read the parts ``first`` and ``second``,
    dy/dt of z and dz/dt of y; others read the field of all channels.

    Shapes:
        (batch, width, H, W) -> the same; (batch, width, L) or (batch, width, D, H, W) with ``dims`` 1 or 3. The parts
        take and give (batch, width / 2, *).

    Args:
        width: number of channels of the state, even.
        unit: the name of a layer, also with arguments, or a function that makes a layer of a width: of F1 and F2, each
            of half the width and with weights of its own.
        norm, activation, boundary, bias, kernel_size, groups: of the units, where given; else as the unit has them.
        lead: False for an F1 without its leading normalisation and activation, which units with an option of that name
            have (``preact_symmetric``); F2 keeps them.
        dims: 1 for signals, 2 for images, 3 for volumes; a function for ``unit`` makes layers that fit.

    Raises:
        ConfigurationError: an odd width, options that the unit does not take, or no unit.

    >>> pair = HamiltonianPair(8, norm="none", bias=False)
    >>> y, z = torch.randn(2, 1, 4, 6, 6)
    >>> dy, dz = pair(torch.cat((y, z), dim=1)).chunk(2, dim=1)
    >>> torch.equal(dy, pair.first(z)), torch.equal(dz, pair.second(y))
    (True, True)
    """

    parts: ClassVar[dict[str, str]] = {"field": "forward", "first": "first", "second": "second"}

    def __init__(
        self,
        width: int,
        *,
        unit: InnerSpec = "symmetric",
        norm: NormSpec | None = None,
        activation: ActivationSpec | None = None,
        boundary: str | None = None,
        bias: bool | None = None,
        kernel_size: int | None = None,
        groups: int | None = None,
        lead: bool = True,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.width = check_count(width, "width")
        if width % 2:
            raise ConfigurationError(f"width must be even, for the channels are two halves, got {width}")
        options = given(
            norm=norm, activation=activation, boundary=boundary, bias=bias, kernel_size=kernel_size, groups=groups
        )
        self.f1 = _unit(unit, width // 2, dims, options, lead)
        self.f2 = _unit(unit, width // 2, dims, options)

    def reset_parameters(self) -> None:
        """Its modules reset themselves."""

    def forward(self, y: Tensor) -> Tensor:
        position, momentum = y.chunk(2, dim=1)
        return torch.cat((self.first(momentum), self.second(position)), dim=1)

    def first(self, z: Tensor) -> Tensor:
        """dy/dt = F1(z)."""
        return self.f1(z)

    def second(self, y: Tensor) -> Tensor:
        """dz/dt = -F2(y)."""
        return -self.f2(y)

    def spectrum(self, size: tuple[int, ...]) -> Spectrum:
        """Imaginary eigenvalues up to |K1| |K2|, for units of one sign; real ones of both signs for units of two.

        Those of linear symmetric units go up to |K1 K2^T|.
        """
        units = [spectrum_of(unit, size) for unit in (self.f1, self.f2)]
        names = " and ".join(dict.fromkeys(type(unit).__name__ for unit in (self.f1, self.f2)))
        if any(unit.imaginary or (unit.real[0] < 0 < unit.real[1]) for unit in units):
            raise ConfigurationError(
                f"no limit of the step is known for a pair of {names}: the eigenvalues of each unit have to be real "
                "and of one sign, as those of symmetric layers are"
            )
        factors = tuple(math.sqrt(max(map(abs, unit.real))) for unit in units)
        product = math.prod(factors)
        opposed = product > 0 and units[0].real[0] * units[1].real[0] == 0 != units[0].real[0] + units[1].real[0]
        notes = [note for unit in units for note in unit.notes]
        if not opposed and not all(unit.gradient for unit in units):
            notes.append(
                "a unit is not the gradient of a convex function, so the pair may grow in places, whatever the step"
            )
        alone = None
        if not opposed and isinstance(self.f1, Symmetric) and isinstance(self.f2, Symmetric):
            alone = linear_frequency(self.f1, self.f2, size)
        about = f"frequencies of up to |K1| |K2| = {factors[0]:.6g} x {factors[1]:.6g}, slopes included"
        return Spectrum(
            (-product, product) if opposed else (0.0, 0.0),
            () if opposed else factors,
            alone=alone,
            about=about if alone is None else f"frequencies of up to |K1 K2^T| = {alone:.6g}, for the pair is linear",
            notes=tuple(dict.fromkeys(notes)),
        )


def _unit(unit: InnerSpec, width: int, dims: int, options: Mapping[str, Any], lead: bool = True) -> nn.Module:
    if not lead:
        if isinstance(unit, str) and not layers.takes(unit, "lead"):
            raise ConfigurationError(
                f"lead=False needs a unit with that option, such as preact_symmetric, got {unit!r}"
            )
        options = {**options, "lead": False}
    made = inner_layer(unit, width, options, dims=dims, name="unit")
    return check_timeless(made, "a unit is a function of one half of the state")
