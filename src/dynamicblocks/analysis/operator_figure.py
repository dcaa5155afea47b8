"""Pictures of kernels as differential operators: their orders, their symbols, the vector fields of twists."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor, nn

from dynamicblocks.analysis.figure import COLOURS
from dynamicblocks.analysis.operators import Operators, TwistOperators, network_operators, plain_part, vector
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.training.storage import write_picture

# Arrows along each side of a field.
ARROWS = 9
# Frequencies along each side of a symbol.
FREQUENCIES = 65
LEGEND = ("order 0 (1)", "order 1 (dx, dy)", "order 2", "order 3", "order 4")

Kernel = tuple[str, int, int]
"""Name of a convolution, channel of its output, channel of its input."""


def draw_fields(module: nn.Module, path: Path | str, *, pairs: int = 6) -> None:
    """The vector fields v(X, Y) of the pairs of channels that are twisted most, as arrows.

    Arrows show from where each place of the output reads the input, to first order; each panel has a scale of its own.
    The title tells the rotation (half the curl) and the scaling (half the divergence), in pixels at the edge X = 1,
    both of the linear part.

    Args:
        module: a twisted convolution, or a network with some.
        path: of the PNG file.
        pairs: how many, at most.

    Raises:
        ConfigurationError: there is no twisted 3x3 convolution, or no number of pairs.
    """
    if pairs < 1:
        raise ConfigurationError(f"pairs must be at least 1, got {pairs!r}")
    found = {name: each for name, each in network_operators(module).items() if isinstance(each, TwistOperators)}
    if not found:
        raise ConfigurationError(f"expected twisted 3x3 convolutions, but {type(module).__name__} has plain ones only")
    strengths = {name: torch.stack([vector(term) for term in each.terms.values()]) for name, each in found.items()}
    chosen = strongest({name: fields.square().sum((0, -1)) for name, fields in strengths.items()}, pairs)
    columns = min(3, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(3.4 * columns, 3.7 * rows), layout="constrained")
    for axes, (name, out, into) in zip(figure.subplots(rows, columns, squeeze=False).flat, chosen, strict=False):
        _field(axes, name, out, into, found[name].pair(out, into))
    for axes in figure.axes[len(chosen) :]:
        axes.remove()
    write_picture(Path(path), figure.savefig, dpi=150)


def draw_operators(module: nn.Module, path: Path | str, *, kernels: Sequence[Kernel] | None = None) -> None:
    """The share of each order in every 3x3 convolution, and the size of the symbol of some kernels.

    Args:
        module: a network, or one convolution. Of twisted ones the plain part is shown.
        path: of the PNG file.
        kernels: whose symbols, each the name of a convolution, a channel of its output and one of its input; by
            default the largest kernels of four convolutions, from first to last.

    Raises:
        ConfigurationError: there is no 3x3 convolution, or no such kernel.
    """
    found = {name: plain_part(each) for name, each in network_operators(module).items()}
    shown = _typical(found) if kernels is None else list(kernels)
    for name, out, into in shown:
        size = tuple(found[name].coefficients.shape[:2]) if name in found else None
        if size is None or not (0 <= out < size[0] and 0 <= into < size[1]):
            come = f"of {size[0]} x {size[1]} channels" if size else f"among {', '.join(found)}"
            raise ConfigurationError(f"there is no kernel {(name, out, into)!r} {come}")
    rows = math.ceil(len(shown) / 2)
    height = max(2.4 + 0.24 * len(found), 1.0 + 2.5 * rows)
    figure = Figure(figsize=(12, height), layout="constrained")
    halves = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.25, 1])
    _orders(halves[0, 0].subplots(), found)
    if shown:
        _symbols(halves[0, 1], shown, found, rows)
    write_picture(Path(path), figure.savefig, dpi=150)


def strongest(sizes: dict[str, Tensor], count: int) -> list[Kernel]:
    """The places (name, out, in) of the ``count`` largest numbers, the largest first."""
    best: list[tuple[float, Kernel]] = []
    for name, size in sizes.items():
        values, places = size.flatten().topk(min(count, size.numel()))
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            best.append((value, (name, *divmod(place, size.shape[1]))))
    return [place for _, place in sorted(best, key=lambda each: -each[0])[:count]]


def _typical(found: dict[str, Operators]) -> list[Kernel]:
    names = list(found)
    count = min(4, len(names))
    spread = [names[round(index * (len(names) - 1) / max(count - 1, 1))] for index in range(count)]
    return [strongest({name: found[name].kernel().square().sum((-2, -1))}, 1)[0] for name in spread]


def _field(axes: Axes, name: str, out: int, into: int, found: TwistOperators) -> None:
    field = found.field(ARROWS, ARROWS).double().numpy()
    places = torch.linspace(-1 + 1 / ARROWS, 1 - 1 / ARROWS, ARROWS).numpy()
    # The arrows of the strongest place are as long as the places are apart.
    longest = max(float((field**2).sum(0).max()) ** 0.5, 1e-30)
    axes.quiver(
        places, places, *field, color=COLOURS[1], angles="xy", scale_units="xy", scale=longest * ARROWS / 2, width=0.009
    )
    axes.set(xlim=(-1.15, 1.15), ylim=(1.15, -1.15), xlabel="X", ylabel="Y", aspect="equal")
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.spines[["top", "right"]].set_visible(False)
    layer = f"{name}\n" if name else ""
    turned, scaled = float(found.curl) / 2, float(found.divergence) / 2
    axes.set_title(f"{layer}{into} → {out}: rotation {turned:+.3f}, scale {scaled:+.3f}", fontsize=8)


def _orders(axes: Axes, found: dict[str, Operators]) -> None:
    left = [0.0] * len(found)
    names = [name or "(itself)" for name in found]
    shares = [each.order_shares for each in found.values()]
    for order, (label, colour) in enumerate(zip(LEGEND, COLOURS, strict=False)):
        widths = [100 * each[order] for each in shares]
        axes.barh(range(len(names)), widths, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlim=(0, 100), ylim=(len(found) - 0.4, -0.6))
    axes.set_xlabel("share of the squared coefficients (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.4, 1.0), handlelength=1)


def _symbols(figure: SubFigure, shown: Sequence[Kernel], found: dict[str, Operators], rows: int) -> None:
    columns = min(2, len(shown))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    frequencies = torch.linspace(-math.pi, math.pi, FREQUENCIES)
    extent = (-math.pi, math.pi, math.pi, -math.pi)
    for axes, (name, out, into) in zip(panels, shown, strict=False):
        kernel = Operators(found[name].coefficients[out, into])
        size = kernel.symbol(frequencies, frequencies[:, None]).abs()
        image = axes.imshow(size.numpy(), extent=extent, cmap="viridis", vmin=0)
        axes.set_xticks([-math.pi, 0, math.pi], ["−π", "0", "π"])
        axes.set_yticks([-math.pi, 0, math.pi], ["−π", "0", "π"])
        axes.set_title(f"{name or '(itself)'}\n{into} → {out}", fontsize=8)
        figure.colorbar(image, ax=axes, shrink=0.6).ax.tick_params(labelsize=7)
    for axes in panels[len(shown) :]:
        axes.remove()
    figure.suptitle("size of the symbol, over the frequency in radians per pixel", fontsize=10)
