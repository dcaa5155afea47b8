"""Two processes give the gradients of one."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import dynamicblocks as db

OPTIONS = {"widths": (4, 8), "units": 2, "norm": "group(groups=2)"}


def make(controls, integrator, gradient):
    torch.manual_seed(3)
    net = db.create_model("dynamicnet", controls=controls, integrator=integrator, gradient=gradient, **OPTIONS)
    db.freeze_unused_controls(net)
    return net.double()


def data():
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (8,), generator=generator)


def train(net, images, labels, steps=2):
    """Two steps, for the second would wait for ever if the first had left a gradient out."""
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()


def worker(rank, folder, choices):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    net = make(*choices)
    images, labels = data()
    train(DistributedDataParallel(net), images[rank::2], labels[rank::2])
    gradients = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
    torch.save(gradients, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "choices",
    [
        ("constant", "rk4", "backprop"),
        ("linear", "euler", "backprop"),
        ("linear", "midpoint", "checkpoint"),
        pytest.param(("linear", "midpoint", "adjoint"), marks=pytest.mark.slow),
        ("linear", "alf", "reversible"),
    ],
    ids="-".join,
)
def test_gradients_of_two_processes_are_those_of_one(choices, tmp_path):
    mp.spawn(worker, args=(str(tmp_path), choices), nprocs=2)
    net = make(*choices)
    train(net, *data())
    expected = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
    unread = [name for name, weight in net.named_parameters() if not weight.requires_grad]
    assert bool(unread) == (choices[:2] == ("linear", "euler"))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-12, msg=name)
