"""Networks of reversible equations: backpropagation's gradients, in memory that does not grow with the steps."""

import gc
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dynamicblocks as db
from dynamicblocks.layers import HamiltonianPair
from tests.gradients.test_checkpoint_gradient import Noisy, benchmark_module, run

# Each integrator with a layer for which neither its solution nor its rounding errors grow.
LAYERS = {
    "symplectic_euler": "hamiltonian(4, norm='batch', bias=False)",
    "verlet": "hamiltonian(4, norm='batch', bias=False)",
    "leapfrog": "symmetric(4, norm='batch', bias=False)",
    "leapfrog('equal')": "symmetric(4, norm='batch', bias=False)",
    "leapfrog('zero')": "symmetric(4, norm='batch', bias=False)",
    "two_step_midpoint": "antisymmetric(4, norm='batch', bias=False)",
}
each_integrator = pytest.mark.parametrize("integrator", LAYERS)


def pair_of(*choices):
    block = db.DynamicBlock(*choices)
    return block, db.with_gradient(block, "reversible")


def apart(found, expected):
    """How far outputs, gradients and statistics are from others, relative to them; None where they belong to others."""
    gradients = [[one, two, *each.values()] for one, two, each, _ in (found, expected)]
    assert found[2].keys() == expected[2].keys()
    assert torch.equal(found[0], expected[0])
    for name, buffer in expected[3].items():
        assert torch.equal(found[3][name], buffer), name
    return max(((one - two).norm() / two.norm()).item() for one, two in zip(*gradients, strict=True))


@each_integrator
@pytest.mark.parametrize("controls", ["constant(4)", "linear(3)"])
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_gradients_with_batch_normalisation(integrator, controls, kind, tolerance):
    """On unequal steps; where theta jumps from step to step, the method runs on."""
    times = db.graded(0, 2, steps=20, ratio=3)
    block, other = (each.to(kind) for each in pair_of(LAYERS[integrator], controls, times, integrator))
    y = torch.randn(3, 4, 6, 6, dtype=kind)
    weights = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    expected = run(block, y)
    other.load_state_dict(weights)
    assert apart(run(other, y), expected) < tolerance


@each_integrator
def test_gradients_under_autocast(integrator):
    """In float32, of layers in bfloat16; with the cache, backpropagation adds up gradients of weights in bfloat16."""
    block, other = pair_of(LAYERS[integrator], "constant(4)", db.uniform(0, 2, steps=20), integrator)
    y = torch.randn(4, 4, 8, 8)
    found = []
    for each in (other, block):
        start = y.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            after = each(start)
        after.square().sum().backward()
        found.append([after.detach(), start.grad, *(weight.grad for weight in each.parameters())])
    assert torch.equal(found[0][0], found[1][0])
    assert max(((one - two).norm() / two.norm()).item() for one, two in zip(*found, strict=True)) < 1e-3


@each_integrator
@pytest.mark.parametrize("controls", ["constant(4)", "linear(3)"])
def test_draws_are_replayed(integrator, controls, float64):
    halves = "hamiltonian" in LAYERS[integrator]
    layer = partial(HamiltonianPair, 8, unit=Noisy) if halves else Noisy
    block, other = pair_of(layer, controls, db.uniform(0, 2, steps=7), integrator)
    y = torch.randn(3, 8 if halves else 4, 5, 5)
    weights = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    expected = run(block, y)
    other.load_state_dict(weights)
    assert apart(run(other, y), expected) < 1e-9


@each_integrator
def test_what_is_kept_does_not_grow_with_the_steps(integrator):
    live_bytes = benchmark_module("live_bytes")
    kept = {}
    for steps in (8, 128):
        block = db.DynamicBlock(LAYERS[integrator], 8, db.uniform(0, 2, steps=steps), integrator, "reversible")
        y = torch.randn(2, 4, 5, 5, requires_grad=True)
        with live_bytes.LiveBytes() as live:
            after = block(y)
        kept[steps] = live.current
        del after
    assert kept[128] <= 1.1 * kept[8]


@each_integrator
def test_an_empty_batch_has_gradients(integrator):
    layer = LAYERS[integrator].replace("norm='batch', ", "")
    block = db.DynamicBlock(layer, "linear(3)", db.uniform(0, 2, steps=4), integrator, "reversible")
    block(torch.zeros(0, 4, 5, 5, requires_grad=True)).sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in block.controls.layers[1].parameters())


def network(integrator):
    torch.manual_seed(3)
    layer = LAYERS[integrator].replace("batch", "group(groups=1)")
    block = db.DynamicBlock(layer, "linear(3)", db.uniform(0, 2, steps=4), integrator, "reversible")
    net = nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.Flatten(), nn.Linear(4 * 16, 2)).double()
    db.freeze_unused_controls(net)
    return net


def train(net, images):
    """Two steps, for the second would wait for ever if the first had left a gradient out."""
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()


def gradients(net):
    return {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


def images():
    return torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for integrator in LAYERS:
        net = network(integrator)
        train(DistributedDataParallel(net), images()[rank::2])
        found[integrator] = gradients(net)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gradients_of_two_processes_are_those_of_backpropagation_in_one(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for integrator in LAYERS:
        net = db.with_gradient(network(integrator), "backprop")
        train(net, images())
        for each in found:
            assert each[integrator].keys() == gradients(net).keys()
            for name, expected in gradients(net).items():
                torch.testing.assert_close(each[integrator][name], expected, rtol=1e-9, atol=1e-9, msg=name)


def test_a_training_step_leaves_no_memory_to_the_collector():
    """Memory of the state that cycles of objects keep comes back late, and a training of many steps grows."""
    block = db.DynamicBlock("hamiltonian(4)", 2, integrator="symplectic_euler", gradient="reversible")
    y = torch.randn(2, 4, 64, 64)
    block(y).sum().backward()
    gc.collect()
    gc.disable()
    try:
        with benchmark_module("live_bytes").LiveBytes() as live:
            for _ in range(3):
                block.zero_grad()
                block(y + 1).sum().backward()
            kept = live.current
    finally:
        gc.enable()
    # Gradients of weights, and states of the random generator.
    assert kept < y.numel() * y.element_size()
