"""Particles on their way from the base to the data, as panels and as a film."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dynamicblocks.data.densities import PointSet
from dynamicblocks.tasks.density_facts import DensityFacts
from dynamicblocks.tasks.density_look import LEARNT, PLAIN, dots, dress, frame_of, hues, shades_of, show_tiles
from dynamicblocks.tasks.density_net import DensityNet
from dynamicblocks.training.disk import write_atomically
from dynamicblocks.training.storage import write_picture

# Panels, and frames of the film; particles of either, and how many leave a trace.
PANELS, FRAMES, PARTICLES, TRACES = 6, 31, 1500, 40
# Images of a panel, and in a row.
IMAGES, COLUMNS = 16, 4
# Hundredths of a second that a frame stands, and the first and the last.
STANDS, HELD = 8, 100
COLOURS = 32


def write_particles(net: DensityNet, known: DensityFacts, true: PointSet, folder: Path) -> list[Path]:
    """particles.png and particles.gif.

    Args:
        net: whose flow has one continuous transform.
        known: facts of the data.
        true: held-out points, whose contexts are those of the particles.
        folder: where they are written.
    """
    count = min(len(true), IMAGES if known.levels else PARTICLES)
    some = true.select(torch.arange(count))
    horizon = net.flow.continuous.horizon
    times = [horizon * place / (FRAMES - 1) for place in range(FRAMES)]
    z = net.flow.base.sample(count, torch.Generator().manual_seed(0))
    context = None if some.context is None else net.scaled(some.context.to(z))
    states = net.flow.paths(z, times, context).double().cpu()
    drawn = _Images(states, known) if known.levels else _Points(states, some, known)
    picture, film = folder / "particles.png", folder / "particles.gif"
    _draw_panels(drawn, times, picture)
    _film(drawn, times, film)
    return [picture, film]


class _Points:
    """Particles as dots, of the first two columns."""

    def __init__(self, states: Tensor, true: PointSet, known: DensityFacts) -> None:
        if known.numbers == 1:
            # The second axis tells the particles apart.
            apart = torch.linspace(0, 1, states.shape[1], dtype=states.dtype)
            states = torch.stack((states[..., 0], apart.expand(len(states), -1)), -1)
        self.states = states[..., :2]
        ends = torch.cat((self.states[0], self.states[-1]))
        self.frame = frame_of(ends)
        self.colours = hues(true.context, LEARNT, states.shape[1])
        self.names = known.features[:2]

    def draw(self, axes: Axes, place: int, title: str, traces: bool) -> None:
        if traces:
            for each in self.states[: place + 1, :TRACES].unbind(1):
                axes.plot(*each.T.numpy(), color=PLAIN, lw=0.6, alpha=0.5)
        across, up = self.states[place].T.numpy()
        axes.scatter(across, up, c=self.colours, **dots(self.states.shape[1]))
        dress(axes, title, self.frame)


class _Images:
    """Particles that are images."""

    def __init__(self, states: Tensor, known: DensityFacts) -> None:
        shades = shades_of(known)
        assert shades is not None
        self.shades, self.states = shades, states

    def draw(self, axes: Axes, place: int, title: str, traces: bool) -> None:
        show_tiles(axes, self.shades.tiles(self.states[place], COLUMNS), title)


def _draw_panels(drawn: _Points | _Images, times: list[float], path: Path) -> None:
    figure = Figure(figsize=(2.2 * PANELS, 2.5), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, PANELS)):
        place = number * (FRAMES - 1) // (PANELS - 1)
        drawn.draw(axes, place, f"t = {times[place]:.2g}", traces=number == PANELS - 1)
    write_picture(path, figure.savefig, dpi=110)


def _film(drawn: _Points | _Images, times: list[float], path: Path) -> None:
    frames = []
    for place, time in enumerate(times):
        figure = Figure(figsize=(3.6, 3.8), layout="constrained")
        drawn.draw(figure.subplots(), place, f"t = {time:.2f}", traces=False)
        frames.append(Image.fromarray(_pixels(figure)).quantize(COLOURS))
    buffer = BytesIO()
    stands = [10 * (HELD if place in (0, FRAMES - 1) else STANDS) for place in range(FRAMES)]
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=stands, loop=0, optimize=True
    )
    write_atomically(path, buffer.getvalue())


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(100)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
