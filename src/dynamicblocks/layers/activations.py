"""Activations by name."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.registry import Registry

activations: Registry[nn.Module] = Registry("activation")
activations.register("relu")(nn.ReLU)
activations.register("tanh")(nn.Tanh)
activations.register("silu")(nn.SiLU)
activations.register("gelu")(nn.GELU)
activations.register("elu")(nn.ELU)
activations.register("softplus")(nn.Softplus)
activations.register("leaky_relu")(nn.LeakyReLU)
activations.register("none")(nn.Identity)

ActivationSpec = str | Callable[[], nn.Module]


def make_activation(spec: ActivationSpec) -> nn.Module:
    """The activation that ``spec`` names, or what a factory without arguments returns."""
    if isinstance(spec, str):
        return activations.create(spec)
    made = spec() if callable(spec) and not isinstance(spec, nn.Module) else None
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"activation must be a name or a function without arguments that makes a module, got {spec!r:.80}"
        )
    return made


class Slopes(NamedTuple):
    """The least and the greatest slope of an activation."""

    least: float
    greatest: float

    @property
    def note(self) -> str:
        """What follows for a layer with such an activation, beside the bound of its eigenvalues; mostly nothing."""
        if self.least >= 0:
            return ""
        return (
            f"the activation falls in places, with slopes down to {self.least:.3g}: there the layer itself grows, "
            "whatever the step"
        )


def slopes_of(activation: nn.Module, channels: int) -> Slopes:
    """The slopes of an activation that acts on each number alone, found on a fine grid of [-20, 20].

    Raises:
        ConfigurationError: it acts on several numbers together.

    >>> [round(slope, 6) for slope in slopes_of(nn.GELU(), 1)]
    [-0.128904, 1.128904]
    """
    # Activations with weights have one for each channel, in the second dimension.
    columns = channels if next(activation.parameters(), None) is not None else 2
    with torch.inference_mode(False), torch.enable_grad():
        alone = copy.deepcopy(activation).to("cpu", torch.float64).eval()
        _check_pointwise(alone, columns)
        coarse = torch.linspace(-20.0, 20.0, 4001, dtype=torch.float64)
        found = _slopes_at(alone, coarse[:, None].expand(-1, columns))
        bounds = []
        for extreme in (found.argmin(), found.argmax()):
            row = int(extreme) // columns
            near = torch.linspace(-0.01, 0.01, 2001, dtype=torch.float64) + coarse[row]
            bounds.append(_slopes_at(alone, near[:, None].expand(-1, columns)))
    return Slopes(min(bounds[0].min().item(), found.min().item()), max(bounds[1].max().item(), found.max().item()))


def _slopes_at(activation: nn.Module, at: Tensor) -> Tensor:
    at = at.clone().requires_grad_()
    return torch.autograd.grad(activation(at).sum(), at)[0]


def _check_pointwise(activation: nn.Module, columns: int) -> None:
    values = torch.linspace(-1.0, 2.0, 2 * columns, dtype=torch.float64).view(2, columns)
    other = values.clone()
    other[0, 0] += 0.5
    with torch.no_grad():
        first, second = activation(values.clone()), activation(other)
    alone = first.shape == values.shape and torch.allclose(
        first.flatten()[1:], second.flatten()[1:], rtol=0, atol=1e-12
    )
    if not alone:
        raise ConfigurationError(
            f"{type(activation).__name__} acts on several numbers together, so no slope bounds it; a limit of the step "
            "is known for activations that act on each number alone"
        )
