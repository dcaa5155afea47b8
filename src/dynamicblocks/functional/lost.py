"""Tensors whose gradients a solve that is one node of the graph would lose, or count twice."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor


def lost_tensors(result: Tensor, known: Sequence[Tensor]) -> list[Tensor]:
    """The leaves with gradients that ``result`` depends on, other than through the ``known`` tensors.

    >>> weight, other = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    >>> [each.shape for each in lost_tensors(weight.sum() * other.sum(), [weight])]
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


def describe_lost(lost: Sequence[Tensor]) -> str:
    """What would lose its gradient, in words."""
    shapes = ", ".join(str(tuple(each.shape)) for each in lost)
    return f"func uses {len(lost)} tensors that require a gradient and are no parameters of it (shapes {shapes})"


@contextlib.contextmanager
def apart_from_each_other(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Let gradients of inputs not flow on into those of others that they were made of: the caller's graph does that."""

    def stopped(place: int, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(
            torch.zeros_like(each) if n == place and each is not None else each for n, each in enumerate(gradients)
        )

    handles = [
        each.grad_fn.register_prehook(partial(stopped, each.output_nr)) for each in inputs if each.grad_fn is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
