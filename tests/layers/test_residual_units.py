"""Residual units: what acts in the branch and what on the sum."""

import pytest
import torch
import torch.nn.functional as F

import dynamicblocks as db
from dynamicblocks.layers import ResidualUnit
from tests.layer_tools import batch_norm, padded_convolution, random_state, randomised, zeroed


def euler_step(unit):
    block = db.DynamicBlock(lambda: randomised(ResidualUnit(3, unit)), controls=1)
    return block, block.controls.layers[0]


@pytest.mark.parametrize("unit", ["c", "d", "e", "post"])
def test_units_with_a_free_sum_are_the_identity_where_the_branch_is_zero(unit):
    block, layer = euler_step(unit)
    zeroed(layer.branch)
    y = random_state(2, 3, 4, 4)
    assert torch.equal(block(y), y)


def test_unit_a_rectifies_the_sum():
    block, layer = euler_step("a")
    zeroed(layer.branch)
    y = random_state(2, 3, 4, 4)
    assert torch.equal(block(y), torch.relu(y))


@pytest.mark.parametrize("training", [True, False])
def test_unit_b_normalises_and_rectifies_the_sum(training):
    block, layer = euler_step("b")
    block.train(training)
    zeroed(layer.branch)
    y = random_state(2, 3, 4, 4)
    norm = layer.projection.norm1
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    expected = F.batch_norm(y, mean, variance, norm.weight, norm.bias, training=training)
    torch.testing.assert_close(block(y), torch.relu(expected), rtol=1e-13, atol=1e-13)


def test_unit_c_never_decreases_the_state():
    block, _ = euler_step("c")
    y = random_state(2, 3, 4, 4)
    change = block(y) - y
    assert change.min() >= 0
    assert change.max() > 0.1


@pytest.mark.parametrize("unit", ["a", "b"])
def test_the_sum_is_projected_once_a_step_and_not_in_stages(unit):
    block, layer = euler_step(unit)
    calls = []
    layer.projection.register_forward_hook(lambda *_: calls.append(1))
    block.replaced(integrator="rk4_classic", times=db.uniform(0, 1, steps=3))(random_state(2, 3, 4, 4))
    assert len(calls) == 3


def test_unit_a_is_projection_of_sum_with_its_own_branch():
    block, layer = euler_step("a")
    y = random_state(2, 3, 4, 4)
    branch = layer.branch
    inner = batch_norm(branch.norm1, padded_convolution(y, branch.conv1.weight, "zeros"))
    outer = batch_norm(branch.norm2, padded_convolution(torch.relu(inner), branch.conv2.weight, "zeros"))
    torch.testing.assert_close(block(y), torch.relu(y + outer), rtol=0, atol=1e-10)
