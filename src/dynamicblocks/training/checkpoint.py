"""The state of a training, as its checkpoint holds it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.structure import structure, with_structure
from dynamicblocks.training.engine import Engine
from dynamicblocks.training.hardware import random_state
from dynamicblocks.training.run_checks import check_fits, check_form, check_optimizer
from dynamicblocks.training.training_state import TrainingState


def checkpoint_of(engine: Engine, state: TrainingState, sums: Mapping[str, float], precision: str) -> dict[str, Any]:
    """Everything that a training goes on from, with the sums of the epoch so far."""
    return {
        "weights": engine.net.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "average": None if engine.average is None else engine.average.state_dict(),
        "scaler": engine.fabric.strategy.precision.state_dict(),
        "position": vars(state),
        "sums": dict(sums),
        "random": random_state(),
        "form": structure(engine.net),
        "precision": precision,
    }


def stored_network(stored: Mapping[str, Any], net: nn.Module, *, widened: bool = False) -> nn.Module:
    """``net`` in the form and with the weights of a checkpoint; with ``widened``, halves become float32."""
    weights = stored["weights"]
    if widened:
        weights = {name: weight.float() if weight.dtype.itemsize == 2 else weight for name, weight in weights.items()}
    return filled(net, stored["form"], weights)


def filled(net: nn.Module, form: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """``net`` in the form and with the weights that a file holds.

    Raises:
        StorageError: they do not fit.
    """
    check_form(form, weights)
    net = with_structure(net, form)
    check_fits(net, weights)
    load_exactly(net, weights)
    return net


def load_exactly(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights and buffers without rounding, where ``load_state_dict`` rounds them to the types of ``net``.

    A network is built in float32, and may have been trained in float64.
    """
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if name in weights and tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, weights[name].dtype))
    net.load_state_dict(weights)


def go_on(stored: Mapping[str, Any], engine: Engine) -> TrainingState:
    """Give an engine with a network of :func:`stored_network` the rest of its state; where the training stands.

    Raises:
        StorageError: it does not fit.
    """
    check_optimizer(engine.bare_optimizer, stored["optimizer"])
    engine.optimizer.load_state_dict(stored["optimizer"])
    _lie_alike(engine.bare_optimizer)
    if engine.average is not None:
        check_fits(engine.average.net, stored["average"]["weights"])
        engine.average.load_state_dict(stored["average"])
    if stored.get("scaler"):  # of 16-mixed; earlier versions did not store it
        engine.fabric.strategy.precision.load_state_dict(stored["scaler"])
    return TrainingState(**stored["position"])


def _lie_alike(optimizer: torch.optim.Optimizer) -> None:
    """Lay the state of each parameter in memory as the parameter lies: files keep no strides.

    Where the two differ, sums are taken along another path, which rounds half precision otherwise.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def named_sums(stored: Mapping[str, float] | Tensor, names: Sequence[str]) -> Tensor:
    """Sums of a checkpoint in the order of ``names``."""
    if isinstance(stored, Tensor):  # of the version that knew one task, and wrote three numbers without names
        stored = dict(zip(("loss", "correct", "images"), stored.tolist(), strict=True))
    return torch.tensor([stored[name] for name in names], dtype=torch.float64)
