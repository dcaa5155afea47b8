"""Tensors whose gradients an adjoint solve would lose."""

from collections.abc import Sequence

from torch import Tensor


def lost_tensors(result: Tensor, known: Sequence[Tensor]) -> list[Tensor]:
    """The leaves with gradients that ``result`` depends on, other than through the ``known`` tensors.

    >>> import torch
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
