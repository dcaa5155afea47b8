"""Networks trained by two processes with integrators of a user's own; spawned processes import it."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dynamicblocks as db
from tests.extensions.cases import INTEGRATORS, WIDTH
from tests.extensions.verlet import Halves

# An integrator, controls and a gradient mode each.
CHOICES = [
    ("learned_multistep", "linear(4)", "backprop"),
    ("learned_multistep", "constant(3)", "checkpoint"),
    ("own_leapfrog", "constant(3)", "checkpoint"),
    ("own_adams_bashforth", "linear(4)", "backprop"),
    ("own_verlet", "linear(4)", "checkpoint"),
]


def network(name, controls, gradient):
    """Two blocks with a layer between them; one step of the second leaves its multistep without memory."""

    def layer():
        return Halves(WIDTH) if name == "own_verlet" else nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())

    torch.manual_seed(3)
    blocks = [
        db.DynamicBlock(layer, basis, times, INTEGRATORS[name](), gradient)
        for basis, times in ((controls, (0, 0.7, 1.5, 3)), ("constant(1)", (0, 1)))
    ]
    net = nn.Sequential(blocks[0], nn.Linear(WIDTH, WIDTH), blocks[1]).double()
    db.freeze_unused_controls(net)
    return net


def data():
    return torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def train(net, x):
    """Three steps: the second would wait for ever if the first had left a gradient out."""
    optimizer = torch.optim.SGD([weight for weight in net.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def trained(net):
    """The weights, and the gradients of the last step."""
    named = dict(net.named_parameters())
    gradients = {f"gradient of {name}": weight.grad for name, weight in named.items() if weight.grad is not None}
    return {**{name: weight.detach() for name, weight in named.items()}, **gradients}


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = []
    for choice in CHOICES:
        net = network(*choice)
        train(DistributedDataParallel(net), data()[rank::2])
        found.append(trained(net))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
