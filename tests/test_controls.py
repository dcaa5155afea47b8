"""Weights in time: bases, transfers between them, smoothness, and layers called with a blend."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import fixed_quad
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls import Alignment, ControlledField, Controls, as_basis, projection_matrix
from dynamicblocks.controls.blending import blended_parameters, call_blended

double = torch.float64
Constant, Linear = db.PiecewiseConstant, db.PiecewiseLinear
both_bases = pytest.mark.parametrize("kind", [Constant, Linear])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def knots_from(lengths, start=0.0):
    return tuple(start + math.fsum(lengths[:n]) for n in range(len(lengths) + 1))


knot_lists = st.lists(st.floats(0.05, 3), min_size=1, max_size=6).map(knots_from)


# The bases, written a second time: functions of time on arrays


def basis_functions(basis, times):
    """The matrix phi_k(t_j), one row a time; times lie between knots."""
    knots = np.array(basis.knots)
    if isinstance(basis, Linear):
        return np.stack([np.interp(times, knots, unit) for unit in np.eye(len(knots))], axis=1)
    return np.stack([(a < times) & (times < b) for a, b in pairwise(knots)], axis=1).astype(float)


def curve(controls, name, times):
    """theta(t) of one parameter or buffer, one row a time."""
    values = np.stack([layer.state_dict()[name].numpy().ravel() for layer in controls.layers])
    return basis_functions(controls.basis, times) @ values


def times_between(*bases):
    """A few times strictly inside every interval between the knots of all bases."""
    knots = np.unique(np.concatenate([basis.knots for basis in bases]))
    return np.concatenate([a + (b - a) * np.array([0.1, 0.37, 0.8]) for a, b in pairwise(knots)])


def normed_layer(width=2):
    """A convolution and a normalisation whose weights and statistics are all random."""
    layer = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)).double()
    with torch.no_grad():
        layer[1].weight.normal_()
        layer[1].bias.normal_()
        layer[1].running_mean.normal_()
        layer[1].running_var.uniform_(0.5, 2.0)
        layer[1].num_batches_tracked.random_(1000)
    return layer


def normed_controls(basis):
    return Controls([normed_layer() for _ in range(basis.size)], basis)


class Scalar(nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(values, dtype=double))

    def forward(self, y):
        return self.theta * y


def scalar_controls(basis, values):
    return Controls([Scalar(*np.atleast_1d(value)) for value in values], basis)


# Bases


def test_constant_terms_are_the_interval():
    basis = Constant(knots=(0, 1, 4))
    assert basis.size == 2
    for fraction in (0.0, 0.3, 1.0):
        assert basis.terms(1, fraction) == ((1, 1.0),)


def test_linear_terms_are_the_neighbours_and_one_at_a_knot():
    basis = Linear(knots=(0, 1, 4))
    assert basis.size == 3
    assert basis.terms(1, 0.25) == ((1, 0.75), (2, 0.25))
    assert basis.terms(1, 0.0) == ((1, 1.0),)
    assert basis.terms(1, 1.0) == ((2, 1.0),)


@both_bases
@settings(deadline=None)
@given(knot_lists, st.floats(0, 1))
def test_bases_are_nonnegative_partitions_of_unity(kind, knots, fraction):
    basis = kind(knots=knots)
    for interval in range(len(knots) - 1):
        terms = basis.terms(interval, fraction)
        assert math.fsum(weight for _, weight in terms) == pytest.approx(1.0, rel=1e-15)
        assert all(weight >= 0 for _, weight in terms)
        assert all(0 <= index < basis.size for index, _ in terms)


@both_bases
@settings(deadline=None)
@given(knot_lists, st.floats(0.001, 0.999))
def test_terms_are_the_basis_functions(kind, knots, fraction):
    basis = kind(knots=knots)
    for interval, (a, b) in enumerate(pairwise(basis.knots)):
        row = np.zeros(basis.size)
        for index, weight in basis.terms(interval, fraction):
            row[index] = weight
        expected = basis_functions(basis, np.array([a + fraction * (b - a)]))[0]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_controls_stand_at_the_nodes():
    assert Constant(knots=(0, 1, 4)).nodes == (0.5, 2.5)
    assert Linear(knots=(0, 1, 4)).nodes == (0.0, 1.0, 4.0)


@pytest.mark.parametrize(("kind", "least"), [(Constant, 1), (Linear, 2)])
def test_bases_need_enough_controls(kind, least):
    assert kind(least).over(db.Grid((0, 1))).knots == (0.0, 1.0)
    for size in (least - 1, 2.5, True):
        message = f"controls of {kind.__name__} must be a whole number of at least {least}, got {size!r}"
        with pytest.raises(db.ConfigurationError, match=re.escape(message)):
            kind(size)


@pytest.mark.parametrize(("kind", "made"), [(Constant, 2), (Linear, 3)])
def test_size_and_knots_must_agree(kind, made):
    assert kind(made, (0, 1, 4)) == kind(knots=(0.0, 1.0, 4.0))
    with pytest.raises(db.ConfigurationError, match=f"3 knots make {made} controls, but 7 were asked for"):
        kind(7, (0, 1, 4))


@both_bases
def test_knots_must_increase(kind):
    with pytest.raises(db.ConfigurationError, match=r"knots must increase strictly, but point 1 is 2\.0"):
        kind(knots=(0, 2, 2))


@both_bases
def test_a_basis_without_knots_has_no_points(kind):
    with pytest.raises(db.ConfigurationError, match="has no knots yet"):
        kind(5).refine()


@pytest.mark.parametrize(
    ("basis", "knots"),
    [
        (Constant(), (0, 1, 4, 6)),
        (Linear(), (0, 1, 4, 6)),
        (Constant(3), (0, 2, 4, 6)),
        (Linear(3), (0, 3, 6)),
        (Constant(knots=(0, 5, 9)), (0, 5, 9)),
    ],
    ids=repr,
)
def test_knots_by_default_come_from_the_grid(basis, knots):
    assert basis.over(db.Grid((0, 1, 4, 6))).knots == knots


@pytest.mark.parametrize(
    ("text", "basis"),
    [
        ("constant", Constant()),
        ("linear(5)", Linear(5)),
        ("constant(knots=(0, 1, 4))", Constant(knots=(0, 1, 4))),
        (3, Constant(3)),
        (Linear(4), Linear(4)),
    ],
)
def test_shorthands_of_bases(text, basis):
    assert as_basis(text) == basis


@pytest.mark.parametrize("controls", [True, 2.5, None], ids=repr)
def test_other_shorthands_are_refused(controls):
    with pytest.raises(db.ConfigurationError, match=f"controls must be a basis.* got {controls!r}"):
        as_basis(controls)


@pytest.mark.parametrize("controls", ["constant(4)", "linear(5)"])
def test_a_new_grid_never_stretches_the_knots(controls):
    block = db.DynamicBlock(lambda: Scalar(0.0), controls, times=db.uniform(0, 4, steps=4))
    with torch.no_grad():
        for index, layer in enumerate(block.controls.layers):
            layer.theta.fill_(index)
    half = block.replaced(times=db.uniform(0, 2, steps=20))
    assert half.controls.basis.knots == (0, 1, 2, 3, 4)
    # log y(2) under Euler: the sum of log(1 + h theta(t)) over the twenty left ends t, theta known by hand.
    ends = [n / 10 for n in range(20)]
    theta = [float(math.floor(t)) if controls == "constant(4)" else t for t in ends]
    expected = math.prod(1 + 0.1 * value for value in theta)
    assert half(torch.ones(1, dtype=double)).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("times", [[0, 5], [-0.5, 4], [4, 4.25]], ids=repr)
def test_a_grid_outside_the_knots_is_refused(times):
    block = db.DynamicBlock(lambda: Scalar(0.0), "linear(5)", times=4)
    message = rf"spans \[{float(times[0])}, {float(times[1])}\] but the controls are known on \[0\.0, 4\.0\]"
    with pytest.raises(db.ConfigurationError, match=message):
        block.replaced(times=times)


@both_bases
def test_controls_need_one_layer_each(kind):
    basis = kind(knots=(0, 1, 4))
    with pytest.raises(db.ConfigurationError, match=f"takes {basis.size} layers, got 5"):
        scalar_controls(basis, range(5))


# Projection


OLD = (0.0, 1.0, 2.5, 4.0)
SUPERSET = (0.0, 0.3, 1.0, 1.1, 2.0, 2.5, 4.0)
OTHER = (0.0, 1.3, 3.1, 4.0)

CONTAINED = [
    (Constant(knots=OLD), Constant(knots=OLD).refine(2)),
    (Constant(knots=OLD), Constant(knots=SUPERSET)),
    (Linear(knots=OLD), Linear(knots=OLD).refine(3)),
    (Linear(knots=OLD), Linear(knots=SUPERSET)),
    (Linear(knots=OLD), Linear(knots=OLD)),
]
NOT_CONTAINED = [
    (Constant(knots=SUPERSET), Constant(knots=OLD)),
    (Linear(knots=SUPERSET), Linear(knots=OLD)),
    (Constant(knots=OLD), Linear(knots=OLD)),
    (Linear(knots=OLD), Constant(knots=OLD)),
    (Constant(knots=OLD), Linear(knots=OTHER)),
    (Linear(knots=OLD), Constant(knots=OTHER)),
    (Linear(knots=OLD), Linear(knots=OTHER)),
]


@pytest.mark.parametrize(("old", "new"), CONTAINED)
def test_projection_reproduces_functions_of_the_new_basis(old, new):
    times = times_between(old, new)
    matrix = projection_matrix(old, new)
    np.testing.assert_allclose(basis_functions(new, times) @ matrix, basis_functions(old, times), rtol=0, atol=1e-12)


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
    np.testing.assert_allclose(projection_matrix(old, new), best_approximation(old, new), rtol=0, atol=1e-12)


@both_bases
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


# Transfers of whole layers

STATE = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")


@both_bases
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", STATE)
def test_refinement_keeps_weights_and_statistics_in_time(kind, factor, name):
    controls = normed_controls(kind(knots=OLD))
    refined = controls.refine(factor)
    assert refined.basis.knots[::factor] == OLD
    assert len(refined.basis.knots) == 3 * factor + 1
    times = times_between(refined.basis)
    np.testing.assert_allclose(curve(refined, name, times), curve(controls, name, times), rtol=0, atol=1e-14)


@both_bases
@pytest.mark.parametrize("name", STATE)
def test_projection_keeps_weights_and_statistics_that_the_new_basis_holds(kind, name):
    controls = normed_controls(kind(knots=OLD))
    projected = controls.project(kind(knots=SUPERSET))
    times = times_between(projected.basis)
    np.testing.assert_allclose(curve(projected, name, times), curve(controls, name, times), rtol=0, atol=1e-12)


@both_bases
def test_transfers_share_no_memory_and_leave_the_old_controls(kind):
    controls = normed_controls(kind(knots=OLD))
    before = {name: tensor.clone() for name, tensor in controls.state_dict().items()}
    for other in (controls.refine(), controls.project(Constant(knots=OLD)), controls.coarsen(3)):
        with torch.no_grad():
            for tensor in other.state_dict().values():
                tensor.fill_(77)
    assert all(torch.equal(tensor, before[name]) for name, tensor in controls.state_dict().items())


@both_bases
@pytest.mark.parametrize("factor", [2, 3])
def test_coarsening_undoes_refinement(kind, factor):
    controls = normed_controls(kind(knots=OLD))
    there_and_back = controls.refine(factor).coarsen(factor)
    assert there_and_back.basis == controls.basis
    for name, tensor in there_and_back.state_dict().items():
        torch.testing.assert_close(tensor, controls.state_dict()[name], rtol=0, atol=1e-12)


@both_bases
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


variances = st.lists(st.floats(-20, 20).map(lambda exponent: 10.0**exponent), min_size=6, max_size=6)
TARGETS = [
    Constant(knots=(0, 2, 4, 6)),
    Constant(knots=(0, 1.5, 6)),
    Linear(knots=(0, 1, 2, 3, 4, 5, 6)),
    Linear(knots=(0, 6)),
    Linear(knots=(0, 0.1, 0.2, 3, 6)),
]


@pytest.mark.parametrize("old", [Constant(knots=(0, 1, 2, 3, 4, 5, 6)), Linear(knots=(0, 1, 2, 3, 5, 6))], ids=repr)
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


# Smoothness


def test_smoothness_of_a_line_is_the_integral_of_its_squared_slope():
    controls = scalar_controls(Linear(knots=(0, 1, 4, 4.5)), [0, 2, -1, 1])
    # Slopes 2, -1 and 4 on lengths 1, 3 and 1/2.
    assert controls.smoothness().item() == pytest.approx(4 * 1 + 1 * 3 + 16 * 0.5, rel=1e-15)
    integral = sum(
        fixed_quad(lambda t: (np.gradient(np.interp(t, controls.basis.knots, [0, 2, -1, 1]), t)) ** 2, a, b, n=5)[0]
        for a, b in pairwise(controls.basis.knots)
    )
    assert controls.smoothness("l2").item() == pytest.approx(integral, rel=1e-12)


def test_smoothness_of_constants_measures_between_midpoints():
    controls = scalar_controls(Constant(knots=(0, 2, 4, 10)), [1, 4, 0])
    # Midpoints 1, 3 and 7: slopes 3/2 and -1 on lengths 2 and 4.
    assert controls.smoothness().item() == pytest.approx(2.25 * 2 + 1 * 4, rel=1e-15)


def test_smoothness_l1_is_the_rounded_total_variation():
    controls = scalar_controls(Linear(knots=(0, 1, 4, 4.5)), [0, 2, -1, 1])
    assert controls.smoothness("l1", eps=0.0).item() == pytest.approx(2 + 3 + 2, rel=1e-15)
    rounded = [math.hypot(slope, 0.5) - 0.5 for slope in (2, -1, 4)]
    expected = rounded[0] * 1 + rounded[1] * 3 + rounded[2] * 0.5
    assert controls.smoothness("l1", eps=0.5).item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_smoothness_adds_over_entries_and_parameters(kind):
    basis, values = Linear(knots=(0, 1, 4)), [(0, 3), (2, 1), (5, 5)]
    together = scalar_controls(basis, values).smoothness(kind)
    alone = [scalar_controls(basis, [value[entry] for value in values]).smoothness(kind) for entry in (0, 1)]
    torch.testing.assert_close(together, alone[0] + alone[1], rtol=1e-14, atol=0)
    pairs = Controls([nn.Sequential(Scalar(a), Scalar(b)) for a, b in values], basis)
    torch.testing.assert_close(pairs.smoothness(kind), together, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_smoothness_has_the_gradient_of_finite_differences(kind):
    controls = scalar_controls(Linear(knots=(0, 1, 4)), [0.3, 2.0, -1.0])
    controls.smoothness(kind).backward()
    for layer in controls.layers:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                layer.theta.add_(sign * 1e-6)
                ends.append(controls.smoothness(kind).item())
                layer.theta.sub_(sign * 1e-6)
        assert layer.theta.grad.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-7)


@pytest.mark.parametrize("kind", ["l2", "l1"])
@pytest.mark.parametrize(
    "controls",
    [
        scalar_controls(Constant(knots=(0, 4)), [3.0]),
        scalar_controls(Linear(knots=(0, 1, 4)), [3.0] * 3),
        Controls([nn.ReLU(), nn.ReLU()], Constant(2)),
    ],
    ids=["single", "equal", "weightless"],
)
def test_controls_that_do_not_change_are_smooth(kind, controls):
    basis = controls.basis.over(db.Grid((0, 4)))
    assert Controls(controls.layers, basis).smoothness(kind).item() == 0


def test_unknown_penalties_are_named():
    with pytest.raises(db.ConfigurationError, match=r"unknown smoothness penalty 'l3'\. Known: l1, l2"):
        scalar_controls(Constant(knots=(0, 1)), [1]).smoothness("l3")


# Layers called with a blend


def norms_of(values, dtype=double, **options):
    """One-channel normalisations with the given running variances, and means and weights of their own."""
    norms = [nn.BatchNorm2d(1, **options).to(dtype) for _ in values]
    for index, (norm, value) in enumerate(zip(norms, values, strict=True)):
        norm.running_var.fill_(value)
        norm.running_mean.fill_(index - 0.4)
        with torch.no_grad():
            norm.weight.fill_(index + 0.7)
            norm.bias.fill_(1.5 - index)
        norm.num_batches_tracked.fill_(10 * index)
    return norms


def call(norms, weights, y):
    return call_blended(norms, weights, blended_parameters(norms, weights), (y,))


def buffers_of(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def test_blended_normalisation_in_evaluation_is_batch_norm_of_the_blend():
    norms = [norm.eval() for norm in norms_of([0.5, 3.0])]
    before = [buffers_of(norm) for norm in norms]
    y = torch.randn(4, 1, 3, 3, dtype=double)
    first, second = norms
    expected = F.batch_norm(
        y,
        0.25 * first.running_mean + 0.75 * second.running_mean,
        0.25 * first.running_var + 0.75 * second.running_var,
        0.25 * first.weight + 0.75 * second.weight,
        0.25 * first.bias + 0.75 * second.bias,
    )
    torch.testing.assert_close(call(norms, (0.25, 0.75), y), expected, rtol=1e-14, atol=1e-14)
    assert [buffers_of(norm) for norm in norms] == before


def test_blended_normalisation_in_training_moves_statistics_by_share():
    norms = norms_of([0.5, 3.0])
    y = 2 * torch.randn(4, 1, 3, 3, dtype=double) + 1
    output = call(norms, (0.25, 0.75), y)
    mean, variance = 0.25 * -0.4 + 0.75 * 0.6, 0.25 * 0.5 + 0.75 * 3.0
    change_of_mean = 0.1 * (y.mean().item() - mean)
    growth_of_variance = 0.1 * (y.var().item() / variance - 1)
    assert norms[0].running_mean.item() == pytest.approx(-0.4 + 0.25 * change_of_mean, rel=1e-13)
    assert norms[1].running_mean.item() == pytest.approx(0.6 + 0.75 * change_of_mean, rel=1e-13)
    assert norms[0].running_var.item() == pytest.approx(0.5 * (1 + 0.25 * growth_of_variance), rel=1e-13)
    assert norms[1].running_var.item() == pytest.approx(3.0 * (1 + 0.75 * growth_of_variance), rel=1e-13)
    assert [norm.num_batches_tracked.item() for norm in norms] == [1, 11]
    normalised = (y - y.mean()) / torch.sqrt(y.var(correction=0) + 1e-5)
    weight, bias = 0.25 * 0.7 + 0.75 * 1.7, 0.25 * 1.5 + 0.75 * 0.5
    torch.testing.assert_close(output, weight * normalised + bias, rtol=0, atol=1e-13)


@settings(deadline=None)
@given(
    exponents=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    weight=st.floats(0.001, 0.999),
    size=st.sampled_from([0.0, 1e-10, 1.0, 1e10]),
    momentum=st.sampled_from([0.1, 0.9, 1.0, None]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_variances_stay_positive_whatever_the_statistics(exponents, weight, size, momentum, dtype):
    norms = norms_of([10.0**exponent for exponent in exponents], dtype, momentum=momentum)
    y = size * torch.linspace(-1, 1, 8, dtype=dtype).view(2, 1, 2, 2)
    call(norms, (weight, 1 - weight), y)
    for norm in norms:
        assert torch.isfinite(norm.running_var).all()
        assert (norm.running_var > 0).all()


def linear_block(**choices):
    layers = iter([normed_layer() for _ in range(3)])
    return db.DynamicBlock(lambda: next(layers), "linear(3)", times=[0, 1, 2], **choices)


def test_training_moves_the_statistics_of_the_controls_that_it_reads_and_no_other():
    block = linear_block().replaced(times=[0.25, 0.5], integrator="midpoint")
    counts = [layer[1].num_batches_tracked.item() for layer in block.controls.layers]
    unread = buffers_of(block.controls.layers[2])
    block(torch.randn(2, 2, 4, 4, dtype=double))
    after = [layer[1].num_batches_tracked.item() for layer in block.controls.layers]
    assert after == [counts[0] + 2, counts[1] + 2, counts[2]]  # two stages, both between knots 0 and 1
    assert all(torch.equal(buffer, unread[name]) for name, buffer in block.controls.layers[2].named_buffers())


def test_evaluation_leaves_every_statistic():
    block = linear_block(integrator="midpoint").eval()
    before = buffers_of(block)
    block(torch.randn(2, 2, 4, 4, dtype=double))
    assert all(torch.equal(buffer, before[name]) for name, buffer in block.named_buffers())


def test_one_term_of_weight_one_calls_the_layer_itself():
    controls = normed_controls(Linear(knots=(0, 1, 2)))
    called = []
    for layer in controls.layers:
        layer.register_forward_hook(lambda module, *_: called.append(module))
    y = torch.randn(2, 2, 4, 4, dtype=double)
    twin = normed_layer()
    twin.load_state_dict(controls.layers[1].state_dict())
    assert torch.equal(controls.evaluate(((1, 1.0),), 1.0, y), twin(y))
    assert called == [controls.layers[1]]
    for name, buffer in controls.layers[1].named_buffers():
        assert torch.equal(buffer, dict(twin.named_buffers())[name])


def test_a_blended_stage_sends_each_control_its_share_of_the_gradient():
    controls = scalar_controls(Linear(knots=(0, 2)), [1.0, 5.0])
    field = ControlledField(controls, Alignment(db.Grid((0.0, 2.0)), controls.basis.points))
    y = torch.tensor([3.0], dtype=double)
    value = field.on_step(0)(0.25, y)
    value.backward()
    assert value.item() == 3 * (0.75 * 1 + 0.25 * 5)
    assert [layer.theta.grad.item() for layer in controls.layers] == [3 * 0.75, 3 * 0.25]


class Averaging(nn.Module):
    """A layer that replaces its buffers instead of writing into them, and holds others that never change."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=double))
        self.register_buffer("mean", torch.zeros(1, dtype=double))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("order", torch.tensor([1, 0]))

    def forward(self, y):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * y.detach().mean()
        return self.scale * y[..., self.order] * self.mask


