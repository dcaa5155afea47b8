"""Bases of a user's own, of a few lines: what they leave to the library works as for the library's."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import dynamicblocks as db
from dynamicblocks.controls import Basis, Controls, Location, Spectral, bases, projection_matrix
from dynamicblocks.structure import discretisation, with_discretisation
from tests.optional import optional
from tests.weights_in_time import Scalar, scalar_controls

(BSpline,) = optional("scipy.interpolate", "BSpline")


@bases.register("parabolas")
class Parabolas(Basis):
    """On each interval a parabola of its own, through values at both ends and in the middle."""

    name = "parabolas"
    degree = 2

    def size_of(self, intervals):
        return 3 * intervals

    def terms(self, interval, fraction):
        s, first = fraction, 3 * interval
        return (first, (1 - s) * (1 - 2 * s)), (first + 1, 4 * s * (1 - s)), (first + 2, s * (2 * s - 1))

    @property
    def nodes(self):
        return tuple(Location(interval, s) for interval in range(self.count // 3) for s in (0.0, 0.5, 1.0))


@bases.register("smooth")
@dataclass(frozen=True)
class Smooth(Basis):
    """Splines of any degree on clamped knots, with as many derivatives as they can have."""

    name = "smooth"
    order: int = 2

    @property
    def degree(self):
        return self.order

    def size_of(self, intervals):
        return intervals + self.order

    def terms(self, interval, fraction):
        knots = np.pad(self.points, self.order, mode="edge")
        time, here, weights = self.time(Location(interval, fraction)), interval + self.order, np.ones(1)
        for degree in range(1, self.order + 1):
            starts = np.arange(here - degree + 1, here + 1)
            shares = (time - knots[starts]) / (knots[starts + degree] - knots[starts])
            weights = np.append(weights * (1 - shares), 0.0) + np.append(0.0, weights * shares)
        return tuple((interval + k, float(weight)) for k, weight in enumerate(weights) if weight)


@bases.register("waves")
class Waves(Spectral):
    """1, cos(s), sin(s), cos(2 s), ... with s from 0 to pi over the span."""

    name = "waves"

    @property
    def degree(self):
        return 20 + 2 * self.count

    def terms(self, interval, fraction):
        waves = ((math.cos, math.sin)[(k + 1) % 2](math.pi * ((k + 1) // 2) * fraction) for k in range(1, self.count))
        return ((0, 1.0), *enumerate(waves, start=1))


KNOTS = (0.0, 1.0, 2.5, 4.0)
EVERY = [Parabolas(knots=KNOTS), Smooth(knots=KNOTS), Smooth(knots=KNOTS, order=4), Waves(5, (0.0, 4.0))]
every_basis = pytest.mark.parametrize("basis", EVERY, ids=repr)
pieces = pytest.mark.parametrize("basis", EVERY[:3], ids=repr)
TIMES = np.array([0.1, 0.5, 0.9, 1.1, 1.3, 2.4, 2.6, 3.9])


def functions(basis, times):
    """The matrix phi_k(t_j), written a second time."""
    if isinstance(basis, Smooth):
        knots = np.pad(np.array(basis.knots), basis.order, mode="edge")
        return BSpline.design_matrix(times, knots, basis.order).toarray()
    if isinstance(basis, Waves):
        s = np.pi * (times - basis.knots[0]) / (basis.knots[1] - basis.knots[0])
        found = [f(k * s) for k in range(1, basis.size) for f in (np.cos, np.sin)]
        return np.stack([np.ones_like(s), *found[: basis.size - 1]], axis=1)
    found = np.zeros((len(times), basis.size))
    for row, time in zip(found, times, strict=True):
        n = np.searchsorted(basis.knots, time) - 1
        a, b = basis.knots[n : n + 2]
        powers = np.vander([a, (a + b) / 2, b], 3)
        row[3 * n : 3 * n + 3] = np.linalg.solve(powers.T, np.vander([time], 3)[0])
    return found


def drawn(basis):
    """Controls of two random numbers each."""
    return scalar_controls(basis, np.random.default_rng(3).normal(size=(basis.size, 2)))


def theta(controls, times=TIMES):
    values = torch.stack([layer.theta.detach() for layer in controls.layers]).numpy()
    return functions(controls.basis, times) @ values


@pytest.mark.parametrize("kind", [Parabolas, Smooth, Waves])
def test_a_basis_is_four_members_at_most(kind):
    members = {name for name in vars(kind) if hasattr(Basis, name) and not name.startswith("_")}
    assert {"degree", "terms"} <= members <= {"name", "degree", "terms", "size_of", "nodes"}


@every_basis
def test_functions_are_those_written_a_second_time(basis):
    rows = basis.values([basis.place(time) for time in TIMES])
    np.testing.assert_allclose(rows, functions(basis, TIMES), rtol=0, atol=1e-12)


def test_size_and_intervals_follow_from_each_other():
    assert bases.create("parabolas(6)").intervals == 2
    assert Smooth(5).intervals == 3
    assert Smooth(5, order=4).intervals == 1
    assert [basis.size for basis in EVERY] == [9, 5, 7, 5]
    assert [basis.intervals for basis in EVERY] == [3, 3, 3, 1]
    assert Smooth(4).over(db.Grid((0, 1, 4))).knots == (0.0, 2.0, 4.0)
    assert Parabolas().over(db.Grid((0, 1, 4))) == Parabolas(6, (0, 1, 4))
    assert Waves().over(db.Grid((0, 1, 4))) == Waves(2, (0, 4))
    assert Smooth(5).unit_grid() == db.uniform(0, 3, steps=3)
    assert Waves(5).unit_grid() == db.uniform(0, 5, steps=5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Parabolas(4), "Parabolas: no number of intervals makes 4 controls; 3 or 6 would do"),
        (lambda: Parabolas(3, KNOTS), "4 knots make 9 controls, but 3 were asked for"),
        (lambda: Smooth(2), "the number of controls of Smooth must be a whole number of at least 3, got 2"),
        (lambda: Waves(5, KNOTS), "Waves is one piece over the whole span, so its knots are the two ends, got 4 knots"),
        (lambda: EVERY[3].coarsen(), "5 controls of one piece cannot be divided by 2"),
        (lambda: EVERY[1].coarsen(), "3 intervals of controls cannot be joined by 2"),
    ],
)
def test_sizes_that_cannot_be(make, message):
    with pytest.raises(db.ConfigurationError, match=message):
        make()


@every_basis
def test_a_block_reads_theta_at_its_stages(basis):
    """Two values y_k' = theta_k(t) y_k under Euler are products by hand."""
    block = db.DynamicBlock(lambda: Scalar(0.0, 0.0), basis, (0.0, 0.5, 1.0, 1.75, 3.25, 4.0))
    block.controls = drawn(basis)
    ends = np.array(block.times.points[:-1])
    # At a knot theta is that of the interval that begins there.
    slopes = theta(block.controls, np.nextafter(ends, 9))
    expected = np.prod(1 + np.array(block.times.sizes)[:, None] * slopes, axis=0)
    np.testing.assert_allclose(block(torch.ones(2, dtype=torch.float64)).detach(), expected, rtol=1e-12)


