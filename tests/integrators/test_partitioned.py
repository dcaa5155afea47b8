"""Symplectic Euler and Verlet: measured orders, steps there and back, and what they cannot step."""

import itertools
import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import dynamicblocks as db
from dynamicblocks.analysis import drift
from dynamicblocks.integrators import SymplecticEuler, Verlet, as_integrator

NAMES = ["symplectic_euler", "verlet"]
each_method = pytest.mark.parametrize("name", NAMES)


class Pendulum(nn.Module):
    """dy/dt = w z + sin t, dz/dt = -w sin(y) + t / 5: weights that may depend on time, and a time of its own."""

    parts = {"field": "forward", "first": "first", "second": "second"}  # noqa: RUF012

    def __init__(self, w=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(float(w)))

    def first(self, t, z):
        return self.w * z + torch.sin(torch.as_tensor(t))

    def second(self, t, y):
        return -self.w * torch.sin(y) + t / 5

    def forward(self, t, y):
        y, z = y.chunk(2, dim=-1)
        return torch.cat((self.first(t, z), self.second(t, y)), dim=-1)


def unequal(steps, end=2.0):
    """Steps of which every second is twice as long."""
    sizes = [1 + n % 2 for n in range(steps)]
    return [end * part / sum(sizes) for part in itertools.accumulate([0, *sizes])]


GRIDS = {"equal": lambda n: db.uniform(0, 2, steps=n), "unequal": unequal}


@each_method
@pytest.mark.parametrize("grid", GRIDS)
def test_measured_orders_with_weights_that_depend_on_time(name, grid, float64):
    """theta(t) = 0.5 + 0.75 t, beside SciPy."""

    def slope(t, state):
        w = 0.5 + 0.75 * t
        return [w * state[1] + math.sin(t), -w * math.sin(state[0]) + t / 5]

    exact = torch.from_numpy(solve_ivp(slope, (0, 2), [1.0, 0.3], rtol=1e-12, atol=1e-12).y[:, -1])
    errors = []
    for steps in (32, 64, 128):
        block = db.DynamicBlock(Pendulum, db.PiecewiseLinear(knots=(0, 2)), GRIDS[grid](steps), name)
        with torch.no_grad():
            block.controls.layers[0].w.fill_(0.5)
            block.controls.layers[1].w.fill_(2.0)
            errors.append((block(torch.tensor([[1.0, 0.3]])) - exact).abs().max().item())
    order = math.log2(errors[1] / errors[2])
    assert order == pytest.approx(as_integrator(name).order, abs=0.1)


def test_steps_by_hand():
    """dy/dt = z, dz/dt = -y from (1, 2) with h = 1/2."""
    f = Turn()
    t, y0 = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 2.0])
    # y = 1 + 1 = 2, z = 2 - 1 = 1.
    assert db.odeint(f, y0, t, method="symplectic_euler")[-1].tolist() == [2.0, 1.0]
    # z = 2 - 1/4, y = 1 + 7/8, z = 7/4 - 15/32.
    assert db.odeint(f, y0, t, method="verlet")[-1].tolist() == [1.875, 1.28125]


class Turn:
    """A function that declares its parts."""

    parts = {"field": "__call__", "first": "first", "second": "second"}  # noqa: RUF012

    def __call__(self, t, y):
        y, z = y.chunk(2, dim=-1)
        return torch.cat((z, -y), dim=-1)

    def first(self, t, z):
        return z

    def second(self, t, y):
        return -y


