"""Order conditions: those of the package's own coefficients, and of a caller's."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

import dynamicblocks as db
from dynamicblocks.errors import ConfigurationError
from dynamicblocks.integrators import ESDIRKS, IMPLICIT, PAIRS, TABLEAUS, Pair
from dynamicblocks.integrators.esdirk import EsdirkTableau
from dynamicblocks.integrators.implicit import ImplicitTableau
from dynamicblocks.integrators.order_conditions import first_violated, trees


def full(tableau):
    """The rows of a stiff pair with their diagonal."""
    return [(*row, tableau.gamma if n else 0.0) for n, row in enumerate(tableau.a)]


OWN = [
    *((each.name, each.a, each.b, each.order) for each in (*TABLEAUS, *IMPLICIT, *(pair.tableau for pair in PAIRS))),
    *((each.name, full(each), full(each)[-1], each.order) for each in ESDIRKS),
]


def test_numbers_of_trees():
    """A000081; and sum over trees of n! / (gamma sigma) is (n - 1)!, so densities are right as a whole."""
    found = trees(10)
    assert [sum(tree.size == n for tree in found) for n in range(1, 11)] == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]
    assert len({tree.branches for tree in found}) == len(found)
    symmetry = []
    for tree in found:
        counts = [tree.branches.count(place) for place in dict.fromkeys(tree.branches)]
        symmetry.append(math.prod(map(math.factorial, counts)) * math.prod(symmetry[place] for place in tree.branches))
    for n in range(1, 11):
        total = sum(
            math.factorial(n) / (tree.density * s) for tree, s in zip(found, symmetry, strict=True) if tree.size == n
        )
        assert total == pytest.approx(math.factorial(n - 1))


@pytest.mark.parametrize(("name", "a", "b", "order"), OWN, ids=[each[0] for each in OWN])
def test_own_coefficients_have_their_order_and_no_more(name, a, b, order):
    assert first_violated(a, b, order) is None
    tree, _ = first_violated(a, b, order + 1)
    assert tree.size == order + 1


@pytest.mark.parametrize("made", [*TABLEAUS, *IMPLICIT, *PAIRS, *ESDIRKS], ids=lambda made: made.name)
def test_own_coefficients_pass_the_checks_of_a_callers(made):
    assert dataclasses.replace(made) == made
    assert pickle.loads(pickle.dumps(made)) == made


def gauss(stages):
    """The coefficients of Gauss's methods, of order 2 s, by quadrature."""
    x, w = np.polynomial.legendre.leggauss(stages)
    c, b = (x + 1) / 2, w / 2
    powers = np.arange(1, stages + 1)
    a = (c[:, None] ** powers / powers) @ np.linalg.inv(c[:, None] ** (powers - 1))
    return tuple(map(tuple, a.tolist())), tuple(b.tolist())


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_gauss_methods_have_twice_as_many_orders_as_stages(stages):
    a, b = gauss(stages)
    ImplicitTableau("gauss", 2 * stages, a, b)
    with pytest.raises(ConfigurationError, match=f"are of order {2 * stages}, not {2 * stages + 1}"):
        ImplicitTableau("gauss", 2 * stages + 1, a, b)


def test_coefficients_as_decimals_pass():
    """Ralston's method of order four, whose coefficients are irrational, in sixteen digits."""
    s = math.sqrt(5)
    rows = (
        (),
        (0.4,),
        ((-2889 + 1428 * s) / 1024, (3785 - 1620 * s) / 1024),
        ((-3365 + 2094 * s) / 6040, (-975 - 3046 * s) / 2552, (467040 + 203968 * s) / 240845),
    )
    b = ((263 + 24 * s) / 1812, (125 - 1000 * s) / 3828, 1024 * (3346 + 1623 * s) / 5924787, (30 - 4 * s) / 123)
    decimals = tuple(tuple(float(f"{each:.15g}") for each in row) for row in rows)
    assert db.Tableau("ralston4", 4, decimals, tuple(float(f"{each:.15g}") for each in b)).order == 4


def test_a_wrong_order_is_refused():
    with pytest.raises(ConfigurationError, match=r"'kutta': .* order 3, not 5: sum\(b .*\) must be 1/\d+ .* order=3"):
        db.Tableau("kutta", 5, ((), (1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6))
    with pytest.raises(ConfigurationError, match=r"order 1, not 2: sum\(b c\) must be 1/2 .*, got 0\.25"):
        db.Tableau("slip", 2, ((), (1 / 2,)), (1 / 2, 1 / 2))
    with pytest.raises(ConfigurationError, match="order 2, not 3"):
        ImplicitTableau("midpoint", 3, ((1 / 2,),), (1,))
    with pytest.raises(ConfigurationError, match="order 3, not 4"):
        dataclasses.replace(ESDIRKS[0], order=4)
    assert db.Tableau("tried out", 5, ((), (1 / 2,)), (0, 1), check=False).order == 5


def test_pairs_are_checked():
    dopri5, kvaerno = PAIRS[0], ESDIRKS[0]
    with pytest.raises(ConfigurationError, match=r"its second state .* are of order 0, not 4.* weights of the error"):
        Pair(dopri5.tableau, (0.0,) * 6 + (0.1,))
    with pytest.raises(ConfigurationError, match=r"the other state of the pair.* of order 0, not 2"):
        dataclasses.replace(kvaerno, error=(0.0, 0.0, 0.1, 0.0))
    with pytest.raises(ConfigurationError, match=r"c\[1\] must be its row sum 0\.8717"):
        dataclasses.replace(kvaerno, c=(0.0, 0.5, 1.0, 1.0))
    with pytest.raises(ConfigurationError, match="a method of 4 stages"):
        EsdirkTableau("short", 3, kvaerno.gamma, kvaerno.c, kvaerno.a, (0.1, -0.1, 0.0))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "1/2", None, True])
def test_coefficients_are_finite_numbers(wrong):
    with pytest.raises(ConfigurationError, match="coefficients must be finite numbers, got"):
        db.Tableau("wrong", 2, ((), (wrong,)), (0, 1))
    with pytest.raises(ConfigurationError, match="coefficients must be finite numbers, got"):
        ImplicitTableau("wrong", 1, ((wrong,),), (1,))


def test_other_refusals():
    for order in (0, 2.0, "2", True):
        with pytest.raises(ConfigurationError, match="order must be a whole number"):
            db.Tableau("wrong", order, ((), (1 / 2,)), (0, 1))
    with pytest.raises(ConfigurationError, match=r"its 2 stages are found together.* singular"):
        ImplicitTableau("wrong", 2, ((1 / 4, 1 / 4), (1 / 4, 1 / 4)), (1 / 2, 1 / 2))
