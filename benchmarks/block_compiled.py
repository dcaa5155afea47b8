"""What compile=True saves in a training step of a deep block, and what its first step costs beside torch.compile.

A block of 32 steps, forward and backward. ``compile=True`` compiles one step and calls it 32 times;
``torch.compile(block)`` compiles the loop, 32 copies of the step in one program.
"""

import copy
import time
from collections.abc import Callable

import torch
from harness import make_parser, paired, save, show
from torch import nn

import dynamicblocks as db

STEPS = 32
CASES = {
    # name: layer, controls, integrator, shape of the state
    "euler, constant": ("preact_single(16)", f"constant({STEPS})", "euler", (16, 16, 16, 16)),
    "midpoint, linear": ("preact_single(16)", f"linear({STEPS + 1})", "midpoint", (16, 16, 16, 16)),
    "euler, constant, small": ("preact_single(8)", f"constant({STEPS})", "euler", (4, 8, 8, 8)),
}


def training_step(block: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Forward and backward."""

    def step() -> torch.Tensor:
        block.zero_grad(set_to_none=True)
        loss = block(x).square().mean()
        loss.backward()
        return loss.detach()

    return step


def first_call(run: Callable[[], object]) -> float:
    """Seconds of a call that compiles, with nothing compiled before."""
    torch.compiler.reset()
    start = time.perf_counter()
    with torch._inductor.config.patch(force_disable_caches=True):
        run()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and save."""
    parser = make_parser(__doc__, "python benchmarks/block_compiled.py --repeats 5", repeats=5)
    parser.add_argument(
        "--whole", action="store_true", help="also time the first step of torch.compile(block): minutes"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows, results = [], {}
    for name, (layer, controls, integrator, shape) in CASES.items():
        torch.manual_seed(0)
        eager = db.DynamicBlock(layer, controls, db.uniform(0, STEPS, steps=STEPS), integrator)
        compiled = copy.deepcopy(eager).replaced(compile=True)
        x = torch.randn(shape)
        run, other = training_step(eager, x), training_step(compiled, x)
        seconds = first_call(other)
        run()
        torch.testing.assert_close(other(), run(), rtol=1e-4, atol=1e-4)
        result = paired(run, other, options.repeats)
        whole = None
        if options.whole:
            whole = first_call(training_step(torch.compile(copy.deepcopy(eager)), x))
        rows.append(
            {
                "case": name,
                "eager / compiled": result.ratios,
                "of minima": f"{result.ratio_of_minima:.2f}",
                "eager ms": f"{1000 * min(result.seconds_a):.1f}",
                "programs": len(compiled._programs),
                "first step s": f"{seconds:.1f}",
                "torch.compile(block) s": "" if whole is None else f"{whole:.1f}",
            }
        )
        results[name] = {
            "state": shape,
            "eager_over_compiled": result.as_dict(),
            "programs": len(compiled._programs),
            "first_step_seconds": seconds,
            "first_step_seconds_torch_compile": whole,
        }
    show(f"Training step of a block of {STEPS} steps", rows)
    print(save("block_compiled", {"steps": STEPS, "cases": results}, path=options.output))


if __name__ == "__main__":
    main()
