"""Pixels made normal by how often their values are: independent pixels' likelihood, there and back, the derivative."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows import Flow, Standardise, make_base
from dynamicblocks.flows.images import Marginals, make_image_flow


def digits(dtype=torch.float32):
    return torch.from_numpy(load_digits().images).to(dtype)[:, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_counts_are_those_of_numpy():
    images = digits()
    found = Marginals.count(images, 17)
    for row, column in ((0, 0), (3, 4), (7, 6)):
        wanted = np.bincount(images[:, 0, row, column].numpy().astype(int), minlength=17)
        assert found[:, 0, row, column].tolist() == wanted.tolist()


def test_what_does_not_move_has_the_likelihood_of_independent_pixels(float64):
    train, test = digits(torch.float64).split([1400, 397])
    flow = Flow(Marginals(Marginals.count(train, 17)), make_base("gaussian", (1, 8, 8))).eval()
    shares = np.stack([np.bincount(pixel, minlength=17) + 1 for pixel in train.flatten(1).T.numpy().astype(int)]) / 1417
    wanted = [np.log(shares[np.arange(64), image]).sum() for image in test.flatten(1).numpy().astype(int)]
    np.testing.assert_allclose(flow.log_prob(test, generator=seeded()).numpy(), wanted, rtol=1e-10)


def test_pixels_that_were_counted_become_normal():
    images = digits(torch.float64)
    z = Marginals(Marginals.count(images, 17)).to_base(images, generator=seeded()).value
    for row, column in ((0, 0), (3, 4), (7, 6)):
        assert stats.kstest(z[:, 0, row, column].numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(dtype):
    images = digits(dtype)
    # Of the first pixel all but one value are never there.
    marginals = Marginals(Marginals.count(images, 17))
    every = torch.arange(17, dtype=dtype)[:, None, None, None].expand(17, 1, 8, 8)
    for x in (images, every):
        there = marginals.to_base(x, generator=seeded())
        assert bool(torch.isfinite(there.value).all())
        back = marginals.to_data(there.value)
        assert (back.value != x).double().mean() <= (1e-5 if dtype == torch.float32 else 0)
        torch.testing.assert_close(back.log_det, -there.log_det, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("end", [0.0, 1 - 2.0**-24])
def test_random_numbers_at_their_ends_give_finite_states(end, monkeypatch):
    monkeypatch.setattr(
        "dynamicblocks.flows.images.dequantise.uniform", lambda shape, like, _: like.new_full(shape, end)
    )
    marginals = Marginals(Marginals.count(digits(), 17))
    for level in (0.0, 16.0):
        x = torch.full((2, 1, 8, 8), level)
        found = marginals.to_base(x)
        assert bool(torch.isfinite(found.value).all() & torch.isfinite(found.log_det).all())
        # Rounded, the end of a value is the beginning of the next.
        assert (marginals.to_data(found.value).value - x).abs().max() <= 1


def test_half_precision_has_noise_of_single_precision():
    images = digits()
    marginals = Marginals(Marginals.count(images, 17))
    found = marginals.to_base(images.bfloat16(), generator=seeded()).value
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), marginals.to_base(images, generator=seeded()).value, rtol=1e-2, atol=1e-2)


def test_the_log_det_is_the_derivative_by_what_is_added_to_a_value():
    images = digits(torch.float64)
    marginals, x = Marginals(Marginals.count(images, 17)), images[:3].clone().requires_grad_()
    found = marginals.to_base(x, generator=seeded())
    (slope,) = torch.autograd.grad(found.value.sum(), x)
    torch.testing.assert_close(slope.log().flatten(1).sum(1), found.log_det)
    # By scipy, from shares and the same u.
    shares = (marginals.counts[:, 0, 3, 4].double() + 1) / (len(images) + 17)
    u = torch.rand(x.shape, dtype=x.dtype, generator=seeded())[0, 0, 3, 4]
    value = int(images[0, 0, 3, 4])
    wanted = stats.norm.ppf(float(shares[:value].sum() + u * shares[value]))
    assert found.value[0, 0, 3, 4].item() == pytest.approx(wanted, rel=1e-9)


def test_counts_stay_what_they_are_in_any_precision():
    flow = make_image_flow((1, 8, 8), 17, hidden=(4,), counts=Marginals.count(digits(), 17))
    before = flow.transform.parts[0].counts.clone()
    flow.to(torch.bfloat16)
    assert torch.equal(flow.transform.parts[0].counts, before)
    assert not any(isinstance(part, Standardise) for part in flow.transform.parts)
    samples = flow.float().sample(3)
    assert bool(((samples >= 0) & (samples <= 16) & (samples == samples.round())).all())


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigurationError, match="whole numbers of at least 0"):
        Marginals(torch.ones(17, 8, 8))
    with pytest.raises(ConfigurationError, match=r"of shape \(17, 1, 8, 8\)"):
        make_image_flow((1, 8, 8), 17, counts=torch.ones(5, 1, 8, 8, dtype=torch.long))
    with pytest.raises(ArgumentError, match="whole numbers from 0 to 16"):
        Marginals(torch.ones(17, 1, 8, 8, dtype=torch.long)).to_base(digits() / 16)
    with pytest.raises(ArgumentError, match="whole numbers from 0 to 9"):
        Marginals.count(digits(), 10)
