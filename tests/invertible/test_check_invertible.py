"""The check finds what is wrong, in modules of the library and of others."""

import pytest
import torch
from torch import nn

import dynamicblocks as db


def mlp():
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: db.ReversibleSequential([(mlp(), mlp()) for _ in range(12)]),
        lambda: db.AffineCoupling(nn.Linear(2, 4)),
        lambda: db.MomentumNet([nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2)) for _ in range(12)]),
    ],
)
def test_what_is_right_passes_and_stays_as_it_is(make):
    torch.manual_seed(0)
    net, x = make().double(), torch.randn(8, 4).double()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    found = db.check_invertible(net, x, tolerance=1e-10)
    assert max(found.there_and_back, found.back_and_there, found.gradients) == found.largest < 1e-10
    assert len(net) == 1 or found.kept < found.kept_by_backprop / 2
    assert torch.equal(torch.get_rng_state(), random)
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())


def test_blocks_are_checked_as_well():
    class Parts(nn.Tanh):
        parts = {"field": "forward", "first": "forward", "second": "forward"}  # noqa: RUF012

    block = db.DynamicBlock(Parts, times=8, integrator="additive_coupling", gradient="reversible")
    assert db.check_invertible(block, torch.randn(3, 4), tolerance=1e-4).kept > 0


class Scaled(nn.Module):
    """Of somebody else's, with a backward pass by hand."""

    def __init__(self, wrong_inverse=False, wrong_gradient=False):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.wrong_inverse, self.wrong_gradient = wrong_inverse, wrong_gradient

    def forward(self, y):
        scale = self.scale.detach() if self.wrong_gradient else self.scale
        return y * scale + 0 * self.scale

    def inverse(self, y):
        return y / self.scale + (0.01 if self.wrong_inverse else 0)


def test_modules_of_others():
    x = torch.randn(5, 3)
    right = db.check_invertible(Scaled(), x)
    assert right.largest < 1e-6
    assert right.kept_by_backprop is None
    assert db.check_invertible(Scaled(wrong_inverse=True), x).there_and_back > 1e-3
    assert db.check_invertible(Scaled(wrong_gradient=True), x).gradients > 1e-2
    with pytest.raises(db.SolverError, match=r"Scaled is not invertible to 0\.001: .*there_and_back=0\.0"):
        db.check_invertible(Scaled(wrong_inverse=True), x, tolerance=1e-3)


def test_an_inverse_that_is_none_within_a_network_is_found():
    net = db.ReversibleSequential([nn.Linear(2, 2), Scaled(wrong_inverse=True), nn.Linear(2, 2)]).double()
    assert db.check_invertible(net, torch.randn(5, 4).double()).gradients > 1e-4


def test_what_has_no_inverse_is_refused():
    with pytest.raises(db.ConfigurationError, match="Linear has no inverse"):
        db.check_invertible(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(db.ConfigurationError, match="a tensor that it takes"):
        db.check_invertible(db.AdditiveCoupling(nn.Tanh()))
