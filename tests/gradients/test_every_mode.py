"""Every gradient mode on every face, with every method and state: backpropagation's gradients, or one clear error.

No combination is left out: what is not in the table of errors must work.
"""

from typing import ClassVar

import pytest
import torch
from torch import nn

import dynamicblocks as db

MODES = ["backprop", "checkpoint", "reversible", "adjoint"]
STATES = ["tensor", "nested"]

# Methods by what they are: on a grid or adaptive, and with steps that can be taken back, or not.
GRID = ["rk4_classic", "alf", "reversible('rk4_classic')", "two_step_midpoint", "verlet", "leapfrog('rest')"]
ADAPTIVE = ["dopri5(rtol=1e-9, atol=1e-9)", "reversible('dopri5(rtol=1e-8, atol=1e-8)')"]
TOLERANCES = dict(zip(ADAPTIVE, (1e-9, 1e-8), strict=True))
ORDERS = {"rk4_classic": 4, "alf": 2, "reversible('rk4_classic')": 4}
# The adjoint is solved from output to output, here from step to step, each of which is a first one then, and Euler's.
ORDERS["two_step_midpoint"] = 1
FACES = {"block fixed": GRID, "block adaptive": ADAPTIVE, "solve": GRID + ADAPTIVE, "odeint": GRID + ADAPTIVE}
ALL = [(mode, face, method, kind) for mode in MODES for face in FACES for method in FACES[face] for kind in STATES]


def reason(mode, face, method, kind):
    """What the error says of a combination that cannot be; None where the mode must work."""
    block = face.startswith("block")
    if mode == "reversible" and method in (GRID[0], ADAPTIVE[0]):
        # Each error names what would be reversible.
        return (
            r"cannot be taken back|has no unstep.*integrator=\"reversible" if block else r"needs a method.*\"reversible"
        )
    if kind == "nested" and method == "verlet" and not block:
        return "verlet reads 'first' and 'second', and a nested state has only 'field'"
    if mode == "adjoint" and method == "verlet":
        return "the adjoint equation is that of the field alone, and verlet reads"
    if mode == "adjoint" and method == "leapfrog('rest')":
        return "leapfrog solves another equation"
    if block and kind == "nested":
        return "the state must be a floating-point tensor, got tuple"
    return None


class Layer(nn.Module):
    """A layer of a block and a right-hand side of solve: smooth and dependent on time."""

    parts: ClassVar = {"field": "forward", "first": "first", "second": "second"}
    evaluations = 0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2, dtype=torch.float64) / 2)
        self.rate = nn.Parameter(torch.rand((), dtype=torch.float64))

    def forward(self, t, y):
        Layer.evaluations += 1
        if isinstance(y, tuple):
            return self.slope(t, y[0]) + y[1], torch.sin(y[0]) - self.rate * y[1]
        return self.slope(t, y)

    def first(self, t, z):
        Layer.evaluations += 1
        return torch.tanh(z @ self.weight[:1, 1:] + torch.as_tensor(t, dtype=z.dtype))

    def second(self, t, y):
        Layer.evaluations += 1
        return -torch.sin(y @ self.weight[1:, :1]) - self.rate * y

    def slope(self, t, y):
        return torch.tanh(y @ self.weight + torch.as_tensor(t, dtype=y.dtype)) - self.rate * y


class Setting:
    """A face with a method, as a loss of its first state and weights."""

    def __init__(self, mode, face, method, kind, steps=8):
        torch.manual_seed(0)
        Layer.evaluations = 0
        self.block = face.startswith("block")
        if self.block:
            self.model = db.DynamicBlock(Layer, "linear(3)", db.uniform(0, 1, steps=steps), method, gradient=mode)
        else:
            self.model = Layer()
            self.t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            self.solver = db.odeint if face == "odeint" else lambda *args, **keywords: db.solve(*args, **keywords).y
            self.keywords = {"method": method, "gradient": mode}
        parts = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in STATES[: 1 + (kind == "nested")]]
        self.state = parts[0] if kind == "tensor" else tuple(parts)
        self.inputs = [*parts, *self.model.parameters()]

    def loss(self):
        if self.block:
            states = self.model.trajectory(self.state)
        else:
            found = self.solver(self.model, self.state, self.t, **self.keywords)
            states = found if isinstance(found, torch.Tensor) else torch.cat(found, dim=-1)
        return (torch.linspace(1, 2, states.numel(), dtype=torch.float64).view_as(states) * states).mean()

    def gradients(self):
        found = torch.autograd.grad(self.loss(), self.inputs)
        assert all(gradient.abs().max() > 1e-4 for gradient in found)
        return torch.cat([gradient.flatten() for gradient in found])

    def difference(self, direction, h=1e-4):
        """The central difference along a direction."""
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                for each, part in zip(self.inputs, direction, strict=True):
                    each.add_(part, alpha=sign * h)
            values.append(self.loss().item())
        return (values[0] - values[1]) / (2 * h)


def apart(mode, *setting, **keywords):
    """How far the gradients of a mode are from those of backpropagation through the same steps."""
    found, exact = (Setting(each, *setting, **keywords).gradients() for each in (mode, "backprop"))
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize(("mode", "face", "method", "kind"), ALL)
def test_a_mode_agrees_with_backpropagation_or_is_refused(mode, face, method, kind):
    """Checkpoint takes the same steps, reversible those that came back; the adjoint solves its equation.

    The latter's gradients agree to the tolerances, or on a grid of n steps to C / n^order: half the step divides the
    difference by 2^(order - 1/2) at least. Backpropagation itself is compared with finite differences.
    """
    expected = reason(mode, face, method, kind)
    if expected is not None:
        with pytest.raises(db.ConfigurationError, match=expected):
            Setting(mode, face, method, kind).loss()
        assert Layer.evaluations == 0
    elif mode == "backprop":
        setting = Setting(mode, face, method, kind)
        found = setting.gradients()
        direction = [torch.randn_like(each) for each in setting.inputs]
        along = found @ torch.cat([each.flatten() for each in direction])
        assert along.item() == pytest.approx(
            setting.difference(direction), rel=max(1e-6, 1e4 * TOLERANCES.get(method, 0))
        )
    elif mode == "adjoint" and method in GRID:
        coarse, fine = (apart(mode, face, method, kind, steps=steps) for steps in (8, 16))
        assert fine < 0.1
        assert fine < coarse / 2 ** (ORDERS[method] - 0.5)
    else:
        within = {"checkpoint": 1e-13, "reversible": 1e-10}
        assert apart(mode, face, method, kind) < within.get(mode, 1e4 * TOLERANCES.get(method, 0))


@pytest.mark.parametrize(
    ("mode", "method", "message"),
    [
        (db.Adjoint(interpolant=True), "rk4", "needs an adaptive method"),
        (db.Adjoint(method="rk5"), "rk4", "did you mean 'rk4'"),
        (db.Checkpoint(states=1), "rk4", "states must be at least 2"),
    ],
    ids=str,
)
@pytest.mark.parametrize("face", ["solve", "odeint"])
def test_solves_refuse_what_cannot_be_before_the_first_evaluation(mode, method, message, face):
    with pytest.raises(db.ConfigurationError, match=message):
        Setting(mode, face, method, "tensor").loss()
    assert Layer.evaluations == 0