@each_method
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 6, 3, 3)], ids=str)
def test_solves_of_any_shape_and_gradients_of_times(name, shape, float64):
    class Field(Turn):
        def first(self, t, z):
            return z * torch.cos(t * rate)

        def second(self, t, y):
            return -torch.sin(rate * y)

    rate = torch.tensor(1.3, requires_grad=True)
    y0, t = torch.randn(shape, requires_grad=True), torch.tensor([0.0, 0.2, 0.5, 0.6], requires_grad=True)

    def run(y0, t, rate, gradient="backprop"):
        return db.odeint(Field(), y0, t, method=name, gradient=gradient)[1:]

    assert torch.autograd.gradcheck(run, (y0, t, rate), fast_mode=True)
    weights = torch.randn(3, *shape)
    one, two = (
        torch.autograd.grad((run(y0, t, rate, mode) * weights).sum(), (y0, t, rate))
        for mode in ("backprop", "reversible")
    )
    for found, expected in zip(two, one, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@each_method
def test_energy_neither_grows_nor_falls(name):
    """A pendulum over 400 steps; Verlet's error is divided by four where steps are halved."""

    def energies(h):
        t = h * torch.arange(401, dtype=torch.float64)
        y, z = db.odeint(Swing(), torch.tensor([1.0, 0.0], dtype=torch.float64), t, method=name).unbind(-1)
        return z**2 / 2 - torch.cos(y)

    class Swing(Turn):
        def second(self, t, y):
            return -torch.sin(y)

    off = [(energies(h) - energies(h)[0]).abs() for h in (0.2, 0.1)]
    assert off[0][200:].max() < 1.01 * off[0][:200].max()
    ratio = (off[0].max() / off[1].max()).item()
    assert ratio == pytest.approx(2 ** as_integrator(name).order, rel=0.1)


@each_method
@pytest.mark.parametrize("times", ["uniform(0, 20, steps=200)", "graded(0, 20, steps=200, ratio=5)"])
def test_200_steps_are_taken_back(name, times, float64):
    """Piecewise constant weights jump, on whose steps the method runs on."""
    block = db.DynamicBlock("hamiltonian(4, norm='none', activation='tanh')", 20, times, name)
    assert drift(block, torch.randn(2, 4, 5, 5)) < 1e-10


@each_method
def test_what_has_no_halves_is_refused(name):
    with pytest.raises(db.ConfigurationError, match=rf"{name} reads '.*' and '.*', and Symmetric has only 'field'"):
        db.DynamicBlock("symmetric(4)", 2, integrator=name)
    with pytest.raises(db.ConfigurationError, match=rf"{name} reads 'first' and 'second', and function has only"):
        db.odeint(lambda t, y: y, torch.ones(2), torch.tensor([0.0, 1.0]), method=name)
    with pytest.raises(db.ConfigurationError, match=rf"{name} moves two halves .* \(3,\) has an odd number"):
        db.odeint(Turn(), torch.ones(3), torch.tensor([0.0, 1.0]), method=name)
    with pytest.raises(db.ConfigurationError, match="the adjoint equation is that of the field alone"):
        db.DynamicBlock("hamiltonian(4)", 2, integrator=name, gradient="adjoint")


def test_symplectic_euler_with_unit_steps_is_the_published_network(float64):
    block = db.DynamicBlock("hamiltonian(4)", 3, integrator="symplectic_euler")
    state = torch.randn(2, 4, 5, 5)
    y, z = state.chunk(2, dim=1)
    for layer in block.controls.layers:
        y = y + layer.f1(z)
        z = z - layer.f2(y)
    torch.testing.assert_close(block(state), torch.cat((y, z), dim=1), rtol=1e-13, atol=1e-13)
    assert db.DynamicBlock("hamiltonian(4)", "linear(4)", integrator="symplectic_euler").unused_controls() == {3}
    assert db.DynamicBlock("hamiltonian(4)", "linear(4)", integrator="verlet").unused_controls() == set()


def test_a_carry_is_amended_as_one_state():
    for method in (SymplecticEuler(), Verlet()):
        carry = method.begin(None, 0.1, torch.arange(4.0).view(1, 4))
        doubled = method.amend(carry, lambda y: 2 * y)
        assert torch.equal(method.finish(doubled), torch.tensor([[0.0, 2.0, 4.0, 6.0]]))
