"""Couplings: steps that change one half of the state by what the other half says, and are taken back exactly.

For a state of two halves (a, b), with F(b) the part ``first`` and G(a) the part ``second`` of the layer:

    additive    a1 = a0 + h F(b0),                        b1 = b0 + h G(a1)
    affine      a1 = exp(h s(b0)) a0 + h t(b0),           b1 = exp(h s'(a1)) b0 + h t'(a1)

where F = (raw, t) and s = bound tanh(raw). Each half is changed at a known other half, so that the step back
evaluates what the step evaluated, whatever F and G are: normalisation by statistics of the batch as well.

Source: Dinh et al. 2015, arXiv:1410.8516, and 2017, arXiv:1605.08803; Gomez et al. 2017, arXiv:1707.04585.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators.half import HALF
from dynamicblocks.integrators.integrator import Integrator, Reads, Size, Stage
from dynamicblocks.integrators.partitioned import FIRST, SECOND
from dynamicblocks.integrators.runge_kutta import add_scaled


def halves(y: Tensor, dim: int, name: str) -> tuple[Tensor, Tensor]:
    """The two halves of a state along a dimension.

    >>> halves(torch.tensor([[1, 2, 3, 4]]), 1, "additive_coupling")
    (tensor([[1, 2]]), tensor([[3, 4]]))
    """
    if not -y.ndim <= dim < y.ndim or y.shape[dim] % 2:
        has = f"{y.shape[dim]} there" if -y.ndim <= dim < y.ndim else "no such dimension"
        raise ConfigurationError(
            f"{name} takes the state apart into two equal halves along dim={dim}, and one of shape {tuple(y.shape)} "
            f"has {has}; give it an even number of channels, or another dim"
        )
    one, two = y.chunk(2, dim)
    return one, two


@dataclass(frozen=True)
class Coupling(Integrator):
    """What the couplings have in common.

    Args:
        dim: along which the state is taken apart.
    """

    dim: int = 1

    times: ClassVar[int] = 1
    """How many times the size of a half the parts return."""
    returns: ClassVar[str] = "keeps the shape"
    """The same in words, for errors."""

    @property
    def order(self) -> int:
        return 1

    @property
    def reads(self) -> Reads:
        return ((0.0, FIRST), (0.0, SECOND))

    @abstractmethod
    def moved(self, half: Tensor, by: Tensor, h: Size) -> Tensor:
        """A half, changed by what a part says of the other one."""

    @abstractmethod
    def moved_back(self, half: Tensor, by: Tensor, h: Size) -> Tensor:
        """What :meth:`moved` changed."""

    def advance(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        one, two = halves(carry, self.dim, self.name)
        one = self.moved(one, self._part(stage, FIRST, 0.0, two), h)
        two = self.moved(two, self._part(stage, SECOND, 0.0, one), h)
        return torch.cat((one, two), self.dim)

    def unstep(self, stage: Stage, h: Size, carry: Tensor) -> Tensor:
        one, two = halves(carry, self.dim, self.name)
        two = self.moved_back(two, self._part(stage, SECOND, 0.0, one), h)
        one = self.moved_back(one, self._part(stage, FIRST, 0.0, two), h)
        return torch.cat((one, two), self.dim)

    def _part(self, stage: Stage, name: str, c: float, half: Tensor) -> Tensor:
        value = stage.part(name, c, half)
        expected = list(half.shape)
        expected[self.dim] *= self.times
        if list(value.shape) != expected:  # it might be broadcast, without a word
            raise ConfigurationError(
                f"{self.name} needs a part {name!r} that {self.returns}, but it took a half of shape "
                f"{tuple(half.shape)} to {tuple(value.shape)}"
            )
        return value


@dataclass(frozen=True)
class AdditiveStep(Coupling):
    """a1 = a0 + h F(b0), b1 = b0 + h G(a1): the reversible residual network.

    With ``dim=1`` this is the symplectic Euler method.

    >>> from dynamicblocks.integrators import FieldStage
    >>> class Sines(FieldStage):
    ...     def part(self, name, c, y):
    ...         return y.sin()
    >>> step, stage, y = AdditiveStep(), Sines(torch.sin), torch.ones(1, 2)
    >>> there = step.advance(stage, 0.5, y)
    >>> there, step.unstep(stage, 0.5, there)
    (tensor([[1.4207, 1.4944]]), tensor([[1., 1.]]))
    """

    @property
    def name(self) -> str:
        return "additive_coupling"

    @property
    def shorthand(self) -> str:
        return self.name if self.dim == 1 else f"{self.name}(dim={self.dim})"

    def moved(self, half: Tensor, by: Tensor, h: Size) -> Tensor:
        return add_scaled(half, [by], [1.0], h)

    def moved_back(self, half: Tensor, by: Tensor, h: Size) -> Tensor:
        return add_scaled(half, [by], [-1.0], h)


@dataclass(frozen=True)
class AffineStep(Coupling):
    """a1 = exp(h s) a0 + h t, with (raw, t) the two halves of F(b0) and s = bound tanh(raw); then b alike.

    A part returns twice the channels that it takes: the raw logarithm of a scale, and a shift. The logarithm stays
    between -bound and bound, so the scales of n steps lie between exp(-n bound) and exp(n bound). By default 200 steps
    of networks at their first weights come back as exactly as additive ones; with a bound of 1 they lose all digits. A
    flow of few couplings, which must change volumes, wants a larger one. Parts that return zeros make the identity.

    Args:
        bound: of the logarithm of the scale.
    """

    bound: float = 0.1

    times: ClassVar[int] = 2
    returns: ClassVar[str] = "returns a logarithm of the scale and a shift, together twice the channels that it takes"

    def __post_init__(self) -> None:
        if not (isinstance(self.bound, int | float) and 0 < self.bound < float("inf")):
            raise ConfigurationError(f"bound must be a positive number, got {self.bound!r:.80}")

    @property
    def name(self) -> str:
        return "affine_coupling"

    @property
    def equation(self) -> str:
        return "a' = s(b) a + t(b), b' = s(a) b + t(a)"

    @property
    def shorthand(self) -> str:
        own = ([f"dim={self.dim}"] if self.dim != 1 else []) + ([f"bound={self.bound:g}"] if self.bound != 0.1 else [])
        return f"{self.name}({', '.join(own)})" if own else self.name

    def moved(self, half: Tensor, by: Tensor, h: Size) -> Tensor:
        scale, shift = self._read(by, h)
        return add_scaled(half * scale, [shift], [1.0], h)

    def moved_back(self, half: Tensor, by: Tensor, h: Size) -> Tensor:
        scale, shift = self._read(by, h)
        # Divided by the same number: the state may have more digits than that.
        return add_scaled(half, [shift], [-1.0], h) / scale

    def _read(self, by: Tensor, h: Size) -> tuple[Tensor, Tensor]:
        raw, shift = (by.float() if by.dtype in HALF else by).chunk(2, self.dim)
        return (raw.tanh() * (self.bound * h)).exp(), shift
