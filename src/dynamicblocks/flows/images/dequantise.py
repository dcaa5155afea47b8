"""From whole pixel values to real numbers, and bits a dimension."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dynamicblocks.draws import generator as generator_of
from dynamicblocks.draws import uniform
from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows.transform import Transform, Transformed
from dynamicblocks.times import check_count


class Dequantise(Transform):
    """Whole values x of 0 ... levels - 1 to the real line, with u uniform on [0, 1):

        z = logit(alpha + (1 - 2 alpha) (x + u) / levels)

    The density of x + u, of which the log-determinant tells, bounds the probability of x from below on average:
    E_u log p(x + u) <= log P(x). So :func:`bits_per_dim` of a flow's ``log_prob`` of whole values bounds their code
    length from above. Back, values are rounded down to whole ones; the log-determinant is that before rounding.

    In training u is drawn anew. In evaluation without a generator it is the same in each call, so that figures repeat.

    Source: uniform dequantisation, Theis et al. 2016; the logit, RealNVP (Dinh et al. 2017).

    Args:
        levels: how many values a pixel has, such as 256.
        alpha: keeps the logit finite; 1e-6 is usual of MNIST, 0.05 of photographs.

    Raises:
        ConfigurationError: there are less than two levels, or alpha is not between 0 and 0.5.

    >>> pixels = torch.tensor([[0.0, 3.0, 7.0]])
    >>> dequantise = Dequantise(8)
    >>> dequantise.to_data(dequantise.to_base(pixels).value).value
    tensor([[0., 3., 7.]])
    """

    def __init__(self, levels: int, alpha: float = 1e-6) -> None:
        super().__init__()
        self.levels, self.alpha = check_count(levels, "levels", least=2), alpha
        if not 0 < alpha < 0.5:
            raise ConfigurationError(f"alpha must be above 0 and below 0.5, got {alpha:g}")

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        u = noise_within(x, self.levels, generator, repeats=not self.training)
        # Of the share from below and that from above: one minus the other loses the digits that count near the ends.
        low, high = (x + u) / self.levels, ((self.levels - x) - u) / self.levels
        log_low, log_high = (self._within(each).log() for each in (low, high))
        return Transformed(log_low - log_high, (self._log_scale - log_low - log_high).flatten(1).sum(-1))

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        share = (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha)
        value = (share * self.levels).floor().clamp(0, self.levels - 1)
        slope = functional.logsigmoid(z) + functional.logsigmoid(-z) - self._log_scale
        return Transformed(value, slope.flatten(1).sum(-1))

    def extra_repr(self) -> str:
        return f"levels={self.levels}, alpha={self.alpha:g}"

    @property
    def _log_scale(self) -> float:
        return math.log1p(-2 * self.alpha) - math.log(self.levels)

    def _within(self, share: Tensor) -> Tensor:
        return self.alpha + (1 - 2 * self.alpha) * share


def check_whole(x: Tensor, levels: int) -> None:
    """Raise where values are not 0 ... levels - 1.

    Raises:
        ArgumentError: the message names one that is not.
    """
    whole = (x >= 0) & (x <= levels - 1) & (x == x.floor())
    if not bool(whole.all()):
        wrong = x[~whole][0].item()
        raise ArgumentError(
            f"pixels must be whole numbers from 0 to {levels - 1}, as floats; got {wrong:g}. Give them as they are in "
            "the file, neither scaled nor with noise"
        )


def noise_within(x: Tensor, levels: int, generator: torch.Generator | None, *, repeats: bool) -> Tensor:
    """Noise of [0, 1) for pixels, within their level; without a generator the same in each call if it ``repeats``.

    Raises:
        ArgumentError: pixels are no whole values.
    """
    check_whole(x, levels)
    if generator is None and repeats:
        generator = generator_of(0)
    return uniform(x.shape, x, generator)


def bits_per_dim(log_prob: Tensor, shape: Sequence[int]) -> Tensor:
    """-log p / (numbers ln 2): bits for each number of an image, of a log-density in nats of whole values.

    Scales are in the log-determinant of :class:`Dequantise` already.

    >>> bits_per_dim(torch.tensor([-8 * 64 * math.log(2)]), (1, 8, 8))
    tensor([8.])
    """
    return -log_prob / (math.prod(shape) * math.log(2))
