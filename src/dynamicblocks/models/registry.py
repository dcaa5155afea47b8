"""Networks by name."""

import inspect
from typing import Any

from dynamicblocks.errors import unknown_name
from dynamicblocks.memory import affordable
from dynamicblocks.network import DynamicNet
from dynamicblocks.options import Option, options_of
from dynamicblocks.registry import Registry

models: Registry[DynamicNet] = Registry("model")


def list_models() -> list[str]:
    """The names that :func:`create_model` knows.

    >>> "resnet20" in list_models()
    True
    """
    return list(models)


def model_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a model, by name."""
    return dict(inspect.signature(models[name]).parameters)


def described_options(name: str) -> dict[str, Option]:
    """The options of a model, each with the values it takes, its default and what the documentation says of it.

    >>> described_options("resnet20")["depth"].default
    20
    """
    return options_of(models[name])


def create_model(name: str, **options: Any) -> DynamicNet:
    """The network of that name, freshly initialised.

    Args:
        name: one of :func:`list_models`.
        **options: see :func:`model_options` or the model's own documentation.

    Raises:
        ConfigurationError: the name or an option does not exist (the message lists those that do).

    >>> net = create_model("dynamicblocks_rk4", num_classes=10)
    >>> sum(weight.numel() for weight in net.parameters())
    251866
    """
    known = model_options(name)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of model {name!r}", option, known)
    with affordable(f"the network {name}"):
        return models[name](**options)
