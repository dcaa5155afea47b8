"""Particles of a flow on their way from the base to the data: panels in time, and a moving picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_look import Frame, dots, dress, frame_of, hues, plain, shades_of, show_tiles
from dynamicblocks.tasks.density_net import DensityNet
from dynamicblocks.training.disk import write_atomically
from dynamicblocks.training.storage import write_picture

# Particles of points and of images; those whose way is drawn; panels; frames of a moving picture.
PARTICLES, TILES, WAYS, PANELS, FRAMES = 800, 16, 60, 6, 31
# Milliseconds of a frame, of the first and of the last.
EACH, FIRST, LAST = 60, 700, 1500
# Colours of a frame, which make a file small.
COLOURS = 64


@dataclass(frozen=True)
class Particles:
    """States of particles in units of the data.

    Args:
        times: of the frames, from 0 to the horizon.
        states: (frames, particles, *shape).
        colours: (particles, 4).
    """

    times: list[float]
    states: Tensor
    colours: NDArray[np.float64]

    @property
    def frame(self) -> Frame:
        """Limits of all states."""
        return frame_of(self.states[:, :, :2].flatten(0, 1))

    def title(self, place: int) -> str:
        """The time of a frame."""
        return f"t = {self.times[place]:.3g}"


def particles_of(net: DensityNet, known: DensityFacts, test: PointSet, seed: int = 0) -> Particles:
    """Particles under the contexts of test points.

    Raises:
        ConfigurationError: the flow has not one continuous transform.
    """
    flow = net.flow
    rows = torch.arange(TILES if known.levels else PARTICLES) % len(test)
    context = test.select(rows).context
    draws = torch.Generator().manual_seed(seed)
    times = torch.linspace(0.0, flow.continuous.horizon, FRAMES, dtype=torch.float64).tolist()
    z = flow.base.sample(len(rows), draws)
    scaled = None if context is None else net.scaled(context.to(z))
    states = flow.paths(z, times, scaled).double().cpu()
    return Particles(times, states, _colours(states[0], context))


def _colours(begin: Tensor, context: Tensor | None) -> NDArray[np.float64]:
    """By context, or else by where a particle begins: the angle about the middle, or its first number."""
    if context is not None:
        return hues(context, "black", len(begin))
    away = begin.flatten(1) - begin.flatten(1).mean(0)
    if away.shape[1] > 1:
        share, name = torch.atan2(away[:, 1], away[:, 0]) / (2 * torch.pi) + 0.5, "hsv"
    else:
        share, name = away[:, 0].argsort().argsort() / len(away), "viridis"
    return np.asarray(colormaps[name](share.numpy())) * (0.85, 0.85, 0.85, 1.0)


def draw_particles(found: Particles, known: DensityFacts, path: Path) -> None:
    """Panels in time; of points also the ways of some particles."""
    places = [round(place) for place in torch.linspace(0, FRAMES - 1, PANELS).tolist()]
    if known.numbers == 1:
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for particle in range(2 * WAYS):
            axes.plot(found.times, found.states[:, particle, 0].numpy(), color=found.colours[particle], lw=0.8)
        dress(axes, "particles from the base to the data", None, ("t", *known.features))
        write_picture(path, figure.savefig, dpi=110)
        return
    images = known.levels is not None
    columns = PANELS if images else PANELS + 1
    figure = Figure(figsize=(2.1 * columns, 2.5), layout="constrained")
    drawn = list(figure.subplots(1, columns, sharey=not images, squeeze=False)[0])
    for axes, place in zip(drawn, places, strict=False):
        _panel(axes, found, known, place)
    if not images:
        for particle in range(WAYS):
            drawn[-1].plot(*found.states[:, particle, :2].T.numpy(), color=found.colours[particle], lw=0.7, alpha=0.8)
        drawn[-1].scatter(*found.states[-1, :WAYS, :2].T.numpy(), c=found.colours[:WAYS], s=6, zorder=3)
        dress(drawn[-1], f"the ways of {WAYS}", found.frame)
        if len(known.features) > 2:
            dress(drawn[0], found.title(0), found.frame, known.features)
    write_picture(path, figure.savefig, dpi=110)


def _panel(axes: Axes, found: Particles, known: DensityFacts, place: int) -> None:
    shades = shades_of(known)
    if shades is not None:
        show_tiles(axes, shades.tiles(found.states[place], 4), found.title(place))
        return
    states = found.states[place]
    axes.scatter(*states[:, :2].T.numpy(), c=found.colours, **dots(len(states)))
    dress(axes, found.title(place), found.frame)


def write_animation(found: Particles, known: DensityFacts, path: Path) -> None:
    """A GIF of the particles, which stands still at its first and its last frame."""
    pictures = list(_frames(found, known))
    # One palette, so that nothing flickers; it is taken of the frames side by side.
    few = pictures[:: len(pictures) // 3]
    strip = Image.new("RGB", (few[0].width * len(few), few[0].height))
    for place, each in enumerate(few):
        strip.paste(each, (place * each.width, 0))
    palette = strip.quantize(COLOURS)
    first, *rest = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    spans = [FIRST, *[EACH] * (len(pictures) - 2), LAST]
    buffer = BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=rest, duration=spans, loop=0, optimize=False)
    write_atomically(path, buffer.getvalue())


def _frames(found: Particles, known: DensityFacts) -> Iterator[Image.Image]:
    """Each state as pixels; all but the particles is drawn once."""
    shades = shades_of(known)
    figure = Figure(figsize=(3.6, 3.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    if shades is not None:
        for place, state in enumerate(found.states):
            axes.clear()
            show_tiles(axes, shades.tiles(state, 4), found.title(place))
            yield _pixels(canvas)
        return
    states = found.states.flatten(2)
    if states.shape[2] == 1:  # points of one number lie on a line: spread them by their order at the beginning
        height = states[0, :, 0].argsort().argsort()[:, None] / states.shape[1]
        states = torch.cat([states, height.expand(len(states), -1, 1)], dim=2)
    some = axes.scatter(*states[0, :, :2].T.numpy(), c=found.colours, **dots(states.shape[1]))
    dress(axes, found.title(0), found.frame, known.features[:2])
    if known.numbers == 1:
        axes.set_yticks([])
    plain(axes)
    for place, state in enumerate(states):
        some.set_offsets(state[:, :2].numpy())
        axes.set_title(found.title(place), fontsize=9)
        yield _pixels(canvas)


def _pixels(canvas: FigureCanvasAgg) -> Image.Image:
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
