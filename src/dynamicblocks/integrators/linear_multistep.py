"""The linear two-step method with trainable coefficients."""

import copy
from typing import Self

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.integrators.integrator import FIRST_ORDER, Carry, Integrator, Size, Stage
from dynamicblocks.layers.parts import FIELD
from dynamicblocks.times import check_count

Initial = float | tuple[float, float]
"""What coefficients are at first: a number, or the ends of the interval that they are drawn from, each for itself."""

LARGEST = torch.finfo(torch.float32).max


class LinearMultistep(nn.Module, Integrator):
    """A two-step method whose coefficients k are trained, one for each step, or one for each step and channel.

        u(n+1) = (1 - k_n) u(n) + k_n u(n-1) + h f(u(n))

    The first step is Euler's, unless a state before the first is given. With k = 0 all of them are: a block with unit
    steps is then the residual network y <- y + F(y), to the last bit.

    Where k stays as it is while the steps become shorter, the states tend to a solution of (1 + k) u' = f, which is
    another equation than u' = f; with ``scaled``, which multiplies f by 1 + k, to one of u' = f, with order 1. Errors
    are multiplied by 1 and -k from step to step (:meth:`roots`): the method is stable for -1 < k <= 1. Steps must be
    equal.

    In a block it has a coefficient for each step that reads one, all but an Euler step; a solve by the name ``lm``
    likewise. An object that is given to a solve has one, ``k``, for all steps, until :meth:`for_block` makes others.

    Args:
        initial: what k is at first: a number, or (low, high), between which each is drawn.
        per_channel: whether each channel has coefficients of its own.
        scaled: whether f is multiplied by 1 + k.
        past: whether the state one step before the first is given, ``block(y, before=...)``, so that the first step has
            a coefficient as well.

    Raises:
        ConfigurationError: ``initial`` is no number and no interval.

    Source: Lu et al. 2018, arXiv:1710.10121, who draw k from (-0.1, 0).

    >>> LinearMultistep(initial=(-0.1, 0.0)).for_block(steps=8, width=16).k.shape
    torch.Size([7])
    """

    name = "lm"
    order = 1
    reads = ((0.0, FIELD),)
    equal_steps = True
    irreversible = "for a step back would divide by k, which may be zero"

    def __init__(
        self, initial: Initial = 0.0, *, per_channel: bool = False, scaled: bool = False, past: bool = False
    ) -> None:
        super().__init__()
        self.initial = _checked(initial)
        self.per_channel, self.scaled = per_channel, scaled
        self.takes_past = past
        self.steps: int | None = None
        """Of the block that it was made for."""
        self.width: int | None = None
        self.k: nn.Parameter | None = nn.Parameter(self._drawn(()))

    def _drawn(self, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(self.initial, tuple):  # no random number of the caller's is used up
            return torch.full(shape, self.initial)
        return torch.empty(shape).uniform_(*self.initial)

    @property
    def equation(self) -> str:
        return FIRST_ORDER if self.scaled else "(1 + k) y' = f(t, y)"

    @property
    def shorthand(self) -> str:
        chosen = {"initial": self.initial} if self.initial else {}
        flags = {"per_channel": self.per_channel, "scaled": self.scaled, "past": self.takes_past}
        chosen.update({name: value for name, value in flags.items() if value})
        arguments = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        return f"{self.name}({arguments})" if arguments else self.name

    def extra_repr(self) -> str:
        """Its choices."""
        return self.shorthand

    def changed(self, *, per_channel: bool | None = None, past: bool | None = None) -> "LinearMultistep":
        """One of these choices, but for those that are given, for any number of steps."""
        return LinearMultistep(
            self.initial,
            per_channel=self.per_channel if per_channel is None else per_channel,
            scaled=self.scaled,
            past=self.takes_past if past is None else past,
        )

    def for_block(self, steps: int, width: int | None) -> "LinearMultistep":
        check_count(steps, "steps")
        if self.per_channel and width is None:
            raise ConfigurationError(
                f"{self.shorthand} has a coefficient for each channel, and the layer does not tell how many there are; "
                "give it an attribute width, or leave per_channel out"
            )
        made = self.changed()
        count = steps - 1 + int(self.takes_past)
        made.steps, made.width = steps, width
        made.k = (
            nn.Parameter(made._drawn((count, width) if made.per_channel and width else (count,))) if count else None
        )
        return made

    def refined(self, factor: int) -> Self:
        """Each step takes the coefficient of the one that it was cut from; those cut from an Euler step take 0."""
        check_count(factor, "factor")
        finer = copy.deepcopy(self)
        if self.steps is None:
            return finer
        finer.steps = self.steps * factor
        euler = 0 if self.takes_past else factor - 1
        parts = [] if self.k is None else [self.k.detach().repeat_interleave(factor, dim=0)]
        if euler:
            shape = (euler, self.width) if self.per_channel and self.width else (euler,)
            parts.insert(0, parts[0].new_zeros(shape) if parts else torch.zeros(shape))
        finer.k = nn.Parameter(torch.cat(parts)) if parts else None
        if finer.k is not None and self.k is not None:
            finer.k.requires_grad_(self.k.requires_grad)
        return finer

    def roots(self) -> Tensor:
        """The roots of the characteristic polynomial z^2 - (1 - k) z - k of each coefficient: 1 and -k.

        By them errors are multiplied from step to step, where f is 0.

        >>> LinearMultistep(0.25).roots().tolist()
        [1.0, -0.25]
        """
        k = torch.zeros(0) if self.k is None else self.k.detach()
        return torch.stack([torch.ones_like(k), -k], dim=-1)

    def begin(self, stage: Stage, h: Size, y: Tensor) -> Carry:
        if self.takes_past:
            raise ConfigurationError(f"{self.shorthand} begins from two states, and only a block can be given both")
        return self._from(y, y, -1)

    def begin_after(self, stage: Stage, h: Size, y: Tensor, before: Tensor) -> Carry:
        if not self.takes_past:
            return super().begin_after(stage, h, y, before)
        return self._from(y, before, 0)

    def _from(self, y: Tensor, before: Tensor, place: int) -> Carry:
        k = self.k
        if k is not None and k.ndim == 2 and (y.ndim < 2 or y.shape[1] != k.shape[1]):
            raise ConfigurationError(
                f"{self.shorthand} has coefficients for {k.shape[1]} channels, and the state is of shape "
                f"{tuple(y.shape)}; they are counted by the layer's attribute width"
            )
        return y, before, place

    def advance(self, stage: Stage, h: Size, carry: Carry) -> Carry:
        u, before, place = carry
        slope = stage(0.0, u)
        mean = u
        if place >= 0:
            k = self._coefficient(place, u)
            mean = torch.lerp(u, before, k)
            if self.scaled:
                slope = (1 + k) * slope
        # An increment in half precision is added to a state in single precision.
        after = mean + h * slope if isinstance(h, Tensor) else torch.add(mean, slope, alpha=h)
        return after, u, place + 1

    def _coefficient(self, place: int, u: Tensor) -> Tensor:
        k = self.k
        if k is None or (k.ndim and place >= len(k)):
            raise ConfigurationError(
                f"{self.shorthand} was made for {self.steps} steps, and there are more; for_block(steps, width) makes "
                "another one"
            )
        if k.ndim:
            k = k[place]  # type: ignore[assignment]
            if k.ndim:
                k = k.view(-1, *(1,) * (u.ndim - 2))  # type: ignore[assignment]
        return k.to(u.dtype)


def _checked(initial: Initial) -> Initial:
    ends = initial if isinstance(initial, (tuple, list)) else (initial, initial)
    numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in ends)
    if not numbers or len(ends) != 2 or not -LARGEST <= ends[0] <= ends[1] <= LARGEST:
        raise ConfigurationError(
            "initial must be a number, or (low, high) of an interval to draw from, such as (-0.1, 0.0), got "
            f"{brief(initial)}"
        )
    return (float(ends[0]), float(ends[1])) if isinstance(initial, (tuple, list)) else float(initial)
