"""Layers called with blended weights and statistics."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls import Alignment, ControlledField
from dynamicblocks.controls.blending import blended_parameters, call_blended
from tests.weights_in_time import Linear, double, normed_controls, normed_layer, scalar_controls


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


def test_a_variance_blended_with_a_negative_weight_stays_near_its_sources():
    weights = (-0.5, 0.75, 0.75)
    y = torch.randn(4, 1, 3, 3, dtype=double)
    for variances, used in (
        ([1.0, 2.0, 3.0], 3.25),
        ([9.0, 0.5, 0.7], 0.25),
        ([1.0, 3.0, 3.0], 4.0),
        ([0.1, 4, 4], 5.95),
    ):
        norms = [norm.eval() for norm in norms_of(variances)]
        parameters = blended_parameters(norms, weights)
        mean = sum(w * norm.running_mean for w, norm in zip(weights, norms, strict=True))
        expected = F.batch_norm(y, mean, torch.tensor([used], dtype=double), parameters["weight"], parameters["bias"])
        torch.testing.assert_close(call(norms, weights, y), expected, rtol=1e-13, atol=1e-13)


def test_where_a_weight_is_negative_changes_go_to_the_others():
    norms = norms_of([1.0, 2.0, 3.0])
    y = 2 * torch.randn(4, 1, 3, 3, dtype=double) + 1
    call(norms, (-0.5, 0.5, 1.0), y)
    mean = -0.5 * -0.4 + 0.5 * 0.6 + 1.0 * 1.6
    change_of_mean = 0.1 * (y.mean().item() - mean)
    growth_of_variance = 0.1 * (y.var().item() / 3.5 - 1)
    expected = [(-0.4, 1.0)] + [
        (before + share * change_of_mean, variance * (1 + share * growth_of_variance))
        for before, variance, share in ((0.6, 2.0, 1 / 3), (1.6, 3.0, 2 / 3))
    ]
    for norm, (mean, variance) in zip(norms, expected, strict=True):
        assert norm.running_mean.item() == pytest.approx(mean, rel=1e-13)
        assert norm.running_var.item() == pytest.approx(variance, rel=1e-13)
    assert [norm.num_batches_tracked.item() for norm in norms] == [1, 11, 21]


@settings(deadline=None)
@given(
    exponents=st.tuples(*[st.floats(-15, 15)] * 4),
    kind=st.sampled_from([db.Legendre, db.Chebyshev]),
    fraction=st.floats(0, 1),
    size=st.sampled_from([0.0, 1e-10, 1.0, 1e10]),
    momentum=st.sampled_from([0.1, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_variances_stay_positive_under_polynomials(exponents, kind, fraction, size, momentum, dtype):
    norms = norms_of([10.0**exponent for exponent in exponents], dtype, momentum=momentum)
    y = size * torch.linspace(-1, 1, 8, dtype=dtype).view(2, 1, 2, 2)
    terms = kind(4).terms(0, fraction)
    for _ in range(3):
        output = call([norms[index] for index, _ in terms], [weight for _, weight in terms], y)
        assert torch.isfinite(output).all()
    for norm in norms:
        assert torch.isfinite(norm.running_var).all()
        assert (norm.running_var > 0).all()


@pytest.mark.parametrize("controls", ["legendre(5)", "chebyshev(5)", "bspline(6)", "discontinuous_linear(6)"])
def test_statistics_in_training_stay_positive_and_bounded(controls):
    block = db.DynamicBlock(normed_layer, controls, times=[0, 0.4, 1, 2], integrator="rk4")
    for scale in (1.0, 1e-3, 1e3) * 10:
        block(scale * torch.randn(4, 2, 4, 4, dtype=double))
    for name, buffer in block.named_buffers():
        assert torch.isfinite(buffer).all()
        assert not name.endswith("running_var") or (buffer > 0).all()


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
