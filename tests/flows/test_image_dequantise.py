"""Pixel values to real numbers: the log-determinant, the bound on the discrete likelihood, bits a dimension."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import norm
from torch.autograd.functional import jacobian

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows import Base, Flow, Transform
from dynamicblocks.flows.base import Gaussian
from dynamicblocks.flows.images import Dequantise, bits_per_dim

ALPHAS = (1e-6, 0.05)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(number: int, levels: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randint(levels, (number, 1, 2, 3), generator=seeded(1)).to(dtype)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_log_det_is_that_of_the_jacobian(alpha):
    dequantise, x = Dequantise(17, alpha), pixels(4, 17)
    found = dequantise.to_base(x, generator=seeded())
    for row, log_det in enumerate(found.log_det):
        # Floor has no gradient, so the derivative is by a shift of all that follows the check for whole numbers.
        u = torch.rand(x.shape, dtype=x.dtype, generator=seeded())[row].flatten()

        def of(at):
            return torch.logit(alpha + (1 - 2 * alpha) * at / 17)

        at = x[row].flatten() + u
        assert torch.allclose(found.value[row].flatten(), of(at), rtol=1e-9)
        assert log_det.item() == pytest.approx(torch.linalg.slogdet(jacobian(of, at))[1].item(), rel=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient_by_pixels_is_that_of_the_log_det(alpha):
    dequantise, x = Dequantise(256, alpha), pixels(2, 256).requires_grad_()
    value, log_det = (lambda found: (found.value, found.log_det))(dequantise.to_base(x, generator=seeded()))
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert torch.allclose(slope.log().flatten(1).sum(-1), log_det, rtol=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_there_and_back(alpha):
    for levels in (2, 17, 256):
        dequantise, x = Dequantise(levels, alpha), pixels(500, levels)
        there = dequantise.to_base(x, generator=seeded())
        back = dequantise.to_data(there.value)
        assert torch.equal(back.value, x)
        assert torch.allclose(back.log_det, -there.log_det, rtol=1e-8)


def test_numbers_far_from_the_data_come_back_as_pixels():
    z = torch.tensor([[-1e4, -30.0, 30.0, 1e4]])
    assert Dequantise(256).to_data(z).value.tolist() == [[0.0, 0.0, 255.0, 255.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_brightest_and_darkest_are_finite_and_mirrored(dtype):
    """Near either end single precision keeps its digits."""
    levels = 256
    dark = Dequantise(levels, 1e-6).to_base(torch.zeros(1, 50, dtype=dtype), generator=seeded()).value[0]
    bright = Dequantise(levels, 1e-6).to_base(torch.full((1, 50), 255.0, dtype=dtype), generator=seeded()).value[0]
    u = torch.rand(50, dtype=dtype, generator=seeded()).double().numpy()
    share = 1e-6 + (1 - 2e-6) * u / levels
    assert torch.allclose(dark.double(), torch.as_tensor(logit(share)), rtol=1e-5)
    other = 1e-6 + (1 - 2e-6) * (1 - u) / levels
    assert torch.allclose(bright.double(), torch.as_tensor(-logit(other)), rtol=1e-5)


def test_noise_is_new_in_training_and_the_same_in_evaluation():
    dequantise, x = Dequantise(8), pixels(3, 8)
    assert not torch.equal(dequantise.to_base(x).value, dequantise.to_base(x).value)
    assert torch.equal(dequantise.to_base(x, None, seeded()).value, dequantise.to_base(x, None, seeded()).value)
    dequantise.eval()
    state = torch.get_rng_state()
    assert torch.equal(dequantise.to_base(x).value, dequantise.to_base(x).value)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(dequantise.to_base(x).value, dequantise.to_base(x, None, seeded(5)).value)


class Levels(Base):
    """Of logits whose pixels have the probabilities of a table, evenly within a level."""

    def __init__(self, shape: tuple[int, ...], table: torch.Tensor, alpha: float) -> None:
        super().__init__(shape)
        self.table, self.alpha = table, alpha

    def log_prob(self, z):
        levels, share = len(self.table), (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha)
        density = self.table[(share * levels).long()] * levels
        slope = torch.sigmoid(z) * torch.sigmoid(-z) / (1 - 2 * self.alpha)
        return (density * slope).log().flatten(1).sum(-1)

    def sample(self, number, generator=None):
        raise NotImplementedError


@pytest.mark.parametrize("alpha", ALPHAS)
def test_bound_is_tight_where_the_density_is_even_within_a_level(alpha):
    table = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    flow = Flow(Dequantise(4, alpha), Levels((1, 2, 2), table, alpha))
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]], [[[0.0, 0.0], [0.0, 3.0]]]], dtype=torch.float64)
    exact = table[x.long()].log().flatten(1).sum(-1)
    assert torch.allclose(flow.log_prob(x), exact, rtol=1e-9)


def test_even_pixels_take_as_many_bits_as_they_have():
    table = torch.full((256,), 1 / 256, dtype=torch.float64)
    flow = Flow(Dequantise(256), Levels((1, 2, 3), table, 1e-6))
    assert torch.allclose(bits_per_dim(flow.log_prob(pixels(5, 256)), flow.shape), torch.tensor(8.0).double())


@pytest.mark.parametrize("alpha", ALPHAS)
def test_mean_bounds_the_probability_of_a_pixel(alpha):
    """Of normal logits, P(x) is known by their distribution function, the bound by quadrature."""
    levels, number = 4, 40_000
    flow = Flow(Dequantise(levels, alpha), Gaussian((1,)))

    def logits(at: float) -> float:
        return float(logit(alpha + (1 - 2 * alpha) * at / levels))

    def log_density(at: float) -> float:
        z = logits(at)
        return float(norm.logpdf(z)) + math.log((1 - 2 * alpha) / levels / (expit(z) * expit(-z)))

    for x in range(levels):
        told = flow.log_prob(torch.full((number, 1), float(x), dtype=torch.float64), generator=seeded())
        bound = quad(log_density, x, x + 1)[0]
        error = told.std().item() / math.sqrt(number)
        assert told.mean().item() == pytest.approx(bound, abs=4 * error)
        assert bound < math.log(norm.cdf(logits(x + 1)) - norm.cdf(logits(x)))


def test_options_that_cannot_be():
    for alpha in (0.0, 0.5, -0.1, math.nan):
        with pytest.raises(ConfigurationError, match=r"alpha must be above 0 and below 0\.5"):
            Dequantise(256, alpha)
    with pytest.raises(ConfigurationError, match="levels"):
        Dequantise(1)


@pytest.mark.parametrize("wrong", [0.5, -1.0, 8.0, math.nan, math.inf])
def test_pixels_that_are_no_levels_are_told(wrong):
    with pytest.raises(ArgumentError, match=r"whole numbers from 0 to 7, as floats; got .* as they are in the file"):
        Dequantise(8).to_base(torch.tensor([[1.0, wrong]]))


def test_it_is_a_transform():
    assert isinstance(Dequantise(8), Transform)
