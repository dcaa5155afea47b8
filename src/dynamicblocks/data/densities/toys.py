"""Points in the plane, drawn on the fly, of densities that are hard in one way each; with the part each is of."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dynamicblocks.data.densities.points import DensityDataset, PointSet
from dynamicblocks.draws import generator
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.memory import check_memory
from dynamicblocks.registry import Registry
from dynamicblocks.times import check_count, check_seed

# Points (n, 2) in float64, and the part (n,) that each is of.
Drawn = tuple[Tensor, Tensor]

toy_sets: Registry[Drawn] = Registry("set of points")
PARTS: dict[str, int] = {}
"""How many parts each has, for one-hot labels."""

USUAL, USUAL_VALIDATION, USUAL_TEST = 50_000, 5_000, 10_000
MOST_POINTS = 100_000_000
# Of a point in float64: its numbers, its label, and what they are made of.
BYTES_OF_A_POINT = 100
# Keeps these draws apart from others with the same seed.
STREAM = 6

GAUSSIANS, RADIUS, VARIANCE = 8, 5.0, 0.1
BLADES = 5
TURN_THIRDS = 3
COLUMNS = 4


def _toy(*names: str, parts: int) -> Callable[[Callable[[int, torch.Generator], Drawn]], Callable[..., Drawn]]:
    def add(draw: Callable[[int, torch.Generator], Drawn]) -> Callable[..., Drawn]:
        for name in names:
            toy_sets.register(name)(draw)
            PARTS[name] = parts
        return draw

    return add


@_toy("moons", parts=2)
def moons(n: int, source: torch.Generator) -> Drawn:
    """Two half circles that reach into each other, noise 0.2, then times 3 minus 1.

    >>> points, labels = moons(5, torch.Generator().manual_seed(0))
    >>> points.shape, labels.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """
    labels, angle = _parts(n, 2, source), math.pi * _uniform(source, n)
    upper = torch.stack((angle.cos(), angle.sin()), dim=-1)
    lower = torch.stack((1 - angle.cos(), 0.5 - angle.sin()), dim=-1)
    return 3 * (lower.where(labels[:, None] == 1, upper) + 0.2 * _normal(source, n, 2)) - 1, labels


@_toy("circles", parts=2)
def circles(n: int, source: torch.Generator) -> Drawn:
    """Circles of radius 1 and 0.5 around the origin, noise 0.06: torchdiffeq's example of a flow."""
    labels, angle = _parts(n, 2, source), 2 * math.pi * _uniform(source, n)
    radius = 1 - 0.5 * labels
    return _polar(radius, angle) + 0.06 * _normal(source, n, 2), labels


@_toy("checkerboard", parts=8)
def checkerboard(n: int, source: torch.Generator) -> Drawn:
    """Every other of the 16 squares of [-4, 4]^2, uniformly."""
    labels = _parts(n, 8, source)
    column, half = labels // 2, labels % 2
    # In odd columns the squares lie one higher, as on a board.
    row = 2 * half + column % 2
    corner = torch.stack((column, row), dim=-1)
    return 2 * (corner + _uniform(source, n, 2)) - COLUMNS, labels


@_toy("swiss_roll", parts=TURN_THIRDS)
def swiss_roll(n: int, source: torch.Generator) -> Drawn:
    """A spiral of one and a half turns, (a cos a, a sin a) for a in [1.5 pi, 4.5 pi], noise 1, divided by 5.

    Its parts are its half turns, from within.
    """
    share = _uniform(source, n)
    angle = 1.5 * math.pi * (1 + 2 * share)
    labels = (TURN_THIRDS * share).long().clamp_max(TURN_THIRDS - 1)
    return (_polar(angle, angle) + _normal(source, n, 2)) / 5, labels


@_toy("eight_gaussians", "8gaussians", parts=GAUSSIANS)
def eight_gaussians(n: int, source: torch.Generator) -> Drawn:
    """Eight normal distributions of variance 0.1, their means on a circle of radius 5."""
    labels = _parts(n, GAUSSIANS, source)
    angle = 2 * math.pi / GAUSSIANS * labels.double()
    return _polar(torch.tensor(RADIUS, dtype=torch.float64), angle) + math.sqrt(VARIANCE) * _normal(
        source, n, 2
    ), labels


@_toy("pinwheel", parts=BLADES)
def pinwheel(n: int, source: torch.Generator) -> Drawn:
    """Five blades: (1, 0) with deviations 0.3 along and 0.1 across, turned the further the further out, times 2."""
    labels = _parts(n, BLADES, source)
    along, across = _normal(source, n, 2).unbind(-1)
    along, across = 1 + 0.3 * along, 0.1 * across
    angle = 2 * math.pi / BLADES * labels.double() + 0.25 * along.exp()
    turned = (along * angle.cos() - across * angle.sin(), along * angle.sin() + across * angle.cos())
    return 2 * torch.stack(turned, dim=-1), labels


def drawn_densities(
    name: str, seed: int, samples: int | None, validation: float, test: float, *, labelled: bool
) -> DensityDataset:
    """Points of a set in three splits, each drawn for itself.

    Args:
        name: of ``toy_sets``.
        seed: of the draws.
        samples: points to train on; None for the usual 50,000, beside 5,000 for validation and 10,000 for the test.
        validation, test: of another number to train on, so many besides, as shares of it.
        labelled: whether the part of each point, one-hot, is its context.

    Raises:
        ConfigurationError: the seed or the number is none, or there is no memory for so many.
    """
    check_seed(seed, "data.split_seed")
    counts = (USUAL, USUAL_VALIDATION, USUAL_TEST)
    if samples is not None:
        check_count(samples, "data.samples", least=2, most=MOST_POINTS)
        counts = (samples, max(2, round(validation * samples)), max(2, round(test * samples)))
    check_memory(BYTES_OF_A_POINT * sum(counts), f"drawing {counts[0]:,} points")
    train, validated, tested = (
        _split(name, count, generator(seed, STREAM, place), labelled) for place, count in enumerate(counts)
    )
    note = (
        f"{name}: {counts[0]:,} points for training, {counts[1]:,} for validation, {counts[2]:,} for test, drawn with "
        f"the seed {seed}"
    )
    return DensityDataset(train, validated, tested, note)


def _split(name: str, count: int, source: torch.Generator, labelled: bool) -> PointSet:
    points, labels = toy_sets[name](count, source)
    context = one_hot(labels, PARTS[name]) if labelled else None
    return PointSet.of(points, context, context_names=label_names(PARTS[name]) if labelled else None)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (n,) as contexts (n, classes), float64."""
    return torch.nn.functional.one_hot(labels, classes).double()


def label_names(classes: int) -> tuple[str, ...]:
    """The names of their columns."""
    return tuple(f"label={each}" for each in range(classes))


def check_labels(context: tuple[str, ...], name: str) -> bool:
    """Whether labels are asked for, or raise: there is no other context of points that are drawn, or of images."""
    if any(each != "label" for each in context) or len(context) > 1:
        raise ConfigurationError(
            f"data.context of {name} can be label, the part or class of each, one-hot, or none; got "
            f"{', '.join(map(repr, context))}"
        )
    return bool(context)


def _uniform(source: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=source)


def _normal(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=source)


def _parts(n: int, parts: int, source: torch.Generator) -> Tensor:
    return torch.randint(parts, (n,), generator=source)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return radius[..., None] * torch.stack((angle.cos(), angle.sin()), dim=-1)
