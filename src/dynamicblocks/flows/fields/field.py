"""What the fields of flows are, and any module of a caller's as one."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from dynamicblocks.errors import ArgumentTypeError, ConfigurationError
from dynamicblocks.registry import Registry

FieldMaker = Callable[[tuple[int, ...], int], nn.Module]
"""Makes a field f(t, x) or f(t, x, context) of the shape of a sample and the width of its context."""

fields: Registry[nn.Module] = Registry("field of a flow")
"""Fields of points, (n, features), by name: made of the number of features and options."""


@runtime_checkable
class ForwardMode(Protocol):
    """A field that tells products with its Jacobian in one pass with its slope."""

    def jvp(self, t: Tensor, x: Tensor, tangents: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, *shape), and df/dx times each of the ``tangents`` (k, n, *shape)."""
        ...


@runtime_checkable
class ClosedForm(Protocol):
    """A field that tells the trace of its Jacobian in one pass with its slope."""

    def divergence(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The slope (n, *shape), and tr df/dx, (n,)."""
        ...


@runtime_checkable
class Potential(Protocol):
    """A field that is the gradient of a potential."""

    def with_residual(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The slope (n, *shape), tr df/dx (n,), and how far the potential is from its equation, (n,)."""
        ...


def context_width(field: nn.Module) -> int:
    """How many numbers of context a field takes for each sample; none if it says nothing of it."""
    return int(getattr(field, "context_width", 0))


class OwnField(nn.Module):
    """A module of a caller's as the field of a flow.

    Args:
        module: f(t, x), or f(t, x, context) where there is a context; t has no dimensions, or is (n,) where each sample
            has its own time, as in flow matching.
        context: how many numbers of context each sample has.

    Raises:
        ArgumentTypeError: it is no module.
        ConfigurationError: there is a context and the module takes none.

    >>> OwnField(nn.Bilinear(1, 2, 2), context=3)
    Traceback (most recent call last):
    dynamicblocks.errors.ConfigurationError: each sample has 3 numbers of context, but the field Bilinear takes none...
    """

    def __init__(self, module: nn.Module, context: int = 0) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ArgumentTypeError(f"a field must be a module f(t, x), got {type(module).__name__}")
        if context and not takes_context(module):
            names = ", ".join(inspect.signature(module.forward).parameters)
            raise ConfigurationError(
                f"each sample has {context} numbers of context, but the field {type(module).__name__} takes none: its "
                f"forward is ({names}); give it a third argument, or leave the context out"
            )
        self.module, self.context_width = module, context

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The slope, of the shape of x."""
        return self.module(t, x) if context is None else self.module(t, x, context)


def takes_context(module: nn.Module) -> bool:
    """Whether a module can be called with a third argument."""
    try:
        inspect.signature(module.forward).bind(*(None,) * 3)
    except TypeError:
        return False
    return True


def as_field(module: Any, context: int = 0) -> nn.Module:
    """A field of this package as it is, any other module as :class:`OwnField`.

    Raises:
        ConfigurationError: it does not take the context.
    """
    if isinstance(module, nn.Module) and hasattr(module, "context_width"):
        if context != context_width(module):
            takes = context_width(module)
            raise ConfigurationError(
                f"each sample has {context} numbers of context, but the field {type(module).__name__} takes "
                f"{takes or 'none'}; make it with context={context}"
            )
        return module
    return OwnField(module, context)
