"""Pictures of a flow: its samples beside held-out points, its density, its particles, and other solvers."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.errors import ConfigurationError, SolverError
from dynamicblocks.flows import ContinuousTransform
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_look import (
    HELD_OUT,
    LEARNT,
    dots,
    dress,
    frame_of,
    hues,
    plain,
    shades_of,
    show_tiles,
)  # fmt: skip
from dynamicblocks.tasks.density_manifestation import manifest, write_manifestations
from dynamicblocks.tasks.density_net import DensityNet
from dynamicblocks.tasks.density_particles import draw_particles, particles_of, write_animation
from dynamicblocks.training.storage import write_picture
from dynamicblocks.visible import in_a_picture

# Points of a picture, and images; columns of a table that are drawn against one another; bins.
POINTS, IMAGES, PAIRED, BINS = 1500, 64, 4, 50
# Points along each side of the map of a density, and along a line; contexts that it is shown of.
SIDE, LINE, CONTEXTS = 100, 400, 4
# No looser is seen in a picture.
VISIBLE = 1e-3


def draw_density(net: DensityNet, known: DensityFacts, test: PointSet, folder: Path) -> list[Path]:
    """All pictures of a trained flow, in ``folder``: their paths. What a flow has not is left out.

    Args:
        net: in evaluation mode.
        known: facts of the data.
        test: held-out points, whose contexts are those of the samples.
    """
    return list(_drawn(_for_pictures(net), net, known, test, folder))


def _drawn(quick: DensityNet, net: DensityNet, known: DensityFacts, test: PointSet, folder: Path) -> Iterator[Path]:
    shown = test.select(torch.arange(min(len(test), IMAGES if known.levels else POINTS)))
    samples = quick.sample(len(shown), shown.context).double().cpu()
    path = folder / "samples.png"
    draw_samples(shown, samples, known, path)
    yield path
    if known.levels is None and known.numbers <= 2:
        path = folder / "density.png"
        _draw_map(quick, known, test, path)
        yield path
    # Particles are of flows with one equation; a solve may fail on its way where that to its end does not.
    with suppress(ConfigurationError, SolverError):
        particles = particles_of(quick, known, test)
        still, moving = folder / "particles.png", folder / "particles.gif"
        draw_particles(particles, known, still)
        yield still
        write_animation(particles, known, moving)
        yield moving
    yield from write_manifestations(manifest(net, known, test), known, folder)


def _for_pictures(net: DensityNet) -> DensityNet:
    """The same network, solved as exactly as one sees."""
    solver = next(part.solver for part in net.flow.modules() if isinstance(part, ContinuousTransform))
    if not solver.adaptive:
        return net
    other = copy.copy(net)
    looser = replace(solver, rtol=max(solver.rtol, VISIBLE), atol=max(solver.atol, VISIBLE))
    other._modules = {**net._modules, "flow": net.flow.with_solver(looser)}
    return other


# Samples


def draw_points(samples: Tensor, path: Path, known: DensityFacts) -> bool:
    """New points (n, *shape) in a picture; there is always one."""
    shades = shades_of(known)
    if shades is not None:
        shown = samples[: 4 * IMAGES]
        columns = min(len(shown), max(8, round(len(shown) ** 0.5)))
        rows = -(-len(shown) // columns)
        figure = Figure(figsize=(0.6 * columns, 0.6 * rows), layout="constrained")
        show_tiles(figure.subplots(), shades.tiles(shown, columns), "")
    else:
        figure = _in_pairs([("new points", samples, LEARNT)], known)
    write_picture(path, figure.savefig, dpi=130)
    return True


def draw_samples(shown: PointSet, samples: Tensor, known: DensityFacts, path: Path) -> None:
    """Samples beside held-out points, each under the context of one of those."""
    shades = shades_of(known)
    told = (("held-out", shown.points), ("samples", samples))
    if shades is not None or known.numbers == 2:
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        frame = None if shades else frame_of(torch.cat([shown.points, samples]))
        for axes, (name, points), colour in zip(figure.subplots(1, 2), told, (HELD_OUT, LEARNT), strict=True):
            title = f"{len(points):,} {name}{' points' if name == 'held-out' else ''}"
            if shades is not None:
                show_tiles(axes, shades.tiles(points, 8), title.replace("points", "images"))
            else:
                axes.scatter(*points.T.numpy(), c=hues(shown.context, colour, len(points)), **dots(len(points)))
                dress(axes, title, frame, known.features)
    else:
        figure = _in_pairs([(*each, colour) for each, colour in zip(told, (HELD_OUT, LEARNT), strict=True)], known)
    write_picture(path, figure.savefig, dpi=110)


def _in_pairs(told: list[tuple[str, Tensor, str]], known: DensityFacts) -> Figure:
    """The first columns against one another, and how each is spread."""
    if known.numbers == 2 and len(told) == 1:
        figure = Figure(figsize=(4.4, 4.2), layout="constrained")
        axes = figure.subplots()
        ((name, points, colour),) = told
        axes.scatter(*points.T.numpy(), color=colour, **dots(len(points)))
        dress(axes, f"{len(points):,} {name}", frame_of(points), known.features)
        return figure
    columns = min(known.numbers, PAIRED)
    side = 4.0 if columns == 1 else 2.2
    figure = Figure(figsize=(side * columns + 0.4, side * columns + 0.4), layout="constrained")
    panels = figure.subplots(columns, columns, squeeze=False)
    frames = [frame_of(torch.cat([points[:, [column]] for _, points, _ in told]))[0] for column in range(columns)]
    for row in range(columns):
        for column in range(columns):
            axes = panels[row][column]
            if column > row:
                axes.set_axis_off()
                continue
            for name, points, colour in told:
                if row == column:
                    axes.hist(
                        points[:, row].numpy(), BINS, range=frames[row], density=True, histtype="step",
                        color=colour, label=name,
                    )  # fmt: skip
                else:
                    axes.scatter(points[:, column].numpy(), points[:, row].numpy(), color=colour, **dots(len(points)))
            axes.set_xlim(*frames[column])
            if row != column:
                axes.set_ylim(*frames[row])
            plain(axes)
            if row == columns - 1:
                axes.set_xlabel(in_a_picture(known.features[column]), fontsize=8)
            if column == 0 < row:
                axes.set_ylabel(in_a_picture(known.features[row]), fontsize=8)
    panels[0][0].legend(frameon=False, fontsize=8)
    return figure


# Densities


def _draw_map(net: DensityNet, known: DensityFacts, test: PointSet, path: Path) -> None:
    """The density of points of one or two numbers, with how much of it lies in the picture."""
    frame = frame_of(test.points)
    contexts = _contexts(test)
    if known.numbers == 1:
        figure = Figure(figsize=(6, 4), layout="constrained")
        _lines(figure.subplots(), net, known, test, contexts)
        write_picture(path, figure.savefig, dpi=110)
        return
    across, up = (torch.linspace(*ends, SIDE, dtype=torch.float64) for ends in frame)
    grid = torch.cartesian_prod(across, up)
    cell = float((across[1] - across[0]) * (up[1] - up[0]))
    figure = Figure(figsize=(4.2 * (len(contexts) + 1), 4), layout="constrained")
    first, *others = figure.subplots(1, len(contexts) + 1)
    some = test.points[:POINTS]
    context = None if test.context is None else test.context[:POINTS]
    first.scatter(*some.T.numpy(), c=hues(context, HELD_OUT, len(some)), **dots(len(some)))
    dress(first, f"{len(some):,} held-out points", frame, known.features)
    for axes, context in zip(others, contexts, strict=True):
        density = _density(net, grid, context).reshape(SIDE, SIDE)
        axes.imshow(
            density.T.numpy(), origin="lower", extent=(*frame[0], *frame[1]), aspect="auto", cmap="magma",
            vmax=float(density.quantile(0.995)),
        )  # fmt: skip
        share = f"{float(density.sum()) * cell:.3f} of it in the frame"
        dress(axes, f"density{_told(context, known)}: {share}", frame, known.features)
        axes.grid(visible=False)
    write_picture(path, figure.savefig, dpi=110)


def _lines(axes: Axes, net: DensityNet, known: DensityFacts, test: PointSet, contexts: list[Tensor | None]) -> None:
    limits = frame_of(test.points)[0]
    across = torch.linspace(*limits, LINE, dtype=torch.float64)
    axes.hist(
        test.points[:, 0].numpy(), BINS, range=limits, density=True, color=HELD_OUT, alpha=0.3,
        label=f"{len(test):,} held-out points",
    )  # fmt: skip
    for context in contexts:
        density = _density(net, across[:, None], context)
        colour = LEARNT if context is None else None
        axes.plot(across.numpy(), density.numpy(), color=colour, lw=1.5, label=f"density{_told(context, known)}")
    axes.legend(frameon=False, fontsize=8)
    dress(axes, "", (limits, (0.0, axes.get_ylim()[1])), known.features)


def _density(net: DensityNet, points: Tensor, context: Tensor | None) -> Tensor:
    rows = None if context is None else context.expand(len(points), -1)
    return net.log_prob(points, rows).double().cpu().exp()


def _contexts(test: PointSet) -> list[Tensor | None]:
    """A few contexts of test points, through all that there are."""
    if test.context is None:
        return [None]
    kinds = torch.unique(test.context, dim=0)
    places = torch.linspace(0, len(kinds) - 1, min(CONTEXTS, len(kinds))).round().long()
    return list(kinds[places])


def _told(context: Tensor | None, known: DensityFacts) -> str:
    if context is None:
        return ""
    # Of a class that is told as ones and zeros only the one that it is.
    names = [
        (name, value)
        for name, value in zip(known.context_names, context.tolist(), strict=True)
        if value or "=" not in name
    ]
    said = ", ".join(name if "=" in name else f"{name}={value:.3g}" for name, value in names[:2])
    return in_a_picture(f" of {said}")
