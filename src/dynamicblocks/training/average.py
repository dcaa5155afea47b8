"""The exponential average of a network that trains."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.errors import ConfigurationError

# Types in which a small share of a difference is rounded away.
COARSE = (torch.float16, torch.bfloat16)


class Average:
    """A network whose weights and floating statistics are the exponential averages of another one's.

    a <- d a + (1 - d) w after step n = 1, 2, ... of the optimiser, with d = min(decay, (1 + n) / (10 + n)). The average
    begins as the first weights, and with that smaller d they are soon forgotten: after 100 steps their share is below
    1e-11. To divide by the sum of the shares instead, as Adam does, would forget them too, but this way it is a mean of
    weights at any time, so it lies in every box in which they lie. Other buffers are copied.

    Args:
        net: the network that trains, where it is to stay: on its device, in its type. The average begins as its copy.
        decay: d, in [0, 1).

    Raises:
        ConfigurationError: the weights have a type in which they would not move.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> average = Average(net, 0.9)
    >>> _ = nn.init.zeros_(average.net.weight), nn.init.ones_(net.weight)
    >>> average.update()
    >>> round(average.net.weight.item(), 6)  # d = 2 / 11
    0.818182
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net)
        self.decay = decay
        self.updates = 0
        coarse = {str(tensor.dtype) for tensor in (*net.parameters(), *net.buffers()) if tensor.dtype in COARSE}
        if coarse:
            raise ConfigurationError(
                f"optimizer.ema needs weights in float32 or float64: in {', '.join(sorted(coarse))} a share of "
                f"{1 - decay:.1g} is lost to rounding; use hardware.precision 32-true, bf16-mixed or 16-mixed"
            )
        self._weights: list[Tensor] = list(net.parameters())
        self._averages: list[Tensor] = list(self.net.parameters())
        # By module and name, since a module may exchange a buffer for another tensor; each once.
        found = {
            id(buffer): (mean._buffers, module._buffers, name)
            for mean, module in zip(self.net.modules(), net.modules(), strict=True)
            for name, buffer in module._buffers.items()
        }
        self._buffers = list(found.values())

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network as it is now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, weights = list(self._averages), list(self._weights)
        for means, buffers, name in self._buffers:
            average, now = means[name], buffers[name]
            if average is None or now is None:
                continue
            if now.is_floating_point():
                averages.append(average)
                weights.append(now)
            else:
                average.copy_(now)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of updates."""
        return {"weights": self.net.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.net.load_state_dict(state["weights"])
        self.updates = state["updates"]
