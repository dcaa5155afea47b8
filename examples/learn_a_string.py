"""A Hamiltonian network learns how a string moves from pairs of snapshots, and goes on for fifty times as long.

Example: python examples/learn_a_string.py
"""

import math

import torch
from torch import Tensor

import dynamicblocks as db

LENGTH, TIME = 64, 1.0
FREQUENCIES = 2 * math.pi * torch.fft.rfftfreq(LENGTH)


def strings(count: int) -> Tensor:
    """Places, and speeds with the sign of a Hamiltonian layer, of periodic strings without fine detail."""
    waves = torch.fft.rfft(torch.randn(count, 2, LENGTH))
    return torch.fft.irfft(waves * (FREQUENCIES < 0.8), n=LENGTH)


def moved(states: Tensor, time: float) -> Tensor:
    """The exact solution of y' = -z, z' = -y_xx, wave by wave."""
    place, speed = torch.fft.rfft(states).unbind(dim=1)
    turn = FREQUENCIES * time
    cosine, sine = torch.cos(turn), time * torch.sinc(turn / math.pi)
    both = (cosine * place - sine * speed, cosine * speed + FREQUENCIES * torch.sin(turn) * place)
    return torch.fft.irfft(torch.stack(both, dim=1), n=LENGTH)


def energy(states: Tensor) -> Tensor:
    """Of the motion and of the slope."""
    place, speed = torch.fft.rfft(states).unbind(dim=1)
    return (speed.abs().square() + (FREQUENCIES * place.abs()).square()).sum(dim=-1)


def main() -> None:
    torch.manual_seed(0)
    style = "norm='none', activation='tanh', boundary='circular', bias=False, dims=1"
    grid = db.uniform(0, TIME, steps=2)
    test = strings(100)
    for layer, integrator in ((f"hamiltonian(2, {style})", "verlet"), (f"double(2, hidden=2, {style})", "euler")):
        net = db.DynamicBlock(layer, controls=1, times=grid, integrator=integrator)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
        for _ in range(300):
            states = strings(32)
            loss = (net(0.1 * states) - 0.1 * moved(states, TIME)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"{integrator}, {sum(weight.numel() for weight in net.parameters())} weights, loss {loss.item():.2g}")
        with torch.no_grad():
            found = 0.1 * test
            for count in range(1, 51):
                found = net(found)
                if count in (1, 10, 50):
                    exact = 0.1 * moved(test, count * TIME)
                    error = (found - exact).norm() / exact.norm()
                    kept = (energy(found) / energy(exact)).median()
                    print(f"  after {count:2} times: error {error:8.1%}, energy {kept:8.2f} of what it was")


if __name__ == "__main__":
    main()
