"""Pictures of a density: new points beside true ones, and the density itself where it is of the plane."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.flows import Flow
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_look import (
    HELD_OUT,
    LEARNT,
    Frame,
    dots,
    dress,
    frame_of,
    hues,
    shades_of,
    show_tiles,
)
from dynamicblocks.tasks.density_manifestation import manifest, write_manifestations
from dynamicblocks.tasks.density_net import DensityNet
from dynamicblocks.tasks.density_particles import write_particles
from dynamicblocks.training.storage import write_picture
from dynamicblocks.visible import in_a_picture

# Points of a picture; images of one, and how many in a row.
POINTS, IMAGES, COLUMNS = 2000, 48, 8
# Columns of a table that are drawn against each other; bins of one alone.
PAIRED, BINS = 4, 60
# Places along each side of the frame at which the density is told, and contexts for which it is.
SIDE, CONTEXTS = 150, 4


def draw_density(net: DensityNet, known: DensityFacts, test: PointSet, folder: Path) -> list[Path]:
    """Samples, density, particles and manifestations, in PNG, GIF and CSV files.

    Args:
        net: in evaluation mode.
        known: facts of the data.
        test: held-out points.
        folder: where they are written.

    Returns:
        The paths of the files.
    """
    paths = [folder / "samples.png"]
    shown = test.select(torch.arange(min(len(test), IMAGES if known.levels else POINTS)))
    samples = net.sample(len(shown), shown.context).double().cpu()
    draw_samples(samples, shown, known, paths[0])
    if known.levels is None and known.numbers == 2:
        paths.append(folder / "density.png")
        draw_densities(net, known, shown, paths[-1])
    if _has_particles(net.flow):
        paths += write_particles(net, known, shown, folder)
    if len(test) > 1:
        paths += write_manifestations(manifest(net, known, test), known, folder)
    return paths


def _has_particles(flow: Flow) -> bool:
    """Whether samples move along one equation."""
    try:
        return bool(flow.continuous)
    except ConfigurationError:
        return False


def draw_points(samples: Tensor, path: Path, known: DensityFacts) -> bool:
    """New points alone, (n, *shape), into a picture; there always is one."""
    figure = Figure(layout="constrained")
    shades = shades_of(known)
    if shades is not None:
        count = min(len(samples), IMAGES)
        figure.set_size_inches(6, 0.75 * -(-count // COLUMNS) + 0.3)
        show_tiles(figure.subplots(), shades.tiles(samples[:count], COLUMNS), f"{count:,} of {len(samples):,} samples")
    elif known.numbers == 2:
        figure.set_size_inches(4.6, 4.6)
        axes = figure.subplots()
        axes.scatter(*samples.T.numpy(), color=LEARNT, **dots(len(samples)))
        dress(axes, f"{len(samples):,} samples", frame_of(samples), known.features)
    else:
        _pairs(figure, [("samples", LEARNT, samples)], known)
    write_picture(path, figure.savefig, dpi=110)
    return True


def draw_samples(samples: Tensor, true: PointSet, known: DensityFacts, path: Path) -> None:
    """New points beside held-out ones, or over them where they have more than two columns."""
    figure = Figure(layout="constrained")
    shades = shades_of(known)
    if shades is not None:
        rows = -(-len(samples) // COLUMNS)
        figure.set_size_inches(8, 0.5 * rows + 0.5)
        for axes, title, each in zip(
            figure.subplots(1, 2), ("held-out images", "samples"), (true.points, samples), strict=True
        ):
            show_tiles(axes, shades.tiles(each, COLUMNS), title)
    elif known.numbers == 2:
        figure.set_size_inches(8, 4.2)
        frame = frame_of(true.points)
        for axes, title, each, usual in zip(
            figure.subplots(1, 2), ("held-out points", "samples"), (true.points, samples), (HELD_OUT, LEARNT),
            strict=True,
        ):  # fmt: skip
            axes.scatter(*each.T.numpy(), c=hues(true.context, usual, len(each)), **dots(len(each)))
            dress(axes, title, frame, known.features)
    else:
        _pairs(figure, [("held-out points", HELD_OUT, true.points), ("samples", LEARNT, samples)], known)
    write_picture(path, figure.savefig, dpi=110)


def _pairs(figure: Figure, groups: list[tuple[str, str, Tensor]], known: DensityFacts) -> None:
    """The first columns of tables, each alone on the diagonal, and against each other below it."""
    count = min(known.numbers, PAIRED)
    figure.set_size_inches(2.1 * count + 1, 2.0 * count + 0.8)
    grid = figure.subplots(count, count, squeeze=False)
    names = [in_a_picture(name) for name in known.features[:count]]
    for row in range(count):
        for column in range(count):
            axes = grid[row, column]
            if column > row:
                axes.set_axis_off()
                continue
            for title, colour, points in groups:
                if row == column:
                    low, high = frame_of(groups[0][2][:, row : row + 1])[0]
                    axes.hist(points[:, row].numpy(), bins=BINS, range=(low, high), density=True, histtype="step",
                              color=colour, label=title)  # fmt: skip
                else:
                    axes.scatter(points[:, column].numpy(), points[:, row].numpy(), color=colour, **dots(len(points)))
            frame = None if row == column else frame_of(groups[0][2][:, [column, row]])
            dress(axes, "", frame, (names[column] if row == count - 1 else "", names[row] if column == 0 else ""))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)


def draw_densities(net: DensityNet, known: DensityFacts, true: PointSet, path: Path) -> None:
    """The density over the plane: of points alone, or for the first few contexts of held-out points."""
    frame = frame_of(true.points)
    contexts: list[Tensor | None] = [None]
    if true.context is not None:
        contexts = list(torch.unique(true.context, dim=0).flip(0)[:CONTEXTS])
    figure = Figure(figsize=(4.2 * len(contexts) + 0.6, 4.2), layout="constrained")
    for axes, context in zip(figure.subplots(1, len(contexts), squeeze=False)[0], contexts, strict=True):
        _shaded(axes, net, known, frame, context)
        points = true.points
        if context is not None and true.context is not None:
            points = points[(true.context == context).all(1)]
        axes.scatter(*points[:300].T.numpy(), color="white", s=2, alpha=0.5, linewidths=0)
        said = "" if context is None else f" | {_told(context, known.context_names)}"
        dress(axes, f"density{said}, and held-out points", frame, known.features)
        axes.grid(visible=False)
    write_picture(path, figure.savefig, dpi=110)


def _told(context: Tensor, names: tuple[str, ...]) -> str:
    """A context in words: the one of a one-hot vector, or its first numbers."""
    if len(names) > 1 and context.sum() == 1 and bool(((context == 0) | (context == 1)).all()):
        return in_a_picture(names[int(context.argmax())])
    return in_a_picture(
        ", ".join(f"{name} {value:.3g}" for name, value in zip(names[:2], context.tolist(), strict=False))
    )


def _shaded(axes: Axes, net: DensityNet, known: DensityFacts, frame: Frame, context: Tensor | None) -> None:
    across, up = (torch.linspace(*limits, SIDE, dtype=torch.float64) for limits in frame)
    places = torch.cartesian_prod(up, across).flip(1)
    rows = None if context is None else context.expand(len(places), -1)
    like = net.context_mean
    found = net.log_prob(places.to(like), None if rows is None else rows.to(like)).double().cpu()
    axes.imshow(
        found.exp().view(SIDE, SIDE).numpy(), origin="lower", extent=(*frame[0], *frame[1]), aspect="auto",
        cmap="magma", interpolation="bilinear",
    )  # fmt: skip
