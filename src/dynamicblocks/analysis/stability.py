"""How long the steps of a block may be."""

import math
from collections.abc import Iterator, Sequence

from torch import nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.controls import Basis
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import Adaptive, Integrator, as_integrator, contractive_step, longest_step
from dynamicblocks.integrators.imex import Imex
from dynamicblocks.integrators.reversible import AsynchronousLeapfrog, ReversibleHeun
from dynamicblocks.integrators.second_order import Leapfrog
from dynamicblocks.integrators.two_step_midpoint import TwoStepMidpoint
from dynamicblocks.layers.dimensions import shape_of
from dynamicblocks.layers.parts import check_parts, parts_of
from dynamicblocks.layers.spectrum import Spectrum, spectrum_of, widest
from dynamicblocks.network import named_blocks

# Of a side of the rectangle around the eigenvalues, as many points are looked at.
_POINTS = 65


class StepLimit(float):
    """A size of step, with the reason for it.

    Args:
        value: the size: zero where no step will do, infinity where each does.
        reason: what the layer is, what the method bears, and what the limit holds for.
    """

    reason: str

    def __new__(cls, value: float, reason: str) -> "StepLimit":
        made = super().__new__(cls, value)
        made.reason = reason
        return made

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]  # copies and pickles keep the reason
        return float(self), self.reason


def step_limit(layer: nn.Module, integrator: Integrator | str, shape: Sequence[int]) -> StepLimit:
    r"""The size up to which steps of an integrator do not make the solutions of a layer grow, as they are.

    It comes from the norm of the operator of the layer on states of this shape, with its boundary and exact adjoint,
    and from the method's stability: with slopes of the activation of at most 1,

    =======================================  ==============================  ==========================================
    layer                                    method                          limit
    =======================================  ==============================  ==========================================
    ``symmetric``                            Euler                           2 / \|K\|^2
    ``symmetric``                            explicit Runge-Kutta            real stability interval / \|K\|^2
    ``symmetric``                            ``leapfrog``, y'' = F(y)        2 / \|K\|
    ``symmetric``                            ``two_step_midpoint``, ``alf``  0: a second solution grows
    ``antisymmetric``                        Euler, ``leapfrog``             0
    ``antisymmetric``                        rk4                             2.83 / \|A\|, A = K - K^T
    ``antisymmetric``                        ``two_step_midpoint``, ``alf``  1 / \|A\|
    ``hamiltonian`` of symmetric layers      ``verlet`` and its like         2 / (\|K1\| \|K2\|)
    all of these                             A-stable                        infinity
    =======================================  ==============================  ==========================================

    It holds for weights that do not change in time, without the normalisation of the layer, and is exact for a linear
    layer (of a linear pair it is \|K1 K2^T\|, which may be smaller, that stands in the place of the product). Where
    the activation is nonlinear it is the limit of every linearisation; what that means for two states is in
    ``reason``. Other layers tell of themselves by a method ``spectrum``, see :class:`~dynamicblocks.layers.Spectrum`.

    Args:
        layer: a layer, or a block, for which the least over its controls is taken.
        integrator: the method, which need not be that of the block.
        shape: of the state: (batch, channels, \*space), (channels, \*space) or \*space alone.

    Returns:
        A float with a ``reason``: 0 where no step is short enough, infinity where none is too long.

    Raises:
        ConfigurationError: a shape that the layer does not take, an integrator or a layer for which no limit is known,
            an integrator that reads what the layer does not have.

    >>> from dynamicblocks.layers import Symmetric
    >>> layer = Symmetric(1, norm="none", kernel_size=1)
    >>> _ = nn.init.constant_(layer.weight, 2.0)
    >>> limit = step_limit(layer, "euler", (1, 8, 8))
    >>> round(limit, 9), limit.reason.partition(";")[0]
    (0.5, 'Symmetric: -K^T D K with |K| = 2 and slopes D up to 1')
    """
    method = as_integrator(integrator)
    layers = list(layer.controls.layers) if isinstance(layer, DynamicBlock) else [layer]
    if not isinstance(layer, DynamicBlock) and isinstance(layer, nn.Module) and named_blocks(layer):
        raise ConfigurationError(
            f"step_limit expects a layer or a block, and {type(layer).__name__} is a network; take its blocks in turn"
        )
    name = type(layers[0]).__name__
    check_parts((part for _, part in method.reads), parts_of(layers[0]), method.name, name)
    size = _size(layers[0], shape)
    spectra = [spectrum_of(each, size) for each in layers]
    limits = [_limit(each, method) for each in spectra]
    value = min(limits)
    least = spectra[limits.index(value)]
    notes = list(least.notes)
    if isinstance(layer, DynamicBlock) and len(layers) > 1:
        notes.insert(0, f"of {len(layers)} controls that of number {limits.index(value)} has the least limit")
        if layer.controls.basis.degree > 0:
            value = min(value, _limit(widest(spectra), method))
            notes.insert(1, _between(layer.controls.basis))
    about = f"{name}: {least.about}" if least.about else name
    return StepLimit(value, "; ".join([about, *_reasons(least, method, value), *notes]))


