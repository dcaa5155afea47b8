"""Activations with their slopes, from what has been computed already."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dynamicblocks.errors import unknown_name


class Activation(NamedTuple):
    """A function of each number, and its derivative.

    Args:
        value: of x.
        slope: of x and the value there.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


def _silu_slope(x: Tensor, y: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate + y * (1 - gate)


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

ACTIVATIONS = {
    "tanh": Activation(torch.tanh, lambda x, y: 1 - y * y),
    "softplus": Activation(functional.softplus, lambda x, y: torch.sigmoid(x)),
    "silu": Activation(functional.silu, _silu_slope),
    "elu": Activation(functional.elu, lambda x, y: torch.where(x > 0, 1.0, y + 1)),
    "selu": Activation(functional.selu, lambda x, y: torch.where(x > 0, SELU_SCALE, y + SELU_SCALE * SELU_ALPHA)),
}


def activation_named(name: str) -> Activation:
    """The activation of that name.

    Raises:
        ConfigurationError: there is none.

    >>> x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    >>> silu = activation_named("silu")
    >>> y, slope = torch.func.jvp(silu.value, (x,), (torch.ones_like(x),))
    >>> bool(torch.allclose(silu.slope(x, y), slope))
    True
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation of a flow's field", name, tuple(ACTIVATIONS))
    return ACTIVATIONS[name]
