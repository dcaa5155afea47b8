"""Squeezes and scales: sizes, volumes, there and back."""

import math

import pytest
import torch

from dynamicblocks.errors import ArgumentError, ConfigurationError
from dynamicblocks.flows import Exact, FlowMatching, negative_log_likelihood
from dynamicblocks.flows.images import Multiscale, OnHalf, Squeeze, Unsqueeze, bits_per_dim, make_image_flow
from dynamicblocks.flows.transform import Standardise, Transformed
from dynamicblocks.functional import Solver

FINE = Solver(rtol=1e-7, atol=1e-7)


def small_flow(shape=(1, 4, 4), **options):
    torch.manual_seed(0)
    flow = make_image_flow(shape, 8, hidden=(6,), solver=FINE, **{"alpha": 0.05, **options}).double()
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return flow.eval()


def images(number, shape=(1, 4, 4), levels=8):
    return torch.randint(levels, (number, *shape), generator=torch.Generator().manual_seed(1)).double()


def test_squeeze_takes_patches_and_gives_them_back():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    found = Squeeze().to_base(x)
    assert found.value.shape == (1, 8, 2, 2)
    assert found.value[0, :4, 0, 0].tolist() == [0.0, 1.0, 4.0, 5.0]
    assert found.log_det.tolist() == [0.0]
    for transform in (Squeeze(), Unsqueeze()):
        y = x if isinstance(transform, Squeeze) else found.value
        assert torch.equal(transform.decode(transform.encode(y)), y)


def test_odd_images_are_not_squeezed():
    with pytest.raises(ArgumentError, match="even sides, got images of 7 x 8"):
        Squeeze().to_base(torch.zeros(1, 1, 7, 8))


@pytest.mark.parametrize(
    ("side", "scales", "most"), [(28, 4, "at most 3 scales.* 7 x 7 has an odd one"), (7, 2, "at most 1 scale,")]
)
def test_sides_that_cannot_be_halved_are_told(side, scales, most):
    with pytest.raises(ConfigurationError, match=f"images of {side} x {side} pixels have {most}.* got {scales} scales"):
        make_image_flow((1, side, side), 256, scales=scales)


@pytest.mark.parametrize(("shape", "scales"), [((1, 8, 8), 4), ((3, 32, 32), 3), ((1, 28, 28), 3), ((1, 6, 10), 2)])
def test_sizes_that_fit(shape, scales):
    flow = make_image_flow(shape, 17, hidden=(4,), scales=scales, solver=Solver("euler", step_size=1.0))
    assert flow.sample(2).shape == (2, *shape)
    assert flow.log_prob(torch.zeros(2, *shape)).shape == (2,)


def test_untrained_flow_leaves_the_numbers_in_their_places():
    flow = make_image_flow((1, 8, 8), 17, hidden=(4,), scales=3, solver=Solver("euler", step_size=1.0)).eval()
    x = images(2, (1, 8, 8), 17).float()
    assert torch.equal(flow(x), flow.transform.parts[0].encode(x))


@pytest.mark.parametrize("scales", [1, 2, 3])
@pytest.mark.parametrize("context", [0, 2])
def test_inverse_of_forward(scales, context):
    flow = small_flow(scales=scales, context=context)
    x = images(5)
    given = torch.randn(5, context, dtype=torch.float64) if context else None
    z = flow(x, given)
    assert torch.equal(flow.inverse(z, given), x)
    scaled = flow.transform.parts[0].encode(x)
    behind = scaled
    for part in flow.transform.parts[1:]:
        behind = part.encode(behind, given)
    assert not torch.allclose(behind, scaled, atol=0.1)
    for part in reversed(flow.transform.parts[1:]):
        behind = part.decode(behind, given)
    assert torch.allclose(behind, scaled, atol=1e-5)


@pytest.mark.parametrize("scales", [1, 2])
def test_log_det_is_that_of_the_jacobian(scales):
    flow = small_flow((1, 4, 4), scales=scales, trace="exact")
    scaled = flow.transform.parts[0].encode(images(1))

    def through(z):
        log_det = z.new_zeros(len(z))
        for part in flow.transform.parts[1:]:
            found = part.to_base(z)
            z, log_det = found.value, log_det + found.log_det
        return z, log_det

    whole = torch.autograd.functional.jacobian(lambda at: through(at)[0], scaled).reshape(16, 16)
    exact = torch.linalg.slogdet(whole)[1].item()
    assert abs(exact) > 0.1
    assert through(scaled)[1].item() == pytest.approx(exact, abs=1e-5)


