"""What a model of time series says."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Forecast(NamedTuple):
    """What a model of time series says at the times it was asked for.

    Args:
        values: (n, length, features), the mean of each value.
        std: (features,) or (n, length, features), the deviation of an observation around it.
        kl: (n,), the Kullback-Leibler divergence of what was inferred from what was assumed; zero without a posterior.
        log_rate: (n, length), the logarithm of the rate of observations, or None.
        integral: (n, length), of the rate, from the begin of the state to each time; or None.
        logits: (n, classes) of the series' label, or None.
    """

    values: Tensor
    std: Tensor
    kl: Tensor
    log_rate: Tensor | None = None
    integral: Tensor | None = None
    logits: Tensor | None = None


class SeriesModel(nn.Module, ABC):
    """A model of time series: it is given some of their values and tells all."""

    @abstractmethod
    def forward(self, times: Tensor, values: Tensor, seen: Tensor, samples: int = 1) -> Forecast:
        """What it says at ``times``, once it has seen some of the values there.

        Args:
            times: (n, length), increasing in each series, the last repeated behind its end.
            values: (n, length, features).
            seen: (n, length, features), bool: which values it may look at; the others are as if they were zero.
            samples: more than one: draws of each series, as ``(samples * n, ...)``, the first ``n`` of one draw. In
                training there is one draw; in evaluation ``samples=1`` is the mean of what was inferred, undrawn.
        """

    @abstractmethod
    def sample(self, number: int, times: Tensor) -> Tensor:
        """New series, (number, length, features), at times (length,), drawn from what was learnt.

        Raises:
            ConfigurationError: the model is none of whole series, so there is nothing to draw from.
        """