@every_basis
@pytest.mark.parametrize("factor", [2, 3])
def test_a_refined_basis_contains_the_old_one(basis, factor):
    finer = basis.refine(factor)
    assert finer.size > basis.size
    matrix = finer.controls_from(basis)
    np.testing.assert_allclose(functions(finer, TIMES) @ matrix, functions(basis, TIMES), rtol=0, atol=1e-12)
    np.testing.assert_allclose(projection_matrix(finer, basis) @ matrix, np.eye(basis.size), rtol=0, atol=1e-11)
    assert finer.coarsen(factor) == basis


@pieces
@pytest.mark.parametrize("factor", [2, 3])
def test_refinement_keeps_theta_and_coarsening_undoes_it(basis, factor):
    controls = drawn(basis)
    finer = controls.refine(factor)
    np.testing.assert_allclose(theta(finer), theta(controls), rtol=0, atol=1e-12)
    again = finer.coarsen(factor)
    for layer, other in zip(again.layers, controls.layers, strict=True):
        torch.testing.assert_close(layer.theta, other.theta, rtol=0, atol=1e-11)


def test_values_at_old_places_are_copies():
    controls = drawn(EVERY[0])
    finer = controls.refine(2)
    for new, old in ((0, 0), (2, 1), (3, 1), (5, 2), (12, 6), (17, 8)):
        assert torch.equal(finer.layers[new].theta, controls.layers[old].theta)


