"""Parts of a model that are one's own: a function or a module in a file that the caller names.

As with tasks, only what the caller names is ever imported, and a run stores name and hash alone.
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError, unknown_name
from dynamicblocks.tasks.own import is_own, own_module

_read: dict[str, Any] = {}
"""What was read in this process, by name and hash: Name@sha256."""


class UnreadPartError(ConfigurationError):
    """A run has a part of its own whose file was not read in this process."""


@dataclass(frozen=True)
class Kind:
    """What a part is, such as an equation.

    Args:
        name: of the kind, with its article.
        expected: what must stand in the file.
        fits: whether something is that.
        reader: the function that reads one in Python.
    """

    name: str
    expected: str
    fits: Callable[[Any], bool]
    reader: str

    @property
    def bare(self) -> str:
        """The name without the article."""
        return self.name.partition(" ")[2]

    def read(self, text: str) -> str:
        """Read a part, ``FILE.py:Name``, so that runs of it can be read; its name and hash.

        Raises:
            ConfigurationError: there is none in the file, or it cannot be read; the message says why, and the line.
        """
        module, name, source = own_module(text, self.name)
        if name not in vars(module):
            home = module.__name__
            parts = [each for each, found in vars(module).items() if is_part(found) and found.__module__ == home]
            known = [each for each in parts if self.fits(vars(module)[each])]
            raise unknown_name(f"{self.bare} in {text.rpartition(':')[0]}", name, known)
        found = vars(module)[name]
        if not self.fits(found):
            raise ConfigurationError(f"{text} is no {self.bare}: it must be {self.expected}, got {found!r:.80}")
        reference = f"{name}@{hashlib.sha256(source).hexdigest()}"
        _read[reference] = found
        return reference

    def reference(self, text: str) -> str:
        """How files name a part: by its name, or that with the hash of its file."""
        return self.read(text) if is_own(text) else text

    def found(self, text: str) -> Any:
        """What FILE.py:Name or Name@hash names.

        Raises:
            ConfigurationError: it cannot be read.
            UnreadPartError: of Name@hash, its file was not read in this process.
        """
        reference = self.reference(text)
        if reference not in _read:
            name, _, digest = reference.partition("@")
            changed = [each for each in _read if each.partition("@")[0] == name]
            said = "that file has changed since" if changed else "where its file lies is not recorded"
            raise UnreadPartError(
                f"the run has {self.name} of its own, {name}, and {said}; add --task FILE.py:{name}, or in Python call "
                f'{self.reader}("FILE.py:{name}") first, with the file of SHA-256 {digest:.12}...'
            )
        return _read[reference]


def is_part(found: Any) -> bool:
    """Whether what stands in a file may be meant as a part: a class of modules, or a function of two or more."""
    if isinstance(found, type):
        return issubclass(found, nn.Module)
    return inspect.isfunction(found) and len(inspect.signature(found).parameters) >= 2


def name_of(text: str) -> str:
    """The name of a part among FILE.py:Name and Name@hash.

    >>> name_of("mine.py:Field"), name_of("Field@12ab")
    ('Field', 'Field')
    """
    return text.rpartition(":")[2].partition("@")[0]


def is_named_by_file(text: str) -> bool:
    """Whether a name is one of a part of somebody's own: FILE.py:Name, or Name@hash.

    >>> is_named_by_file("mine.py:Field"), is_named_by_file("concat")
    (True, False)
    """
    return is_own(text) or "@" in text