def test_buffers_that_a_layer_replaces_move_by_share_too():
    layers = [Averaging(), Averaging()]
    layers[1].mean.fill_(4.0)
    y = torch.tensor([[3.0, 7.0]], dtype=double)
    output = call(layers, (0.25, 0.75), y)
    assert output.tolist() == [[7.0, 0.0]]
    assert layers[0].mean.item() == 0 + 0.25 * 0.5 * (5 - 3)
    assert layers[1].mean.item() == 4 + 0.75 * 0.5 * (5 - 3)
    for layer in layers:
        assert layer.mask.tolist() == [True, False]
        assert layer.order.tolist() == [1, 0]


def test_a_basis_of_ones_own_may_scale_a_single_control(float64):
    class Ramp(db.PiecewiseConstant):
        """phi_k(t) = 1 + s: one function at a time, and not one."""

        def terms(self, interval, fraction):
            return ((interval, 1 + fraction),)

    block = db.DynamicBlock(lambda: nn.Conv2d(2, 2, 1), Ramp(1), integrator="midpoint")
    y = torch.randn(1, 2, 3, 3)
    kernel, bias = block.controls.layers[0].weight, block.controls.layers[0].bias

    def field(c, y):
        return torch.nn.functional.conv2d(y, (1 + c) * kernel, (1 + c) * bias)

    torch.testing.assert_close(block(y), y + field(0.5, y + 0.5 * field(0.0, y)))
