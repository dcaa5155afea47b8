"""Fields in units of their mean and deviation."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Samples that are turned to float64 at a time.
CHUNK = 64


@dataclass(frozen=True)
class Channels:
    """Mean and standard deviation of each channel, in float64.

    A channel that does not change has a deviation of one here: it is moved to zero, and stays finite.
    """

    mean: Tensor
    std: Tensor

    def normalised(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Values (samples, channels, *space) less their mean over their deviation, computed in float64."""
        mean, std = (_beside(each, values) for each in (self.mean, self.std))
        return torch.cat([((part.double() - mean) / std).to(dtype) for part in torch.split(values, CHUNK)])

    def in_units(self, values: Tensor) -> Tensor:
        """The opposite, in the type of ``values`` and where they lie."""
        mean, std = (_beside(each.to(values.device, values.dtype), values) for each in (self.mean, self.std))
        return values * std + mean


def channels_of(values: Tensor) -> Channels:
    """Mean and deviation of the channels of fields (samples, channels, *space), over samples and space.

    What changes by no more than the rounding of its largest number counts as constant.

    >>> channels_of(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    Channels(mean=tensor([2., 5.], dtype=torch.float64), std=tensor([1., 1.], dtype=torch.float64))
    """
    over = (0, *range(2, values.ndim))
    numbers = values.numel() // values.shape[1]
    parts = torch.split(values, CHUNK)
    # In units of the largest number squares neither overflow nor vanish.
    largest = values.abs().amax(over).double()
    scale = torch.where(largest > 0, largest, 1.0)
    unit = _beside(scale, values)
    mean = sum_of([(part.double() / unit).sum(over) for part in parts]) / numbers
    about = _beside(mean, values)
    variance = sum_of([(part.double() / unit - about).square().sum(over) for part in parts]) / numbers
    changes = variance.sqrt() > torch.finfo(values.dtype).eps
    return Channels(mean * scale, torch.where(changes, variance.sqrt() * scale, 1.0))


def sum_of(parts: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(parts).sum(0)


def _beside(each: Tensor, values: Tensor) -> Tensor:
    """A number a channel, shaped to be broadcast against fields."""
    return each.view(-1, *(1,) * (values.ndim - 2))
