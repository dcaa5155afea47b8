"""Making a trained network cheaper: for each block the cheapest discretisation that is about as good."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamicblocks.analysis.candidates import Candidate, candidates
from dynamicblocks.block import DynamicBlock
from dynamicblocks.network import named_blocks
from dynamicblocks.surgery import map_blocks, recalibrate
from dynamicblocks.tasks.classify import ACCURACY
from dynamicblocks.training.evaluation import Score, evaluation_mode
from dynamicblocks.training.task import Figure

INTEGRATORS = ("euler", "midpoint", "ralston2", "kutta3", "rk4_classic")

# Below it nothing may be lost at all; above the rounding of figures that are equal.
LEAST_TOLERANCE = 1e-9

Chosen = Mapping[str, Candidate]
"""For each block that is changed, by name, its new discretisation."""


@dataclass(frozen=True)
class Compression:
    """What was found.

    Args:
        net: the compressed network.
        chosen: the discretisation of each block that was changed, by name.
        before, after: scores on each set of samples by which it was chosen.
        tried: number of networks that were evaluated.
    """

    net: nn.Module
    chosen: Chosen
    before: Sequence[Score]
    after: Sequence[Score]
    tried: int


def integrators_for(block: DynamicBlock) -> list[str]:
    """What is tried by default: those above, and the block's own, which may be the only one of its equation.

    Not where its costs are not known, it has weights, which say nothing of fewer steps, or it solves no equation.
    """
    own = block.integrator
    fits = own.fixed_cost and own.equation and not block.integrator_weights()
    return list(dict.fromkeys((*INTEGRATORS, *((own.shorthand,) if fits else ()))))


def changed(net: nn.Module, chosen: Chosen, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of ``net`` with the chosen discretisations.

    Where weights are projected, running statistics are measured anew on ``batches``. Another integrator or grid alone
    reads the same controls at nearly the same states: the statistics of the training, of many more samples, are better.
    """

    def change(name: str, block: DynamicBlock) -> DynamicBlock:
        candidate = chosen.get(name)
        return block if candidate is None else candidate.applied(block)

    other = map_blocks(net, change)
    projected = any(candidate.projected for candidate in chosen.values())
    has_statistics = any(name.endswith("running_mean") for name, _ in other.named_buffers())
    return recalibrate(other, batches) if projected and has_statistics else other


def compress(
    net: nn.Module,
    scores: Sequence[Callable[[nn.Module], Score]],
    batches: Sequence[Any],
    *,
    tolerance: float | Sequence[float],
    figure: Figure = ACCURACY,
    integrators: Sequence[str] | None = None,
    progress: Callable[[int], object] = lambda tried: None,
) -> Compression:
    """Find, for each block, the cheapest integrator, steps and number of controls with which a figure stays as good.

    First the candidates of each block are tried with the other blocks as they are, the cheapest first, up to one that
    uses no more than the block's part of the tolerance. Then, for a bound on what a single change may use, every block
    takes its cheapest candidate within the bound; the loosest bound is taken for which all changes together stay
    within the tolerance. Where there is none, blocks are changed one after the other while that goes well.

    Args:
        net: a trained network.
        scores: what a network reaches on one or several sets of samples, none of them the test samples, the smallest
            first. The tolerance holds on each: a small set alone would be fitted by trying many networks.
        batches: what the network is called with in training, on which states and running statistics are measured.
        tolerance: by how much the figure may become worse, in its own unit: of an accuracy 0.002 is 0.2 points. One for
            all sets, or one for each.
        figure: what is to stay as good, of those of the scores.
        integrators: names of those to try; None for :func:`integrators_for` each block.
        progress: called with the number of networks tried so far.
    """
    tolerances = list(tolerance) if isinstance(tolerance, Sequence) else [tolerance] * len(scores)
    with evaluation_mode(net):
        return _search(net, scores, batches, tolerances, figure, integrators, progress)


def _search(
    net: nn.Module,
    scores: Sequence[Callable[[nn.Module], Score]],
    batches: Sequence[Any],
    tolerances: Sequence[float],
    figure: Figure,
    integrators: Sequence[str] | None,
    progress: Callable[[int], object],
) -> Compression:
    before = [score(net) for score in scores]
    tried = 0

    def measured(chosen: Chosen) -> tuple[float, Compression]:
        """What share of its tolerance is used up, at most; after one used up wholly no other set is looked at."""
        nonlocal tried
        tried += 1
        progress(tried)
        other, after, used = changed(net, chosen, batches), [], 0.0
        for score, old, allowed in zip(scores, before, tolerances, strict=True):
            after.append(score(other))
            worse = figure.worse(old[figure.name], after[-1][figure.name])
            # A discretisation may be unstable: what is no number is as bad as can be.
            used = math.inf if math.isnan(worse) else max(used, worse / max(allowed, LEAST_TOLERANCE))
            if used > 1:
                break
        return used, Compression(other, chosen, before, after, tried)

    alone: dict[str, list[tuple[Candidate, float]]] = {}
    for (name, block), (state, past) in _states(net, batches[0]):
        alone[name] = []
        names = integrators_for(block) if integrators is None else integrators
        for candidate in candidates(block, state, names, past):
            used, _ = measured({name: candidate})
            if used <= 1:
                alone[name].append((candidate, used))
            if used <= 1 / len(named_blocks(net)):
                break  # all blocks can have as much
    for bound in sorted({used for found in alone.values() for _, used in found}, reverse=True):
        chosen = {
            name: next(each for each, used in found if used <= bound)
            for name, found in alone.items()
            if any(used <= bound for _, used in found)
        }
        used, together = measured(chosen)
        if used <= 1:
            return together
    best = Compression(net, {}, before, before, tried)
    for name, found in alone.items():
        for candidate, _ in found:
            used, attempt = measured({**best.chosen, name: candidate})
            if used <= 1:
                best = attempt
                break
    return replace(best, tried=tried)


def _states(net: nn.Module, inputs: Any) -> Iterable[tuple[tuple[str, DynamicBlock], tuple[Tensor, Tensor | None]]]:
    """Each block by name, with the states at its begin and, where it is given them, those before."""
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}

    def see(name: str, y: Tensor, before: Tensor | None = None) -> None:
        seen[name] = (y, before)

    handles = [
        block.register_forward_pre_hook(lambda _, given, named, name=name: see(name, *given, **named), with_kwargs=True)
        for name, block in named_blocks(net).items()
    ]
    try:
        with torch.no_grad():
            net(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [((name, block), seen[name]) for name, block in named_blocks(net).items()]
