"""From whole pixel values to numbers that are normal at each pixel, by how often each value is there."""

import math

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows.images.dequantise import check_whole, noise_within
from dynamicblocks.flows.transform import Transform, Transformed

# Half of the distance between random numbers of single precision.
END = 2.0**-25
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class Marginals(Transform):
    """Whole values x of 0 ... levels - 1 through the distribution function of their pixel, with u uniform on [0, 1):

        z = Phi^-1(F(x - 1) + u p(x)),   p(x) = (counts(x) + 1) / sum_k (counts(k) + 1),   F(x) = sum_{k <= x} p(k)

    Phi is the distribution function of the standard normal. At each pixel z is normal where x is as in the counts, so a
    flow that does not move yet gives the likelihood of independent pixels, and what it learns is how they depend on
    each other. It is a dequantisation as well as :class:`Dequantise`: the log-determinant tells of the density of
    x + u, which bounds the probability of x from below on average.

    In training u is drawn anew. In evaluation without a generator it is the same in each call, so that figures repeat.

    Source: marginal Gaussianization (Chen and Gopinath 2000; Laparra et al. 2011), here of values with jumps.

    Args:
        counts: how often each value is at each pixel, (levels, *shape), whole numbers.

    Raises:
        ConfigurationError: there are less than two levels, or a count is below zero.

    >>> pixels = torch.tensor([[0.0, 3.0], [1.0, 3.0], [0.0, 2.0]])
    >>> marginals = Marginals(Marginals.count(pixels, levels=4)).eval()
    >>> marginals.to_data(marginals.to_base(pixels).value).value.tolist()
    [[0.0, 3.0], [1.0, 3.0], [0.0, 2.0]]
    """

    counts: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        if counts.ndim < 2 or len(counts) < 2 or counts.is_floating_point() or bool((counts < 0).any()):
            raise ConfigurationError(
                f"counts must be whole numbers of at least 0, (levels, *shape) of two levels or more, got "
                f"{tuple(counts.shape)}, {counts.dtype}"
            )
        # Whole numbers, which stay what they are whatever the precision of the network.
        self.register_buffer("counts", counts.long().clone())

    @staticmethod
    def count(images: Tensor, levels: int) -> Tensor:
        """How often each value is at each pixel of images (n, *shape): (levels, *shape)."""
        check_whole(images, levels)
        numbers = images[0].numel()
        first = levels * torch.arange(numbers)
        found = torch.zeros(levels * numbers, dtype=torch.long)
        for some in torch.split(images.flatten(1), 1024):
            found += torch.bincount((first + some.long()).flatten(), minlength=levels * numbers)
        return found.view(numbers, levels).T.reshape(levels, *images.shape[1:])

    @property
    def levels(self) -> int:
        """Values of a pixel."""
        return len(self.counts)

    def to_base(
        self, x: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        wide = x if x.dtype == torch.float64 else x.float()
        u = noise_within(wide, self.levels, generator, repeats=not self.training).double()
        # Off the ends, where the normal distribution has none. Within a level the derivative by x is that by u.
        u = u.clamp(END, 1 - END) + (x - x.detach())
        below, p = self._shares()
        rows = x.long().flatten(1)
        low, size = (each.gather(0, rows).view(x.shape) for each in (below, p))
        # The nearer end tells more digits.
        share, rest = low + u * size, (1 - low - size) + (1 - u) * size
        z = torch.where(share < 0.5, torch.special.ndtri(share), -torch.special.ndtri(rest))
        return Transformed(z.to(x.dtype), self._log_det(z, size).to(x.dtype))

    def to_data(
        self, z: Tensor, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Transformed:
        below, p = self._shares()
        share = torch.special.ndtr(z.double()).flatten(1)
        rows = torch.searchsorted(below.T.contiguous(), share.T.contiguous(), right=True).T.sub(1).clamp_(min=0)
        return Transformed(
            rows.view(z.shape).to(z.dtype), -self._log_det(z.double(), p.gather(0, rows).view(z.shape)).to(z.dtype)
        )

    def extra_repr(self) -> str:
        return f"levels={self.levels}, shape={tuple(self.counts.shape[1:])}"

    def _shares(self) -> tuple[Tensor, Tensor]:
        """F(x - 1) and p(x), (levels, numbers), float64."""
        p = self.counts.flatten(1).double() + 1
        p = p / p.sum(0)
        return p.cumsum(0) - p, p

    @staticmethod
    def _log_det(z: Tensor, size: Tensor) -> Tensor:
        return (size.log() + 0.5 * z.square() + HALF_LOG_2_PI).flatten(1).sum(1)
