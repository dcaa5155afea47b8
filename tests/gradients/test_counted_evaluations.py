"""Evaluations that are counted, forward and backward, against a layer that counts its own calls."""

import threading
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import dynamicblocks as db
from dynamicblocks.counting import counted, counting, going_back


class Called(nn.Module):
    """A field that knows how often any of its copies was called."""

    calls = 0

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        Called.calls += 1
        return torch.tanh(self.linear(y)) + t


class Parted(Called):
    """The same in two halves, which partitioned methods read."""

    parts: ClassVar = {"field": "field", "first": "half", "second": "half"}

    def __init__(self) -> None:
        super().__init__(3)

    def field(self, y: Tensor) -> Tensor:
        first, second = y.chunk(2, dim=1)
        return torch.cat([self.half(second), self.half(first)], dim=1)

    def half(self, y: Tensor) -> Tensor:
        return self(0.0, y)


ADAPTIVE, SEMINORM = "dopri5(rtol=1e-3, atol=1e-3)", "options={'norm': 'seminorm'}"
GRIDS = ("euler", "rk4_classic", "two_step_midpoint", "adams_bashforth", "momentum", "trapezoid", "gl4", "alf")
SOLVES_BACK = {"trapezoid", "gl4", "kvaerno3"}  # each stage evaluates its field again


@pytest.mark.parametrize(
    ("integrator", "gradient"),
    [
        *((grid, mode) for grid in GRIDS for mode in ("backprop", "checkpoint")),
        ("rk4_classic", "adjoint"),
        ("trapezoid", "adjoint"),
        ("verlet", "backprop"),
        ("verlet", "reversible"),
        ("alf", "reversible"),
        ("reversible('rk4')", "reversible"),
        ("reversible_heun", "reversible"),
        *((ADAPTIVE, mode) for mode in ("backprop", "checkpoint", "checkpoint(states=2)", "adjoint")),
        (ADAPTIVE, f"adjoint(interpolant=True, {SEMINORM})"),
        ("kvaerno3(rtol=1e-2, atol=1e-2)", "backprop"),
        ("kvaerno3(rtol=1e-2, atol=1e-2)", "checkpoint"),
    ],
)
def test_a_block_counts_what_its_layer_sees(integrator: str, gradient: str) -> None:
    torch.manual_seed(0)
    layer = Parted if integrator == "verlet" else Called
    block = db.DynamicBlock(layer, "linear(3)", db.uniform(0, 2, steps=5), integrator, gradient)
    y = torch.randn(4, 6, requires_grad=True)
    Called.calls = 0
    with counting() as count:
        loss = block(y).square().sum()
        forward = Called.calls
        assert (count.forward, count.backward) == (forward, 0)
        assert block.evaluations == forward
        loss.backward()
    assert (count.forward, count.backward) == (forward, Called.calls - forward)
    assert (count.backward > 0) == (gradient != "backprop" or integrator.partition("(")[0] in SOLVES_BACK)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("method", ["rk4", "dopri5", "trapezoid"])
def test_a_solve_counts_what_its_field_sees(method: str, gradient: str) -> None:
    field = Called()
    y, t = torch.randn(4, 6, requires_grad=True), torch.linspace(0, 1, 4)
    Called.calls = 0
    with counting() as count:
        loss = db.solve(field, y, t, method=method, gradient=gradient).y[-1].square().sum()
        forward = Called.calls
        loss.backward()
    assert abs(count.forward - forward) <= 1  # checkpoint looks once for what the field reads
    assert count.backward == Called.calls - forward


def test_a_thread_that_goes_forward_counts_so_while_another_goes_back() -> None:
    begun, over = threading.Event(), threading.Event()

    def go_back() -> None:
        with going_back():
            begun.set()
            over.wait(10)
            counted(2)

    thread = threading.Thread(target=go_back)
    with counting() as count:
        thread.start()
        assert begun.wait(10)
        counted(3)
        over.set()
        thread.join()
    assert (count.forward, count.backward) == (3, 2)


def test_what_is_evaluated_outside_is_not_counted() -> None:
    block = db.DynamicBlock(Called, times=2)
    with counting() as outer:
        block(torch.zeros(1, 6))
        with counting() as inner:
            block(torch.zeros(1, 6))
    block(torch.zeros(1, 6))
    assert (outer.forward, inner.forward) == (4, 2)
