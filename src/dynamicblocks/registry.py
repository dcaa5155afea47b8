"""Names for things: the one mechanism behind every string shorthand of the package."""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from dynamicblocks.errors import ConfigurationError, brief, unknown_name
from dynamicblocks.options import Kind, is_of_plain_values, kind_of
from dynamicblocks.options.literals import literal, tree_of

T = TypeVar("T")


def parse_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Split ``"name"`` or ``"name(1, key='x')"`` into a name, its arguments and its keywords (literals only).

    >>> parse_call("uniform(0, 8, steps=8)")
    ('uniform', [0, 8], {'steps': 8})
    """
    try:
        tree = tree_of(text)
        if isinstance(tree, ast.Name):
            return tree.id, [], {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            arguments = [literal(node) for node in tree.args]
            keywords = {node.arg: literal(node.value) for node in tree.keywords if node.arg}
            if len(keywords) == len(tree.keywords):  # no **mapping, no keyword twice
                return tree.func.id, arguments, keywords
    except ValueError:
        pass
    raise ConfigurationError(
        f"cannot read {text!r:.200}: expected a name such as 'rk4' or a call such as 'constant(8)'"
    )


class Registry(Generic[T]):
    """Named factories of one kind of thing.

    ``create("name")`` and ``create("name(1, key=2)")`` call the factory of that name; positional arguments given
    to ``create`` come before those in the string.

    >>> shapes = Registry[tuple[int, ...]]("shape")
    >>> shapes.register("square")(lambda side: (side, side))  # doctest: +ELLIPSIS
    <function <lambda> at ...>
    >>> shapes.create("square(3)")
    (3, 3)
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator: make a factory available under ``name``."""

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._factories:
                raise ConfigurationError(f"the {self.kind} {name!r} is registered already; choose another name")
            self._factories[name] = factory
            return factory

        return add

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._factories))

    def __contains__(self, name: object) -> bool:
        return name in self._factories

    def __getitem__(self, name: str) -> Callable[..., T]:
        if name not in self._factories:
            raise unknown_name(self.kind, name, self._factories)
        return self._factories[name]

    def takes(self, text: str, option: str) -> bool:
        """Whether the factory that ``text`` names has a parameter of that name.

        >>> pairs = Registry[tuple[int, int]]("pair")
        >>> _ = pairs.register("twice")(lambda left: (left, left))
        >>> pairs.takes("twice(3)", "left"), pairs.takes("twice", "right")
        (True, False)
        """
        return option in inspect.signature(self[self._parsed(text)[0]]).parameters

    def create(self, text: str, *arguments: Any, **defaults: Any) -> T:
        """Build what ``text`` names; ``arguments`` come first, ``defaults`` yield to keywords in the text."""
        name, written, keywords = self._parsed(text)
        factory = self[name]
        signature = inspect.signature(factory)
        try:
            call = signature.bind(*arguments, *written, **{**defaults, **keywords})
        except TypeError as error:
            raise ConfigurationError(f"{self.kind} {text!r:.200}: {error}; it is {name}{signature}") from error
        if written or keywords:
            self._check(name, [*signature.parameters][len(arguments) :], written, keywords)
        return factory(*call.args, **call.kwargs)

    def _parsed(self, text: str) -> tuple[str, list[Any], dict[str, Any]]:
        try:
            return parse_call(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.kind}: {error}") from None

    def _check(self, name: str, places: list[str], written: list[Any], keywords: dict[str, Any]) -> None:
        """Raise for values of another kind than their parameters are annotated with, before anything is made of them.

        What is not annotated, or with objects too, takes anything.
        """
        kinds = _annotated(self[name])
        for option, value in (*zip(places, written, strict=False), *keywords.items()):
            if option in kinds:
                try:
                    kinds[option].take(value)
                except (ValueError, OverflowError):
                    raise ConfigurationError(
                        f"{option} of {self.kind} {name!r} expects {kinds[option].expected}, got {brief(value)}"
                    ) from None


def _annotated(factory: Callable[..., Any]) -> Mapping[str, Kind]:
    """The kinds of values of the parameters that say so."""
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters
    except Exception:  # an annotation that cannot be evaluated, for example of what is imported for types alone
        return {}
    single = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: kind_of(each.annotation, each.default)
        for name, each in parameters.items()
        if each.kind in single and is_of_plain_values(each.annotation)
    }
