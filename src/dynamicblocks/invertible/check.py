"""Whether a module is invertible, by numbers: there and back, its gradients, and what it keeps for them."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.gradients import Backprop, Gradient
from dynamicblocks.gradients.buffers import RandomState

# Of a difference quotient in double precision.
SHORT = 1e-6


@dataclass(frozen=True)
class Invertibility:
    """What :func:`check_invertible` measured.

    Args:
        there_and_back: how far ``inverse(module(x))`` is from x, relative to x, in the 2-norm.
        back_and_there: how far ``module(inverse(y))`` is from y = module(x), relative to y.
        gradients: how far gradients of input and weights are from those of plain backpropagation, all of them together,
            relative to these; where the module has no gradient mode that could be changed, how far the slope along a
            line is from a difference quotient, both in double precision.
        kept: bytes that a forward pass keeps for the backward pass, beside weights, buffers and the input.
        kept_by_backprop: those of plain backpropagation, likewise.
    """

    there_and_back: float
    back_and_there: float
    gradients: float
    kept: int
    kept_by_backprop: int | None

    @property
    def largest(self) -> float:
        """The largest of the three errors; what is not a number is larger than any."""
        errors = [self.there_and_back, self.back_and_there, self.gradients]
        return math.nan if any(map(math.isnan, errors)) else max(errors)


def check_invertible(module: nn.Module, *inputs: Any, tolerance: float | None = None) -> Invertibility:
    """Measure on an input what an invertible module promises.

    The module has ``inverse``, as those of :mod:`dynamicblocks.invertible`, blocks and many modules of others, and
    takes one tensor to another; what else it takes is handed to its ``inverse`` as well. All is done with copies, whose
    statistics move, not its own, and the random numbers that come next do not change. Where the module draws random
    numbers, as dropout does in training, the way there and back is that of ``eval()``, and the gradients are those of
    the same draws.

    Gradients are those of the mean square of the output. Backpropagation beside them is the same module with
    ``gradient="backprop"``, in it and in all that it holds.

    Args:
        module: of the user's own or the library's.
        inputs: the state, with whatever else it takes.
        tolerance: of all errors; by default none raises anything.

    Raises:
        ConfigurationError: it has no ``inverse``.
        SolverError: an error is larger than the tolerance, or not a number.

    >>> from dynamicblocks.invertible import AdditiveCoupling
    >>> found = check_invertible(AdditiveCoupling(nn.Linear(2, 2)).double(), torch.rand(3, 4).double(), tolerance=1e-12)
    >>> found.there_and_back < 1e-12, found.gradients < 1e-12
    (True, True)
    """
    if not callable(getattr(module, "inverse", None)):
        raise ConfigurationError(f"{type(module).__name__} has no inverse(y) that could be checked")
    if not inputs or not isinstance(inputs[0], Tensor):
        raise ConfigurationError("check_invertible needs the module and a tensor that it takes")
    begun = RandomState.now(inputs[0])
    with begun.again():
        here, kept = _differentiated(copy.deepcopy(module), begun, inputs)
        plain = _plain(module)
        if plain is None:
            here, there, kept_by_backprop = *_along_a_line(module, begun, inputs), None
        else:
            there, kept_by_backprop = _differentiated(plain, begun, inputs)
        begun.restore()
        own = copy.deepcopy(module)
        with torch.no_grad():
            own(*inputs)
            if not begun.equals(RandomState.now(inputs[0])):
                own.eval()
            x, forward, back = _ways(own, inputs)
            y = forward(x)
            again = back(y)
            found = Invertibility(
                _apart([again], [x]), _apart([forward(again)], [y]), _apart(here, there), kept, kept_by_backprop
            )
    if tolerance is not None and not found.largest <= tolerance:
        raise SolverError(f"{type(module).__name__} is not invertible to {tolerance:g}: {found}")
    return found


Way = Callable[[Tensor], Tensor]


def _ways(module: Any, inputs: tuple[Any, ...]) -> tuple[Tensor, Way, Way]:
    """The state, the way there and the way back; of momentum the state is place and velocity."""
    x, *context = inputs
    if not getattr(module, "has_velocity", False):
        return x, lambda y: module(y, *context), lambda y: module.inverse(y, *context)
    return (
        torch.stack((x, torch.zeros_like(x))),
        lambda y: torch.stack(module(y[0], *context, velocity=y[1])),
        lambda y: torch.stack(module.inverse(y[0], *context, velocity=y[1])),
    )


def _apart(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The 2-norm of the difference of some tensors over that of the others."""
    pairs = list(zip(found, expected, strict=True))
    off = math.hypot(*(float(torch.linalg.vector_norm(one - two)) for one, two in pairs))
    size = math.hypot(*(float(torch.linalg.vector_norm(two)) for _, two in pairs))
    return off / size if size else math.inf if off else 0.0


def _leaves(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Any], list[Tensor]]:
    """Inputs to be differentiated for, and all that gets gradients."""
    begins = [
        each.detach().clone().requires_grad_(each.is_floating_point() or each.is_complex())
        if isinstance(each, Tensor)
        else each
        for each in inputs
    ]
    given = [each for each in begins if isinstance(each, Tensor)]
    return begins, [each for each in (*given, *module.parameters()) if each.requires_grad]


def _loss(module: nn.Module, begun: RandomState, inputs: Sequence[Any]) -> Tensor:
    begun.restore()
    return module(*inputs).abs().square().mean()


def _differentiated(module: nn.Module, begun: RandomState, inputs: tuple[Any, ...]) -> tuple[list[Tensor], int]:
    """The gradients of inputs and weights, and how many bytes were kept for them."""
    begins, leaves = _leaves(module, inputs)
    own = (*module.parameters(), *module.buffers(), *(each for each in begins if isinstance(each, Tensor)))
    known = {each.untyped_storage().data_ptr() for each in own}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in known:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = _loss(module, begun, begins)
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(to) if by is None else by for by, to in zip(found, leaves, strict=True)], sum(
        kept.values()
    )


def _plain(module: nn.Module) -> nn.Module | None:
    """A copy with plain backpropagation in all that has a gradient mode; None where nothing has."""
    plain = copy.deepcopy(module)
    having: list[Any] = [each for each in plain.modules() if isinstance(getattr(each, "gradient", None), Gradient)]
    for each in having:
        each.gradient = Backprop()
    return plain if having else None


def _along_a_line(module: nn.Module, begun: RandomState, inputs: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """The slope of the loss along a line through inputs and weights, by gradients and by differences."""
    wide = copy.deepcopy(module).double()
    begins, leaves = _leaves(
        wide,
        tuple(each.double() if isinstance(each, Tensor) and each.is_floating_point() else each for each in inputs),
    )
    gradients, _ = _differentiated(wide, begun, tuple(begins))
    begun.restore()
    along = [torch.randn_like(each) for each in leaves]
    slope = torch.stack([(one.conj() * two).sum().real for one, two in zip(gradients, along, strict=True)]).sum()
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for each, direction in zip(leaves, along, strict=True):
                each += sign * SHORT * direction
            losses.append(_loss(wide, begun, begins))
    return [slope], [(losses[0] - losses[1]) / (2 * SHORT)]
