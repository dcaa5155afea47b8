"""Activations by name."""

from collections.abc import Callable

from torch import nn

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
