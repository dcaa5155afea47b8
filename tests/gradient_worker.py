"""A solve inside a model, trained by two processes; the workers that test_gradient_modes.py spawns import it."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dynamicblocks as db


class Vector(nn.Module):
    """A nonlinear field that depends on time, with parameters and an argument."""

    def __init__(self, size=3):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(torch.randn(size, size, generator=generator, dtype=torch.float64) / 2)
        self.bias = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64) / 2)

    def forward(self, t, y, rate):
        return torch.tanh(y @ self.weight + self.bias * torch.cos(t)) - rate * y


class Model(nn.Module):
    """A linear layer, a solve whose argument is a parameter too, and a linear layer.

    Args:
        keywords: of ``solve``.
    """

    def __init__(self, keywords):
        super().__init__()
        generator = torch.Generator().manual_seed(6)
        self.field = Vector()
        self.rate = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.first = nn.Parameter(torch.randn(2, 3, generator=generator, dtype=torch.float64))
        self.last = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
        self.keywords = keywords

    def forward(self, x):
        t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        y = db.solve(self.field, x @ self.first, t, args=(self.rate,), **self.keywords).y
        return torch.tanh(y[1:] @ self.last).mean(0)


def data():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(8, 2, generator=generator, dtype=torch.float64)


def gradients(model, x, steps=2):
    """Of the second of two steps, which would wait for ever if the first had left a gradient out."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        found = {name.removeprefix("module."): weight.grad.clone() for name, weight in model.named_parameters()}
        optimizer.step()
    return found


def work(rank, folder, cases):
    """One of two processes: the gradients of all cases over every second sample, averaged by DDP."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {
        name: gradients(DistributedDataParallel(Model(keywords)), data()[rank::2]) for name, keywords in cases.items()
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
