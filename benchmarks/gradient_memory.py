"""What the gradients of a solve keep and cost: peak memory and time under each, beside backpropagation.

dy/dt = f(t, y), f a convolution, tanh, a convolution; a state of 32 x 64 x 16 x 16, t from 0 to 1, 64 steps of a fixed
size, float32; forward and backward. Each mode stands beside ``gradient="backprop"`` of the same method. Bytes are those
beyond weights and input: of living tensors (``live_bytes``), on a GPU of PyTorch's allocator. torchdiffeq, where it is
installed, has the same solve under ``odeint`` and ``odeint_adjoint``.

Example: python benchmarks/gradient_memory.py --device cuda
"""

from collections.abc import Callable
from statistics import median

import torch
from harness import Spread, add_device, device_peak, make_parser, paired, save, show
from live_bytes import peak_bytes
from torch import Tensor, nn

import dynamicblocks as db

STATE, STEPS = (32, 64, 16, 16), 64
SOLVES: dict[str, tuple[str, dict[str, object]]] = {
    "rk4, checkpoint, 16 states": ("rk4", {"gradient": "checkpoint", "gradient_options": {"states": 16}}),
    "rk4, checkpoint, 8 states": ("rk4", {"gradient": "checkpoint", "gradient_options": {"states": 8}}),
    "rk4, checkpoint, 4 states": ("rk4", {"gradient": "checkpoint", "gradient_options": {"states": 4}}),
    "rk4, adjoint": ("rk4", {"gradient": "adjoint"}),
    "reversible_heun, reversible": ("reversible_heun", {"gradient": "reversible"}),
    "alf, reversible": ("alf", {"gradient": "reversible"}),
}


class Field(nn.Module):
    """A smooth field, of slopes about as large as the state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(y) + t))


class Case:
    """Forward and backward of one solve."""

    def __init__(self, field: Field, solved: Callable[[Field, Tensor, Tensor], Tensor], device: str) -> None:
        self.field, self.solved, self.device = field, solved, device
        self.y = torch.randn(STATE, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
        self.t = torch.tensor([0.0, 1.0], device=device)

    def __call__(self) -> None:
        for tensor in (self.y, *self.field.parameters()):
            if tensor.grad is not None:
                tensor.grad.zero_()
        self.solved(self.field, self.y, self.t).square().mean().backward()

    def gradients(self) -> Tensor:
        return torch.cat([each.grad.flatten() for each in (self.y, *self.field.parameters())]).clone()

    def peak(self) -> int:
        return peak_bytes(self) if self.device == "cpu" else device_peak(self)


def solves() -> dict[str, tuple[str, Callable[[Field, Tensor, Tensor], Tensor]]]:
    """The modes: a method, and a solve with it."""
    options = {"step_size": 1 / STEPS}

    def by_solve(method: str, keywords: dict[str, object]) -> Callable[[Field, Tensor, Tensor], Tensor]:
        return lambda field, y, t: db.solve(field, y, t, method=method, options=options, **keywords).y[-1]

    found = {name: (method, by_solve(method, keywords)) for name, (method, keywords) in SOLVES.items()}
    # The methods' own names of the 3/8 rule are the same.
    libraries = {"odeint_adjoint": db}
    try:
        import torchdiffeq

        libraries |= {"torchdiffeq odeint": torchdiffeq, "torchdiffeq odeint_adjoint": torchdiffeq}
    except ImportError:
        print("torchdiffeq is not installed: left out")
    for name, library in libraries.items():
        function = getattr(library, name.split()[-1])
        found[f"rk4, {name}"] = (
            "rk4",
            lambda field, y, t, function=function: function(field, y, t, method="rk4", options=options)[-1],
        )
    return found


def main() -> None:
    parser = make_parser(__doc__, "python benchmarks/gradient_memory.py --repeats 5", repeats=5)
    chosen = solves()
    parser.add_argument("--only", nargs="+", choices=[*chosen], metavar="SOLVE", help=", ".join(chosen))
    add_device(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    field = Field(STATE[1]).to(options.device)
    rows, results = [], {}
    for name, (method, solved) in chosen.items():
        if options.only and name not in options.only:
            continue
        plain = Case(
            field,
            lambda f, y, t, m=method: db.solve(f, y, t, method=m, options={"step_size": 1 / STEPS}).y[-1],
            options.device,
        )
        case = Case(field, solved, options.device)
        field.zero_grad(set_to_none=True)
        plain()
        exact, whole = plain.gradients(), plain.peak()
        field.zero_grad(set_to_none=True)
        case()
        apart = ((case.gradients() - exact).norm() / exact.norm()).item()
        peak = case.peak()
        comparison = paired(case, plain, options.repeats, warmup=1)
        results[name] = {
            "backprop_bytes": whole,
            "bytes": peak,
            "gradients_differ_by": apart,
            "time_over_backprop": comparison.as_dict(),
        }
        rows.append(
            {
                "solve": name,
                "backprop MiB": f"{whole / 2**20:.1f}",
                "MiB": f"{peak / 2**20:.1f}",
                "bytes ratio": f"{peak / whole:.3f}",
                "ms": f"{1e3 * median(comparison.seconds_a):.1f}",
                "time ratio": Spread(**comparison.as_dict()["ratios"]),
                "gradients differ by": f"{apart:.1e}",
            }
        )
    show(f"Gradients of a solve, {STEPS} steps, state {STATE}", rows)
    print(save("gradient_memory", {"setting": __doc__, "results": results}, options.device, options.output))


if __name__ == "__main__":
    main()
