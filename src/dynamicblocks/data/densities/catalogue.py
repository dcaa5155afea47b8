"""Sets of points by name: drawn on the fly, read from a file, or images."""

from collections.abc import Sequence

from dynamicblocks.data.densities.points import DensityDataset
from dynamicblocks.data.densities.toys import check_labels, drawn_densities, toy_sets
from dynamicblocks.errors import unknown_name


def density_sets() -> tuple[str, ...]:
    """The names of the sets that are no file."""
    return tuple(toy_sets)


def load_density(
    name: str,
    *,
    seed: int = 0,
    samples: int | None = None,
    values: Sequence[str] | None = None,
    context: Sequence[str] = (),
    validation: float = 0.1,
    test: float = 0.1,
    data_dir: str | None = None,
) -> DensityDataset:
    """Points in three splits."""
    if name in toy_sets:
        return drawn_densities(name, seed, samples, validation, test, labelled=check_labels(tuple(context), name))
    raise unknown_name("set of points", name, density_sets())
