"""A recurrent network that predicts the next value: what neural ODEs of series are compared with."""

from math import log

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.sequences.forecast import Forecast, SeriesModel
from dynamicblocks.times import check_amount, check_count

CELLS = ("gru", "rnn")
# A deviation that is learnt begins here, in units of the values.
FIRST_STD = 0.3


class NextValueRNN(SeriesModel):
    """Reads a series in order, with the gaps between its times, and predicts each value from those before it.

    Values that it may not look at it replaces by its own predictions of them, so that behind the last value seen it
    goes on alone. There is no posterior, so the divergence is zero; more than one draw are draws of the values that
    were not seen, each from what is predicted given those before it.

    Args:
        features: of a value.
        hidden: size of the state.
        cell: gru, or rnn (one layer and tanh).
        gap: a usual gap between times, in their unit; the network is given gaps in units of it.
        noise: deviation of an observation around what is predicted; by default it is learnt, one for each feature.

    Raises:
        ConfigurationError: there is no such cell, or a number is out of its range.

    >>> model = NextValueRNN(features=2, hidden=25)
    >>> times, values = torch.rand(3, 10).cumsum(1), torch.randn(3, 10, 2)
    >>> model(times, values, torch.ones_like(values, dtype=torch.bool)).values.shape
    torch.Size([3, 10, 2])
    """

    def __init__(
        self, features: int, hidden: int = 25, cell: str = "gru", gap: float = 1.0, noise: float | None = None
    ) -> None:
        super().__init__()
        check_count(features, "features")
        check_count(hidden, "hidden")
        if cell not in CELLS:
            raise unknown_name("cell", cell, CELLS)
        for name, value in (("gap", gap), ("noise", noise)):
            if value is not None and not check_amount(value, name):
                raise ConfigurationError(f"{name} must be above 0, got {value}")
        self.features, self.hidden, self.gap = features, hidden, float(gap)
        # What is read in a step: the value before, seen or its own, and the gap since. It is not told which: where all
        # values of the training are seen, what it does with the others would be arbitrary.
        inputs = features + 1
        self.cell = nn.GRUCell(inputs, hidden) if cell == "gru" else nn.RNNCell(inputs, hidden)
        self.head = nn.Linear(hidden, features)
        self.log_std = nn.Parameter(
            torch.full((features,), log(FIRST_STD if noise is None else noise)), requires_grad=noise is None
        )

    def forward(self, times: Tensor, values: Tensor, seen: Tensor, samples: int = 1) -> Forecast:
        if samples > 1:
            times, values, seen = (each.repeat(samples, *[1] * (each.ndim - 1)) for each in (times, values, seen))
        std = self.log_std.exp()
        gaps = torch.diff(times, dim=1, prepend=times[:, :1]) / self.gap
        state = values.new_zeros(len(values), self.hidden)
        value = torch.zeros_like(values[:, 0])
        predicted = []
        for place in range(values.shape[1]):
            state = self.cell(torch.cat([value, gaps[:, place, None]], 1), state)
            told = self.head(state)
            predicted.append(told)
            guess = told + std * torch.randn_like(told) if samples > 1 else told
            value = torch.where(seen[:, place], values[:, place], guess)
        return Forecast(torch.stack(predicted, 1), std, values.new_zeros(len(values)))

    def sample(self, number: int, times: Tensor) -> Tensor:
        raise ConfigurationError(
            "a recurrent network that predicts next values has no distribution of whole series to draw from; give it "
            "the beginning of a series and ask for several samples, or train a latent ODE"
        )
