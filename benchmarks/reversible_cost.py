"""What ``gradient="reversible"`` costs and keeps: a training step of a block over that of backpropagation.

Both take the same steps with the same integrator and weights. A step is taken back by one evaluation for each of the
forward pass, which also serves the gradient: 4/3 of the evaluations of backpropagation, where a backward evaluation
counts as two.
"""

import argparse
import gc
import time
from collections.abc import Callable
from statistics import median

import torch
from harness import Spread, add_device, make_parser, save, settle, show
from torch import Tensor

import dynamicblocks as db

TARGET = 1.6
STEPS = (16, 64)
WIDTH, SIDE = 64, 32


# Each with a layer for which neither its solution nor its rounding errors grow, and how far the steps lead.
ROWS: dict[str, tuple[str, float]] = {
    "alf": ("preact_double", 8.0),
    "reversible_heun": ("preact_double", 8.0),
    "symplectic_euler": ("hamiltonian", 4.0),
    "verlet": ("hamiltonian", 4.0),
    "leapfrog": ("symmetric", 4.0),
    "two_step_midpoint": ("antisymmetric", 4.0),
}


def training_step(block: db.DynamicBlock, y: Tensor) -> Callable[[], Tensor]:
    """Forward and backward; gives the gradient of the state."""

    def step() -> Tensor:
        block.zero_grad()
        start = y.detach().requires_grad_()
        block(start).square().mean().backward()
        assert start.grad is not None
        return start.grad

    return step


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of the processor."""
    gc.collect()
    settle()
    clock, processor = time.perf_counter(), time.process_time()
    run()
    settle()
    return time.perf_counter() - clock, time.process_time() - processor


def compared(name: str, steps: int, options: argparse.Namespace) -> dict[str, object]:
    """The ratios of rounds A B B A, on the clock and of the processor."""
    torch.manual_seed(0)
    layer, end = ROWS[name]
    block = db.DynamicBlock(f"{layer}({WIDTH})", "constant(8)", db.uniform(0, end, steps=steps), name)
    block.to(options.device)
    y = torch.randn(options.batch, WIDTH, SIDE, SIDE, device=options.device)
    b = training_step(block, y)
    a = training_step(db.with_gradient(block, "reversible"), y)
    torch.testing.assert_close(a(), b(), rtol=1e-2, atol=1e-5)
    rounds = [[seconds(run) for run in (a, b, b, a)] for _ in range(options.repeats)]
    clock, processor = (
        Spread.of([(r[0][kind] + r[3][kind]) / (r[1][kind] + r[2][kind]) for r in rounds]) for kind in (0, 1)
    )
    return {
        "integrator": name,
        "layer": layer,
        "steps": steps,
        "time": clock,
        "processor": processor,
        "backprop_seconds": median(each for r in rounds for each in (r[1][0], r[2][0])),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python benchmarks/reversible_cost.py --threads 2", repeats=5)
    parser.add_argument("--batch", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="(default: %(default)s)")
    parser.add_argument("--integrators", nargs="+", default=list(ROWS), choices=list(ROWS), help="(default: all)")
    parser.add_argument("--name", default="reversible_cost", help="of the file of results (default: %(default)s)")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print and save."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = [compared(name, steps, options) for steps in options.steps for name in options.integrators]
    show(f"reversible over backprop, batch {options.batch}, {WIDTH} channels, {SIDE} x {SIDE}; target {TARGET}", rows)
    payload = {
        "batch": options.batch,
        "width": WIDTH,
        "side": SIDE,
        "target": TARGET,
        "threads": torch.get_num_threads(),
    }
    for row in rows:
        row |= {kind: vars(row[kind]) for kind in ("time", "processor")}
    print(save(options.name, payload | {"rows": rows}, options.device))


if __name__ == "__main__":
    main()
