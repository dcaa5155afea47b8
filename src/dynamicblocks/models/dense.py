"""Networks that answer for each pixel."""

import copy
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from dynamicblocks.connectors import DenseHead, Head
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.network import DynamicNet
from dynamicblocks.times import check_count

INTERPOLATION: Mapping[int, str] = {1: "linear", 2: "bilinear", 3: "trilinear"}


class DenseNet(DynamicNet):
    """image -> opening -> [dynamic block -> connector]* -> dense head -> outputs for each pixel.

    Where the last state has fewer pixels than the image, outputs are interpolated to those of the image, linearly along
    each axis; pixels are areas, as average pooling takes them.

    Shapes:
        (batch, in_channels, H, W) -> (batch, outputs, H, W), and alike with parts of other ``dims``.

    >>> import torch
    >>> from dynamicblocks import DenseHead, DynamicBlock, Opening, PooledConnector
    >>> parts = [DynamicBlock("symmetric(8)", 2), PooledConnector(8, 16), DynamicBlock("symmetric(16)", 2)]
    >>> DenseNet(Opening(3, 8), parts, DenseHead(16, 2))(torch.zeros(2, 3, 9, 8)).shape
    torch.Size([2, 2, 9, 8])
    """

    def forward(self, images: Tensor) -> Tensor:
        outputs = super().forward(images)
        size = images.shape[2:]
        if outputs.shape[2:] == size:
            return outputs
        return F.interpolate(outputs, size=tuple(size), mode=INTERPOLATION[len(size)], align_corners=False)


def dense(net: DynamicNet, outputs: int) -> DenseNet:
    """A copy of ``net`` that gives so many numbers for each pixel, with the norm and activation of its head.

    With as many outputs as ``net`` has, the weights of its last linear map are kept: what ``net`` gives for an image is
    then the mean over the pixels of its state. With another number that map is drawn anew.

    Raises:
        ConfigurationError: its head is none of the library's own.

    >>> import torch
    >>> from dynamicblocks.models import dynamicnet
    >>> dense(dynamicnet(widths=(4, 8)), outputs=1)(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 1, 8, 8])
    """
    check_count(outputs, "outputs")
    copied = copy.deepcopy(net)
    if not isinstance(copied, DynamicNet) or type(copied).forward not in (DynamicNet.forward, DenseNet.forward):
        raise ConfigurationError(
            f"what {type(net).__name__} does with its head is not known, so it cannot be made dense; give the network "
            "an option dense of its own"
        )
    head = copied.head
    if not isinstance(head, Head | DenseHead):
        raise ConfigurationError(
            f"a network with a {type(head).__name__} in the place of a Head cannot be made dense; give the network an "
            "option dense of its own"
        )
    return DenseNet(copied.opening, list(copied.body), _dense_head(head, outputs)).train(net.training)


def _dense_head(head: Head | DenseHead, outputs: int) -> DenseHead:
    """A head of so many outputs for each pixel, with the branch of ``head``, and its weights where they fit."""
    old = head.linear
    width, bias = old.weight.shape[1], old.bias is not None
    new = DenseHead(width, outputs, bias=bias, dims=head.branch.dims).to(old.weight)
    new.branch = head.branch
    if len(old.weight) == outputs:
        weights = {name: weight.view_as(new.linear.get_parameter(name)) for name, weight in old.named_parameters()}
        new.linear.load_state_dict(weights)
    return new
