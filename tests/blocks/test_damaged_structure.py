"""What a file says of a network's structure is checked entry by entry, before anything is made of it."""

import copy
import math
import re

import pytest

import dynamicblocks as db
from dynamicblocks.structure import structure, with_structure

WRONG = (
    None,
    -1,
    0,
    3,
    2.5,
    10**9,
    1e8,
    10**30,
    math.nan,
    math.inf,
    True,
    "x",
    "",
    [],
    [0.0],
    [1.0, 0.0],
    {},
    {"a": 1},
    ["x"],
)
WRONG += (
    [0.0, math.nan],
    [0, [1]],
    "euler(1)",
    "linear(3)",
    "(" * 1000,
    "reversible('reversible')",
    list(range(200)),
)


@pytest.fixture(scope="module")
def net():
    return db.twist(db.DynamicNet(db.Opening(1, 4), [db.DynamicBlock("preact_single(4)", "linear(3)")], db.Head(4, 2)))


def places(tree, path=()):
    """The paths of all entries of a nested description."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changed(described, path, value):
    other = copy.deepcopy(described)
    place = other
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return other


def test_every_entry_is_checked(net):
    described = structure(net)
    paths = list(places(described))
    assert len(paths) > 12
    longest = 0
    for path in paths:
        for value in (*WRONG, KeyError):
            try:
                with_structure(net, changed(described, path, value))
            except db.DynamicBlocksError as error:
                longest = max(longest, len(str(error)))
            except Exception as error:
                raise AssertionError(f"{path} = {value!r:.40} raised {error!r}") from error
    assert longest < 500


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("times",), 1e8, "times of block 'body.0' expects numbers such as [0.5, 1], got 100000000.0"),
        (("times",), 100_000_000, "times of block 'body.0' expects numbers"),
        (("size",), 10**9, "the number of controls of PiecewiseLinear must be a whole number from 2 to 10,000"),
        (("size",), "3", "size of block 'body.0' expects a whole number, got '3'"),
        (("basis",), "bspline", "the number of controls of CubicBSpline must be a whole number of at least 4, got 3"),
        (("options",), {"degree": 4}, "the basis of block 'body.0' cannot be made as described"),
        (("integrator",), "rk5", "unknown integrator 'rk5'"),
        (("knots",), KeyError, "block 'body.0' is described without its knots"),
    ],
)
def test_errors_name_the_block_and_the_entry(net, path, value, said):
    with pytest.raises(db.ConfigurationError, match=re.escape(said)):
        with_structure(net, changed(structure(net), ("discretisation", "body.0", *path), value))


@pytest.mark.parametrize("described", [None, [], {}, "x", {"discretisation": None}, {"discretisation": []}])
def test_no_description_at_all(net, described):
    with pytest.raises(db.ConfigurationError, match="described"):
        with_structure(net, described)
