"""Every gradient mode on every face, with every kind of state: the gradients of backpropagation, or one clear error."""

import pytest
import torch
from torch import nn

import dynamicblocks as db

MODES = ["backprop", "checkpoint", "reversible", "adjoint"]
FACES = ["block fixed", "block adaptive", "solve", "odeint"]
STATES = ["tensor", "nested"]
T = torch.linspace(0, 1, 9, dtype=torch.float64)

# Where a mode cannot be: at the construction of a block, or before the first evaluation.
TAKEN_BACK = "takes steps back, and dopri5 chooses its own steps"
ONE_TENSOR = "the state must be a floating-point tensor, got tuple"
IMPOSSIBLE = {
    **{("reversible", "block adaptive", kind): TAKEN_BACK for kind in STATES},
    **{(mode, face, "nested"): ONE_TENSOR for mode in MODES if mode != "reversible" for face in FACES[:2]},
    ("reversible", "block fixed", "nested"): ONE_TENSOR,
}

# Modes that take the same steps differ by rounding, the adjoint by the tolerance of its own steps.
TOLERANCE = {"checkpoint": 1e-9, "reversible": 1e-9, "adjoint": 1e-6}
ADAPTIVE = "dopri5(rtol=1e-11, atol=1e-11)"


class Layer(nn.Module):
    """A layer of a block and a right-hand side of solve: smooth and dependent on time."""

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

    def slope(self, t, y):
        return torch.tanh(y @ self.weight + torch.as_tensor(t, dtype=y.dtype)) - self.rate * y


def method_of(mode, face):
    if mode == "reversible" and face != "block adaptive":
        return "alf"
    if face == "block fixed":
        # Of a Gauss method the steps of the adjoint equation are those of backpropagation.
        return "gl6" if mode == "adjoint" else "rk4_classic"
    return ADAPTIVE if mode == "adjoint" or face == "block adaptive" else "rk4_classic"


class Setting:
    """A face with a method, as a loss of its first state and weights."""

    def __init__(self, mode, face, kind, method):
        torch.manual_seed(0)
        Layer.evaluations = 0
        self.block = face.startswith("block")
        if self.block:
            self.model = db.DynamicBlock(Layer, "linear(3)", db.uniform(0, 1, steps=4), method, gradient=mode)
        else:
            self.model = Layer()
            self.solver = db.odeint if face == "odeint" else lambda *args, **keywords: db.solve(*args, **keywords).y
            self.keywords = {"method": method, "gradient": mode}
        parts = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in STATES[: 1 + (kind == "nested")]]
        self.state = parts[0] if kind == "tensor" else tuple(parts)
        self.inputs = [*parts, *self.model.parameters()]

    def loss(self):
        if self.block:
            states = self.model.trajectory(self.state)
        else:
            found = self.solver(self.model, self.state, T, **self.keywords)
            states = found if isinstance(found, torch.Tensor) else torch.cat(found, dim=-1)
        return (torch.linspace(1, 2, states.numel(), dtype=torch.float64).view_as(states) * states).sum()

    def gradients(self):
        return torch.autograd.grad(self.loss(), self.inputs)

    def difference(self, direction, h=1e-4):
        """The central difference along a direction."""
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                for each, part in zip(self.inputs, direction, strict=True):
                    each.add_(part, alpha=sign * h)
            values.append(self.loss().item())
        return (values[0] - values[1]) / (2 * h)


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_agrees_with_backpropagation_or_is_refused(mode, face, kind):
    """Backpropagation itself is compared with finite differences."""
    method = method_of(mode, face)
    if (mode, face, kind) in IMPOSSIBLE:
        with pytest.raises(db.ConfigurationError, match=IMPOSSIBLE[mode, face, kind]):
            Setting(mode, face, kind, method).loss()
        assert Layer.evaluations == 0
        return
    found = Setting(mode, face, kind, method).gradients()
    assert all(gradient.abs().max() > 1e-3 for gradient in found)
    if mode == "backprop":
        setting = Setting(mode, face, kind, method)
        direction = [torch.randn_like(each) for each in setting.inputs]
        along = sum((gradient * part).sum().item() for gradient, part in zip(found, direction, strict=True))
        assert along == pytest.approx(setting.difference(direction), rel=1e-6)
        return
    for one, two in zip(found, Setting("backprop", face, kind, method).gradients(), strict=True):
        torch.testing.assert_close(one, two, rtol=TOLERANCE[mode], atol=TOLERANCE[mode])


@pytest.mark.parametrize(
    ("mode", "method", "message"),
    [
        ("reversible", "rk4", "needs a method whose steps can be taken back"),
        ("reversible", ADAPTIVE, "needs a method whose steps can be taken back"),
        (db.Adjoint(interpolant=True), "rk4", "needs an adaptive method"),
        (db.Adjoint(method="rk5"), "rk4", "did you mean 'rk4'"),
        (db.Checkpoint(states=1), "rk4", "states must be at least 2"),
    ],
    ids=str,
)
@pytest.mark.parametrize("face", FACES[2:])
def test_solves_refuse_what_cannot_be_before_the_first_evaluation(mode, method, message, face):
    with pytest.raises(db.ConfigurationError, match=message):
        Setting(mode, face, "tensor", method).loss()
    assert Layer.evaluations == 0


@pytest.mark.parametrize("integrator", ["alf", "reversible_heun"])
@pytest.mark.parametrize("all_times", [False, True])
def test_the_course_of_a_block_can_be_taken_back(integrator, all_times):
    """What a mode asks of a course, a block's grid gives as well: the gradients of backpropagation."""
    block = db.DynamicBlock(Layer, "linear(3)", db.uniform(0, 1, steps=4), integrator)
    y = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    course = block.course(all_times=all_times)
    results = [
        torch.autograd.grad(torch.stack(mode.run(course, y).states[1:]).square().sum(), [y, *block.parameters()])
        for mode in (db.Backprop(), db.Reversible())
    ]
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
