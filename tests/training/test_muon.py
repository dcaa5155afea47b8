"""Orthogonal updates of kernels, against singular value decompositions and against plain descent."""

import math

import pytest
import torch
from torch import nn

import dynamicblocks as db
from dynamicblocks.training import OptimizerConfig
from dynamicblocks.training.muon import Muon, orthogonalised
from dynamicblocks.training.optimizer import make_optimizer, set_learning_rate


def polar(update):
    """U V^T of U S V^T, by a singular value decomposition."""
    left, _, right = torch.linalg.svd(update.flatten(1), full_matrices=False)
    return (left @ right).view_as(update)


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (8, 16, 1, 1), (32, 4, 1, 1), (5, 7)])
def test_updates_are_nearly_orthogonal(shape, float64):
    update = torch.randn(shape)
    (found,) = orthogonalised([update])
    rows, columns = found.flatten(1).shape
    scale = math.sqrt(max(1, rows / columns))
    singular = torch.linalg.svdvals(found.flatten(1)) / scale
    # The iteration stops near 1, not at it.
    assert 0.3 < singular.min() < singular.max() < 1.3
    assert cosine(found, polar(update)) > 0.97


def test_kernels_of_one_shape_do_not_mix(float64):
    updates = [torch.randn(8, 4, 3, 3), torch.randn(4, 4, 3, 3), torch.randn(8, 4, 3, 3)]
    together = orthogonalised(updates)
    for update, found in zip(updates, together, strict=True):
        torch.testing.assert_close(found, orthogonalised([update])[0])


def test_a_kernel_stored_channels_last_moves_alike(float64):
    update = torch.randn(8, 4, 3, 3)
    (found,) = orthogonalised([update.to(memory_format=torch.channels_last)])
    torch.testing.assert_close(found, orthogonalised([update])[0])


def test_the_size_of_the_gradient_does_not_matter(float64):
    moved = []
    for factor in (1.0, 1e4):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(4, 9))
        weight.grad = factor * torch.randn(4, 9)
        Muon([{"params": [weight], "orthogonal": True}], lr=0.1).step()
        moved.append(weight.detach())
    torch.testing.assert_close(*moved)


def test_decay_is_apart_from_the_gradient():
    weight = nn.Parameter(torch.full((2, 3), 2.0))
    weight.grad = torch.zeros(2, 3)
    Muon([{"params": [weight], "orthogonal": True, "weight_decay": 0.5}], lr=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 3), 2.0 * (1 - 0.1 * 0.5)))


def test_plain_groups_move_as_under_sgd():
    def trained(make):
        torch.manual_seed(0)
        net = nn.Linear(5, 3)
        optimizer = make(net.parameters())
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        return net.weight

    ours = trained(lambda weights: Muon([{"params": list(weights), "weight_decay": 0.1}], lr=0.01, momentum=0.9))
    plain = trained(lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1))
    assert torch.equal(ours, plain)


def test_a_closure_is_called_with_gradients():
    weight = nn.Parameter(torch.ones(2))
    optimizer = Muon([{"params": [weight]}], lr=0.1, momentum=0.0)

    def closure():
        optimizer.zero_grad()
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.9))


def test_kernels_have_a_rate_of_their_own():
    net = db.create_model("continuousnet", width=4)
    optimizer = make_optimizer(net, OptimizerConfig(name="muon", lr=0.2, kernel_lr=0.01))
    set_learning_rate(optimizer, 0.1)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for weight in net.parameters():
        assert rates[id(weight)] == pytest.approx(0.005 if weight.ndim > 2 else 0.1)


def test_a_network_without_kernels_is_trained_plainly():
    optimizer = make_optimizer(nn.Linear(3, 2), OptimizerConfig(name="muon"))
    assert not any(group["orthogonal"] for group in optimizer.param_groups)
