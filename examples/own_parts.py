"""A block made of parts of one's own: a layer that knows the time, unequal steps, a Runge-Kutta method by its tableau.

Example: python examples/own_parts.py
"""

import torch
from torch import Tensor, nn

import dynamicblocks as db


class Pendulum(nn.Module):
    """A damped, driven pendulum with a learnable damping: y = (angle, velocity)."""

    def __init__(self) -> None:
        super().__init__()
        self.damping = nn.Parameter(torch.tensor(0.1))

    def forward(self, t: float, y: Tensor) -> Tensor:
        angle, velocity = y.unbind(dim=1)
        drive = 0.5 * torch.cos(torch.tensor(t))
        return torch.stack([velocity, drive - torch.sin(angle) - self.damping * velocity], dim=1)


# Kutta's third-order method: coefficients are all it takes.
kutta = db.RungeKutta(db.Tableau("kutta", order=3, a=((), (1 / 2,), (-1, 2)), b=(1 / 6, 2 / 3, 1 / 6)))


def main() -> None:
    # One constant control: the equation has the same damping at all times. Steps grow sixfold towards the end.
    block = db.DynamicBlock(Pendulum, controls=1, times=db.graded(0, 6, steps=40, ratio=6), integrator=kutta)
    start = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    print("angles at the end:", [round(angle, 4) for angle in block(start)[:, 0].tolist()])

    reference = db.with_integrator(block, "rk4", steps=400)
    print(f"largest error: {(block(start) - reference(start)).abs().max():.1e}")

    block(start)[:, 0].sum().backward()
    print(f"d angle / d damping: {block.controls.layers[0].damping.grad:.4f}")


if __name__ == "__main__":
    main()
