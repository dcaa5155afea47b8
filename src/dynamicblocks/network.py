"""Networks of dynamic blocks, and which the blocks of any network are."""

from collections.abc import Sequence

from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock


def named_blocks(net: nn.Module) -> dict[str, DynamicBlock]:
    """The blocks of a network: every dynamic block in it, however deep, by name; it may be a block itself.

    One that stands in several places is one block, under its first name. The blocks inside the layers of a block come
    after it, one for each control.

    >>> block = DynamicBlock("symmetric(4)", 2)
    >>> list(named_blocks(nn.Sequential(nn.Sequential(block, nn.ReLU()), block)))
    ['0.0']
    """
    return {name: module for name, module in net.named_modules() if isinstance(module, DynamicBlock)}


def evaluations_of(net: nn.Module) -> int:
    """Evaluations of layer functions in one forward pass; a block in several places counts for each of them.

    A layer that holds blocks runs them in each of its evaluations.

    >>> block = DynamicBlock("symmetric(4)", 2, integrator="midpoint")
    >>> evaluations_of(nn.Sequential(nn.Sequential(block, nn.ReLU()), block))
    8
    """
    if isinstance(net, DynamicBlock):
        return net.evaluations * (1 + evaluations_of(net.controls.layers[0]))
    # Not children(), which leaves out a module that comes twice.
    return sum(evaluations_of(module) for module in net._modules.values() if module is not None)


def num_weights(net: nn.Module) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in net.parameters())


class DynamicNet(nn.Module):
    """image -> opening -> [dynamic block -> connector]* -> head -> logits.

    Args:
        opening: image to state.
        body: dynamic blocks and connectors (any modules, blocks inside them too), in the order in which they are run.
        head: state to logits.

    Shapes:
        (batch, in_channels, H, W) -> (batch, num_classes), and alike with parts of other ``dims``.

    >>> import torch
    >>> from dynamicblocks import Head, Opening, PooledConnector
    >>> net = DynamicNet(
    ...     Opening(3, 8),
    ...     [DynamicBlock("symmetric(8)", 2), PooledConnector(8, 16), DynamicBlock("symmetric(16)", 2)],
    ...     Head(16, num_classes=10),
    ... )
    >>> net(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, opening: nn.Module, body: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.opening = opening
        self.body = nn.Sequential(*body)
        self.head = head

    @property
    def blocks(self) -> list[DynamicBlock]:
        """Every dynamic block in it, in order (:func:`named_blocks`)."""
        return list(named_blocks(self).values())

    @property
    def num_weights(self) -> int:
        """Number of weights."""
        return num_weights(self)

    @property
    def evaluations(self) -> int:
        """Evaluations of layer functions in one forward pass (:func:`evaluations_of`)."""
        return evaluations_of(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.opening(images)))
