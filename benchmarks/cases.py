"""What ``against_commit.py`` times: cases that every version of the package can run, built from its public names alone.

They repeat what other benchmarks build rather than import it, for those move on with the package, and two versions must
be given the same. A case gives tensors, by which both versions are seen to compute the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dynamicblocks as db

Run = Callable[[], Sequence[Tensor]]


def resnet_cost(images: tuple[int, ...]) -> Run:
    """A training step of an Euler network of 2 units: forward, backward, SGD with momentum (``resnet_cost.py``)."""
    net = db.create_model("dynamicnet", num_classes=10, widths=(16, 32, 64), units=2)
    x, labels = torch.randn(images), torch.randint(10, images[:1])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def run() -> list[Tensor]:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        return [loss.detach(), *(weight.grad for weight in net.parameters())]

    return run


class VanDerPol(nn.Module):
    """Over states (*, 2), mu = 10."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        x, v = y[..., 0], y[..., 1]
        return torch.stack([v, 10.0 * (1 - x * x) * v - x], -1)


def solver_vdp(how: str) -> Run:
    """Van der Pol's oscillator, batch 256, 200 outputs on [0, 10], dopri5, 1e-5, no gradients (``solver_vdp.py``)."""
    field, y0, t = VanDerPol(), torch.rand(256, 2) * 4 - 2, torch.linspace(0, 10, 200)
    asked = {"rtol": 1e-5, "atol": 1e-5, "method": "dopri5"}
    solved = {
        "eager": lambda: db.odeint(field, y0, t, **asked),
        "compiled": lambda: db.odeint(field, y0, t, **asked, options={"compile": True}),
        "batched": lambda: db.solve(field, y0, t, **asked, batched=True).y,
    }[how]

    def run() -> list[Tensor]:
        with torch.no_grad():
            return [solved()]

    return run


class Flow(nn.Module):
    """Three tanh layers of 64 over (z, t) in 2 dimensions, with the trace of their Jacobian by forward tangents."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([3, 64, 64, 64, 2]))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, _ = state
        h = torch.cat([z, t.expand(len(z), 1)], 1)
        tangents = torch.eye(2, 3)[:, None].expand(2, len(z), 3)
        for place, layer in enumerate(self.layers):
            h, tangents = layer(h), tangents @ layer.weight.T
            if place < len(self.layers) - 1:
                h = torch.tanh(h)
                tangents = tangents * (1 - h * h)
        return h, -(tangents[0, :, :1] + tangents[1, :, 1:])


def solver_cnf(odeint: Callable[..., tuple[Tensor, Tensor]]) -> Run:
    """A training iteration of a continuous normalizing flow, batch 512, dopri5, 1e-5 (``solver_cnf.py``)."""
    flow, t = Flow(), torch.tensor([1.0, 0.0])
    z, log_p = torch.randn(512, 2) * torch.tensor([2.0, 0.5]), torch.zeros(512, 1)

    def run() -> list[Tensor]:
        flow.zero_grad()
        states, change = odeint(flow, (z, log_p), t, rtol=1e-5, atol=1e-5)
        loss = (0.5 * (states[-1] ** 2).sum(1, keepdim=True) + change[-1]).mean()
        loss.backward()
        return [loss.detach(), *(weight.grad for weight in flow.parameters())]

    return run


def checkpoint_memory(state: tuple[int, ...], controls: str, integrator: str) -> Run:
    """Forward and backward through a block of 64 steps that recomputes its segments (``checkpoint_memory.py``)."""
    block = db.DynamicBlock(f"preact_double({state[1]})", controls, 64, integrator, "checkpoint")
    y = torch.randn(state, requires_grad=True)
    seed = torch.full(state, 1 / y.numel())

    def run() -> list[Tensor]:
        # Gradients are zeroed, not dropped: dropped, they would count as new memory.
        for tensor in (y, *block.parameters()):
            if tensor.grad is not None:
                tensor.grad.zero_()
        found = block(y)
        found.backward(seed)
        return [found.detach(), y.grad, *(weight.grad for weight in block.parameters() if weight.grad is not None)]

    return run


def forward_and_backward(solved: Callable[..., Tensor], net: nn.Module, y0: Tensor, t: Tensor) -> Run:
    """Of one solve, with gradients of its first state and of the weights of its field."""
    y0.requires_grad_()
    wanted = [y0, *net.parameters()]

    def run() -> list[Tensor]:
        found = solved(net, y0, t)
        return [found.detach(), *torch.autograd.grad(found.square().mean(), wanted)]

    return run


class Autonomous(nn.Module):
    """Layers as a field that does not depend on time."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y)


def odeint_grid() -> Run:
    """A linear field in 4 dimensions, 100 times, a step of rk4 between each two: little but overhead."""
    field = Autonomous(nn.Linear(4, 4, bias=False))
    return forward_and_backward(partial(db.odeint, method="rk4"), field, torch.randn(8, 4), torch.linspace(0, 1, 100))


def solve_checkpoint() -> Run:
    """A small net, dopri5, gradients through steps that are taken again."""
    net = Autonomous(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))

    def solved(net: nn.Module, y0: Tensor, t: Tensor) -> Tensor:
        return db.solve(net, y0, t, method="dopri5", gradient="checkpoint").y

    return forward_and_backward(solved, net, torch.randn(64, 8), torch.linspace(0, 4, 5))


class Case(NamedTuple):
    """What builds the case, and whether the memory that it keeps is compared too."""

    build: Callable[[], Run]
    memory: bool = False


CASES = {
    "resnet_cost": Case(partial(resnet_cost, (128, 3, 32, 32))),
    # So small that little but the overhead of Python and of the dispatcher is left.
    "resnet_cost-tiny": Case(partial(resnet_cost, (2, 3, 4, 4))),
    "solver_vdp-eager": Case(partial(solver_vdp, "eager")),
    "solver_vdp-compiled": Case(partial(solver_vdp, "compiled")),
    "solver_vdp-batched": Case(partial(solver_vdp, "batched")),
    "solver_cnf-backprop": Case(partial(solver_cnf, db.odeint)),
    "solver_cnf-adjoint": Case(partial(solver_cnf, db.odeint_adjoint)),
    "checkpoint_memory-euler": Case(partial(checkpoint_memory, (32, 64, 16, 16), "constant", "euler"), True),
    "checkpoint_memory-euler-linear": Case(partial(checkpoint_memory, (32, 64, 16, 16), "linear", "euler"), True),
    "checkpoint_memory-rk4-linear": Case(partial(checkpoint_memory, (16, 32, 16, 16), "linear", "rk4_classic"), True),
    "checkpoint_memory-euler-small": Case(partial(checkpoint_memory, (16, 32, 16, 16), "constant", "euler"), True),
    "odeint-grid": Case(odeint_grid),
    "solve-checkpoint": Case(solve_checkpoint),
}
