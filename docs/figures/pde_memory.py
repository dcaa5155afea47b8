"""Draw the memory of a training step over the number of steps, for each family of docs/pde-networks.md.

Bytes of tensors alive at most, beyond those before the step: a count that is the same on every machine. One layer
serves all steps, so what grows is what the backward pass needs.

Example: python docs/figures/pde_memory.py
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import dynamicblocks as db

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks.live_bytes import peak_bytes  # noqa: E402

STEPS = (4, 8, 16, 32, 64, 128)
STATE = (8, 16, 32, 32)
# Label, layer, integrator, gradient mode, colour, marker.
FAMILIES = [
    ("parabolic, Euler, backprop", "symmetric", "euler", "backprop", "#d1495b", "o"),
    ("semi-implicit, backprop", "semi_implicit", "imex", "backprop", "#f28e2b", "P"),
    ("multistep (lm), backprop", "preact_double", "lm", "backprop", "#8c2f39", "X"),
    ("parabolic, Euler, checkpoint", "symmetric", "euler", "checkpoint", "#edae49", "s"),
    ("semi-implicit, checkpoint", "semi_implicit", "imex", "checkpoint", "#b6992d", "d"),
    ("Hamiltonian, Verlet, reversible", "hamiltonian", "verlet", "reversible", "#30638e", "D"),
    ("second order, leapfrog, reversible", "symmetric", "leapfrog", "reversible", "#00798c", "^"),
    ("antisymmetric, two-step midpoint, rev.", "antisymmetric", "two_step_midpoint", "reversible", "#6c4f8f", "v"),
]


def peak(layer: str, integrator: str, gradient: str, steps: int) -> float:
    """MiB of one forward and backward pass."""
    torch.manual_seed(0)
    block = db.DynamicBlock(f"{layer}({STATE[1]})", 1, db.uniform(0, 1, steps=steps), integrator, gradient)
    y = torch.randn(STATE, requires_grad=True)
    return peak_bytes(lambda: block(y).square().mean().backward()) / 2**20


def main() -> None:
    figure, axes = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
    for label, layer, integrator, gradient, colour, marker in FAMILIES:
        found = [peak(layer, integrator, gradient, steps) for steps in STEPS]
        print(f"{label:46}", *(f"{each:8.1f}" for each in found))
        axes.plot(STEPS, found, color=colour, marker=marker, ms=6, lw=2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(STEPS, [str(each) for each in STEPS])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    ticks = [2**n for n in range(12) if low <= 2**n <= high]
    axes.set_yticks(ticks, [str(each) for each in ticks])
    axes.set_xlabel("steps of the block")
    axes.set_ylabel("MiB of a training step")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(HERE / "pde_memory.png", dpi=130)


if __name__ == "__main__":
    main()
