"""Running statistics measured anew."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dynamicblocks as db
from dynamicblocks.controls.calibration import measure, meters_of
from dynamicblocks.controls.moments import LEAST_SHARE, fitted_moments
from tests.optional import optional

(lsq_linear,) = optional("scipy.optimize", "lsq_linear")


def images(count=4, size=16, width=3):
    return [1 + 2 * torch.randn(size, width, 6, 6) for _ in range(count)]


def statistics(net):
    return {name: tensor for name, tensor in net.state_dict().items() if "running" in name or "num_batches" in name}


def spoil(net):
    """Running statistics that have nothing to do with the weights."""
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(3, 9)
    return net


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
@pytest.mark.parametrize("unit", ["preact_double", "residual_unit"])
def test_unblended_statistics_are_plain_means_over_all_reads(integrator, unit, float64):
    net = spoil(db.create_model("dynamicnet", widths=(4, 5), units=2, steps=3, integrator=integrator, layer=unit))
    batches = images()
    reference = copy.deepcopy(net).train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for batch in batches:
            reference(batch)
    measured = db.recalibrate(net, batches)
    for name, expected in statistics(reference).items():
        torch.testing.assert_close(measured.state_dict()[name], expected, rtol=1e-12, atol=1e-12)


# Blocks in which every place that is read can have statistics of its own.
CONSISTENT = [
    (db.PiecewiseLinear(knots=(0, 2, 4)), (0, 1, 3, 4)),
    (db.DiscontinuousLinear(4), (0, 1, 2, 3, 4)),
    (db.CubicBSpline(7), (0, 1, 2, 3, 4)),
    (db.CubicBSpline(5), (0, 1, 2, 4)),
    (db.Legendre(4), (0, 1, 2, 3, 4)),
    (db.Chebyshev(4), (0, 1, 2, 3, 4)),
]


@pytest.mark.parametrize(("basis", "times"), CONSISTENT, ids=lambda value: getattr(value, "name", ""))
def test_evaluation_normalises_as_the_batches_were(basis, times, float64):
    block = spoil(db.DynamicBlock("preact_double(3)", basis, times))
    measured = db.recalibrate(block, images(16, 128))
    (fresh,) = images(1, 1024)
    in_training = copy.deepcopy(measured).train()(fresh) - fresh
    before = (block.eval()(fresh) - fresh - in_training).norm()
    after = (measured.eval()(fresh) - fresh - in_training).norm()
    assert after < 0.03 * in_training.norm()
    assert before > 0.5 * in_training.norm()


@pytest.mark.parametrize("controls", ["linear(3)", "discontinuous_linear(4)", "bspline(5)", "legendre(4)"])
def test_with_more_stages_than_controls_evaluation_is_near(controls, float64):
    """The weights vary slowly in time, as those of a trained block do; its statistics cannot vary as they please."""
    block = spoil(db.DynamicBlock("preact_double(3)", controls, 2, "rk4"))
    with torch.no_grad():
        for layer in block.controls.layers:
            for weight, first in zip(layer.parameters(), block.controls.layers[0].parameters(), strict=True):
                weight.copy_(first + 0.1 * (weight - first))
    measured = db.recalibrate(block, images(8, 64))
    (fresh,) = images(1, 512)
    in_training = copy.deepcopy(measured).train()(fresh) - fresh
    assert (measured.eval()(fresh) - fresh - in_training).norm() < 0.1 * in_training.norm()


@pytest.mark.parametrize("controls", ["constant(2)", "linear(3)", "bspline(5)", "legendre(3)"])
def test_nothing_of_the_present_statistics_is_left(controls, float64):
    block = db.DynamicBlock("preact_double(3)", controls, 2, "midpoint")
    batches = images(2)
    first, second = db.recalibrate(block, batches), db.recalibrate(spoil(block), batches)
    for name, tensor in statistics(first).items():
        torch.testing.assert_close(statistics(second)[name], tensor, rtol=1e-12, atol=1e-12)
        assert not name.endswith("running_var") or (tensor > 0).all()


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_the_network_is_left_as_it_was(gradient):
    net = db.create_model("dynamicnet", widths=(4,), controls="linear", gradient=gradient)
    net.body[0].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    momenta = [getattr(module, "momentum", None) for module in net.modules()]
    measured = db.recalibrate(net, images())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [module.training for module in net.modules()] == flags == [module.training for module in measured.modules()]
    assert [getattr(module, "momentum", None) for module in measured.modules()] == momenta
    assert list(measured.state_dict()) == list(before)
    assert [name for name, _ in measured.named_buffers()] == [name for name, _ in net.named_buffers()]
    assert not any(module._forward_hooks for module in measured.modules())
    for weight, old in zip(measured.parameters(), net.parameters(), strict=True):
        assert torch.equal(weight, old)
        assert weight.grad is None
        assert weight.requires_grad


def test_dropout_is_off_and_draws_nothing():
    block = db.DynamicBlock(lambda: nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)), "linear(2)", 1)
    batch = images(1)
    state = torch.get_rng_state()
    measured = db.recalibrate(block, batch)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(measured.controls.layers[0][1].running_mean, batch[0].mean(dim=(0, 2, 3)))
    assert all(module.training for module in measured.modules())


def test_controls_that_nothing_reads_keep_their_statistics():
    block = spoil(db.DynamicBlock("preact_single(3)", "constant(4)", "uniform(0, 4, steps=2)"))
    measured = db.recalibrate(block, images())
    for index, (old, new) in enumerate(zip(block.controls.layers, measured.controls.layers, strict=True)):
        kept = all(torch.equal(a, b) for a, b in zip(old.buffers(), new.buffers(), strict=True))
        assert kept == (index in block.unused_controls())


def test_reads_are_counted_by_control():
    block = db.DynamicBlock("preact_single(3)", "linear(3)", [0, 1, 2], "midpoint")
    measured = db.recalibrate(block, images(5))
    counts = [layer.norm1.num_batches_tracked.item() for layer in measured.controls.layers]
    assert counts == [10, 15, 5]  # knot 0 and the half before knot 1; knot 1 and two halves; the half after


@pytest.mark.parametrize("unit", ["a", "b"])
def test_normalisations_on_the_sum_are_measured_too(unit, float64):
    block = spoil(db.DynamicBlock(f"residual_unit(3, unit={unit!r})", "linear(3)", 2))
    (batch,) = images(1, 512)
    measured = db.recalibrate(block, [batch])
    in_training = copy.deepcopy(measured).train()(batch)
    torch.testing.assert_close(measured.eval()(batch), in_training, rtol=1e-3, atol=1e-3)


class OwnNorm(nn.Module):
    """A normalisation of another class, with what counts: running_mean, running_var, momentum."""

    def __init__(self):
        super().__init__()
        self.momentum = 0.3
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))

    def forward(self, y):
        if not self.training:
            return (y - self.running_mean.view(3, 1, 1)) / self.running_var.view(3, 1, 1).sqrt()
        mean, variance = y.mean(dim=(0, 2, 3)), y.var(dim=(0, 2, 3))
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        return (y - mean.view(3, 1, 1)) / variance.view(3, 1, 1).sqrt()


def test_normalisations_of_any_class_are_measured(float64):
    block = db.DynamicBlock(OwnNorm, "linear(2)", [0, 0.5, 1])
    batches = images()
    measured = db.recalibrate(nn.Sequential(OwnNorm(), block), batches)
    torch.testing.assert_close(measured[0].running_mean, torch.stack([b.mean(dim=(0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(measured[0].running_var, torch.stack([b.var(dim=(0, 2, 3)) for b in batches]).mean(0))
    (fresh,) = images(1, 2000)
    torch.testing.assert_close(measured.eval()(fresh), copy.deepcopy(measured).train()(fresh), rtol=0.1, atol=0.1)
    assert measured[0].momentum == 0.3


def test_batches_come_with_labels_or_without_and_from_a_generator():
    block = db.DynamicBlock("preact_single(3)", "linear(2)", 2, "midpoint")
    batches = images(3)
    plain = statistics(db.recalibrate(block, batches))
    labelled = [(batch, torch.zeros(16)) for batch in batches]
    for other in (labelled, [list(pair) for pair in labelled], (batch for batch in batches)):
        for name, tensor in statistics(db.recalibrate(block, other)).items():
            assert torch.equal(tensor, plain[name])


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, y):
        return y


def test_what_cannot_be_measured_is_refused():
    block = db.DynamicBlock("preact_single(3)", "linear(2)")
    with pytest.raises(db.ConfigurationError, match="at least one batch"):
        db.recalibrate(block, [])
    with pytest.raises(db.ConfigurationError, match="no normalisation with running statistics"):
        db.recalibrate(db.DynamicBlock("symmetric(3)", "linear(2)"), images())
    with pytest.raises(db.ConfigurationError, match=r"tensor of images or \(images, labels\), got dict"):
        db.recalibrate(block, [{"images": images(1)}])
    with pytest.raises(db.ConfigurationError, match="was seen to run"):
        db.recalibrate(Unused(), images())
    assert not any(module._forward_hooks for module in block.modules())


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9))
def test_fitted_moments_are_those_of_bounded_least_squares(seed, controls, places):
    random = np.random.default_rng(seed)
    weights = random.normal(size=(places, controls))
    weights /= np.abs(weights).sum(axis=1, keepdims=True)
    counts = random.integers(1, 5, size=places).astype(float)
    means, variances = random.normal(size=(places, 2)), random.uniform(0.1, 3, size=(places, 2))
    m, v = fitted_moments(weights, counts, means, variances)
    root = np.sqrt(counts)[:, None]
    for channel in range(2):
        expected = np.linalg.lstsq(root * weights, root[:, 0] * means[:, channel], rcond=None)[0]
        np.testing.assert_allclose(weights @ m[:, channel], weights @ expected, rtol=0, atol=1e-6)
        squares = variances[:, channel] + (means[:, channel] - weights @ m[:, channel]) ** 2
        least = LEAST_SHARE * variances[:, channel].min()
        best = lsq_linear(root * weights, root[:, 0] * squares, bounds=(least, np.inf), method="bvls")
        missed = root[:, 0] * (weights @ v[:, channel] - squares)
        assert (v[:, channel] >= least).all()
        assert 0.5 * missed @ missed == pytest.approx(best.cost, rel=1e-6, abs=1e-10)


def test_an_error_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(3, 1)).train()
    net[1].eval()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure(net, meters_of(net), [torch.randn(2, 2, 4, 4)])
    assert [module.training for module in net] == [True, False, True]
    assert net[0].momentum == 0.1
    assert not hasattr(net[0], "_blend")
    assert not net[0]._forward_hooks
