"""What networks of partial differential equations conserve: distances that never grow, and a Hamiltonian."""

import math
from itertools import pairwise

import pytest
import torch

import dynamicblocks as db
from dynamicblocks.layers import Antisymmetric, HamiltonianPair, Symmetric
from tests.layer_tools import double, random_state, randomised

SIZES = {1: (8,), 2: (4, 5), 3: (3, 2, 3)}


def block_of(layer, integrator, h, steps):
    """So many equal steps with one theta for all times."""
    return db.DynamicBlock(lambda: layer, 1, db.uniform(0, h * steps, steps=steps), integrator)


def states(layer, integrator, h, steps, y):
    with torch.no_grad():
        return block_of(layer, integrator, h, steps).trajectory(y)


# Parabolic networks.


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "leaky_relu", "elu", "none"])
def test_two_trajectories_never_separate(boundary, dims, activation):
    for seed in range(3):
        torch.manual_seed(seed)
        layer = randomised(Symmetric(2, hidden=3, norm="none", activation=activation, boundary=boundary, dims=dims))
        limit = db.step_limit(layer, "euler", (2, *SIZES[dims]))
        assert "within it no step parts two states" in limit.reason
        pair = random_state(2, 4, 2, *SIZES[dims])
        # Far apart, and near each other, where activations bend.
        pair[1, 2:] = pair[0, 2:] + 1e-3 * pair[1, 2:]
        y = pair.flatten(0, 1)
        for share in (0.3, 0.999):
            path = states(layer, "euler", share * limit, 20, y).unflatten(1, (2, 4))
            apart = (path[:, 0] - path[:, 1]).flatten(2).norm(dim=2)
            assert (apart[1:] <= apart[:-1] * (1 + 1e-12)).all()
            assert (apart[-1] < apart[0]).all()


@pytest.mark.parametrize("integrator", ["ssprk3", "rk4_classic", "heun2", "implicit_euler", "gl4"])
def test_nor_under_contractive_methods(integrator):
    """Up to the steps that the reason names."""
    torch.manual_seed(0)
    layer = randomised(Symmetric(2, hidden=3, norm="none", activation="relu"))
    limit = float(db.step_limit(layer, "euler", (2, 4, 5)))
    y = random_state(8, 2, 4, 5)
    path = states(layer, integrator, 0.999 * limit, 8, y).unflatten(1, (2, 4))
    apart = (path[:, 0] - path[:, 1]).flatten(2).norm(dim=2)
    assert (apart[1:] <= apart[:-1] * (1 + 1e-9)).all()


def test_beyond_the_limit_they_do():
    layer = randomised(Symmetric(2, norm="none", activation="none"))
    limit = db.step_limit(layer, "euler", (2, 4, 5))
    path = states(layer, "euler", 1.1 * limit, 60, random_state(2, 2, 4, 5))
    apart = (path[:, 0] - path[:, 1]).flatten(1).norm(dim=1)
    assert apart[-1] > 10 * apart[0]


def test_a_norm_and_weights_in_time_break_it():
    """What is documented: with a normalisation two states may separate, within the limit of the layer without it."""
    torch.manual_seed(0)
    separated = 0
    for _ in range(20):
        layer = randomised(Symmetric(2, norm="tv", activation="relu"))
        limit = float(db.step_limit(layer, "euler", (2, 4, 5)))
        y = 1e-2 * random_state(2, 2, 4, 5)
        path = states(layer, "euler", 0.9 * limit, 4, y)
        apart = (path[:, 0] - path[:, 1]).flatten(1).norm(dim=1)
        separated += bool(apart[-1] > apart[0])
    assert separated > 0


# Networks with a Hamiltonian. Its terms are written out here: tanh is the slope of log cosh.


def log_cosh(x):
    return (x.abs() + torch.nn.functional.softplus(-2 * x.abs()) - math.log(2)).flatten(1).sum(1)


def inside(unit, y):
    """K y + b, by a convolution of PyTorch's."""
    padded = torch.nn.functional.pad(y, (1, 1, 1, 1), mode="constant" if unit.boundary == "zeros" else unit.boundary)
    return torch.nn.functional.conv2d(padded, unit.weight, unit.bias_inside)


def energy_of_pair(pair, state):
    """H(y, z) with dy/dt = F1(z) = -grad of log cosh (K1 z + b1), dz/dt = -F2(y) = grad of log cosh (K2 y + b2)."""
    y, z = state.chunk(2, dim=1)
    return log_cosh(inside(pair.f1, z)) + log_cosh(inside(pair.f2, y))


def small(layer):
    """Weights as PyTorch draws them, without the biases outside, which would be forces of their own."""
    layer = layer.double()
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.endswith("bias_outside"):
                weight.zero_()
    return layer