def _limit(spectrum: Spectrum, method: Integrator) -> float:
    """The longest step for all eigenvalues that there may be."""
    if spectrum.real[1] > 0:
        # What grows by f may be damped by the rest of the equation of a semi-implicit method: then this raises.
        return 0.0 if not isinstance(method, Imex) else longest_step(method, spectrum.real[1])
    return min(longest_step(method, eigenvalue) for eigenvalue in _outermost(spectrum))


def _outermost(spectrum: Spectrum) -> Iterator[complex]:
    """Points of the rectangle around the eigenvalues, from which all others are nearer to zero."""
    (low, high), top = spectrum.real, spectrum.imaginary
    shares = [n / (_POINTS - 1) for n in range(_POINTS)]
    yield complex(low, top)
    if low and top:
        yield from (complex(low, share * top) for share in shares)
        if low != high:
            yield from (complex(low + share * (high - low), top) for share in shares)


def _size(layer: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a state behind its channels; as given, where the layer does not tell its dimensions."""
    dims, width = getattr(layer, "dims", None), getattr(layer, "width", None)
    numbers = isinstance(shape, Sequence) and not isinstance(shape, str)
    if not (numbers and shape and all(type(each) is int and each > 0 for each in shape)):
        raise ConfigurationError(
            f"shape must be that of a state, whole numbers such as (channels, height, width), got {shape!r:.80}"
        )
    sizes = tuple(shape)
    if not isinstance(dims, int):
        return sizes
    leading, size = sizes[:-dims], sizes[-dims:]
    fits = len(leading) < 3 and len(size) == dims and (not leading or width is None or leading[-1] == width)
    if not fits:
        expected = shape_of(dims, width if isinstance(width, int) else 1)
        raise ConfigurationError(
            f"shape must be that of a state of {type(layer).__name__}, {expected}, or without its batch or "
            f"its batch and channels, got {sizes}"
        )
    return size


def _reasons(spectrum: Spectrum, method: Integrator, value: float) -> Iterator[str]:
    low, high = spectrum.real
    if high > 0:
        yield f"no step is short enough: with eigenvalues up to {high:.6g} the equation itself grows"
        return
    rate = abs(complex(low, spectrum.imaginary))
    axis = "the imaginary axis" if not low else "the negative real axis" if not spectrum.imaginary else "this line"
    if not rate:
        yield "there is no limit: all eigenvalues are zero"
    elif value == 0:
        yield f"no step is short enough for {method.name}: {_cause(method, spectrum)}"
    elif math.isinf(value):
        yield f"there is no limit: {method.name} makes nothing grow that does not grow by itself, whatever the step"
    elif isinstance(method, Leapfrog):
        yield f"{method.name} solves y'' = F(y) and bears h^2 |eigenvalue| up to 4"
    else:
        yield f"{method.name} bears h |eigenvalue| up to {value * rate:.6g} on {axis}"
    if value and spectrum.gradient and low < 0 and not isinstance(method, Leapfrog):
        yield from _contraction(contractive_step(method) / -low, value)
    if method.begins and 0 < value < math.inf:
        yield "for equal steps"
    if isinstance(method, Adaptive) and value < math.inf:
        yield "its steps are as long as its tolerance allows, and those that are too long are turned down"


def _contraction(bound: float, value: float) -> Iterator[str]:
    """What is known of two states of a nonlinear layer."""
    if bound >= value * (1 - 1e-9):
        yield "within it no step parts two states"
    elif bound > 0:
        yield f"no step up to {bound:.6g} parts two states; of a nonlinear layer longer ones may"
    else:
        yield "two states of a nonlinear layer may still part for a while"


def _cause(method: Integrator, spectrum: Spectrum) -> str:
    if isinstance(method, TwoStepMidpoint | AsynchronousLeapfrog | ReversibleHeun):
        return "its second solution, which alternates from step to step, grows where the first decays"
    if isinstance(method, Leapfrog):
        return "it solves y'' = F(y), which grows unless the eigenvalues are real and negative"
    if spectrum.real[0] == 0:
        return "it stretches every oscillation"
    return "its region of stability does not reach these eigenvalues"


def _between(basis: Basis) -> str:
    """What holds where theta(t) is a blend of controls."""
    count = (len(basis.points) - 1, 9)
    terms = [basis.terms(interval, n / 8) for interval in range(count[0]) for n in range(count[1])]
    inside = all(min(w for _, w in each) > -1e-9 and sum(w for _, w in each) < 1 + 1e-9 for each in terms)
    if inside:
        return "blends of controls have no larger norms than the largest of theirs, so that it holds between them too"
    return "this basis blends controls with negative weights, so that between them the limit may be shorter"