def test_density_of_samples_is_the_density_of_the_way_back():
    flow = small_flow(scales=2, trace="exact")
    z = flow.base.sample(3, torch.Generator().manual_seed(0)).double()
    there = flow.transform.to_data(z)
    # Back from the logits themselves, for pixels are rounded.
    scaled = z
    for part in reversed(flow.transform.parts[1:]):
        scaled = part.decode(scaled)
    logits, back = scaled, z.new_zeros(3)
    for part in flow.transform.parts[1:]:
        found = part.to_base(logits)
        logits, back = found.value, back + found.log_det
    at = flow.transform.parts[0]
    assert torch.allclose(there.log_det, at.to_data(scaled).log_det - back, atol=1e-5)


def test_half_is_transformed_with_its_penalties():
    class Counting(Standardise):
        def to_base(self, x, context=None, generator=None):
            found = super().to_base(x, context, generator)
            return Transformed(found.value, found.log_det, {"kinetic": torch.ones(len(x))})

    half = OnHalf(Counting(0.0, 2.0))
    x = torch.ones(3, 4, 2, 2)
    found = half.to_base(x)
    assert found.log_det.tolist() == pytest.approx([-8 * math.log(2)] * 3)
    assert found.penalties["kinetic"].tolist() == [1.0] * 3
    assert torch.equal(found.value[:, 2:], x[:, 2:])
    assert torch.equal(half.to_data(found.value).value, x)
    assert torch.equal(half.decode(half.encode(x)), x)


def test_flows_of_each_scale_have_fields_of_their_own():
    shapes = []

    def make(shape):
        shapes.append(shape)
        return Standardise(0.0, 1.0)

    Multiscale((1, 8, 8), make, scales=2, flows=2)
    assert shapes == [(1, 8, 8)] * 2 + [(4, 4, 4)] * 2 + [(2, 4, 4)] * 2


def test_penalties_of_all_scales_add_up_and_gradients_reach_all_weights():
    flow = small_flow(scales=2, penalties=("kinetic", "jacobian"), trace="hutchinson").train()
    draws = torch.Generator().manual_seed(0)
    nll, penalty = negative_log_likelihood(
        flow, images(3), weights={"kinetic": 0.01, "jacobian": 0.01}, generator=draws
    )
    assert bool((penalty > 0).all())
    (nll + penalty).mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in flow.parameters())


def test_training_lowers_the_bits():
    torch.manual_seed(0)
    flow = make_image_flow((1, 4, 4), 4, hidden=(8,), solver=Solver("midpoint", step_size=1.0))
    x = torch.zeros(8, 1, 4, 4)
    x[:, :, ::2] = 3.0
    optimizer = torch.optim.Adam(flow.parameters(), 0.03)
    bits = []
    for step in range(30):
        nll, _ = negative_log_likelihood(flow, x, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nll.mean().backward()
        optimizer.step()
        bits.append(bits_per_dim(-nll, flow.shape).mean().item())
    assert bits[-1] < bits[0] - 0.3


def test_flow_matching_is_of_one_flow():
    x = images(4).float()
    assert FlowMatching()(make_image_flow((1, 4, 4), 8, hidden=(4,)), x).shape == (4,)
    with pytest.raises(ConfigurationError, match="one continuous transform"):
        FlowMatching()(make_image_flow((1, 4, 4), 8, hidden=(4,), scales=2), x)


def test_few_pixels_have_an_exact_trace_and_many_an_estimate():
    assert make_image_flow((1, 4, 4), 8).continuous.trace == Exact()
    assert make_image_flow((1, 8, 8), 8).continuous.trace != Exact()


def test_another_solver_reaches_every_scale():
    flow = small_flow(scales=2).with_solver(Solver("euler", step_size=0.5))
    solvers = {each.solver.method for each in flow.modules() if hasattr(each, "solver")}
    assert solvers == {"euler"}
