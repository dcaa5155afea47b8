"""What recomputation saves and costs: bytes and time of one deep block under each gradient mode.

Bytes are those of living tensors during forward and backward, beyond weights, gradients and input (``live_bytes``).
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from harness import Spread, make_parser, paired, save, show
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
MODES = {"sqrt": "checkpoint", "1": "checkpoint(segments=1)"}
TARGETS = {"bytes": 1 / 4, "time": 1.4}


def block_of(case: Case) -> db.DynamicBlock:
    """A block of 64 unit steps with a control (linear: a knot) for each."""
    torch.manual_seed(0)
    return db.DynamicBlock(f"preact_double({case.state[1]})", case.controls, STEPS, case.integrator)


def passes(block: db.DynamicBlock, case: Case, gradient: str) -> Callable[[], None]:
    """Forward and backward through the block, with a gradient for its input as inside a network."""
    y = torch.randn(case.state, generator=torch.Generator().manual_seed(1), requires_grad=True)
    seed = torch.full(case.state, 1 / y.numel())
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


def measure(name: str, repeats: int) -> list[dict[str, object]]:
    """Both checkpoint modes against backpropagation."""
    case = CASES[name]
    block = block_of(case)
    backprop = passes(block, case, "backprop")
    backprop()
    exact = gradients(block)
    whole = peak_bytes(backprop)
    results: list[dict[str, object]] = []
    for segments, mode in MODES.items():
        run = passes(block, case, mode)
        run()
        torch.testing.assert_close(gradients(block), exact, rtol=0, atol=0)
        peak = peak_bytes(run)
        times = paired(run, backprop, repeats, warmup=1)
        results.append(
            {
                "case": name,
                "state": case.state,
                "segments": segments,
                "backprop_bytes": whole,
                "checkpoint_bytes": peak,
                "bytes_ratio": peak / whole,
                "time": times.as_dict(),
            }
        )
    return results


def row(result: dict[str, object]) -> dict[str, object]:
    """A result as a line of the table."""
    return {
        "case": result["case"],
        "state": " x ".join(map(str, result["state"])),
        "segments": result["segments"],
        "backprop MiB": f"{result['backprop_bytes'] / 2**20:.1f}",
        "checkpoint MiB": f"{result['checkpoint_bytes'] / 2**20:.1f}",
        "bytes ratio": f"{result['bytes_ratio']:.3f}",
        "time ratio": Spread(**result["time"]["ratios"]),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/checkpoint_memory.py --cases euler --repeats 10", repeats=6)
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES], help="blocks (default: all)")
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = [result for name in options.cases for result in measure(name, options.repeats)]
    targets = ", ".join(f"{what} {ratio:g}" for what, ratio in TARGETS.items())
    show(f"Checkpoint over backprop, {STEPS} steps; targets: {targets}", [row(r) for r in results])
    payload = {"steps": STEPS, "targets": TARGETS}
    print(save("checkpoint_memory", {**payload, "checkpoint_over_backprop": results}))


if __name__ == "__main__":
    main()
