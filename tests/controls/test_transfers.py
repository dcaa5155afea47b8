"""Controls moved from one basis to another: projection, refinement, coarsening."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls import Controls, projection_matrix
from tests.optional import optional
from tests.weights_in_time import (
    Chebyshev,
    Constant,
    Discontinuous,
    Legendre,
    Linear,
    Spline,
    basis_functions,
    curve,
    normed_controls,
    normed_layer,
    pieces,
    times_between,
)

(fixed_quad,) = optional("scipy.integrate", "fixed_quad")

OLD = (0.0, 1.0, 2.5, 4.0)
SUPERSET = (0.0, 0.3, 1.0, 1.1, 2.0, 2.5, 4.0)
OTHER = (0.0, 1.3, 3.1, 4.0)

CONTAINED = [
    (Constant(knots=OLD), Constant(knots=OLD).refine(2)),
    (Constant(knots=OLD), Constant(knots=SUPERSET)),
    (Linear(knots=OLD), Linear(knots=OLD).refine(3)),
    (Linear(knots=OLD), Linear(knots=SUPERSET)),
    (Linear(knots=OLD), Linear(knots=OLD)),
    (Constant(knots=OLD), Discontinuous(knots=OLD)),
    (Linear(knots=OLD), Discontinuous(knots=SUPERSET)),
    (Discontinuous(knots=OLD), Discontinuous(knots=SUPERSET)),
    (Spline(knots=OLD), Spline(knots=SUPERSET)),
    (Linear(knots=(0, 4)), Spline(knots=OLD)),
    (Linear(knots=(0, 4)), Legendre(2, (0, 4))),
    (Spline(knots=(0, 4)), Legendre(4, (0, 4))),
    (Legendre(4, (0, 4)), Spline(knots=OLD)),
    (Chebyshev(3, (0, 4)), Spline(knots=OTHER)),
    (Legendre(2, (0, 4)), Linear(knots=OLD)),
    (Chebyshev(2, (0, 4)), Discontinuous(knots=OTHER)),
    (Chebyshev(1, (0, 4)), Constant(knots=OTHER)),
    (Legendre(5, (0, 4)), Chebyshev(5, (0, 4))),
    (Chebyshev(5, (0, 4)), Legendre(9, (0, 4))),
]
EVERY = [
    Constant(knots=OLD),
    Linear(knots=OLD),
    Discontinuous(knots=OLD),
    Spline(knots=OLD),
    Legendre(4, (0, 4)),
    Chebyshev(5, (0, 4)),
]
every_basis = pytest.mark.parametrize("basis", EVERY, ids=lambda basis: basis.name)
NOT_CONTAINED = [
    (Constant(knots=SUPERSET), Constant(knots=OLD)),
    (Linear(knots=SUPERSET), Linear(knots=OLD)),
    (Constant(knots=OLD), Linear(knots=OLD)),
    (Linear(knots=OLD), Constant(knots=OLD)),
    (Constant(knots=OLD), Linear(knots=OTHER)),
    (Linear(knots=OLD), Constant(knots=OTHER)),
    (Linear(knots=OLD), Linear(knots=OTHER)),
    *((old, new) for old in EVERY for new in EVERY if old.name != new.name),
    (Spline(knots=SUPERSET), Spline(knots=OTHER)),
    (Legendre(5, (0, 4)), Legendre(3, (0, 4))),
]


@pytest.mark.parametrize(("old", "new"), CONTAINED)
def test_projection_reproduces_functions_of_the_new_basis(old, new):
    times = times_between(old, new)
    matrix = projection_matrix(old, new)
    np.testing.assert_allclose(basis_functions(new, times) @ matrix, basis_functions(old, times), rtol=0, atol=1e-12)


@every_basis
@pytest.mark.parametrize("factor", [2, 3])
def test_a_refined_basis_contains_the_old_one(basis, factor):
    finer = basis.refine(factor)
    times = times_between(basis, finer)
    expected = basis_functions(basis, times)
    for matrix in (finer.controls_from(basis), projection_matrix(basis, finer)):
        np.testing.assert_allclose(basis_functions(finer, times) @ matrix, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(projection_matrix(finer, basis) @ matrix, np.eye(basis.size), rtol=0, atol=1e-11)
    assert finer.coarsen(factor) == basis


@pytest.mark.parametrize(
    ("basis", "copied"),
    [
        (Constant(knots=OLD), {(new, new // 3) for new in range(9)}),
        (Linear(knots=OLD), {(0, 0), (3, 1), (6, 2), (9, 3)}),
        (Discontinuous(knots=OLD), {(0, 0), (5, 1), (6, 2), (11, 3), (12, 4), (17, 5)}),
        (Spline(knots=OLD), {(0, 0), (11, 5)}),
        (Legendre(3, (0, 4)), {(4, 1)}),
        (Chebyshev(3, (0, 4)), {(0, 0), (8, 2), (4, 1)}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_controls_at_old_places_are_copies(basis, copied):
    """Nodes that old and new basis share: the control is the very one, to the last bit."""
    controls = normed_controls(basis)
    refined = controls.refine(3)
    for new, old in copied:
        for name, tensor in refined.layers[new].state_dict().items():
            assert torch.equal(tensor, controls.layers[old].state_dict()[name])


def best_approximation(old, new):
    """The solution of the normal equations, with inner products by Gauss quadrature between all knots."""

    def inner(first, second):
        knots = np.unique([*first.knots, *second.knots])

        def products(times):
            return np.einsum("ti,tj->ijt", basis_functions(first, times), basis_functions(second, times))

        return sum(fixed_quad(products, a, b, n=5)[0] for a, b in pairwise(knots))

    return np.linalg.lstsq(inner(new, new), inner(new, old), rcond=None)[0]


@pytest.mark.parametrize(("old", "new"), NOT_CONTAINED)
def test_projection_is_the_best_approximation(old, new):
    np.testing.assert_allclose(projection_matrix(old, new), best_approximation(old, new), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", [Constant, Linear, Discontinuous])
@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4, unique_by=lambda x: round(x, 3)),
    st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4, unique_by=lambda x: round(x, 3)),
)
def test_projection_is_the_best_approximation_on_any_knots(kind, first, second):
    old, new = Linear(knots=(0, *sorted(first), 1)), kind(knots=(0, *sorted(second), 1))
    np.testing.assert_allclose(projection_matrix(old, new), best_approximation(old, new), rtol=0, atol=1e-10)


def test_projection_onto_one_piece_is_the_mean():
    matrix = projection_matrix(Constant(knots=(0, 1, 4)), Constant(knots=(0, 4)))
    np.testing.assert_allclose(matrix, [[0.25, 0.75]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("knots", [(0, 5), (1, 4)], ids=repr)
def test_projection_needs_equal_spans(knots):
    message = rf"span \[0\.0, 4\.0\] and the new ones \[{knots[0]}\.0, {knots[1]}\.0\]"
    with pytest.raises(db.ConfigurationError, match=message):
        projection_matrix(Constant(knots=OLD), Constant(knots=knots))


STATE = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")


@pieces
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", STATE)
def test_refinement_keeps_weights_and_statistics_in_time(kind, factor, name):
    controls = normed_controls(kind(knots=OLD))
    refined = controls.refine(factor)
    assert refined.basis.knots[::factor] == OLD
    assert len(refined.basis.knots) == 3 * factor + 1
    times = times_between(refined.basis)
    np.testing.assert_allclose(curve(refined, name, times), curve(controls, name, times), rtol=0, atol=1e-14)


@pieces
@pytest.mark.parametrize("name", STATE)
def test_projection_keeps_weights_and_statistics_that_the_new_basis_holds(kind, name):
    controls = normed_controls(kind(knots=OLD))
    projected = controls.project(kind(knots=SUPERSET))
    times = times_between(projected.basis)
    np.testing.assert_allclose(curve(projected, name, times), curve(controls, name, times), rtol=0, atol=1e-12)


@pieces
def test_transfers_share_no_memory_and_leave_the_old_controls(kind):
    controls = normed_controls(kind(knots=OLD))
    before = {name: tensor.clone() for name, tensor in controls.state_dict().items()}
    for other in (controls.refine(), controls.project(Constant(knots=OLD)), controls.coarsen(3)):
        with torch.no_grad():
            for tensor in other.state_dict().values():
                tensor.fill_(77)
    assert all(torch.equal(tensor, before[name]) for name, tensor in controls.state_dict().items())


# A spline's variances are kept within the range of fewer coefficients: it is left out.
@pytest.mark.parametrize("kind", [Constant, Linear, Discontinuous])
@pytest.mark.parametrize("factor", [2, 3])
def test_coarsening_undoes_refinement(kind, factor):
    controls = normed_controls(kind(knots=OLD))
    there_and_back = controls.refine(factor).coarsen(factor)
    assert there_and_back.basis == controls.basis
    for name, tensor in there_and_back.state_dict().items():
        torch.testing.assert_close(tensor, controls.state_dict()[name], rtol=0, atol=1e-12)


@pieces
@pytest.mark.parametrize("factor", [2, 4])
def test_intervals_that_do_not_divide_cannot_be_joined(kind, factor):
    with pytest.raises(db.ConfigurationError, match=f"3 intervals of controls cannot be joined by {factor}"):
        normed_controls(kind(knots=OLD)).coarsen(factor)


@pytest.mark.parametrize("change", ["refine", "coarsen"])
@pytest.mark.parametrize("factor", [1, 0, 2.0])
def test_factors_of_bases_are_whole_and_at_least_two(change, factor):
    with pytest.raises(db.ConfigurationError, match=f"factor must be a whole number of at least 2, got {factor}"):
        getattr(Constant(knots=OLD), change)(factor)


def test_projection_without_knots_takes_the_span():
    controls = normed_controls(Constant(knots=OLD))
    assert controls.project(Linear(3)).basis.knots == (0.0, 2.0, 4.0)
    assert controls.project(Linear()).basis.knots == OLD
    assert controls.project(Legendre()).basis == Legendre(3, (0.0, 4.0))


def test_projection_of_a_polynomial_onto_pieces_without_a_number_takes_one_for_each_control():
    controls = normed_controls(Legendre(4, (0, 2)))
    assert controls.project(Constant()).basis.knots == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert controls.project(Chebyshev()).basis == Chebyshev(4, (0.0, 2.0))


variances = st.lists(st.floats(-20, 20).map(lambda exponent: 10.0**exponent), min_size=6, max_size=6)
TARGETS = [
    Constant(knots=(0, 2, 4, 6)),
    Constant(knots=(0, 1.5, 6)),
    Linear(knots=(0, 1, 2, 3, 4, 5, 6)),
    Linear(knots=(0, 6)),
    Linear(knots=(0, 0.1, 0.2, 3, 6)),
    Discontinuous(knots=(0, 1.5, 6)),
    Spline(knots=(0, 2, 6)),
    Legendre(5, (0, 6)),
    Chebyshev(4, (0, 6)),
]
SOURCES = [
    Constant(knots=(0, 1, 2, 3, 4, 5, 6)),
    Linear(knots=(0, 1, 2, 3, 5, 6)),
    Discontinuous(knots=(0, 1, 4, 6)),
    Spline(knots=(0, 1, 4, 6)),
    Legendre(6, (0, 6)),
    Chebyshev(6, (0, 6)),
]


@pytest.mark.parametrize("old", SOURCES, ids=repr)
@pytest.mark.parametrize("new", TARGETS, ids=repr)
@settings(deadline=None, max_examples=30)
@given(values=variances)
def test_projected_variances_stay_within_the_old_ones(old, new, values):
    layers = [nn.BatchNorm2d(1).double() for _ in values]
    for layer, value in zip(layers, values, strict=True):
        layer.running_var.fill_(value)
    projected = [layer.running_var.item() for layer in Controls(layers, old).project(new).layers]
    assert min(values) <= min(projected)
    assert max(projected) <= max(values)


def test_a_variance_that_least_squares_makes_negative_is_moved_to_the_least():
    old, new = Constant(knots=(0, 1, 2, 3)), Linear(knots=(0, 1, 2, 3))
    values = np.array([0.1, 0.1, 9.0])
    projection = best_approximation(old, new) @ values
    assert projection.min() < 0 < 9 < projection.max()
    layers = [nn.BatchNorm2d(1).double() for _ in values]
    for layer, value in zip(layers, values, strict=True):
        layer.running_var.fill_(value)
        layer.running_mean.fill_(value)
    projected = Controls(layers, old).project(new).layers
    assert [layer.running_var.item() for layer in projected] == pytest.approx(projection.clip(0.1, 9), abs=1e-12)
    assert [layer.running_mean.item() for layer in projected] == pytest.approx(projection, abs=1e-12)


@pytest.mark.parametrize("new", [Linear(knots=(0, 1, 4, 5)), Constant(knots=(0, 5))], ids=repr)
def test_whole_numbers_are_copied_and_not_blended(new):
    layers = [normed_layer() for _ in range(3)]
    counts = [3, 1000, 70000]
    for layer, count in zip(layers, counts, strict=True):
        layer[1].num_batches_tracked.fill_(count)
    for layer in Controls(layers, Constant(knots=(0, 1, 4, 5))).project(new).layers:
        assert layer[1].num_batches_tracked.item() in counts
    largest = Controls(layers, Constant(knots=(0, 1, 4, 5))).coarsen(3).layers[0]
    assert largest[1].num_batches_tracked.item() == 1000