def trend_of(values):
    """By how much a line through values rises from their begin to their end."""
    x = torch.linspace(-0.5, 0.5, len(values), dtype=double)
    return ((values - values.mean()) * x).sum() / x.square().sum()


def hamiltonian_path(integrator, share, boundary, steps, seed):
    torch.manual_seed(seed)
    pair = small(HamiltonianPair(4, norm="none", activation="tanh", boundary=boundary))
    limit = float(db.step_limit(pair, "verlet", (4, 6, 6)))
    y = random_state(1, 4, 6, 6)
    path = states(pair, integrator, share * limit, steps, y)[:, 0]
    with torch.no_grad():
        return energy_of_pair(pair, path)


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_verlet_keeps_the_hamiltonian(boundary, seed):
    energy = hamiltonian_path("verlet", 0.5, boundary, 1000, seed)
    error = (energy - energy[0]) / energy[0]
    assert error.abs().max() < 0.05
    assert trend_of(error[1:]).abs() < 5e-3


def test_the_error_of_verlet_falls_as_the_square_of_the_step():
    errors = []
    for halvings in range(3):
        energy = hamiltonian_path("verlet", 0.5 / 2**halvings, "zeros", 100 * 2**halvings, 0)
        errors.append(((energy - energy[0]) / energy[0]).abs().max().item())
    assert [first / second for first, second in pairwise(errors)] == pytest.approx([4, 4], rel=0.15)


def test_that_of_symplectic_euler_is_bounded_and_that_of_euler_grows_past_one():
    symplectic = hamiltonian_path("symplectic_euler", 0.25, "zeros", 1000, 0)
    error = (symplectic - symplectic[0]) / symplectic[0]
    assert error.abs().max() < 0.3
    assert trend_of(error[1:]).abs() < 0.02
    euler = hamiltonian_path("euler", 0.5, "zeros", 1000, 0)
    assert (euler[-1] - euler[0]) / euler[0] > 1


def leapfrog_path(share, boundary, steps, seed):
    """The parts of H = |v|^2 / 2 + sum log cosh (K y + b): velocities before and behind each state, and the rest."""
    torch.manual_seed(seed)
    layer = small(Symmetric(4, norm="none", activation="tanh", boundary=boundary))
    h = share * float(db.step_limit(layer, "leapfrog", (4, 6, 6)))
    path = states(layer, "leapfrog", h, steps, random_state(1, 4, 6, 6))[:, 0]
    velocity = (path[1:] - path[:-1]).flatten(1) / h
    with torch.no_grad():
        return velocity[:-1], velocity[1:], log_cosh(inside(layer, path))


@pytest.mark.parametrize("boundary", db.layers.BOUNDARIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_leapfrog_keeps_the_energy_of_second_order(boundary, seed):
    """With the product of the velocities on both sides for v^2: constant for a linear layer, at any step."""
    before, behind, potential = leapfrog_path(0.5, boundary, 1001, seed)
    energy = (before * behind).sum(1) / 2 + potential[1:-1]
    error = (energy - energy[0]) / energy[0]
    assert error.abs().max() < 0.05
    # It wanders by as much as waves of other lengths take over, to either side.
    assert trend_of(error).abs() < 0.02
    # With v their mean, which swings by h^2 w^2 / 4 of a wave of frequency w, at half that step.
    before, behind, potential = leapfrog_path(0.25, boundary, 1001, seed)
    energy = ((before + behind) / 2).square().sum(1) / 2 + potential[1:-1]
    error = (energy - potential[0]) / potential[0]
    assert error.abs().max() < 0.05
    assert trend_of(error).abs() < 0.02


def test_the_error_of_the_leapfrog_falls_as_the_square_of_the_step():
    errors = []
    for halvings in range(3):
        before, behind, potential = leapfrog_path(0.25 / 2**halvings, "zeros", 100 * 2**halvings, 0)
        energy = ((before + behind) / 2).square().sum(1) / 2 + potential[1:-1]
        errors.append((energy / potential[0] - 1).abs().max().item())
    assert [first / second for first, second in pairwise(errors)] == pytest.approx([4, 4], rel=0.15)


def test_a_linear_antisymmetric_layer_keeps_lengths():
    """Under the two-step midpoint method, near its limit, over many steps."""
    torch.manual_seed(0)
    layer = randomised(Antisymmetric(4, norm="none", activation="none", bias=False))
    limit = db.step_limit(layer, "two_step_midpoint", (4, 5, 5))
    path = states(layer, "two_step_midpoint", 0.9 * limit, 1000, random_state(1, 4, 5, 5))
    lengths = path.flatten(1).norm(dim=1)
    assert lengths.max() < 3 * lengths[0]
    fine = states(layer, "two_step_midpoint", 0.01 * limit, 1000, random_state(1, 4, 5, 5))
    lengths = fine.flatten(1).norm(dim=1)
    assert lengths.max() / lengths.min() < 1.01
