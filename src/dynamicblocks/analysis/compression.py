"""Making a trained network cheaper: for each block the cheapest discretisation that keeps the accuracy."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicblocks.analysis.candidates import Candidate, candidates
from dynamicblocks.block import DynamicBlock
from dynamicblocks.network import DynamicNet
from dynamicblocks.surgery import map_blocks, named_blocks, recalibrate
from dynamicblocks.training.evaluation import Score

INTEGRATORS = ("euler", "midpoint", "ralston2", "kutta3", "rk4_classic")

Chosen = Mapping[str, Candidate]
"""For each block that is changed, by name, its new discretisation."""


@dataclass(frozen=True)
class Compression:
    """What was found.

    Args:
        net: the compressed network.
        chosen: the discretisation of each block that was changed, by name.
        before, after: scores on the images by which it was chosen.
        tried: number of networks that were evaluated.
    """

    net: DynamicNet
    chosen: Chosen
    before: Score
    after: Score
    tried: int


def changed(net: DynamicNet, chosen: Chosen, batches: Iterable[Tensor]) -> DynamicNet:
    """A copy of ``net`` with the chosen discretisations, and running statistics measured anew on ``batches``."""
    names = iter(named_blocks(net))

    def change(block: DynamicBlock) -> DynamicBlock:
        candidate = chosen.get(next(names))
        return block if candidate is None else candidate.applied(block)

    other = map_blocks(net, change)
    has_statistics = any(name.endswith("running_mean") for name, _ in other.named_buffers())
    return recalibrate(other, batches) if has_statistics else other


def compress(
    net: DynamicNet,
    score: Callable[[DynamicNet], Score],
    batches: Sequence[Tensor],
    *,
    tolerance: float,
    integrators: Sequence[str] = INTEGRATORS,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> Compression:
    """Find, for each block, the cheapest integrator, steps and number of controls that keep the accuracy.

    First each candidate of each block is tried with the other blocks as they are. Then, for a bound on the loss of
    accuracy by a single change, every block takes its cheapest candidate within the bound; the loosest bound is taken
    for which all changes together stay within the tolerance. At last blocks are made cheaper one by one while that
    goes well.

    Args:
        net: a trained network.
        score: accuracy on images that are not the test images.
        batches: training images, on which states and running statistics are measured.
        tolerance: largest loss of accuracy, as a share: 0.002 is 0.2 points.
        integrators: names of those to try.
        progress: called with the number of networks evaluated and to be evaluated.
    """
    before = score(net)
    options = {name: candidates(block, state, integrators) for (name, block), state in _states(net, batches[0])}
    total, tried = sum(len(found) for found in options.values()), 0

    def measured(chosen: Chosen) -> Score:
        nonlocal tried
        tried += 1
        progress(tried, max(total, tried))
        return score(changed(net, chosen, batches))

    alone = {name: [(each, measured({name: each})) for each in found] for name, found in options.items()}

    def within(bound: float) -> dict[str, Candidate]:
        chosen: dict[str, Candidate] = {}
        for name, found in alone.items():
            good = [each for each, result in found if before.accuracy - result.accuracy <= bound + 1e-9]
            if good:
                chosen[name] = good[0]
        return chosen

    bounds = sorted({max(0.0, before.accuracy - result.accuracy) for found in alone.values() for _, result in found})
    chosen: dict[str, Candidate] = {}
    after = before
    for bound in reversed([bound for bound in bounds if bound <= tolerance] or [0.0]):
        attempt = within(bound)
        result = measured(attempt)
        if before.accuracy - result.accuracy <= tolerance + 1e-9:
            chosen, after = attempt, result
            break
    for name, found in alone.items():
        for each, _ in found:
            if name in chosen and each.evaluations >= chosen[name].evaluations:
                break
            attempt = {**chosen, name: each}
            result = measured(attempt)
            if before.accuracy - result.accuracy <= tolerance + 1e-9:
                chosen, after = attempt, result
                break
    return Compression(changed(net, chosen, batches) if chosen else net, chosen, before, after, tried)


def _states(net: DynamicNet, images: Tensor) -> Iterable[tuple[tuple[str, DynamicBlock], Tensor]]:
    """Each block by name, with the states at its begin."""
    seen: dict[str, Tensor] = {}
    handles = [
        block.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0]))
        for name, block in named_blocks(net).items()
    ]
    try:
        net.eval()
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return [((name, block), seen[name]) for name, block in named_blocks(net).items()]
