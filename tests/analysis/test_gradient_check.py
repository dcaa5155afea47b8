"""The comparison of gradients with finite differences, on gradients that are right and on one that is wrong."""

import copy

import pytest
import torch
from torch import nn

import dynamicblocks as db


class Halved(torch.autograd.Function):
    """The identity, with half the gradient."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, by):
        return by / 2


class Wrong(nn.Module):
    """A layer whose weights get the right gradient, and its input half of it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, y):
        return torch.tanh(self.linear(Halved.apply(y)))


class WrongMode(db.Gradient):
    """A gradient mode that loses half of the gradient of each part it runs."""

    def advance(self, march, carry, first, last):
        return march.advance(Halved.apply(carry), first, last)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.linear = nn.BatchNorm1d(3), nn.Dropout(0.4), nn.Linear(3, 3)

    def forward(self, y):
        return torch.tanh(self.drop(self.linear(self.norm(y))))


@pytest.mark.parametrize("controls", ["constant(3)", "linear(3)"])
@pytest.mark.parametrize("integrator", ["euler", "rk4", "implicit_midpoint", "dopri5(rtol=1e-9, atol=1e-9)"])
def test_all_modes_of_a_block_are_right(controls, integrator):
    block = db.DynamicBlock(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), controls, 3, integrator)
    found = db.gradient_check(block, torch.randn(4, 3))
    assert found.passed(1e-6), f"\n{found}"
    assert [row.mode for row in found.modes] == ["as given", *sorted(["backprop", "checkpoint"])]
    assert ("tolerance" in found["backprop"].note) == integrator.startswith("dopri5")


def test_normalisation_in_training_and_dropout_are_functions_like_others():
    net = db.DynamicNet(nn.Identity(), [db.DynamicBlock(Mixed, "linear(3)", 4, "midpoint")], nn.Linear(3, 2)).train()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    found = db.gradient_check(net, torch.randn(8, 3), loss=lambda y: y.square().mean())
    assert found.passed(1e-6), f"\n{found}"
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert net.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in net.parameters())
    torch.testing.assert_close(torch.get_rng_state().numel(), state.numel())


def test_a_check_leaves_the_random_numbers_to_come_as_they_were():
    block = db.DynamicBlock(Mixed, 2)
    images = torch.randn(4, 3)
    state = torch.get_rng_state()
    db.gradient_check(block, images)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrong_layer_is_found_in_every_mode():
    found = db.gradient_check(db.DynamicBlock(Wrong, 2), torch.randn(4, 3))
    assert not found.passed(1e-2)
    assert all(row.input > 0.01 for row in found.modes)


def test_a_wrong_mode_is_found_beside_right_ones():
    block = db.DynamicBlock(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 2)
    found = db.gradient_check(block, torch.randn(4, 3), modes=["backprop", WrongMode()])
    assert found["backprop"].worst < 1e-6
    assert found.modes[-1].input == pytest.approx(0.5, abs=1e-5)
    assert found.modes[-1].parameters < 1e-6, "the loss is on the whole grid at once"


def test_plain_modules_and_frozen_weights():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    found = db.gradient_check(net, torch.randn(5, 3))
    assert [row.mode for row in found.modes] == ["as given"]
    assert found.passed(1e-7)
    assert db.gradient_check(net.requires_grad_(False), torch.randn(5, 3))["as given"].parameters is None


def test_integers_are_inputs_without_gradient():
    found = db.gradient_check(nn.Embedding(5, 3), torch.tensor([1, 3]))["as given"]
    assert found.input is None
    assert found.parameters < 1e-7


def test_a_mode_that_cannot_be_used_is_a_note_that_names_the_block():
    class Private(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.source = nn.Parameter(torch.ones(3)), torch.Generator()

        def reset_parameters(self):
            pass

        def __deepcopy__(self, memo):
            return Private().to(self.weight)

        def forward(self, y):
            return torch.tanh(self.weight * y)

    net = nn.Sequential(nn.Linear(3, 3), db.DynamicBlock(Private, 2))
    found = db.gradient_check(net, torch.randn(4, 3))
    assert found["backprop"].worst < 1e-6
    assert found["checkpoint"].parameters is None
    assert found["checkpoint"].note.startswith("1: gradient='checkpoint' cannot replay Private")
    table = str(found)
    assert "gradient" in table
    assert "cannot replay" in table


@pytest.mark.parametrize(
    ("model", "batch", "options", "message"),
    [
        (nn.Linear(3, 3), 3.0, {}, "batch must be"),
        (nn.Linear(3, 3), torch.randn(2, 3), {"loss": lambda y: y}, r"one number, got \(2, 3\)"),
        (nn.LSTM(3, 3), torch.randn(2, 3), {}, "give loss="),
        (nn.Embedding(5, 3).requires_grad_(False), torch.tensor([1]), {}, "neither the parameters"),
        (db.DynamicBlock(nn.Tanh, 2), torch.randn(2, 3), {"modes": ["bakprop"]}, "did you mean 'backprop'"),
        (nn.Linear(3, 3), torch.randn(2, 3), {"directions": 0}, "directions"),
    ],
)
def test_what_cannot_be_checked_is_an_error(model, batch, options, message):
    with pytest.raises(db.ConfigurationError, match=message):
        db.gradient_check(model, batch, **options)


def last_line(found):
    return str(found).splitlines()[-1]


def test_the_last_line_says_whether_gradients_agree_and_how_far_they_are_apart():
    block = db.DynamicBlock(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 2)
    found = db.gradient_check(block, torch.randn(4, 3))
    worst = max(found.modes, key=lambda row: row.worst)
    assert last_line(found).startswith("The gradients agree with finite differences")
    assert f"{worst.worst:.1e} ({worst.mode}" in last_line(found)
    assert "do not agree" in found.verdict(tolerance=0.0)


def test_the_last_line_says_what_to_do_about_a_wrong_layer():
    line = last_line(db.gradient_check(db.DynamicBlock(Wrong, 2), torch.randn(4, 3)))
    assert line.startswith("The gradients of as given, backprop, checkpoint do not agree")
    assert "input)" in line
    assert "another seed" in line
    assert "torch.autograd.Function" in line


def test_the_last_line_says_what_to_do_about_a_wrong_mode():
    block = db.DynamicBlock(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()), 2)
    line = last_line(db.gradient_check(block, torch.randn(4, 3), modes=["backprop", WrongMode()]))
    assert "WrongMode" in line
    assert "5.0e-01" in line
    assert "the layers are right, as backprop shows" in line


def test_the_last_line_says_what_to_do_about_adaptive_steps_and_numbers_that_are_none():
    layer = lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh())  # noqa: E731
    loose = db.DynamicBlock(layer, "linear(3)", 2, "bosh3(rtol=1e-1, atol=1e-1)")
    found = db.gradient_check(loose, torch.randn(4, 3), modes=[])
    assert "rtol and atol" in found.verdict(tolerance=1e-12)

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(-4.0))

        def forward(self, y):
            return self.weight.sqrt() * y

    assert "detect_anomaly" in last_line(db.gradient_check(Root(), torch.randn(2, 3)))
