"""Butcher's order conditions, one for each rooted tree: whether coefficients have the order that is declared."""

import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np

from dynamicblocks.errors import ConfigurationError
from dynamicblocks.times import check_count

Rows = Sequence[Sequence[float]]

# Of a condition, as a share of the sum of the absolute values of its terms: rounded decimals pass, mistakes do not.
_CLOSE = 1e-9


@dataclass(frozen=True)
class Tree:
    """A rooted tree.

    Args:
        branches: the trees at its root, each by its place among all trees, in ascending order.
        size: number of its vertices.
        density: product of the sizes of all trees in it, gamma.
        words: the condition's left side, without the weights.
    """

    branches: tuple[int, ...]
    size: int
    density: int
    words: str


@lru_cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees of at most so many vertices, the smallest first.

    >>> [sum(tree.size == size for tree in trees(8)) for size in range(1, 9)]
    [1, 1, 2, 4, 9, 20, 48, 115]
    """
    found: list[Tree] = []
    for size in range(1, order + 1):
        made = [branches for parts in _partitions(size - 1, size - 1) for branches in _choices(parts, found)]
        for branches in made:
            density = size * math.prod(found[place].density for place in branches)
            found.append(Tree(branches, size, density, _words(branches, found)))
    return tuple(found)


def _partitions(total: int, largest: int) -> Iterator[dict[int, int]]:
    """The ways to write a number as a sum: how often each part stands in it."""
    if total == 0:
        yield {}
    for part in range(min(total, largest), 0, -1):
        for count in range(total // part, 0, -1):
            for rest in _partitions(total - part * count, part - 1):
                yield {part: count, **rest}


def _choices(parts: dict[int, int], known: Sequence[Tree]) -> Iterator[tuple[int, ...]]:
    """The multisets of trees of these sizes."""
    if not parts:
        yield ()
        return
    (size, count), *rest = parts.items()
    places = [place for place, tree in enumerate(known) if tree.size == size]
    for chosen in combinations_with_replacement(places, count):
        for others in _choices(dict(rest), known):
            yield tuple(sorted((*chosen, *others)))


def _words(branches: tuple[int, ...], known: Sequence[Tree]) -> str:
    factors = []
    for place in dict.fromkeys(branches):
        count = branches.count(place)
        inner = known[place].words
        factor = "c" if place == 0 else f"A{inner}" if inner == "c" else f"A({inner})"
        factors.append(factor if count == 1 else f"{factor}^{count}" if place == 0 else f"({factor})^{count}")
    return " ".join(factors)


def first_violated(a: Rows, b: Sequence[float], order: int) -> tuple[Tree, float] | None:
    """The first condition up to an order that weights do not satisfy, and the value that they have; None if all hold.

    >>> tree, value = first_violated([[0, 0], [1 / 2, 0]], [0, 1], 4)
    >>> tree.words, value, tree.density
    ('Ac', 0.0, 6)
    """
    matrix, weights = np.zeros((len(a), len(a))), np.array(b, dtype=float)
    for n, row in enumerate(a):
        matrix[n, : len(row)] = row
    largest = np.abs(matrix)
    # A phi of each tree, and the same of absolute values.
    inner: list[tuple[np.ndarray, np.ndarray]] = []
    for tree in trees(order):
        phi, bound = np.ones(len(a)), np.ones(len(a))
        for place in tree.branches:
            phi, bound = phi * inner[place][0], bound * inner[place][1]
        value = float(weights @ phi)
        if not abs(value - 1 / tree.density) <= _CLOSE * max(1.0, float(np.abs(weights) @ bound)):
            return tree, value
        inner.append((matrix @ phi, largest @ bound))
    return None


def check_order(what: str, a: Rows, b: Sequence[float], order: int, *, pair: bool = False) -> None:
    """Raise a ConfigurationError for coefficients that do not have an order.

    Args:
        what: they are, for its message.
        a, b: the coefficients.
        order: what they should have.
        pair: whether it follows from that of the other state of a pair.
    """
    found = first_violated(a, b, order)
    if found is None:
        return
    tree, value = found
    left = f"sum(b {tree.words})" if tree.words else "sum(b)"
    raise ConfigurationError(
        f"{what}: the coefficients are of order {tree.size - 1}, not {order}: {left} must be 1/{tree.density} "
        f"(c = A 1), got {value:.12g}. Correct a coefficient"
        + (", or the weights of the error" if pair else f", or declare order={max(tree.size - 1, 1)}")
    )


def check_coefficients(what: str, order: int, *rows: Sequence[object]) -> None:
    """Raise a ConfigurationError for an order that is no count, and for coefficients that are no finite numbers."""
    check_count(order, f"{what}: order")
    for row in rows:
        for each in row:
            if isinstance(each, bool) or not isinstance(each, numbers.Real) or not math.isfinite(each):
                raise ConfigurationError(f"{what}: coefficients must be finite numbers, got {each!r:.80}")
