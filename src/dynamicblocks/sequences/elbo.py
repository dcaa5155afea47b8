"""What a forecast is worth: the evidence lower bound and its parts."""

import math

from torch import Tensor

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


def negative_elbo(forecast: Forecast, values: Tensor, wanted: Tensor, kl_weight: float | Tensor = 1.0) -> Tensor:
    """The negative evidence lower bound of a batch for each wanted value, a number.

    Args:
        forecast: of a model, with one or more draws of each series.
        values: (n, length, features).
        wanted: (n, length, features), bool: which of them count.
        kl_weight: of the divergence; it often grows from zero to one in training.
    """
    draws = _draws(forecast, values)
    bound = log_likelihood(forecast, values, wanted) - kl_weight * _mean(forecast.kl, draws)
    if forecast.log_likelihood_of_times is not None:
        bound = bound + _mean(forecast.log_likelihood_of_times, draws)
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