@every_basis
def test_a_refined_block_is_the_same_function(basis, float64):
    block = db.DynamicBlock("preact_single(3, norm='tv')", basis, (0, 1, 2.5, 4), "rk4_classic")
    y = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(db.refine(block, steps=False)(y), block(y), rtol=1e-12, atol=1e-12)


@pieces
def test_projection_keeps_what_a_basis_holds(basis):
    line = scalar_controls(db.Legendre(3, (0, 4)), [[1.0, 2.0], [-1.0, 0.5], [0.3, 0.1]])
    there = line.project(basis)
    back = there.project(line.basis)
    for layer, other in zip(back.layers, line.layers, strict=True):
        torch.testing.assert_close(layer.theta, other.theta, rtol=1e-12, atol=1e-12)


def test_projection_is_the_best_approximation_by_waves():
    """Against the normal equations on a fine grid of midpoints, whose error is of second order."""
    basis, old = Waves(4, (0.0, 4.0)), db.PiecewiseLinear(knots=KNOTS)
    times = (np.arange(40000) + 0.5) / 10000
    waves, hats = functions(basis, times), np.stack([np.interp(times, KNOTS, row) for row in np.eye(4)], axis=1)
    expected = np.linalg.solve(waves.T @ waves, waves.T @ hats)
    np.testing.assert_allclose(projection_matrix(old, basis), expected, rtol=0, atol=1e-7)


@every_basis
def test_a_network_is_rebuilt_from_its_description(basis, float64):
    net = db.create_model("dynamicnet", in_channels=1, widths=(3,), units=3, norm="tv")
    net = db.project(db.with_integrator(net, "midpoint", times=(0, 1, 3)), on_three_units(basis))
    described = json.loads(json.dumps(discretisation(net)))
    rebuilt = with_discretisation(db.create_model("dynamicnet", in_channels=1, widths=(3,), norm="tv"), described)
    assert rebuilt.blocks[0].controls.basis == net.blocks[0].controls.basis
    rebuilt.load_state_dict(net.state_dict())
    images = torch.randn(2, 1, 6, 6)
    assert torch.equal(rebuilt(images), net(images))


def on_three_units(basis):
    """A basis of the same kind on [0, 3]."""
    size, knots = (3, (0, 3)) if isinstance(basis, Waves) else (None, (0, 2, 3))
    return replace(basis, size=size, knots=knots)


def test_a_basis_that_cannot_be_read_back_is_refused():
    class Unregistered(Parabolas):
        pass

    block = db.DynamicBlock("symmetric(2)", Unregistered(6))
    assert block.controls.basis.name == "Unregistered"
    message = r"none registered as 'Unregistered'; put @bases.register\('Unregistered'\).* over Unregistered"
    with pytest.raises(db.ConfigurationError, match=message):
        discretisation(block)


def test_controls_stand_in_the_middle_of_their_functions():
    times = [Smooth(knots=KNOTS).time(node) for node in Smooth(knots=KNOTS).nodes]
    # The mean of time over a B-spline is the mean of the knots it is made of.
    knots = np.pad(np.array(KNOTS), 2, mode="edge")
    np.testing.assert_allclose(times, [knots[k : k + 4].mean() for k in range(5)], rtol=1e-13)


def test_smoothness_measures_between_neighbouring_controls():
    slope = 3.0
    line = scalar_controls(EVERY[0], [slope * EVERY[0].time(node) for node in EVERY[0].nodes])
    assert line.smoothness().item() == pytest.approx(slope**2 * 4, rel=1e-13)
    assert EVERY[0].distances()[:4] == (0.5, 0.5, 1.25, 0.75)
    assert drawn(EVERY[1]).smoothness().item() > 0
    with pytest.raises(db.ConfigurationError, match="controls 0 and 1 of Waves do not stand one after the other"):
        drawn(EVERY[3]).smoothness()
    assert Controls([Scalar(1.0)], Waves(1, (0, 1))).smoothness().item() == 0
