"""Draw what comes back when dz/dt = -relu(rate z) is solved to t = 1 and from there back to 0 (after ANODE).

Gholami, Keutzer, Biros 2019, arXiv:1902.10298.

Example: python docs/figures/reversal.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

import dynamicblocks as db
from dynamicblocks.integrators import as_integrator

HERE = Path(__file__).parent
TOLERANCES = {1e-3: "#edae49", 1e-6: "#d1495b", 1e-9: "#00798c", 1e-12: "#30638e"}
MILD, STRONG = 1, 50
RATES = range(2, 51, 2)
STEPS = 1000
EPS = np.finfo(float).eps
BY_STEPS = {"alf": "0.45", "reversible('rk4')": "0.1"}


def there_and_back(rate: float, tolerance: float, times: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The solution from z(0) = 1, and what the same method makes of its end on the way back, both in order of time."""

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return -torch.relu(rate * z)

    t = torch.linspace(0, 1, times, dtype=torch.float64)
    keywords = {"method": "dopri5", "rtol": tolerance, "atol": tolerance}
    there = db.odeint(field, torch.ones((), dtype=torch.float64), t, **keywords)
    back = db.odeint(field, there[-1], t.flip(0), **keywords)
    return there.numpy(), back.flip(0).numpy()


def by_steps(name: str, rate: float) -> tuple[float, float]:
    """The end after steps of a reversible method, and the begin after each of them was taken back."""
    method, h = as_integrator(name), 1 / STEPS

    def stage(fraction: float, z: torch.Tensor) -> torch.Tensor:
        return -torch.relu(rate * z)

    carry = method.begin(stage, h, torch.ones((), dtype=torch.float64))
    for _ in range(STEPS):
        carry = method.advance(stage, h, carry)
    end = method.finish(carry).item()
    for _ in range(STEPS):
        carry = method.unstep(stage, h, carry)
    return end, method.finish(carry).item()


def draw_solutions(axes: Axes, rate: float) -> None:
    times = np.linspace(0, 1, 201)
    there, _ = there_and_back(rate, min(TOLERANCES), len(times))
    axes.plot(times, there, color="0.8", lw=7, solid_capstyle="butt", label="forward, rtol = atol = 1e-12")
    for (tolerance, colour), dashes in zip(TOLERANCES.items(), (8, 6, 4, 2), strict=True):
        _, back = there_and_back(rate, tolerance, len(times))
        axes.plot(
            times, back, color=colour, lw=1.8, ls=(0, (dashes, 2)), label=f"back, {tolerance:.0e}".replace("e-0", "e-")
        )
    name = "relu(z)" if rate == 1 else f"relu({rate} z)"
    axes.set_title(f"z' = −{name}", fontsize=11)
    axes.set_xlabel("t")
    axes.set_ylim(-0.06, 1.08)
    axes.plot(0, there[0], "o", color="0.35", ms=7, clip_on=False, zorder=3)
    axes.annotate("begin", (0, there[0]), (9, 2), textcoords="offset points", fontsize=9, color="0.35")
    axes.annotate("", (0.72, 0.16), (0.95, 0.16), arrowprops={"arrowstyle": "->", "color": "0.4"})
    axes.annotate("back", (0.835, 0.18), ha="center", fontsize=9, color="0.4")


def draw_errors(axes: Axes) -> None:
    """How far z(0) comes back from 1, over the rate."""
    for tolerance, colour in TOLERANCES.items():
        errors = [abs(there_and_back(rate, tolerance)[1][0] - 1) for rate in RATES]
        axes.plot(RATES, errors, color=colour, lw=1.8)
    for name, colour in BY_STEPS.items():
        ends, begins = zip(*(by_steps(name, rate) for rate in RATES), strict=True)
        away = [abs(end - np.exp(-rate)) for rate, end in zip(RATES, ends, strict=True)]
        axes.plot(RATES, away, color=colour, lw=1.2, ls=":")
        axes.plot(RATES, [max(abs(begin - 1), EPS) for begin in begins], color=colour, lw=1.5, label=name)
        axes.annotate(f"{name}: error at t = 1", (49, away[-1] / 30), ha="right", va="top", fontsize=8, color=colour)
    axes.legend(
        title="steps taken back", title_fontsize=8.5, fontsize=8.5, frameon=False, loc="lower right", borderaxespad=0
    )
    axes.set_yscale("log")
    axes.set_ylim(1e-20, 50)
    axes.set_title("error of z(0) that came back", fontsize=11)
    axes.set_xlabel("rate (left 1, middle 50)")


def main() -> None:
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.7), width_ratios=[1, 1, 1.15], layout="constrained")
    draw_solutions(panels[0], MILD)
    draw_solutions(panels[1], STRONG)
    draw_errors(panels[2])
    panels[0].set_ylabel("z")
    panels[1].legend(frameon=False, fontsize=9, loc="upper right")
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Solved by dopri5, and from its end back again: of a strong decay nothing returns", fontsize=12)
    path = HERE / "reversal.png"
    figure.savefig(path, dpi=150)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
