"""Networks of dynamic blocks."""

from collections.abc import Sequence

from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock


class DynamicNet(nn.Module):
    """image -> opening -> [dynamic block -> connector]* -> head -> logits.

    Args:
        opening: image to state.
        body: dynamic blocks and connectors (any modules), in the order in which they are run.
        head: state to logits.

    Shapes:
        (batch, in_channels, H, W) -> (batch, num_classes).

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
        """The dynamic blocks, in order."""
        return [module for module in self.body if isinstance(module, DynamicBlock)]

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.parameters())

    @property
    def evaluations(self) -> int:
        """Evaluations of layer functions in one forward pass."""
        return sum(block.evaluations for block in self.blocks)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.opening(images)))
