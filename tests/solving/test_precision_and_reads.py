"""Solves under autocast, what precision they ask of a device, and when the host reads from it."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import dynamicblocks as db
from dynamicblocks.integrators import METHODS, AdaptiveMethod, GridMethod, RungeKutta

T = torch.tensor([0.0, 0.5, 1.0])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))

    def forward(self, t, y):
        return self.layers(y)


@pytest.mark.parametrize(
    ("method", "keywords"),
    [
        *((name, {}) for name in ("dopri5", "tsit5", "bosh3", "dopri8", "kvaerno3", "kencarp4")),
        *(
            (name, {"options": {"step_size": 0.1}})
            for name in ("rk4", "explicit_adams", "alf", "implicit_midpoint", "gl4")
        ),
        ("dopri5", {"batched": True}),
        ("dopri5", {"gradient": "checkpoint"}),
        ("dopri5", {"gradient": "adjoint"}),
        ("dopri5", {"gradient": "adjoint", "gradient_options": {"interpolant": True}}),
        ("alf", {"gradient": "reversible", "options": {"step_size": 0.1}}),
    ],
)
def test_under_autocast_solves_and_gradients_are_finite_and_close(method, keywords):
    """bfloat16, rtol = atol = 1e-2, 64 samples of eight entries: within 2e-2 of float32, in the Euclidean norm."""
    torch.manual_seed(0)
    net, y0 = Net(), torch.randn(64, 8)

    def run():
        start = y0.clone().requires_grad_()
        found = db.solve(net, start, T, method=method, rtol=1e-2, atol=1e-2, **keywords)
        assert found.y.dtype == torch.float32
        return [found.y.detach(), *torch.autograd.grad((found.y[-1] ** 2).sum(), [start, *net.parameters()])]

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run()
    for a, b in zip(found, expected, strict=True):
        assert torch.isfinite(a).all()
        assert torch.linalg.vector_norm(a - b) <= 2e-2 * torch.linalg.vector_norm(b)


class Watch(TorchDispatchMode):
    """Remembers which operations read a number, and which made double precision."""

    def __init__(self):
        super().__init__()
        self.reads, self.doubles = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.doubles.append(str(func))
        return result


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if name != "scipy_solver"])
@pytest.mark.parametrize("interface", [db.odeint, db.odeint_adjoint])
def test_nothing_asks_for_double_precision(name, interface):
    """Some devices have none."""
    options = {"step_size": 0.25} if isinstance(METHODS[name], GridMethod) else {}
    net, y0 = Net(), torch.ones(2, 8, requires_grad=True)
    with Watch() as watch:
        y = interface(net, y0, T, method=name, rtol=1e-3, atol=1e-3, options=options)
        y[-1].sum().backward()
    assert watch.doubles == []
    assert isinstance(METHODS[name], (AdaptiveMethod, GridMethod))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, method in METHODS.items()
        if isinstance(method, GridMethod) and isinstance(method.make(), RungeKutta)
    ]
    + ["explicit_adams", "alf", "reversible_heun"],
)
def test_explicit_steps_on_a_grid_are_taken_without_a_read(name):
    """From the first evaluation to the last, the host waits for nothing."""
    watch, seen = Watch(), []
    net = Net()

    def func(t, y):
        seen.append(watch.reads)
        return net(t, y)

    with watch:
        db.odeint(func, torch.ones(2, 8), T, method=name, options={"step_size": 0.01})
    assert len(seen) >= 100
    assert seen[0] == seen[-1]
