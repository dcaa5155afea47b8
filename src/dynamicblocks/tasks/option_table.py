"""Every option of a task, of its model and of a training, by its path, and the objects that they make."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, get_args

from dynamicblocks.errors import ConfigurationError, DynamicBlocksError
from dynamicblocks.models import models
from dynamicblocks.options import Kind, Option, default_of, fields_of, hints_of, summary_of
from dynamicblocks.tasks.model import ModelConfig, options_of_model
from dynamicblocks.training.config import TrainConfig
from dynamicblocks.training.task import Task

NAME = Option("name", Kind(scalars=(str,)), help="one of `dynamicblocks models`.")


class Part(NamedTuple):
    """Options that belong together: those of a dataclass, or of a model.

    Args:
        path: of the part; nothing for the options at the top.
        title: whose they are.
        about: what that is.
        options: by name.
    """

    path: str
    title: str
    about: str
    options: dict[str, Option]

    def path_of(self, name: str) -> str:
        """The path of one of its options."""
        return f"{self.path}.{name}" if self.path else name


@dataclass(frozen=True)
class OptionTable:
    """The options that a training of this task takes.

    Args:
        task: its class.
        written: what somebody wrote for a path, of which the names of models are read.
    """

    task: type[Task[Any]]
    written: Callable[[str], Any] = lambda _: None

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The options, part by part, in the order of the fields."""
        return (
            *self._parts(self.task, "", f"the task {self.task.name}"),
            *map(self._with_usual, self._parts(TrainConfig, "", "every training")),
        )

    def _with_usual(self, part: Part) -> Part:
        """Options of a training with the defaults that the task gives them."""
        usual = self.task.usual
        options = {
            name: replace(option, default=usual[part.path_of(name)]) if part.path_of(name) in usual else option
            for name, option in part.options.items()
        }
        return part._replace(options=options)

    @cached_property
    def options(self) -> dict[str, Option]:
        """All options by path."""
        return {part.path_of(name): option for part in self.parts for name, option in part.options.items()}

    @cached_property
    def models(self) -> dict[str, str]:
        """For each path of a model its name."""
        return dict(self._models(self.task, ""))

    def make(self, values: Mapping[str, Any]) -> tuple[Task[Any], TrainConfig]:
        """The task and the configuration, with these values in the place of their defaults.

        Raises:
            ConfigurationError: they do not go together, or one is missing.
        """
        try:
            task = self._made(self.task, None, "", values)
        except DynamicBlocksError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"the task {self.task.__name__} cannot be made of these options: {error}"
            ) from error
        return task, self.training(values)

    def training(self, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration of a training, with these values in the place of the task's usual ones."""
        made: TrainConfig = self._made(TrainConfig, None, "", {**self.task.usual, **values})
        return made

    def _parts(self, described: type, path: str, title: str) -> Iterator[Part]:
        simple, nested = fields_of(described), nested_fields(described)
        own = {name: option for name, option in simple.items() if name not in nested}
        if own:
            yield Part(path, title, summary_of(described), own)
        for name, kind in nested.items():
            inner = f"{path}.{name}" if path else name
            if kind is ModelConfig:
                yield self._model_part(inner)
            else:
                yield from self._parts(kind, inner, inner)

    def _model_part(self, path: str) -> Part:
        name = self.models[path]
        about = f"{summary_of(models[name])}\nOptions of another model: dynamicblocks train --{path}.name NAME --help"
        return Part(path, f"{path} ({name})", about, {"name": replace(NAME, default=name), **options_of_model(name)})

    def _models(self, described: type, path: str) -> Iterator[tuple[str, str]]:
        for each in fields(described):
            kind = nested_fields(described).get(each.name)
            inner = f"{path}.{each.name}" if path else each.name
            if kind is ModelConfig:
                usual = default_of(each)
                written = self.written(f"{inner}.name")
                yield inner, written if isinstance(written, str) else _name_of(usual)
            elif kind is not None:
                yield from self._models(kind, inner)

    def _made(self, described: type, base: Any, path: str, values: Mapping[str, Any]) -> Any:
        """An instance of a dataclass: ``base``, or a new one, with these values."""
        nested = nested_fields(described)
        changes: dict[str, Any] = {}
        for each in fields(described):
            inner = f"{path}.{each.name}" if path else each.name
            kind = nested.get(each.name)
            given = [name for name in values if name.startswith(f"{inner}.")]
            if kind is not None and given:
                usual = default_of(each) if base is None else getattr(base, each.name)
                if kind is ModelConfig:
                    changes[each.name] = self._made_model(usual, inner, values)
                else:
                    changes[each.name] = self._made(kind, usual if isinstance(usual, kind) else None, inner, values)
            elif inner in values:
                changes[each.name] = values[inner]
        return described(**changes) if base is None else replace(base, **changes)

    def _made_model(self, usual: Any, path: str, values: Mapping[str, Any]) -> ModelConfig:
        name = self.models[path]
        given = {
            option: values[f"{path}.{option}"] for option in options_of_model(name) if f"{path}.{option}" in values
        }
        # What a file, or a flag, says of a model that it names is all there is to it: a task's usual options of that
        # model would make another network of the same weights.
        kept = isinstance(usual, ModelConfig) and usual.name == name and f"{path}.name" not in values
        return usual.changed(**given) if kept else ModelConfig(name, **given)


def nested_fields(described: type) -> dict[str, type]:
    """The fields of a dataclass that hold a model or another dataclass, with its class."""
    hints = hints_of(described)
    found = {}
    for each in fields(described):
        hint = hints[each.name]
        for kind in (hint, *get_args(hint)):
            if each.init and isinstance(kind, type) and (kind is ModelConfig or is_dataclass(kind)):
                found[each.name] = kind
    return found


def _name_of(usual: Any) -> str:
    """The model that a field means by default."""
    return usual.name if isinstance(usual, ModelConfig) else ModelConfig().name
