"""A layer, a basis and a gradient mode of a user's own: trained, refined, projected, stored and read."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import dynamicblocks as db
from dynamicblocks.controls import Controls, projection_matrix
from dynamicblocks.structure import discretisation, with_discretisation
from dynamicblocks.tasks import Classify, DataConfig, ModelConfig, load_run
from dynamicblocks.training import TrainConfig, Training
from tests.extensions.cases import INTEGRATORS, WIDTH, assert_same, block, gradients_of
from tests.extensions.gated import Gated
from tests.extensions.quadratic import Quadratic
from tests.extensions.truncated import Truncated
from tests.weights_in_time import Scalar, scalar_controls

KNOTS = (0.0, 1.0, 2.5, 4.0)
TIMES = np.array([0.1, 0.5, 0.9, 1.1, 1.3, 2.4, 2.6, 3.9])


def network(**choices):
    given = {"in_channels": 1, "num_classes": 3, "widths": (4, 6), "layer": Gated, "units": 2, **choices}
    return db.create_model("dynamicnet", **given)


def images_and_labels():
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(24) % 3
    return torch.randn(24, 1, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1) - 1, labels


def losses(net, steps=10):
    """Before each of a few steps of gradient descent of the blocks, the rest of the network as it was drawn."""
    images, labels = images_and_labels()
    weights = [weight for each in net.blocks for weight in each.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


EVERY = {
    "layer": {},
    "layer with group norms": {"norm": "group(groups=2)", "controls": "linear", "integrator": "midpoint"},
    "basis": {"controls": Quadratic(), "integrator": "rk4_classic"},
    "basis with the library's layer": {"controls": Quadratic(5), "layer": "preact_single"},
    "mode": {"gradient": Truncated(1), "steps": 4},
    "all": {"controls": Quadratic(), "gradient": Truncated(3), "steps": 4, "integrator": INTEGRATORS["own_leapfrog"]()},
}
every = pytest.mark.parametrize("choices", EVERY.values(), ids=EVERY)


@every
def test_training_lowers_the_loss(choices):
    net = network(**choices)
    db.freeze_unused_controls(net)
    found = losses(net)
    assert found[-1] < 0.9 * found[0]


@every
def test_refinement_projection_and_files(choices, float64, registered):
    net = network(**choices)
    losses(net, 2)
    net.eval()
    images, _ = images_and_labels()
    torch.testing.assert_close(db.refine(net, steps=False)(images), net(images), rtol=1e-9, atol=1e-9)
    finer = db.refine(net)
    assert finer.blocks[0].steps == 2 * net.blocks[0].steps
    projected = db.project(net, "legendre(3)" if "controls" in choices else "quadratic(5)")
    assert projected(images).isfinite().all()
    for other in (net, finer, projected):
        described = json.loads(json.dumps(discretisation(other)))
        rebuilt = with_discretisation(network(**choices), described).eval()
        file = io.BytesIO()
        torch.save(other.state_dict(), file)
        file.seek(0)
        assert rebuilt.load_state_dict(torch.load(file), strict=True).missing_keys == []
        assert torch.equal(rebuilt(images), other.eval()(images))


@pytest.mark.usefixtures("registered")
def test_a_training_takes_them_by_name(tmp_path):
    model = ModelConfig(
        "dynamicnet", widths=(4,), units=2, layer="gated", controls="quadratic", gradient="truncated(kept=3)",
        integrator="ssprk43",
    )  # fmt: skip
    config = TrainConfig(epochs=1, max_steps=2, output=str(tmp_path), run="run")
    outcome = Training(Classify(DataConfig(batch_size=512), model), config, console=Console(quiet=True)).run()
    net = load_run(tmp_path / "run").net
    (mine,) = net.blocks
    assert mine.controls.basis == Quadratic(5, (0, 1, 2))
    assert isinstance(mine.controls.layers[0], Gated)
    assert mine.gradient == Truncated(3)
    assert mine.integrator.name == "ssprk43"
    assert torch.equal(net.state_dict()["head.linear.weight"], outcome.net.state_dict()["head.linear.weight"])


# The layer


def test_the_layer_knows_the_time(float64):
    """Euler by hand."""
    made = db.DynamicBlock(lambda: Gated(3, norm="none"), "constant(2)", (0, 0.5, 2))
    y = expected = torch.randn(2, 3, 5, 5)
    for t, h, layer in zip((0.0, 0.5), (0.5, 1.5), (0, 0), strict=True):
        module = made.controls.layers[layer]
        gate = torch.sigmoid(module.gate(expected) + module.clock * t)
        expected = expected + h * gate * torch.tanh(module.mix(expected))
    torch.testing.assert_close(made(y), expected, rtol=1e-12, atol=1e-12)


def test_the_layer_is_measured_and_checked(float64):
    net = network(controls="linear")
    images, _ = images_and_labels()
    measured = db.recalibrate(net, [images])
    assert not torch.equal(
        measured.blocks[0].controls.layers[0].norm.running_mean, net.blocks[0].controls.layers[0].norm.running_mean
    )
    made = db.DynamicBlock(lambda: Gated(2, norm="tv"), "linear(3)", integrator="midpoint", gradient="checkpoint")
    assert db.gradient_check(made, torch.randn(1, 2, 3, 3)).passed()


# The basis


def functions(basis, times):
    """phi_k(t), by the values of parabolas through three points."""
    found = np.zeros((len(times), basis.size))
    for row, time in zip(found, times, strict=True):
        n = np.searchsorted(basis.knots, time) - 1
        left, right = basis.knots[n : n + 2]
        powers = np.vander([left, (left + right) / 2, right], 3)
        row[2 * n : 2 * n + 3] = np.linalg.solve(powers.T, np.vander([time], 3)[0])
    return found


def theta(controls):
    return functions(controls.basis, TIMES) @ torch.stack([each.theta.detach() for each in controls.layers]).numpy()


def test_functions_are_those_written_a_second_time():
    basis = Quadratic(knots=KNOTS)
    assert (basis.size, basis.intervals, Quadratic(5).intervals) == (7, 3, 2)
    np.testing.assert_allclose(
        basis.values([basis.place(time) for time in TIMES]), functions(basis, TIMES), rtol=0, atol=1e-13
    )
    for interval in range(2):
        assert basis.terms(interval, 1.0) == basis.terms(interval + 1, 0.0) == ((2 * interval + 2, 1.0),)
    with pytest.raises(db.ConfigurationError, match=r"no number of intervals makes 4 controls; 3 or 5 would do"):
        Quadratic(4)


@pytest.mark.parametrize("factor", [2, 3])
def test_refinement_keeps_theta_and_coarsening_undoes_it(factor):
    controls = scalar_controls(Quadratic(knots=KNOTS), np.random.default_rng(3).normal(size=(7, 2)))
    finer = controls.refine(factor)
    np.testing.assert_allclose(theta(finer), theta(controls), rtol=0, atol=1e-12)
    assert torch.equal(finer.layers[2 * factor].theta, controls.layers[2].theta), "values at knots are copies"
    for layer, other in zip(finer.coarsen(factor).layers, controls.layers, strict=True):
        torch.testing.assert_close(layer.theta, other.theta, rtol=0, atol=1e-11)
    matrix = projection_matrix(finer.basis, controls.basis) @ finer.basis.controls_from(controls.basis)
    np.testing.assert_allclose(matrix, np.eye(7), rtol=0, atol=1e-11)


def test_lines_are_parabolas_too():
    line = scalar_controls(db.PiecewiseLinear(knots=KNOTS), [[1.0], [-2.0], [0.5], [3.0]])
    there = line.project(Quadratic())
    assert there.basis == Quadratic(7, KNOTS)
    np.testing.assert_allclose(theta(there)[:, 0], np.interp(TIMES, KNOTS, [1.0, -2.0, 0.5, 3.0]), rtol=0, atol=1e-12)
    assert line.smoothness().item() == pytest.approx(9 + 2.5**2 / 1.5 + 2.5**2 / 1.5)
    assert there.smoothness().item() == pytest.approx(line.smoothness().item())


def test_a_block_reads_a_single_control_at_a_knot():
    """y' = theta(t) y under Euler, and layers called as they are where theta is a control."""
    controls = scalar_controls(Quadratic(knots=KNOTS), [[0.1], [0.5], [0.2], [0.9], [-0.3], [0.4], [0.7]])
    made = db.DynamicBlock(lambda: Scalar(0.0), Quadratic(knots=KNOTS), KNOTS).replaced(controls=controls)
    expected = math.prod(1 + h * value for h, value in zip(made.times.sizes, (0.1, 0.2, -0.3), strict=True))
    assert made(torch.ones(1, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-13)
    assert made.unused_controls() == {1, 3, 5, 6}
    assert isinstance(made.controls, Controls)


# The gradient mode


@pytest.mark.parametrize("controls", ["constant(7)", "linear(4)"])
@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_truncated_gradients_are_those_of_the_last_steps(name, kept, controls, float64):
    """As if the carry before them were a constant."""
    made = block(name, controls, db.uniform(0, 3, steps=7))
    y = torch.randn(3, WIDTH)
    found = gradients_of(made.replaced(gradient=Truncated(kept)), y)
    course = made.course()
    assert found.pop("state") is None
    with torch.no_grad():
        carry = course.advance(y, 0, 7 - kept)
    out = course.state(course.advance(carry, 7 - kept, 7))
    loss = (torch.linspace(1, 2, out.numel()).view_as(out) * out).sum() + out.square().sum()
    weights = dict(made.named_parameters())
    expected = dict(zip(weights, torch.autograd.grad(loss, weights.values(), allow_unused=True), strict=True))
    assert any(each is None for each in expected.values())
    assert_same(found, {"output": out.detach(), **expected}, 1e-13)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_a_truncation_of_nothing_is_backpropagation(name, float64):
    made, y = block(name), torch.randn(3, WIDTH)
    assert_same(gradients_of(made.replaced(gradient=Truncated(7)), y), gradients_of(made, y), 0)
    trajectory = made.replaced(gradient=Truncated(2)).trajectory(y)
    assert torch.equal(trajectory, made.trajectory(y))


def test_truncation_of_steps_that_solve_equations(float64):
    made = db.DynamicBlock(lambda: nn.Linear(3, 3), 4, integrator="implicit_midpoint", gradient=Truncated(2))
    y = torch.randn(2, 3, requires_grad=True)
    made(y).sum().backward()
    assert y.grad is None
    assert [layer.weight.grad is not None for layer in made.controls.layers] == [False, False, True, True]
    assert made.evaluations > made.steps


@pytest.mark.parametrize("name", INTEGRATORS)
def test_the_check_of_gradients_knows_a_mode_by_name(name, registered):
    made = block(name)
    found = db.gradient_check(made, torch.randn(2, WIDTH))
    assert [row.mode for row in found.modes] == ["as given", "backprop", "checkpoint", "truncated"]
    assert max(found[mode].worst for mode in ("as given", "backprop", "checkpoint")) < 1e-6
    assert found["truncated"].worst > 1e-3, "its gradients are others on purpose"
    assert db.gradient_check(made, torch.randn(2, WIDTH), modes=[Truncated(7)]).passed()
