"""z' = -relu(50 z) (Gholami et al. 2019): nothing comes back from its end, and what that does to gradients."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db

RATE = 50.0


class Decay(nn.Module):
    """(z, q)' = (-relu(rate z), z): a decay, and the integral of all that was there of it."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(RATE))

    def forward(self, state):
        z, _ = state.unbind(-1)
        return torch.stack([-torch.relu(self.rate * z), z], -1)


@pytest.mark.parametrize(("rate", "comes_back"), [(1.0, True), (RATE, False)])
def test_only_a_mild_decay_is_solved_back(rate, comes_back, float64):
    def field(_, z):
        return -torch.relu(rate * z)

    t = torch.tensor([0.0, 1.0])
    for tolerance in (1e-4, 1e-8, 1e-12):
        end = db.odeint(field, torch.ones(()), t, rtol=tolerance, atol=tolerance)[-1]
        assert end.item() == pytest.approx(math.exp(-rate), abs=10 * tolerance)
        begin = db.odeint(field, end, t.flip(0), rtol=tolerance, atol=tolerance)[-1].item()
        assert abs(begin - 1) < 100 * tolerance if comes_back else abs(begin - 1) > 0.5


@pytest.mark.parametrize(
    ("mode", "right"),
    [("backprop", True), ("checkpoint", True), ("adjoint(interpolant=True)", True), ("adjoint", False)],
)
def test_gradients_of_a_block(mode, right, float64):
    """Beside those of the exact integral, (1 - exp(-rate)) / rate z(0), at a time when of z nothing is left."""
    integrator = "dopri5(rtol=1e-8, atol=1e-8)"
    block = db.DynamicBlock(Decay, "constant(1)", db.uniform(0, 1, steps=2), integrator, mode)
    state = torch.tensor([[1.0, 0.0], [2.0, 0.0]], requires_grad=True)
    block(state)[:, 1].sum().backward()
    found = torch.stack([*state.grad[:, 0], block.controls.layers[0].rate.grad])
    exact = torch.tensor([1 / RATE, 1 / RATE, -3 / RATE**2])
    apart = ((found - exact).abs() / exact.abs()).max().item()
    assert apart < 1e-4 if right else apart > 0.5
