"""Running statistics of a network measured anew, wherever its weights are read in time."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from dynamicblocks.controls.controls import Controls
from dynamicblocks.controls.moments import fitted_moments


class RunningNorm(nn.Module):
    """What a normalisation with running statistics has, of whatever class it is."""

    running_mean: Tensor
    running_var: Tensor
    momentum: float | None


def has_statistics(module: nn.Module) -> TypeGuard[RunningNorm]:
    """Whether a module normalises with running statistics."""
    statistics = [getattr(module, name, None) for name in ("running_mean", "running_var")]
    return all(isinstance(value, Tensor) for value in statistics) and hasattr(module, "momentum")


class Meter:
    """What was seen by the normalisations at one position in a network: one for each control, or a single one.

    Each time one of them runs, the statistics of the batch are added to a mean kept for that place in time. A place is
    known by the weights with which the controls are blended there. From the means of all places :meth:`settle` finds
    the statistics of the controls.
    """

    def __init__(self, norms: Sequence[RunningNorm]) -> None:
        self.norms = norms
        self._means: dict[tuple[float, ...], Tensor] = {}
        self._counts: dict[tuple[float, ...], int] = {}

    @property
    def reads(self) -> int:
        """How often one of the normalisations ran."""
        return sum(self._counts.values())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, each call of a normalisation in training is seen."""
        momenta = [norm.momentum for norm in self.norms]
        handles = [norm.register_forward_hook(self._see) for norm in self.norms]
        # Buffers are blended as weights are: the blend of unit vectors is the weights themselves.
        for norm, unit in zip(self.norms, torch.eye(len(self.norms), dtype=torch.float64), strict=True):
            norm.register_buffer("_blend", unit, persistent=False)
            norm.momentum = 1.0  # the running statistics are then those of the last batch
        try:
            yield
        finally:
            for norm, momentum, handle in zip(self.norms, momenta, handles, strict=True):
                handle.remove()
                del norm._blend
                norm.momentum = momentum

    def _see(self, norm: nn.Module, _inputs: object, _output: object) -> None:
        assert has_statistics(norm)
        place = tuple(norm.get_buffer("_blend").tolist())
        batch = torch.stack([norm.running_mean, norm.running_var])
        count = self._counts.get(place, 0) + 1
        mean = self._means.get(place, batch)
        self._counts[place] = count
        self._means[place] = mean + (batch - mean) / count

    def settle(self) -> None:
        """Give the controls the statistics with which evaluation normalises as the batches were normalised.

        See :func:`~dynamicblocks.controls.moments.fitted_moments`. A control that nothing read keeps its own.
        """
        if not self.reads:
            return
        weights = np.array(list(self._means))
        counts = np.array(list(self._counts.values()), dtype=np.float64)
        # Means and variances, one row a place, one column a channel.
        seen = torch.stack(list(self._means.values()), dim=1).flatten(2).cpu().double().numpy()
        means, variances = fitted_moments(weights, counts, *seen)
        for k, reads in enumerate((counts @ (weights != 0)).tolist()):
            if reads:
                norm = self.norms[k]
                norm.running_mean.copy_(torch.from_numpy(means[k]).view_as(norm.running_mean))
                norm.running_var.copy_(torch.from_numpy(variances[k]).view_as(norm.running_var))
                counter = getattr(norm, "num_batches_tracked", None)
                if isinstance(counter, Tensor):
                    counter.fill_(int(reads))


def meters_of(net: nn.Module) -> list[Meter]:
    """A meter for each position of a normalisation with running statistics."""
    meters = []
    controlled: set[nn.Module] = set()
    for controls in (module for module in net.modules() if isinstance(module, Controls)):
        for copies in zip(*(layer.modules() for layer in controls.layers), strict=True):
            norms = [norm for norm in copies if has_statistics(norm)]
            if norms and not controlled.intersection(norms):
                meters.append(Meter(norms))
            controlled.update(norms)
    alone = (module for module in net.modules() if module not in controlled)
    return meters + [Meter([module]) for module in alone if has_statistics(module)]


def measure(net: nn.Module, meters: Iterable[Meter], batches: Iterable[Tensor]) -> int:
    """Run a network in evaluation, its normalisations alone in training; return the number of batches.

    Flags of training are as before afterwards, also after an error. Meanwhile the network is not for other threads.
    """
    meters = list(meters)
    training = {module: module.training for module in net.modules()}
    count = 0
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(_set_training, training)
        for meter in meters:
            stack.enter_context(meter.listening())
        net.eval()
        for meter in meters:
            for norm in meter.norms:
                norm.train()
        for images in batches:
            net(images)
            count += 1
        for meter in meters:
            meter.settle()
    return count


def _set_training(flags: dict[nn.Module, bool]) -> None:
    for module, flag in flags.items():
        module.training = flag
