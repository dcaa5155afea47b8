"""Draw the memory of each gradient mode over depth, and write the tables of docs/gradients.md.

From what benchmarks/gradient_depth.py measured, on a CPU and, where there is such a result, on a GPU.

Example: python docs/figures/gradient_depth.py
"""

import json
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"
DOCUMENT = HERE.parent / "gradients.md"
BEGIN, END = "<!-- tables: python docs/figures/gradient_depth.py -->", "<!-- end of tables -->"
# Name, colour and marker of each mode.
LINES = {
    "backprop": ("`backprop`, alf", "#d1495b", "o"),
    "checkpoint": ("`checkpoint`, alf", "#edae49", "s"),
    "reversible-rk4": ("`reversible`, reversible('rk4')", "#30638e", "D"),
    "reversible": ("`reversible`, alf", "#00798c", "^"),
    "adjoint": ("`adjoint`, alf", "#6c4f8f", "v"),
}


def found_of(result: dict[str, Any], kind: str, mode: str) -> list[dict[str, Any]]:
    return [each for each in result[kind] if each["mode"] == mode]


def modes_of(result: dict[str, Any]) -> list[str]:
    return [mode for mode in LINES if found_of(result, "memory", mode)]


def setting(result: dict[str, Any]) -> str:
    """A line on what was measured where."""
    hardware, versions = result["environment"]["hardware"], result["environment"]["versions"]
    gpu, note = ", ".join(hardware["gpus"]), f"; {result['note']}" if "note" in result else ""
    counted = "PyTorch's allocator" if gpu else "a fresh process, beyond what it held before"
    return (
        f"{gpu or hardware['processor']}, {hardware['torch_threads']} "
        f"{'thread' if hardware['torch_threads'] == 1 else 'threads'}, PyTorch {versions['torch']}, "
        f"Python {versions['python']}, {result['date'][:10]}. Peak of {counted}; "
        f"a state of {' x '.join(map(str, result['state']))}, float32{note}."
    )


def memory_table(result: dict[str, Any]) -> list[str]:
    """Peaks over depth."""
    depths = sorted({each["depth"] for each in result["memory"]})
    lines = [f"| MiB at so many steps | {' | '.join(map(str, depths))} |", "|---" * (len(depths) + 1) + "|"]
    for mode in modes_of(result):
        peaks = {each["depth"]: each for each in found_of(result, "memory", mode)}
        cells = [told(peaks.get(depth), result) for depth in depths]
        lines.append(f"| {LINES[mode][0]} | {' | '.join(cells)} |")
    return lines


def told(peak: dict[str, Any] | None, result: dict[str, Any]) -> str:
    """A peak in MiB; what does not fit, and what was left out, is marked."""
    if peak is None:
        return "not measured"
    return f"{peak['bytes'] / 2**20:,.0f}" if peak["fits"] else f"more than {result['limit_gb']:g} GB"


def cost_table(result: dict[str, Any]) -> list[str]:
    """Time, evaluations and errors."""
    depths = sorted({each["depth"] for each in result["errors"]})
    depths = sorted({depths[0], depths[len(depths) // 2], depths[-1]})
    lines = [
        f"| | time over `backprop`, {result['timed_steps']} steps | s | evaluations a step | relative error of the "
        f"gradient at {', '.join(map(str, depths))} steps: ReLU | tanh |",
        "|---|---|---|---|---|---|",
    ]
    for mode in modes_of(result):
        most = max((each for each in found_of(result, "memory", mode) if each["fits"]), key=lambda each: each["depth"])
        errors = {(each["activation"], each["depth"]): each["error"] for each in found_of(result, "errors", mode)}
        relu, tanh = (", ".join(short(errors.get((act, depth))) for depth in depths) for act in ("relu", "tanh"))
        lines.append(
            f"| {LINES[mode][0]} | {' | '.join(times(result['seconds'], mode))} | "
            f"{most['evaluations'] / most['depth']:.1f} | {relu} | {tanh} |"
        )
    return lines


def short(error: float | None) -> str:
    return "-" if error is None else f"{error:.0e}".replace("e-0", "e-")


def times(seconds: dict[str, list[float]], mode: str) -> tuple[str, str]:
    """The ratio to backprop, median and quartiles of the rounds, and the median time."""
    if mode not in seconds:
        return "-", "-"
    ratios = [a / b for a, b in zip(seconds[mode], seconds["backprop"], strict=True)]
    low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{median(seconds[mode]):.2f}"


def draw(axes: Axes, result: dict[str, Any]) -> None:
    limit = result["limit_gb"] * 1e9 / 2**20
    depths = sorted({each["depth"] for each in result["memory"]})
    for mode in modes_of(result):
        label, colour, marker = LINES[mode]
        fitting = [each for each in found_of(result, "memory", mode) if each["fits"]]
        x, y = [each["depth"] for each in fitting], [each["bytes"] / 2**20 for each in fitting]
        label = label.replace("`", "")
        axes.plot(x, y, color=colour, marker=marker, ms=6, lw=2, label=label)
        beyond = [depth for depth in depths if depth > max(x)]
        if beyond and len(fitting) < len(found_of(result, "memory", mode)):
            # On towards what did not fit.
            axes.plot([x[-1], beyond[0]], [y[-1], y[-1] * beyond[0] / x[-1]], color=colour, lw=1.5, ls=":")
            axes.plot(beyond, [limit] * len(beyond), "x", color=colour, ms=9, mew=2, clip_on=False, zorder=3)
    axes.axhline(limit, color="0.5", lw=1, ls="--")
    axes.annotate(
        f"limit of {result['limit_gb']:g} GB; x: does not fit",
        (depths[0], limit), (0, 4), textcoords="offset points", fontsize=9, color="0.4",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_ylim(2**6, 2**13.3)
    axes.set_yticks([2**n for n in range(6, 14)], [f"{2**n:,}" for n in range(6, 14)])
    axes.set_xlabel("steps of the block")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    paths = [RESULTS / f"gradient_depth{suffix}.json" for suffix in ("", "_cuda")]
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    figure, panels = plt.subplots(
        1,
        len(results),
        figsize=(6.8 if len(results) == 1 else 11, 4.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    text = [BEGIN]
    for axes, result in zip(panels[0], results, strict=True):
        draw(axes, result)
        hardware = result["environment"]["hardware"]
        axes.set_title(", ".join(hardware["gpus"]) or f"{hardware['processor']}, a fresh process", fontsize=11)
        text += [setting(result), "", *memory_table(result), "", *cost_table(result), ""]
    panels[0, 0].set_ylabel("peak memory of forward and backward (MiB)")
    fullest = max(panels[0], key=lambda panel: len(panel.get_legend_handles_labels()[1]))
    fullest.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0.01, 0.87))
    path = HERE / "gradient_depth.png"
    figure.savefig(path, dpi=150)
    before, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text("\n".join([before + text[0], "", *text[1:], END]) + rest.split(END)[1])
    print(f"written to {path} and {DOCUMENT}")


if __name__ == "__main__":
    main()
