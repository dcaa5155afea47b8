"""Whether what the files of a run hold belongs together: one configuration, one network, one place in a training."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, StorageError
from dynamicblocks.structure import check_discretisation

# Options that decide neither the network nor its training: where things lie, and how often a checkpoint is written.
ELSEWHERE = ("output", "run", "hardware", "checkpoint_steps", "data_dir", "sha256")
NAMED = 5
# What every group of weights has; others are newer than some versions of torch, which fill them in.
NEEDED = ("params", "lr", "momentum", "betas", "eps", "weight_decay")


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides what the network and its training are.

    >>> deciding({"epochs": 3, "run": "first", "data": {"name": "imagefolder:/here", "data_dir": None}})
    {'epochs': 3, 'data': {'name': 'imagefolder'}}
    """
    return {
        name: deciding(value) if isinstance(value, Mapping) else _without_place(name, value)
        for name, value in config.items()
        if name not in ELSEWHERE
    }


def _without_place(name: str, value: Any) -> Any:
    return value.partition(":")[0] if name == "name" and isinstance(value, str) else value


@dataclass(frozen=True)
class Expected:
    """The configuration that the files of a run are to be of.

    Args:
        config: the whole of it.
        usual: the values of options that are not given: an option that is newer than a file has its own there.
    """

    config: Mapping[str, Any]
    usual: Mapping[str, Any]


def check_same(expected: Expected, stored: Any, path: object, beside: object) -> None:
    """Raise unless a configuration is the one that a file was written under, as far as it decides anything.

    Args:
        expected: what the run's configuration is.
        stored: the one in the file.
        path: of the file.
        beside: of the run's configuration.

    Raises:
        StorageError: an option differs; the message names it, and both values.
    """
    if not isinstance(stored, Mapping) or not isinstance(stored.get("task"), (str, Mapping)):
        raise StorageError(f"{path} does not say how its run was configured")
    mine, there, default = (dict(_flat(deciding(each))) for each in (expected.config, stored, expected.usual))
    for name in dict.fromkeys([*there, *mine]):
        if name not in there and mine[name] == default.get(name, there):
            continue
        if name not in mine or name not in there or mine[name] != there[name]:
            here, before = (repr(each[name]) if name in each else "not given" for each in (mine, there))
            raise StorageError(
                f"{path} is not of this configuration: {name} was {before:.80}, and {beside} says {here:.80}; put it "
                f"back, or start a new run with --config {beside}"
            )


def _flat(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        inner = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, inner)
        else:
            yield inner, list(value) if isinstance(value, tuple) else value


def check_form(form: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise unless the blocks of a network are described in full, with as many controls as there are weights of.

    Before a network is made of it, which takes as much memory as is described.

    Raises:
        StorageError: it says what is wrong.
    """
    blocks: Any = form.get("discretisation")
    try:
        check_discretisation(blocks)
    except ConfigurationError as error:
        raise StorageError(str(error)) from error
    for name, block in blocks.items():
        prefix = f"{name}.controls.layers." if name else "controls.layers."
        there = {key.removeprefix(prefix).partition(".")[0] for key in weights if key.startswith(prefix)}
        if len(there) not in (0, block["size"]):
            raise StorageError(f"block {name!r} has {block['size']:,} controls, and there are weights of {len(there)}")


def check_fits(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise unless there is a tensor of the right shape and kind for each of a network's, and no other.

    Raises:
        StorageError: it names the first ones.
    """
    expected = net.state_dict()
    for title, names in (("missing", expected.keys() - weights.keys()), ("unknown", weights.keys() - expected.keys())):
        if names:
            raise StorageError(f"{title}: {', '.join(sorted(names)[:NAMED])}")
    for name, tensor in expected.items():
        found = weights[name]
        if found.shape != tensor.shape:
            raise StorageError(f"{name} has shape {tuple(found.shape)} in place of {tuple(tensor.shape)}")
        alike = found.dtype == tensor.dtype or (found.is_floating_point() and tensor.is_floating_point())
        if not alike:
            raise StorageError(f"{name} is of type {found.dtype} in place of {tensor.dtype}")


def check_optimizer(optimizer: torch.optim.Optimizer, stored: Any) -> None:
    """Raise unless the state of an optimiser is one of this optimiser, for weights of these shapes.

    Raises:
        StorageError: it says what is wrong.
    """
    groups, states = stored["param_groups"], stored["state"]
    mine = optimizer.param_groups
    if len(groups) != len(mine) or any(len(a["params"]) != len(b["params"]) for a, b in zip(groups, mine, strict=True)):
        raise StorageError("its optimiser has other groups of weights")
    for group, own in zip(groups, mine, strict=True):
        lost = [name for name in NEEDED if name in own and name not in group]
        if lost:
            raise StorageError(f"its optimiser has a group of weights without {', '.join(lost)}")
        for name in (own.keys() & group.keys()) - {"params", "lr", "initial_lr"}:
            if _plain(own[name]) != _plain(group[name]):
                raise StorageError(f"its optimiser has {name} {group[name]!r:.40} in place of {own[name]!r:.40}")
    places = [place for group in groups for place in group["params"]]
    weights = dict(zip(places, (weight for group in mine for weight in group["params"]), strict=True))
    for place, state in states.items():
        if place not in weights:
            raise StorageError(f"its optimiser has a state of weight {place!r:.40}, of which there is none")
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        for name, tensor in tensors.items():
            if (tensor.ndim and tensor.shape != weights[place].shape) or not tensor.is_floating_point():
                raise StorageError(
                    f"{name} of weight {place} has shape {tuple(tensor.shape)} and type {tensor.dtype}, and the weight "
                    f"{tuple(weights[place].shape)}"
                )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value


def tensors_in(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a tree, by its path."""
    if isinstance(tree, Tensor):
        yield path, tree
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, entry in entries:
        yield from tensors_in(entry, f"{path}.{key}" if path else str(key))


def check_position(position: Any, epochs: int) -> None:
    """Raise unless this is a place in a training of so many epochs.

    Raises:
        StorageError: it says what is wrong.
    """
    whole = {"epoch": (0, epochs), "step": (0, math.inf), "kept_epoch": (-1, epochs - 1)}
    for name, (least, most) in whole.items():
        if type(position[name]) is not int or not least <= position[name] <= most:
            raise StorageError(f"its {name} is {position[name]!r:.40}, which is none of a training of {epochs} epochs")
    for name in ("seconds", "best_loss"):
        value = position[name]
        if type(value) not in (int, float) or math.isnan(value) or (name == "seconds" and not 0 <= value < math.inf):
            raise StorageError(f"its {name} is {value!r:.40}, which is no number that it can be")
