"""Cheaper discretisations of a trained block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dynamicblocks.block import DynamicBlock
from dynamicblocks.controls import Basis
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import as_integrator
from dynamicblocks.network import named_blocks
from dynamicblocks.times import Grid


@dataclass(frozen=True)
class Candidate:
    """One way to discretise a block.

    Args:
        integrator: its name.
        times: the steps.
        projected: whether the weights are projected onto a basis of the same kind with an interval for each step.
        grid: ``uniform`` or ``error``, how the steps were chosen.
    """

    integrator: str
    times: tuple[float, ...]
    projected: bool
    grid: str

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    @property
    def evaluations(self) -> int:
        """Evaluations of the layer function in one pass."""
        return self.steps * as_integrator(self.integrator).evaluations

    def applied(self, block: DynamicBlock) -> DynamicBlock:
        """The block in this discretisation; its weights are shared where they are not projected."""
        controls = block.controls
        if self.projected:
            controls = controls.project(coarser(controls.basis, Grid(self.times)))
        return block.replaced(controls=controls, integrator=self.integrator, times=self.times)


def coarser(basis: Basis, grid: Grid) -> Basis:
    """A basis of the same kind with an interval, or a control of a polynomial, for each step of ``grid``."""
    return replace(basis, size=None, knots=None).over(grid)


def spares_controls(block: DynamicBlock, grid: Grid) -> bool:
    """Whether a projection onto the steps of ``grid`` leaves fewer controls than there are."""
    return coarser(block.controls.basis, grid).count < len(block.controls)


def candidates(
    block: DynamicBlock, y: Tensor, integrators: Sequence[str], before: Tensor | None = None
) -> list[Candidate]:
    """Discretisations of ``block`` that take fewer evaluations than it, the cheapest first.

    Every integrator with 1, 2, ... steps; equal ones, and ones that share the error evenly; with the block's controls
    and with no more of them than steps. Of those that cost the same, with projected weights or not, the one is kept
    whose state at the end is nearest to the block's own.

    Args:
        block: as it was trained.
        y: states at its begin, on which the error is estimated.
        integrators: their names.
        before: the states before, if the block was given them.
    """
    density = error_density(block, y, before)
    found: dict[tuple[str, tuple[float, ...], bool], Candidate] = {}
    for name in integrators:
        method = as_integrator(name)
        if not method.fixed_cost:
            raise ConfigurationError(
                f"compression compares costs that are known beforehand, but the evaluations of {name!r} depend on the "
                "state; search among explicit integrators on a grid, such as 'euler,midpoint,rk4'"
            )
        for steps in range(1, (block.evaluations - 1) // method.evaluations + 1):
            if steps > block.steps:
                break
            for grid, times in (
                ("uniform", block.uniform_steps(steps)),
                ("error", equidistributed(block.times, density, steps, method.order)),
            ):
                if grid == "error" and method.equal_steps:
                    continue
                for projected in (True, False) if spares_controls(block, times) else (False,):
                    key = (name, times.points, projected)
                    found.setdefault(key, Candidate(name, times.points, projected, grid))
    best: dict[tuple[int, bool], tuple[float, Candidate]] = {}
    with torch.no_grad():
        end = block(y, before)
        for candidate in found.values():
            key_of = (candidate.evaluations, not candidate.projected)
            other = candidate.applied(block)
            error = float(
                (other(y, before if other.integrator.takes_past else None) - end).norm().nan_to_num(nan=math.inf)
            )
            if key_of not in best or error < best[key_of][0]:
                best[key_of] = (error, candidate)
    return [best[key_of][1] for key_of in sorted(best)]


def halved(net: nn.Module) -> dict[str, Candidate]:
    """Half the steps in every block that has more than one, for comparison; weights projected onto as many controls."""
    found = {}
    for name, block in named_blocks(net).items():
        if block.steps > 1:
            times = block.uniform_steps(block.steps // 2)
            found[name] = Candidate(block.integrator.shorthand, times.points, spares_controls(block, times), "uniform")
    return found


def error_density(block: DynamicBlock, y: Tensor, before: Tensor | None = None) -> list[float]:
    """How fast the field changes along each step: |f(t_{n+1}, y_{n+1}) - f(t_n, y_n)| / h, the mean over samples.

    The local error of a method of order one is proportional to it.
    """
    with torch.no_grad():
        states = block.trajectory(y, before)
        found = []
        for step, size in enumerate(block.times.sizes):
            stage = block.field.on_step(step)
            change = stage(1.0, states[step + 1]) - stage(0.0, states[step])
            found.append(float(change.flatten(1).norm(dim=1).mean()) / size)
    return found


def equidistributed(grid: Grid, density: Sequence[float], steps: int, order: int) -> Grid:
    """``steps`` steps, between points of ``grid``, such that each has about the same share of the error.

    A method of order p makes an error of h^(p+1) times a density a step, so steps have equal integrals of the
    density's (p+1)-th root.
    """
    sizes = np.asarray(grid.sizes)
    # A tenth of the mean everywhere: where the field rests, steps are long but not without bound.
    rate = np.asarray(density) / max(float(np.mean(density)), 1e-12)
    share = np.cumsum(sizes * np.maximum(rate, 0.1) ** (1 / (order + 1)))
    chosen = [0]
    for part in range(1, steps):
        ideal = int(np.argmin(np.abs(share - share[-1] * part / steps))) + 1
        # Strictly increasing, and with a point left for each step to come.
        chosen.append(min(max(ideal, chosen[-1] + 1), grid.steps - (steps - part)))
    return Grid(tuple(grid.points[index] for index in (*chosen, grid.steps)))
