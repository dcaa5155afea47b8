"""Which convolutions of a network are meant: by name, by class, by stage."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.layers.boundary import CONVOLUTIONS
from dynamicblocks.layers.dimensions import PLAIN
from dynamicblocks.network import DynamicNet, named_blocks

# Of one, two or three dimensions.
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Where = str | Sequence[str] | type[nn.Module] | Callable[[str, Any], bool]

# Subclasses may compute something else in their forward; these do not.
CONVERTIBLE = (*PLAIN.values(), *CONVOLUTIONS.values())
# How torchvision, timm and transformers name the stages of a backbone.
STAGE_NAMES = re.compile(r"(?:.*\.)?(?:layer|stage)_?\d+|(?:.*\.)?(?:layers|stages|blocks)\.\d+")


def convolutions(net: nn.Module) -> Iterator[tuple[str, Convolution]]:
    """Every convolution by name; one that is used at several places comes under each of its names."""
    for name, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, Convolution):
            yield name, module


def convertible(module: nn.Module) -> bool:
    """Whether a convolution computes nothing but a convolution."""
    return type(module) in CONVERTIBLE


def everywhere(found: Mapping[str, Convolution], names: set[str]) -> set[str]:
    """All names of the convolutions meant by some: one that is used at several places stays one."""
    meant = {id(found[name]) for name in names}
    return {name for name, module in found.items() if id(module) in meant}


def meant(net: nn.Module, where: Where | None, stages: str | None) -> Callable[[str, Convolution], bool]:
    """Which convolutions the caller means."""
    by_place = _by_place(net, where)
    if stages is None:
        return by_place
    known = stages_of(net)
    if len(stages) != len(known) or set(stages) - set("TF"):
        listed = ", ".join("+".join(stage) for stage in known) or "none that its names tell; use where="
        raise ConfigurationError(
            f"stages must have a letter T or F for each of the {len(known)} stages of {type(net).__name__} "
            f"({listed}), got {stages!r}"
        )
    tops = tuple(f"{name}." for stage, letter in zip(known, stages, strict=True) if letter == "T" for name in stage)
    return lambda name, module: f"{name}.".startswith(tops) and by_place(name, module)


def _by_place(net: nn.Module, where: Where | None) -> Callable[[str, Convolution], bool]:
    if where is None:
        return lambda name, module: True
    if isinstance(where, type) and issubclass(where, nn.Module):
        tops = [name for name, module in net.named_modules() if isinstance(module, where)]
        return lambda name, module: any(top in ("", name) or name.startswith(f"{top}.") for top in tops)
    if isinstance(where, str) or (isinstance(where, Sequence) and all(isinstance(each, str) for each in where)):
        patterns = [where] if isinstance(where, str) else list(where)
        return lambda name, module: any(fnmatchcase(name, pattern) for pattern in patterns)
    if callable(where) and not isinstance(where, type):
        return where
    raise ConfigurationError(
        f"where must be a pattern of names, several, a class of modules or a function of name and module, got {where!r}"
    )


def stages_of(net: nn.Module) -> list[list[str]]:
    """The stages of a network, each the names of its top modules.

    >>> import dynamicblocks as db
    >>> stages_of(db.create_model("continuousnet"))
    [['body.0', 'body.1'], ['body.2', 'body.3'], ['body.4', 'body.5']]
    """
    for prefix, module in net.named_modules():
        if isinstance(module, DynamicNet):
            return _stages_of_blocks(module, f"{prefix}." if prefix else "")
    names = [name for name, module in net.named_modules() if STAGE_NAMES.fullmatch(name) and any(convolutions(module))]
    depths: dict[tuple[str, int], list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        depths.setdefault((parent if last.isdecimal() else f"{parent}|", name.count(".")), []).append(name)
    # The first group from the outside that has several members: stages may hold layers of the same kind of name.
    groups = sorted((group for group in depths.values() if len(group) > 1), key=lambda group: group[0].count("."))
    return [[name] for name in groups[0]] if groups else []


def _stages_of_blocks(net: DynamicNet, prefix: str) -> list[list[str]]:
    stages: list[list[str]] = [[]]
    for index, module in enumerate(net.body):
        stages[-1].append(f"{prefix}body.{index}")
        if named_blocks(module):
            stages.append([])
    rest = stages.pop()
    if rest:
        stages[-1:] = [[*(stages[-1] if stages else []), *rest]]
    return stages
