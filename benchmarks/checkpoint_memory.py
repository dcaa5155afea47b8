"""What recomputation saves and costs: bytes and time of one deep block under each gradient mode.

Bytes are those of living tensors during forward and backward, beyond weights, gradients and input (``live_bytes``);
on a GPU also those that PyTorch's allocator gave out, workspaces of kernels included.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from harness import Spread, add_device, device_peak, make_parser, paired, save, show
from live_bytes import peak_bytes

import dynamicblocks as db

STEPS = 64


class Case(NamedTuple):
    """A block and the state that it is given."""

    state: tuple[int, int, int, int]
    controls: str
    integrator: str


# Wide and narrow states as in training, one so small that bookkeeping shows, and one with blended weights.
CASES = {
    "euler": Case((32, 64, 16, 16), "constant", "euler"),
    "euler-narrow": Case((128, 16, 16, 16), "constant", "euler"),
    "euler-small": Case((16, 32, 16, 16), "constant", "euler"),
    "rk4-linear": Case((16, 32, 16, 16), "linear", "rk4_classic"),
}
TARGETS = {"bytes": 1 / 4, "time": 1.4}
# A GPU adds up some gradients in an order of its own choice; largest difference, relative in the 2-norm.
CLOSE = 1e-3


def block_of(case: Case, device: str) -> db.DynamicBlock:
    """A block of 64 unit steps with a control (linear: a knot) for each."""
    torch.manual_seed(0)
    return db.DynamicBlock(f"preact_double({case.state[1]})", case.controls, STEPS, case.integrator).to(device)


def passes(block: db.DynamicBlock, case: Case, gradient: str, device: str) -> Callable[[], None]:
    """Forward and backward through the block, with a gradient for its input as inside a network."""
    y = torch.randn(case.state, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    seed = torch.full(case.state, 1 / y.numel(), device=device)
    solve = block.replaced(gradient=gradient)

    def run() -> None:
        # Gradients are zeroed, not dropped: they count neither as new memory nor for one mode only.
        for tensor in (y, *solve.parameters()):
            if tensor.grad is not None:
                tensor.grad.zero_()
        solve(y).backward(seed)

    return run


def gradients(block: db.DynamicBlock) -> list[torch.Tensor]:
    """Copies of the gradients of the weights; an unread control has none."""
    return [weight.grad.clone() for weight in block.parameters() if weight.grad is not None]


def apart(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The relative difference of gradients, in the 2-norm."""
    norm = torch.stack([each.square().sum() for each in exact]).sum().sqrt()
    return (torch.stack([(a - b).square().sum() for a, b in zip(found, exact, strict=True)]).sum().sqrt() / norm).item()


def measure(
    name: str, repeats: int, segments_of: list[str], device: str, controls: str | None
) -> list[dict[str, object]]:
    """Checkpoint modes against backpropagation."""
    case = CASES[name] if controls is None else CASES[name]._replace(controls=controls)
    block = block_of(case, device)
    backprop = passes(block, case, "backprop", device)
    backprop()
    exact = gradients(block)
    whole = peak_bytes(backprop)
    results: list[dict[str, object]] = []
    on_device = {} if device == "cpu" else {"backprop_device_bytes": device_peak(backprop)}
    for segments in segments_of:
        run = passes(block, case, "checkpoint" if segments == "sqrt" else f"checkpoint(segments={segments})", device)
        run()
        difference = apart(gradients(block), exact)
        assert difference <= (0 if device == "cpu" else CLOSE), f"gradients differ by {difference}"
        peak = peak_bytes(run)
        if device != "cpu":
            on_device["checkpoint_device_bytes"] = device_peak(run)
            on_device["gradients_differ_by"] = difference
        times = paired(run, backprop, repeats, warmup=1)
        results.append(
            {
                "case": name,
                "state": case.state,
                "controls": case.controls,
                "segments": segments,
                "backprop_bytes": whole,
                "checkpoint_bytes": peak,
                "bytes_ratio": peak / whole,
                **on_device,
                "time": times.as_dict(),
            }
        )
    return results


def row(result: dict[str, object]) -> dict[str, object]:
    """A result as a line of the table."""
    on_device = {}
    if "backprop_device_bytes" in result:
        whole, peak = result["backprop_device_bytes"], result["checkpoint_device_bytes"]
        on_device = {"allocated MiB": f"{whole / 2**20:.1f}, {peak / 2**20:.1f}", "ratio": f"{peak / whole:.3f}"}
    return {
        "case": result["case"],
        "state": " x ".join(map(str, result["state"])),
        "controls": result["controls"],
        "segments": result["segments"],
        "backprop MiB": f"{result['backprop_bytes'] / 2**20:.1f}",
        "checkpoint MiB": f"{result['checkpoint_bytes'] / 2**20:.1f}",
        "bytes ratio": f"{result['bytes_ratio']:.3f}",
        **on_device,
        "time ratio": Spread(**result["time"]["ratios"]),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/checkpoint_memory.py --cases euler --repeats 10", repeats=6)
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES], help="blocks (default: all)")
    parser.add_argument("--segments", nargs="+", default=["sqrt", "1"], help="numbers of segments (default: sqrt 1)")
    parser.add_argument("--controls", help="of every block, such as 'linear' (default: those of the case)")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = (options.repeats, options.segments, options.device, options.controls)
    results = [result for name in options.cases for result in measure(name, *chosen)]
    targets = ", ".join(f"{what} {ratio:g}" for what, ratio in TARGETS.items())
    show(f"Checkpoint over backprop, {STEPS} steps; targets: {targets}", [row(r) for r in results])
    payload = {"steps": STEPS, "targets": TARGETS}
    print(save("checkpoint_memory", {**payload, "checkpoint_over_backprop": results}, options.device, options.output))


if __name__ == "__main__":
    main()
