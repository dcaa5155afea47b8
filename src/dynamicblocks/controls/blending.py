"""Calling one of several equal layers with a blend of their weights and statistics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamicblocks.layers.stand_in import called_with, named_tensors

Weights = Sequence[float | Tensor]
"""Numbers, or tensors without dimensions where one compiled program serves many times."""

# How far a blend with negative weights may leave the range of the variances it is made of, as a factor. Some room is
# right: variances grow through a block, and its first stage stands before the first Gauss node. Held to the range
# itself, that stage would be normalised with a standard deviation wrong by 8 to 19 % (legendre(8) to legendre(2), and
# a variance that grows by its first value with each unit of time).
BEYOND = 2.0


@dataclass(frozen=True)
class Mix:
    """The weights of a blend, with what is decided by their values.

    Args:
        weights: of the modules.
        called: the module that is called.
        negative: whether a weight is negative.
    """

    weights: Weights
    called: int
    negative: bool

    @classmethod
    def of(cls, weights: Sequence[float]) -> "Mix":
        """Weights that are numbers; the module of the largest is called."""
        return cls(weights, weights.index(max(weights)), min(weights) < 0.0)


def is_variance(name: str) -> bool:
    """Whether a buffer holds variances, which must stay positive."""
    return name.rpartition(".")[2] == "running_var"


def blend(tensors: Sequence[Tensor], weights: Weights) -> Tensor:
    """sum_i w_i x_i."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + weight * tensor if isinstance(weight, Tensor) else torch.add(total, tensor, alpha=weight)
    return total


def blend_each(sets: Sequence[Sequence[Tensor]], weights: Weights) -> list[Tensor]:
    """The blends of tensors that stand at the same place in each set."""
    numbers = [weight for weight in weights if not isinstance(weight, Tensor)]
    if (
        len(numbers) < len(weights)
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return [blend(tensors, weights) for tensors in zip(*sets, strict=True)]
    # The same arithmetic with a third less time in Python, during which no other thread runs.
    total = torch._foreach_mul(list(sets[0]), numbers[0])
    for tensors, weight in zip(sets[1:], numbers[1:], strict=True):
        torch._foreach_add_(total, list(tensors), alpha=weight)
    return list(total)


def blend_variances(variances: Sequence[Tensor], weights: Weights, *, negative: bool) -> Tensor:
    """sum_i w_i v_i; where a weight is negative, kept between half the least v_i and twice the greatest: positive."""
    total = blend(variances, weights)
    if not negative:
        return total
    together = torch.stack(tuple(variances))
    return total.clamp(together.amin(dim=0) / BEYOND, together.amax(dim=0) * BEYOND)


def shares(weights: Weights, *, negative: bool = True) -> list[float | Tensor]:
    """What each module takes of a change of their blend: its weight, and nothing where weights are negative.

    >>> shares((0.25, 0.75)), shares((-0.5, 0.75, 0.75))
    ([0.25, 0.75], [0.0, 0.5, 0.5])
    """
    if not negative:
        return list(weights)
    positive = [weight.clamp_min(0.0) if isinstance(weight, Tensor) else max(weight, 0.0) for weight in weights]
    total = sum(positive)
    return [weight / total for weight in positive]


def blended_parameters(modules: Sequence[nn.Module], weights: Weights) -> dict[str, Tensor]:
    """The parameters sum_i w_i theta_i, by name."""
    named = [named_tensors(module, "_parameters") for module in modules]
    sets = [[parameters[name] for name in named[0]] for parameters in named]
    return dict(zip(named[0], blend_each(sets, weights), strict=True)) if named[0] else {}


def call_blended(
    modules: Sequence[nn.Module],
    weights: Sequence[float] | Mix,
    parameters: dict[str, Tensor],
    arguments: tuple[object, ...],
    *,
    method: str = "forward",
) -> Tensor:
    """Call one of the modules, the one of the largest weight, with blended ``parameters`` and blended buffers.

    Or a ``method`` of it in the place of its forward. What is called is a stand-in of the module
    (:func:`~dynamicblocks.layers.stand_in.stand_in`): neither another thread nor a layer that calls its own block sees
    anything of the blend.

    Floating-point buffers are blended like the weights (:func:`blend_variances`); integer buffers are the called
    module's own. In training, what the call did to the blended buffers is given back to every module by its share
    (:func:`shares`, :func:`_share_update`).
    """
    mix = weights if isinstance(weights, Mix) else Mix.of(weights)
    module, numbers = modules[mix.called], mix.weights
    named = [named_tensors(each, "_buffers") for each in modules]
    buffers: dict[str, Tensor] = {}
    blended: list[str] = []
    for name, buffer in named[mix.called].items():
        if not buffer.is_floating_point():
            buffers[name] = buffer.clone()
        elif mix.negative and is_variance(name):
            buffers[name] = blend_variances([each[name] for each in named], numbers, negative=True)
        else:
            blended.append(name)
    if blended:
        sets = [[each[name] for name in blended] for each in named]
        buffers.update(zip(blended, blend_each(sets, numbers), strict=True))
    training = module.training and len(buffers) > 0
    before = {name: buffer.clone() for name, buffer in buffers.items()} if training else {}
    versions = {name: _version(buffer) for name, buffer in buffers.items()} if training else {}
    output: Tensor
    output, after = called_with(module, {**parameters, **buffers}, method, arguments)
    if training:
        parts = shares(numbers, negative=mix.negative)
        with torch.no_grad():
            for name, value in before.items():
                whole = value
                if is_variance(name) and mix.negative:
                    # What negative weights leave may be small beside what it is left of: no measure for a growth.
                    whole = torch.maximum(value, blend([each[name] for each in named], parts))
                in_place = after[name] is buffers[name]
                counted = in_place and _version(after[name]) != versions[name]
                for each, share in zip(modules, parts, strict=True):
                    _share_update(each, name, share, value, after[name], whole, in_place=in_place, counted=counted)
    return output


def _version(buffer: Tensor) -> int:
    """How often autograd was told that a buffer has changed; 0 where nobody counts."""
    return 0 if torch.compiler.is_compiling() or buffer.is_inference() else buffer._version


def _share_update(
    module: nn.Module,
    name: str,
    share: float | Tensor,
    old: Tensor,
    new: Tensor,
    whole: Tensor,
    *,
    in_place: bool,
    counted: bool,
) -> None:
    """Move a module's buffer b by its share s of the change of the blended one.

    A variance takes the share s b / whole of the change, so that it stays positive: b <- b (1 + s (new - old) / whole),
    whose factor is at least 1 - s. The whole is the blended variance itself, sum_i s_i b_i, or more where weights are
    negative. Integer counters take all of the change.
    """
    parent_name, _, buffer_name = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    buffer: Tensor = getattr(parent, buffer_name)
    if buffer.dtype == torch.bool or (buffer.is_floating_point() and not isinstance(share, Tensor) and share == 0.0):
        return
    change = new - old
    if is_variance(name):
        change = change * torch.where(whole > 0, buffer / whole, torch.ones_like(whole))
    if buffer.is_floating_point():
        change = change * share
    if in_place:
        # As the layer itself did. Batch normalisation saves its statistics for a backward pass that, in training,
        # does not read them; .data moves them without telling autograd, as batch normalisation's own kernel does.
        buffer.data.add_(change)
        if counted:
            # What looks for changed buffers sees it, as it sees what the layer changes itself.
            torch.autograd.graph.increment_version(buffer)
    else:
        # The layer put a new tensor in the place of its buffer: the old one may be needed by autograd.
        setattr(parent, buffer_name, buffer + change)
