"""What a forecast is worth: the evidence lower bound and its parts."""

import math

from torch import Tensor

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.sequences.forecast import Forecast


def log_likelihood(forecast: Forecast, values: Tensor, wanted: Tensor) -> Tensor:
    """Of the wanted values of each series under normal noise, (n,); the mean where a forecast has several draws."""
    draws = _draws(forecast, values)
    mask = wanted.repeat(draws, 1, 1)
    # Masked before the loss, too: the gradient of what is not wanted would be zero times what may be no number.
    error = (values.repeat(draws, 1, 1).where(mask, forecast.values.detach()) - forecast.values) / forecast.std
    each = -0.5 * (error.square() + math.log(2 * math.pi)) - forecast.std.log()
    return _mean(each.where(mask, 0.0).sum((1, 2)), draws)


def kl_of_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The divergence of normal distributions, (n, width), from the standard one, summed over the width: (n,).

    >>> import torch
    >>> kl_of_normal(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    tensor([0.5000])
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def log_likelihood_of_times(forecast: Forecast, events: Tensor) -> Tensor:
    """Of times of observation, as events of a Poisson process: the sum of log rate(t_i) less the integral of the rate.

    The integral goes from the begin of the state, or from the first event where that is earlier, to the last event.
    Times that are no events, padding or such as are only asked for, count nothing.

    Args:
        forecast: of a model that tells a rate, with one or more draws of each series.
        events: (n, length), bool.

    Returns:
        (n,), the mean of the draws; zero for a series without events.

    Raises:
        ConfigurationError: the forecast has no rate.

    >>> import torch
    >>> zero, times = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]])
    >>> constant = Forecast(zero[..., None], torch.ones(1), torch.zeros(1), log_rate=zero, integral=times)
    >>> log_likelihood_of_times(constant, torch.tensor([[True, True, False]]))  # the rate is one: -2
    tensor([-2.])
    """
    if forecast.log_rate is None or forecast.integral is None:
        raise ConfigurationError("the forecast tells no rate of events; take a model with poisson=True")
    draws = max(1, len(forecast.log_rate) // max(1, len(events)))
    there = events.repeat(draws, 1)
    reached = forecast.integral.where(there, -math.inf).amax(1)
    begun = forecast.integral.where(there, math.inf).amin(1).clamp_max(0)
    within = (reached - begun).where(there.any(1), 0.0)
    return _mean(forecast.log_rate.where(there, 0.0).sum(1) - within, draws)


def negative_elbo(
    forecast: Forecast,
    values: Tensor,
    wanted: Tensor,
    kl_weight: float | Tensor = 1.0,
    events: Tensor | None = None,
) -> Tensor:
    """The negative evidence lower bound of a batch for each wanted value, a number.

    Args:
        forecast: of a model, with one or more draws of each series.
        values: (n, length, features).
        wanted: (n, length, features), bool: which of them count.
        kl_weight: of the divergence; it often grows from zero to one in training.
        events: (n, length), bool: times of observation, where a forecast tells their rate; by default those wanted.
    """
    draws = _draws(forecast, values)
    bound = log_likelihood(forecast, values, wanted) - kl_weight * _mean(forecast.kl, draws)
    if forecast.log_rate is not None:
        bound = bound + log_likelihood_of_times(forecast, wanted.any(-1) if events is None else events)
    return -bound.sum() / wanted.sum().clamp_min(1)


def squared_error(forecast: Forecast, values: Tensor, wanted: Tensor) -> Tensor:
    """The mean square of the errors of the wanted values, of the mean of the draws; a number."""
    mean = forecast.values.reshape(_draws(forecast, values), *values.shape).mean(0)
    error = (mean - values.where(wanted, mean.detach())).square().where(wanted, 0.0)
    return error.sum() / wanted.sum().clamp_min(1)


def _draws(forecast: Forecast, values: Tensor) -> int:
    return max(1, len(forecast.values) // max(1, len(values)))


def _mean(each: Tensor, draws: int) -> Tensor:
    """Of each series over its draws."""
    return each.reshape(draws, -1).mean(0)
