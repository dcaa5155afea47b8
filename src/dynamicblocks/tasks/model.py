"""The network that is trained: a name and its options."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from torch import nn

from dynamicblocks.errors import ConfigurationError, DynamicBlocksError, UsageError, unknown_name
from dynamicblocks.layers.dimensions import INPUTS, check_dims
from dynamicblocks.models import create_model, described_options, list_models, model_options
from dynamicblocks.models import dense as dense_form
from dynamicblocks.options import Option
from dynamicblocks.times import check_count
from dynamicblocks.training.config.plain import plain

BY_THE_TASK: Mapping[str, str] = {
    "in_channels": "the channels of its data",
    "num_classes": "how many numbers are learnt",
    "dims": "the dimensions of its data",
    "dense": "whether there is an answer for each pixel",
}
"""Options of models that a task decides, by what."""


class ModelConfig:
    """A model by name, with some of its options: plain values, as files hold them. The others are the model's own.

    Immutable, and equal to one of the same name and options. Objects, such as integrators, are written as strings.

    Args:
        name: one of :func:`~dynamicblocks.list_models`.
        **options: some of :func:`~dynamicblocks.model_options`, but for those that the task decides: ``in_channels``,
            ``num_classes``, ``dims`` and ``dense``.

    Raises:
        ConfigurationError: there is no such model, it has no such option, or that takes no such value.

    >>> ModelConfig("resnet20", unit="post", widths=[8, 16, 32])
    ModelConfig('resnet20', unit='post', widths=(8, 16, 32))
    """

    __slots__ = ("_name", "_options")
    _name: str
    _options: Mapping[str, Any]

    def __init__(self, name: str = "dynamicnet_small", **options: Any) -> None:
        known = options_of_model(name)
        for option, value in options.items():
            if option not in known:
                raise no_such_option(name, option)
            options[option] = known[option].take(value, f"option {option} of model {name!r}")
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_options", MappingProxyType(options))

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._name

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that were given, sequences as tuples; read only."""
        return self._options

    def as_dict(self) -> dict[str, Any]:
        """Name and options, flat, as YAML and JSON hold them."""
        return {"name": self.name, **plain(dict(self.options))}

    def changed(self, **options: Any) -> "ModelConfig":
        """The same model with other options.

        >>> ModelConfig("resnet20", unit="post").changed(unit="e")
        ModelConfig('resnet20', unit='e')
        """
        return ModelConfig(self.name, **{**self.options, **options})

    def create(self, channels: int, outputs: int, *, dense: bool = False, dims: int = 2) -> nn.Module:
        """The network for inputs of so many channels, freshly initialised.

        Args:
            channels: of the inputs.
            outputs: how many numbers it gives, of each input or, ``dense``, of each pixel.
            dense: whether it gives them for each pixel.
            dims: 1 for signals, 2 for images, 3 for volumes.

        Raises:
            ConfigurationError: the model has no such network.
        """
        known = model_options(self.name)
        given = {"in_channels": check_count(channels, "channels"), "num_classes": check_count(outputs, "outputs")}
        if "dims" in known:
            given["dims"] = check_dims(dims)
        elif check_dims(dims) != 2:
            others = ", ".join(name for name in list_models() if "dims" in model_options(name))
            raise ConfigurationError(
                f"the model {self.name!r} is of {INPUTS[2]} alone, and was asked for {INPUTS[dims]} (dims={dims}); "
                f"models with an option dims: {others}"
            )
        if dense and "dense" in known:
            given["dense"] = True
        try:
            net = create_model(self.name, **given, **self.options)
            return dense_form(net, outputs) if dense and "dense" not in known else net
        except DynamicBlocksError:
            raise
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
            raise ConfigurationError(f"{self!r} makes no network: {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelConfig):
            return NotImplemented
        return (self.name, self.options) == (other.name, other.options)

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.options.items())))

    def __repr__(self) -> str:
        options = [f"{option}={value!r}" for option, value in self.options.items()]
        return f"ModelConfig({', '.join([repr(self.name), *options])})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a ModelConfig does not change: make another one, .changed({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a ModelConfig does not change: make another one")

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.name, dict(self.options))


def _made(name: str, options: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig(name, **options)


def options_of_model(name: str) -> dict[str, Option]:
    """The options of a model that a configuration may hold.

    Raises:
        ConfigurationError: there is no such model.
    """
    return {option: each for option, each in described_options(name).items() if option not in BY_THE_TASK}


def no_such_option(name: str, option: str, what: str = "") -> ConfigurationError:
    """The error for an option that the model of that name does not have, or that is not to be given.

    Args:
        name: of the model.
        option: of it.
        what: how it was written, such as ``--model.units``.

    >>> print(no_such_option("dynamicblocks_rk4", "skipinit"))
    unknown option of model 'dynamicblocks_rk4' 'skipinit'; models that have it: continuousnet, wide_continuousnet
    """
    begin = f"{what}: " if what else ""
    if option in BY_THE_TASK:
        return ConfigurationError(
            f"{begin}{option} is not to be given, the task decides it: {BY_THE_TASK[option]}; leave it out"
        )
    others = [other for other in list_models() if option in options_of_model(other)]
    if others:
        return ConfigurationError(
            f"{begin}unknown option of model {name!r} {option!r}; models that have it: {', '.join(others)}"
        )
    unknown = unknown_name(f"option of model {name!r}", option, options_of_model(name))
    return UsageError(f"{begin}{unknown}")
