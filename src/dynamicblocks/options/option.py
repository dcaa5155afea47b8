"""An option, and those of a function or dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_type_hints

from dynamicblocks.errors import ConfigurationError, brief
from dynamicblocks.options.annotations import NONE, kind_of
from dynamicblocks.options.docstrings import helps_of
from dynamicblocks.options.kind import Kind


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name: of it.
        kind: which values it takes.
        default: what it is where it is left out; ``NONE`` where it must be given.
        help: what it is, in a sentence or two.
    """

    name: str
    kind: Kind
    default: Any = NONE
    help: str = ""

    @property
    def shown_default(self) -> str:
        """The default as it would be written in a file; nothing where there is none."""
        return "" if self.default is NONE else shown(self.default)

    def take(self, value: Any, what: str, *, texts: bool = False) -> Any:
        """The value as it is meant.

        Raises:
            ConfigurationError: it is of another kind; the message begins with ``what``.

        >>> Option("units", Kind(scalars=(int,))).take("3", "--units", texts=True)
        3
        """
        try:
            return self.kind.take(value, texts=texts)
        except (ValueError, OverflowError):
            came = brief(value) if isinstance(value, str) or not texts else f"{shown(value):.80}"
            raise ConfigurationError(f"{what} expects {self.kind.expected}, got {came}") from None


def shown(value: Any) -> str:
    """A value as it would be written in a file.

    >>> shown((8, 16)), shown(None), shown(True), shown("zeros")
    ('[8, 16]', 'null', 'true', 'zeros')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value) if isinstance(value, str | int | float) else repr(value)


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a function or class, by name: its parameters, but for ``*`` and ``**``."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception:  # an annotation that cannot be evaluated, for example of what is imported for types alone
        signature = inspect.signature(function)
    helps = helps_of(function)
    found = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            kind = kind_of(parameter.annotation, parameter.default)
            found[name] = Option(name, kind, parameter.default, helps.get(name, ""))
    return found


def fields_of(described: type) -> dict[str, Option]:
    """The fields of a dataclass that are given to it, as options."""
    hints, helps = hints_of(described), helps_of(described)
    found = {}
    for each in fields(described):
        if each.init:
            default = default_of(each)
            found[each.name] = Option(each.name, kind_of(hints[each.name], default), default, helps.get(each.name, ""))
    return found


def default_of(field: Field[Any]) -> Any:
    """The default of a field of a dataclass; ``NONE`` where it must be given."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return NONE if field.default is MISSING else field.default


def hints_of(described: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, as they are written where they cannot be evaluated."""
    try:
        return get_type_hints(described)
    except Exception:
        return {each.name: each.type for each in fields(described)}
