"""Options of functions and dataclasses: which values they take, from their annotations, and what their docstrings say.

The flags of the command line, configuration files and configurations written in Python are all read by these.
"""

from dynamicblocks.options.annotations import NONE, is_of_plain_values, kind_of
from dynamicblocks.options.docstrings import helps_of, summary_of
from dynamicblocks.options.kind import Kind
from dynamicblocks.options.option import Option, default_of, fields_of, hints_of, options_of

__all__ = [
    "NONE",
    "Kind",
    "Option",
    "default_of",
    "fields_of",
    "helps_of",
    "hints_of",
    "is_of_plain_values",
    "kind_of",
    "options_of",
    "summary_of",
]
