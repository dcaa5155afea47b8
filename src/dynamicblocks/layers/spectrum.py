"""What a layer tells of the eigenvalues of its Jacobian: all that a limit of the step depends on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dynamicblocks.errors import ConfigurationError


@dataclass(frozen=True)
class Spectrum:
    """Where the eigenvalues of the Jacobian of a layer lie, at any state, with the weights as they are.

    A layer gives it by a method ``spectrum(size)`` of the sizes of the state behind the channels, for
    :func:`dynamicblocks.step_limit`. Zero is always taken to be among the eigenvalues.

    Args:
        real: bounds of the real parts.
        factors: their product bounds the imaginary parts; each of them is a seminorm of the weights, so that for a
            blend it is at most the largest of those that are blended.
        alone: a sharper bound of the imaginary parts, which holds for these weights but not for a blend with others.
        gradient: whether the layer is plus or minus the gradient of a convex function.
        about: how they come about, in one clause.
        notes: what else has to be known, a sentence each.

    >>> Spectrum(factors=(2.0, 3.0)).imaginary
    6.0
    """

    real: tuple[float, float] = (0.0, 0.0)
    factors: tuple[float, ...] = ()
    alone: float | None = field(default=None, kw_only=True)
    gradient: bool = False
    about: str = ""
    notes: tuple[str, ...] = ()

    @property
    def imaginary(self) -> float:
        """The bound of the imaginary parts."""
        product = math.prod(self.factors) if self.factors else 0.0
        return product if self.alone is None else min(self.alone, product)


def widest(spectra: Sequence[Spectrum]) -> Spectrum:
    """The bounds of all blends of layers with weights of zero or more that sum to one."""
    lows, highs = zip(*(each.real for each in spectra), strict=True)
    return Spectrum(
        (min(lows), max(highs)),
        tuple(max(each) for each in zip(*(each.factors for each in spectra), strict=True)),
        all(each.gradient for each in spectra),
        spectra[0].about,
        tuple(dict.fromkeys(note for each in spectra for note in each.notes)),
    )


def spectrum_of(layer: object, size: tuple[int, ...]) -> Spectrum:
    """What a layer tells.

    Raises:
        ConfigurationError: it tells nothing, or something else.
    """
    tell, name = getattr(layer, "spectrum", None), type(layer).__name__
    if not callable(tell):
        raise ConfigurationError(
            f"no limit of the step is known for {name}, which tells nothing of the eigenvalues of its Jacobian; layers "
            "do by a method spectrum(size) that returns a dynamicblocks.layers.Spectrum"
        )
    told = tell(size)
    if not isinstance(told, Spectrum):
        raise ConfigurationError(f"{name}.spectrum must return a Spectrum, got {type(told).__name__}")
    return told
