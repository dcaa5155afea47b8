"""What a solve that is one node of the graph must know of the graph around it."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynamicblocks.errors import ConfigurationError, DynamicBlocksError
from dynamicblocks.transforms import transformed


def unlisted_leaves(result: Tensor, known: Sequence[Tensor]) -> list[Tensor]:
    """The leaves with gradients that ``result`` depends on, other than through the ``known`` tensors.

    >>> weight, other = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    >>> [each.shape for each in unlisted_leaves(weight.sum() * other.sum(), [weight])]
    [torch.Size([3])]
    """
    leaves = {id(tensor) for tensor in known if tensor.is_leaf}
    stops = {tensor.grad_fn for tensor in known if tensor.grad_fn is not None}
    found: dict[int, Tensor] = {}
    seen = set()
    nodes = [result.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen or node in stops:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and id(leaf) not in leaves:
            found[id(leaf)] = leaf
        nodes.extend(following for following, _ in node.next_functions)
    return list(found.values())


class Listed:
    """Tensors that a result may depend on, of which those are found that it does depend on.

    Args:
        tensors: with gradients or without; None for what is none.

    >>> weight, bias, other = (torch.ones(2, requires_grad=True) for _ in range(3))
    >>> Listed([weight, bias]).met([bias * other], [])
    ([1], [tensor([1., 1.], requires_grad=True)])
    """

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        self.tensors = tensors
        self._nodes: dict[Any, list[int]] = {}
        for place, tensor in enumerate(tensors):
            if tensor is not None and tensor.requires_grad:
                # By its node: where hooks handle what is saved (checkpoints, offloading), a leaf comes back as another
                # tensor of the same node.
                self._nodes.setdefault(torch.autograd.graph.get_gradient_edge(tensor).node, []).append(place)

    def met(self, results: Sequence[Tensor], begins: Sequence[Tensor]) -> tuple[list[int], list[Tensor]]:
        """Places of those that results depend on, and the leaves besides that are none of ``begins`` either."""
        usual = {id(tensor) for tensor in begins}
        places: set[int] = set()
        lost: dict[int, Tensor] = {}
        seen = set()
        # A view has a graph, even if the result is a leaf itself.
        with torch.enable_grad():
            nodes = [result.view_as(result).grad_fn for result in results]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in self._nodes:
                places.update(self._nodes[node])
                continue
            leaf = getattr(node, "variable", None)
            if isinstance(leaf, Tensor) and id(leaf) not in usual:
                lost[id(leaf)] = leaf
            nodes.extend(following for following, _ in node.next_functions)
        return sorted(places), list(lost.values())


def described(leaves: Sequence[Tensor]) -> str:
    """Leaves that would lose their gradient, in words."""
    shapes = ", ".join(str(tuple(each.shape)) for each in leaves)
    return f"func uses {len(leaves)} tensors that require a gradient and are no parameters of it (shapes {shapes})"


def each_once(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those that require a gradient, none of them twice."""
    return list({id(tensor): tensor for tensor in tensors if tensor.requires_grad}.values())


def separate_gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], by_outputs: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients that do not flow on from inputs into others that they were made of: the caller's graph does that.

    The graph is kept. Another pass may run through the caller's part of it at the same time, in another thread; what is
    hung there knows this pass by its number.
    """
    inner = [each for each in inputs if each.grad_fn is not None]
    if not inner:
        return torch.autograd.grad(outputs, inputs, by_outputs, retain_graph=True, allow_unused=True)
    passes: set[int] = set()

    def begun(_gradients: Any) -> None:
        passes.add(torch._C._current_graph_task_id())

    def stopped(place: int, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        if torch._C._current_graph_task_id() not in passes:
            return None
        return tuple(
            torch.zeros_like(each) if n == place and each is not None else each for n, each in enumerate(gradients)
        )

    # Views have nodes of their own, which no other pass runs through.
    with torch.enable_grad():
        views = [each.view_as(each) for each in outputs]
    handles = [each.grad_fn.register_prehook(begun) for each in views if each.grad_fn is not None]
    handles += [
        each.grad_fn.register_prehook(partial(stopped, each.output_nr)) for each in inner if each.grad_fn is not None
    ]
    try:
        return torch.autograd.grad(views, inputs, by_outputs, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()


def autocast_of_now(device: str) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """The autocast of now, for later; without its cache, where casts that were made without a graph would be found."""
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext
    enabled, kind = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=kind, enabled=enabled, cache_enabled=False)


class OutsideTransforms:
    """Says in a ConfigurationError that a solve failed for a transform of torch.func that it is inside of.

    What can be transformed passes without being looked at. A class, entered where it is made: the compiler traces that.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, RuntimeError) or isinstance(error, DynamicBlocksError):
            return
        if not (transformed() or "Batching rule" in str(error)):
            return
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            "this solve cannot be inside a transform of torch.func (vmap, grad, vjp, jvp, jacrev, ...) or in forward "
            "mode. Explicit methods with gradient='backprop' and no event_fn can, adaptive ones under all but vmap; "
            "other gradient modes, batched=True, implicit methods and events are for torch.autograd, and take batches "
            f"as they are. PyTorch says: {reason:.200}"
        ) from error
