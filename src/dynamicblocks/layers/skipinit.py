"""SkipInit: a residual branch that starts as nothing."""

import torch
from torch import Tensor, nn


class SkipInit(nn.Module):
    """y -> a y with one trainable scalar a, zero at the start (De & Smith 2020, arXiv:2002.10444).

    At the end of a residual branch it makes the unit the identity at first, so that deep networks train without
    normalisation.

    >>> SkipInit()(torch.ones(2)).tolist()
    [0.0, 0.0]
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The scalar back to zero."""
        nn.init.zeros_(self.weight)

    def forward(self, y: Tensor) -> Tensor:
        return self.weight * y
