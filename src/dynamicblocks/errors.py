"""The errors of the package: one type for each kind of cause, each with a message that says what to do."""

import math
import sys
import warnings
from collections.abc import Collection, Iterable
from difflib import get_close_matches

LONGEST_NAME = 100
"""Characters of what somebody wrote for a name that are compared with names, which takes their square, and repeated."""


class DynamicBlocksError(Exception):
    """Base class of every error that the package raises on purpose."""


class ConfigurationError(DynamicBlocksError, ValueError):
    """What the caller wrote cannot work: a wrong value, shape, name or combination."""


class UsageError(ConfigurationError):
    """A flag or an option in a file that cannot be read: there is none of that name, or it takes no such value."""


class SolverError(DynamicBlocksError, RuntimeError):
    """What the numbers did: a loss or a state that stopped being finite."""


class StorageError(DynamicBlocksError, RuntimeError):
    """A file or folder on disk is missing, truncated, of another version or not what it claims to be."""


class ProcessError(DynamicBlocksError, RuntimeError):
    """A process that works for this one, or that this one works for, is no longer there."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that somebody may have meant: the shortest that theirs begins, or else the most similar one, if any is.

    >>> nearest("integ", ["integrators", "integrator", "split"]), nearest("tolerence", ["to", "tolerance"])
    ('integrator', 'tolerance')
    """
    names = list(known)
    begun = [other for other in names if name and other.startswith(name)]
    return min(begun, key=len) if begun else next(iter(get_close_matches(name, names, n=1)), None)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that does not exist: it lists the names that do and suggests the nearest.

    >>> print(unknown_name("integrator", "rk44", ["euler", "rk4"]))
    unknown integrator 'rk44'; did you mean 'rk4'? Known: euler, rk4
    """
    names = sorted(known)
    near = nearest(str(name)[:LONGEST_NAME], names)
    hint = f"; did you mean {near!r}?" if near else "."
    return ConfigurationError(f"unknown {kind} {name!r:.{LONGEST_NAME}}{hint} Known: {', '.join(names)}")


def brief(value: object, longest: int = 80) -> str:
    """How a message shows what somebody wrote, whatever its length.

    >>> brief("x" * 1000, 6), brief(10**5000)
    ("'xxxxx...", 'a whole number of 5,001 digits')
    """
    try:
        shown = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        digits = f" of {int(value.bit_length() * math.log10(2)) + 1:,} digits" if isinstance(value, int) else ""
        return f"a whole number{digits}" if digits else f"a {type(value).__name__} of numbers with thousands of digits"
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def raised_at(error: BaseException, files: Collection[str | None]) -> tuple[str, int] | None:
    """The innermost file and line among ``files`` through which an error was raised; None where there is none."""
    import traceback

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None


def warn_caller(message: str) -> None:
    """A UserWarning at the line that called the package, perhaps through a module, wherever within it the cause is."""
    depth, frame, passed = 1, sys._getframe(), ("dynamicblocks", "torch")
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in passed:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, stacklevel=depth)


class ArgumentError(ConfigurationError, AssertionError):
    """An argument that no solve can use: times, a state, tolerances; torchdiffeq raises AssertionError there."""


class ArgumentTypeError(ConfigurationError, TypeError):
    """An argument of the wrong type, where torchdiffeq raises TypeError."""


class MissingPackageError(ConfigurationError, ModuleNotFoundError):
    """A package is not installed that only some uses need; the message says which, for what, and how to get it."""
