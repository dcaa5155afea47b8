"""How far samples are from others, and how long a way a flow takes."""

import torch
from torch import Tensor

from dynamicblocks.errors import ArgumentError
from dynamicblocks.flows.flow import Flow
from dynamicblocks.flows.pairing import assigned
from dynamicblocks.times import check_count


def wasserstein2(x: Tensor, y: Tensor) -> float:
    """The 2-Wasserstein distance between two sets of as many samples, (n, *shape), by exact assignment.

        W_2^2 = min over permutations s of 1/n sum_i |x_i - y_s(i)|^2

    >>> wasserstein2(torch.tensor([[0.0], [1.0]]), torch.tensor([[4.0], [3.0]]))
    3.0
    """
    if x.shape != y.shape or x.ndim < 2:
        raise ArgumentError(
            f"two sets of as many samples of one shape are compared, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    apart = (x - y[assigned(x, y).to(y.device)]).detach().double().flatten(1)
    return float(apart.square().sum(1).mean().sqrt())


@torch.no_grad()
def path_energy(
    flow: Flow,
    number: int = 2048,
    context: Tensor | None = None,
    *,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> float:
    """Int E|v(t, x(t))|^2 dt over [0, T], T times: W_2^2 of base and data where every sample takes its shortest way.

    The mean is over samples that begin in the base; the integral is Simpson's, along a path of the flow's solver.

    Args:
        flow: with one continuous transform; energies are in the units of its state.
        number: of samples.
        context: (number, c).
        steps: intervals in time, an even number.
        generator: of the base samples.

    >>> from dynamicblocks.flows import make_flow
    >>> path_energy(make_flow(2, hidden=(16,)), 10, steps=4) > 0
    True
    """
    check_count(steps, "steps", least=2)
    if steps % 2:
        raise ArgumentError(f"Simpson's rule takes an even number of steps, got {steps}")
    continuous = flow.continuous
    z = flow.base.sample(number, generator)
    context = flow.checked(z, context)
    times = torch.linspace(0.0, continuous.horizon, steps + 1, dtype=torch.float64).tolist()
    path = continuous.path(z, times, context)
    energies = torch.stack([
        continuous.velocity(z.new_tensor(t), x, context).double().flatten(1).square().sum(1).mean()
        for t, x in zip(times, path, strict=True)
    ])  # fmt: skip
    weights = torch.ones(steps + 1, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    mean = (energies.cpu() * weights).sum() / (3 * steps)
    return float(mean) * continuous.horizon**2
