"""Errors of what a caller of odeint wrote; each is also of the type that torchdiffeq raises there."""

from dynamicblocks.errors import ConfigurationError


class ArgumentError(ConfigurationError, AssertionError):
    """An argument that no solve can use: times, a state, tolerances."""


class ArgumentTypeError(ConfigurationError, TypeError):
    """An argument of the wrong type."""
